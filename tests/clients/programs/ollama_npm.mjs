// Ollama's own client for JavaScript.
import { CHOOSE, HELLO, WEATHER, load, tell } from "./checks.mjs";

const { Ollama } = await load("ollama");

const format = {
  type: "object",
  properties: { engine: { type: "string", enum: ["vllm", "ollama"] }, gpu: { type: "boolean" } },
  required: ["engine", "gpu"],
};
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const about = { name: "get_weather", description: "Tell the weather of a city.", parameters };
const tools = [{ type: "function", function: about }];

await tell(({ url, key, model }) => {
  const client = new Ollama({ host: url, headers: { authorization: `Bearer ${key}` } });
  const asked = (content) => ({ model, messages: [{ role: "user", content }] });
  const called = ([call]) => [call.function.name, call.function.arguments];
  const parts = async (request) => {
    const found = [];
    for await (const part of await client.chat({ ...request, stream: true })) found.push(part.message);
    return found;
  };
  return {
    "whole answer": async () => (await client.chat(asked(HELLO))).message.content,
    stream: async () => (await parts(asked(HELLO))).map((message) => message.content),
    "tool call": async () => called((await client.chat({ ...asked(WEATHER), tools })).message.tool_calls),
    "streamed tool call": async () =>
      called((await parts({ ...asked(WEATHER), tools })).flatMap((message) => message.tool_calls ?? [])),
    "structured answer": async () => JSON.parse((await client.chat({ ...asked(CHOOSE), format })).message.content),
    "model list": async () => (await client.list()).models.map((one) => one.model),
  };
});
