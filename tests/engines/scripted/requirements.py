"""What the real servers of LMDeploy and SGLang need to run on a CPU with a scripted model: names and versions for pip.

Rules:
- Every package is named with its version, those that others need included, so that pip resolves nothing: both engines
  ask for packages that exist only for GPUs.
- Found by running the servers: what they import on the way, and nothing more. Torch is installed before.
- For Python 3.11 to 3.13 on Linux.
"""

from __future__ import annotations

LMDEPLOY = tuple(
    """
    accelerate==1.15.0 addict==2.4.0 aiohappyeyeballs==2.7.1 aiohttp==3.14.5 aiosignal==1.4.0
    annotated-doc==0.0.7 annotated-types==0.8.0 anyio==4.16.0 apache-tvm-ffi==0.1.11 attrs==26.1.0
    certifi==2026.10.19.post1 charset-normalizer==3.5.3 click==8.5.1 cloudpickle==3.1.3 einops==0.8.2
    fastapi==0.165.0 filelock==4.3.1 fire==0.7.1 frozenlist==1.8.0 fsspec==2026.9.0 h11==0.16.0
    hf-xet==1.8.0 httpcore==1.0.9 httpcore2==2.16.2 httpx==0.28.1 httpx2==2.16.2 huggingface_hub==1.33.0
    idna==3.20 Jinja2==3.1.6 jiter==0.19.0 lmdeploy==0.18.0 markdown-it-py==4.3.0 MarkupSafe==3.0.4
    mdurl==0.1.2 mmengine-lite==0.10.7 mpmath==1.3.0 multidict==7.2.1 networkx==3.6.1 numpy==2.4.6
    openai==3.57.0 openai-harmony==0.0.8 opencv-python-headless==5.0.0.93 opentelemetry-api==1.45.2
    packaging==26.4 partial-json-parser==0.2.1.1.post7 peft==0.14.0 pillow==13.0.0 platformdirs==4.14.8
    prometheus_client==0.26.0 propcache==0.5.4 protobuf==7.36.2 psutil==7.2.2 pybase64==1.5.1
    pydantic==2.14.4 pydantic_core==2.50.5 Pygments==2.21.0 PyYAML==6.0.4 pyzmq==27.3.0 regex==2026.11.19
    requests==2.34.2 rich==15.0.0 safetensors==0.8.0 sentencepiece==0.2.3 shellingham==1.5.4
    shortuuid==1.0.13 sniffio==1.3.1 starlette==1.10.0 sympy==1.14.0 termcolor==3.3.0 tiktoken==0.14.0
    tokenizers==0.22.2 tqdm==4.70.1 transformers==5.5.4 triton==3.9.0 truststore==0.10.5 typer==0.29.2
    typing-inspection==0.4.5 typing_extensions==4.16.0 urllib3==2.8.0 uvicorn==0.54.0 xgrammar==0.2.9
    yapf==0.43.0 yarl==1.25.1
    """.split()
)

SGLANG = tuple(
    """
    aiohappyeyeballs==2.7.1 aiohttp==3.14.5 aiosignal==1.4.0 annotated-doc==0.0.7 annotated-types==0.8.0
    anthropic==2.14.0 anyio==4.16.0 apache-tvm-ffi==0.1.15.post2 attrs==26.1.0 certifi==2026.10.19.post1
    cffi==2.1.1 charset-normalizer==3.5.3 click==8.5.1 compressed-tensors==0.18.0 datasets==5.2.0
    dill==0.4.1 distro==1.9.0 docstring_parser==0.18.0 easydict==1.14 einops==0.8.2 fastapi==0.165.0
    filelock==4.3.1 frozenlist==1.8.0 fsspec==2026.9.0 gguf==0.19.0 h11==0.16.0 hf-xet==1.8.0
    httpcore==1.0.9 httpcore2==2.16.2 httpx==0.28.1 httpx2==2.16.2 huggingface_hub==1.33.0 idna==3.20
    interegular==0.3.3 Jinja2==3.1.6 jiter==0.19.0 jsonschema==4.26.0 jsonschema-specifications==2025.9.1
    loguru==0.7.3 markdown-it-py==4.3.0 MarkupSafe==3.0.4 mdurl==0.1.2 mpmath==1.3.0 msgspec==0.23.0
    multidict==7.2.1 multiprocess==0.70.19 networkx==3.6.1 numpy==2.4.6 openai==2.8.0
    openai-harmony==0.0.4 opentelemetry-api==1.45.2 orjson==3.13.0 packaging==26.4 pandas==3.1.1
    partial-json-parser==0.2.1.1.post7 pillow==13.0.0 prometheus_client==0.26.0 propcache==0.5.4
    psutil==7.2.2 pyarrow==26.0.1 pybase64==1.5.1 pycparser==3.12 pydantic==2.14.4 pydantic_core==2.50.5
    Pygments==2.21.0 python-dateutil==4.0.0 python-multipart==0.0.34 PyYAML==6.0.4 pyzmq==27.3.0
    referencing==0.37.0 regex==2026.11.19 requests==2.34.2 rich==15.0.0 rpds-py==2026.9.1
    safetensors==0.8.0 scipy==1.17.1 sentencepiece==0.2.3 setproctitle==1.3.8 sglang==0.5.23
    shellingham==1.5.4 sniffio==1.3.1 soundfile==0.14.0 starlette==1.10.0 sympy==1.14.0 tiktoken==0.14.0
    tokenizers==0.23.2 tqdm==4.70.1 transformers==5.19.0 triton==3.9.0 truststore==0.10.5 typer==0.29.2
    typing-inspection==0.4.5 typing_extensions==4.16.0 tzdata==2026.6 urllib3==2.8.0 uvicorn==0.54.0
    uvloop==0.23.0 watchfiles==1.3.0 xgrammar==0.2.7 xxhash==4.1.0 yarl==1.25.1 zstandard==0.25.0
    """.split()
)
