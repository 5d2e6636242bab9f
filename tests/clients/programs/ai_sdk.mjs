// Vercel's AI SDK: its providers for servers that speak OpenAI's chat, for OpenAI's Responses and for Anthropic. What the
// gateway answers is checked by the providers' own schemas.
import { CHOOSE, HELLO, SUNNY, WEATHER, load, tell } from "./checks.mjs";

const { generateText, streamText, generateObject, stepCountIs, tool } = await load("ai");
const { createOpenAICompatible } = await load("@ai-sdk/openai-compatible");
const { createOpenAI } = await load("@ai-sdk/openai");
const { createAnthropic } = await load("@ai-sdk/anthropic");
const { z } = await load("zod");

const schema = z.object({ engine: z.enum(["vllm", "ollama"]), gpu: z.boolean() });
const inputSchema = z.object({ city: z.string() });
const description = "Tell the weather of a city.";

const providers = {
  chat: ({ url, key, model }) =>
    createOpenAICompatible({ name: "gateway", baseURL: `${url}/v1`, apiKey: key, supportsStructuredOutputs: true })(model),
  responses: ({ url, key, model }) => createOpenAI({ baseURL: `${url}/v1`, apiKey: key }).responses(model),
  messages: ({ url, key, model }) => createAnthropic({ baseURL: `${url}/v1`, apiKey: key })(model),
};

await tell((way) => {
  // By itself it refers to items of earlier answers by their ids, which only a server that keeps answers can look up.
  const providerOptions = { openai: { store: false } };
  const where = { model: providers[way.dialect](way), maxRetries: 0, maxOutputTokens: 200, providerOptions };
  const seen = [];
  const get_weather = tool({ description, inputSchema });
  const running = tool({
    description,
    inputSchema,
    execute: async ({ city }) => {
      seen.push(city);
      return SUNNY;
    },
  });
  const called = ([call]) => [call.toolName, call.input];
  const streaming = (options) => {
    let failure;
    const stream = streamText({ ...where, ...options, onError: ({ error }) => (failure = error) });
    return { stream, check: () => { if (failure) throw failure; } };
  };
  const agent = { ...where, prompt: WEATHER, tools: { get_weather: running }, stopWhen: stepCountIs(3) };
  return {
    "whole answer": async () => (await generateText({ ...where, prompt: HELLO })).text,
    stream: async () => {
      const { stream, check } = streaming({ prompt: HELLO });
      const found = [];
      for await (const piece of stream.textStream) found.push(piece);
      check();
      return found;
    },
    "tool call": async () =>
      called((await generateText({ ...where, prompt: WEATHER, tools: { get_weather } })).toolCalls),
    "streamed tool call": async () => {
      const { stream, check } = streaming({ prompt: WEATHER, tools: { get_weather } });
      const calls = await stream.toolCalls;
      check();
      return called(calls);
    },
    "tool result": async () => [(await generateText(agent)).text, ...seen],
    "structured answer": async () => (await generateObject({ ...where, prompt: CHOOSE, schema })).object,
    "structured answer by a tool": async () =>
      (await generateObject({ ...where, prompt: `${CHOOSE} Do it by json.`, schema })).object,
  };
});
