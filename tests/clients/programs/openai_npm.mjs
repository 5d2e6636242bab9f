// OpenAI's SDK for JavaScript: chats and Responses.
import { CHOOSE, HELLO, WEATHER, load, tell } from "./checks.mjs";

const { OpenAI } = await load("openai");
const { zodResponseFormat, zodTextFormat } = await load("openai/helpers/zod");
const { z } = await load("zod");

const Choice = z.object({ engine: z.enum(["vllm", "ollama"]), gpu: z.boolean() });
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const about = { name: "get_weather", description: "Tell the weather of a city.", parameters };
const user = (content) => [{ role: "user", content }];

const pieces = async (stream, piece) => {
  const found = [];
  for await (const event of stream) found.push(piece(event) ?? "");
  return found;
};

function chats(client, model) {
  const tools = [{ type: "function", function: about }];
  const called = ([call]) => [call.function.name, JSON.parse(call.function.arguments)];
  const hello = { model, messages: user(HELLO) };
  const weather = { model, messages: user(WEATHER), tools };
  const shape = { model, messages: user(CHOOSE), response_format: zodResponseFormat(Choice, "choice") };
  return {
    "whole answer": async () => (await client.chat.completions.create(hello)).choices[0].message.content,
    stream: async () => {
      const stream = await client.chat.completions.create({ ...hello, stream: true });
      return pieces(stream, (chunk) => chunk.choices[0]?.delta.content);
    },
    "tool call": async () => called((await client.chat.completions.create(weather)).choices[0].message.tool_calls),
    "streamed tool call": async () => {
      const whole = await client.chat.completions.stream(weather).finalChatCompletion();
      return called(whole.choices[0].message.tool_calls);
    },
    "structured answer": async () => (await client.chat.completions.parse(shape)).choices[0].message.parsed,
    "model list": async () => (await pieces(await client.models.list(), (model) => model.id)).sort(),
    embeddings: async () => {
      const input = ["a", "b"];
      return (await client.embeddings.create({ model, input })).data.map((one) => one.embedding.length);
    },
  };
}

function responses(client, model) {
  const tools = [{ type: "function", strict: false, ...about }];
  const called = (answer) => {
    const { name, arguments: given } = answer.output.find((item) => item.type === "function_call");
    return [name, JSON.parse(given)];
  };
  const hello = { model, input: HELLO };
  const weather = { model, input: WEATHER, tools };
  const shape = { model, input: CHOOSE, text: { format: zodTextFormat(Choice, "choice") } };
  return {
    "whole answer": async () => (await client.responses.create(hello)).output_text,
    stream: async () => {
      const stream = client.responses.stream(hello);
      const found = await pieces(stream, (event) => (event.type === "response.output_text.delta" ? event.delta : ""));
      return [...found, (await stream.finalResponse()).output_text.slice(0, 0)];
    },
    "tool call": async () => called(await client.responses.create(weather)),
    "streamed tool call": async () => called(await client.responses.stream(weather).finalResponse()),
    "structured answer": async () => (await client.responses.parse(shape)).output_parsed,
  };
}

await tell(({ url, key, dialect, model }) => {
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 0 });
  return dialect === "chat" ? chats(client, model) : responses(client, model);
});
