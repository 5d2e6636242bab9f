/* A stand-in for NVIDIA's libnvidia-ml.so.1, for machines without a GPU: the functions that the gateway calls, with the
   signatures and return codes of nvml.h (API reference: "Device Queries", nvmlReturn_t).

   GPU 0 tells everything, and that the process whose id is in the file $NVML_PID uses it. GPU 1 has MIG on: no use, no
   power. GPU 2 has fallen off the bus. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, NOT_SUPPORTED = 3, INSUFFICIENT_SIZE = 7, GPU_IS_LOST = 15 };

typedef struct { unsigned int gpu, memory; } Utilization;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned int pid; unsigned long long used; unsigned int instance, compute; } Process;

static long of(void *device) { return (long)device - 1; }

int nvmlInitWithFlags(unsigned int flags) { return SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { return code == GPU_IS_LOST ? "GPU is lost" : "Not Supported"; }
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = 3; return SUCCESS; }

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device) {
  *device = (void *)(long)(index + 1);
  return index == 2 ? GPU_IS_LOST : SUCCESS;
}

int nvmlDeviceGetName(void *device, char *name, unsigned int length) {
  snprintf(name, length, "NVIDIA H200");
  return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(void *device, Utilization *rates) {
  rates->gpu = 43;
  rates->memory = 12;
  return of(device) ? NOT_SUPPORTED : SUCCESS;
}

int nvmlDeviceGetMemoryInfo(void *device, Memory *memory) {
  memory->total = 150754820096ULL;
  memory->used = 50000000000ULL;
  memory->free = memory->total - memory->used;
  return SUCCESS;
}

int nvmlDeviceGetPowerUsage(void *device, unsigned int *milliwatts) {
  *milliwatts = 312500;
  return of(device) ? NOT_SUPPORTED : SUCCESS;
}

int nvmlDeviceGetEnforcedPowerLimit(void *device, unsigned int *milliwatts) {
  *milliwatts = 700000;
  return SUCCESS;
}

int nvmlDeviceGetTemperature(void *device, int sensor, unsigned int *degrees) {
  *degrees = sensor == 0 ? 61 : 0;
  return SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned int *count, Process *found) {
  const char *path = getenv("NVML_PID");
  FILE *file = of(device) || !path ? NULL : fopen(path, "r");
  unsigned int pid = 0;
  if (file) {
    if (fscanf(file, "%u", &pid) != 1) pid = 0;
    fclose(file);
  }
  if (!pid) {
    *count = 0;
    return SUCCESS;
  }
  if (*count < 1 || !found) {
    *count = 1;
    return INSUFFICIENT_SIZE;
  }
  memset(found, 0, sizeof *found);
  found->pid = pid;
  found->used = 40000000000ULL;
  *count = 1;
  return SUCCESS;
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(void *device, unsigned int *count, Process *found) {
  *count = 0;
  return SUCCESS;
}
