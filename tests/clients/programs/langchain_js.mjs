// LangChain for JavaScript: its classes for OpenAI's chat and Responses, for Anthropic and for Ollama.
import { CHOOSE, HELLO, WEATHER, load, tell } from "./checks.mjs";

const { ChatOpenAI } = await load("@langchain/openai");
const { ChatAnthropic } = await load("@langchain/anthropic");
const { ChatOllama } = await load("@langchain/ollama");
const { tool } = await load("@langchain/core/tools");
const { z } = await load("zod");

// Its class for Anthropic tells the model of a list of values in words only, so none is asked for.
const Choice = z.object({ engine: z.string(), gpu: z.boolean() });
const getWeather = tool(async ({ city }) => city, {
  name: "get_weather",
  description: "Tell the weather of a city.",
  schema: z.object({ city: z.string() }),
});

const once = { maxRetries: 0, temperature: 0 };
const classes = {
  chat: ({ url, key, model }) => new ChatOpenAI({ ...once, model, apiKey: key, configuration: { baseURL: `${url}/v1` } }),
  responses: ({ url, key, model }) =>
    new ChatOpenAI({ ...once, model, apiKey: key, useResponsesApi: true, configuration: { baseURL: `${url}/v1` } }),
  messages: ({ url, key, model }) =>
    new ChatAnthropic({ ...once, model, apiKey: key, anthropicApiUrl: url, maxTokens: 200 }),
  ollama: ({ url, key, model }) =>
    new ChatOllama({ ...once, model, baseUrl: url, headers: { authorization: `Bearer ${key}` } }),
};

await tell((way) => {
  const chat = classes[way.dialect](way);
  const tools = chat.bindTools([getWeather]);
  const called = ({ tool_calls: [call] }) => [call.name, call.args];
  return {
    "whole answer": async () => (await chat.invoke(HELLO)).text,
    stream: async () => {
      const found = [];
      for await (const chunk of await chat.stream(HELLO)) found.push(chunk.text);
      return found;
    },
    "tool call": async () => called(await tools.invoke(WEATHER)),
    "streamed tool call": async () => {
      let whole;
      for await (const chunk of await tools.stream(WEATHER)) whole = whole === undefined ? chunk : whole.concat(chunk);
      return called(whole);
    },
    "structured answer": async () =>
      chat.withStructuredOutput(Choice, { method: "jsonSchema", name: "choice" }).invoke(CHOOSE),
  };
});
