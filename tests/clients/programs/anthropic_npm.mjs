// Anthropic's SDK for JavaScript.
import { CHOOSE, HELLO, WEATHER, load, tell } from "./checks.mjs";

const { Anthropic } = await load("@anthropic-ai/sdk");
const { zodOutputFormat } = await load("@anthropic-ai/sdk/helpers/zod");
const { z } = await load("zod");

const Choice = z.object({ engine: z.enum(["vllm", "ollama"]), gpu: z.boolean() });
const input_schema = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const tools = [{ name: "get_weather", description: "Tell the weather of a city.", input_schema }];

await tell(({ url, key, model }) => {
  const client = new Anthropic({ baseURL: url, apiKey: key, maxRetries: 0 });
  const asked = (content) => ({ model, max_tokens: 200, messages: [{ role: "user", content }] });
  const called = ({ content }) => {
    const { name, input } = content.find((block) => block.type === "tool_use");
    return [name, input];
  };
  return {
    "whole answer": async () => (await client.messages.create(asked(HELLO))).content.at(-1).text,
    stream: async () => {
      const found = [];
      const stream = client.messages.stream(asked(HELLO)).on("text", (text) => found.push(text));
      if ((await stream.finalText()) !== found.join("")) throw new Error("the pieces are not the whole");
      return found;
    },
    "tool call": async () => called(await client.messages.create({ ...asked(WEATHER), tools })),
    "streamed tool call": async () => called(await client.messages.stream({ ...asked(WEATHER), tools }).finalMessage()),
    "structured answer": async () => {
      const output_config = { format: zodOutputFormat(Choice) };
      return (await client.messages.parse({ ...asked(CHOOSE), output_config })).parsed_output;
    },
    "model list": async () => {
      const found = [];
      for await (const each of client.models.list({ limit: 1 })) found.push(each.id);
      return found;
    },
  };
});
