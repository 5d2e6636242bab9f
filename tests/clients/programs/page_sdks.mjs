// A page's script that uses OpenAI's, Anthropic's and Ollama's own SDKs, as its makers bundle it for browsers. The
// gateway's URL and a key stand behind the "#" of the page's address. What came of each call goes back to where the page
// is from.
import { Anthropic } from "@anthropic-ai/sdk";
import { Ollama } from "ollama/browser";
import { OpenAI } from "openai";

const [url, key] = location.hash.slice(1).split(",");
const messages = [{ role: "user", content: "hi" }];
const once = { maxRetries: 0, dangerouslyAllowBrowser: true };
const openai = (apiKey) => new OpenAI({ ...once, baseURL: `${url}/v1`, apiKey });
const anthropic = (apiKey) => new Anthropic({ ...once, baseURL: url, apiKey });
const ollama = (bearer) => new Ollama({ host: url, headers: { authorization: `Bearer ${bearer}` } });

const pieces = async (stream, piece) => {
  const found = [];
  for await (const event of await stream) found.push(piece(event));
  return found.filter(Boolean);
};

/** What each SDK is asked for with a key and a model. */
const asked = {
  chat: (key, model) =>
    pieces(openai(key).chat.completions.create({ model, messages, stream: true }), (chunk) => chunk.choices[0]?.delta.content),
  responses: (key, model) =>
    pieces(openai(key).responses.create({ model, input: "hi", stream: true }), ({ type, delta }) =>
      type === "response.output_text.delta" ? delta : ""),
  messages: (key, model) =>
    pieces(anthropic(key).messages.create({ model, messages, max_tokens: 9, stream: true }), ({ delta }) => delta?.text),
  ollama: (key, model) =>
    pieces(ollama(key).chat({ model, messages, stream: true }), ({ message }) => message.content),
};
const models = {
  "OpenAI's models": async () => pieces(openai(key).models.list(), ({ id }) => id),
  "Anthropic's models": async () => pieces(anthropic(key).models.list(), ({ id }) => id),
  "Ollama's models": async () => (await ollama(key).list()).models.map(({ model }) => model),
};

const told = {};
const tell = async (name, call) => {
  try {
    told[name] = await call();
  } catch (error) {
    told[name] = { error: error.constructor.name, text: error.message };
  }
};
for (const [name, call] of Object.entries(models)) await tell(name, call);
for (const [name, ask] of Object.entries(asked)) {
  await tell(name, () => ask(key, "m"));
  await tell(`${name}, wrong model`, () => ask(key, "no-such-model"));
  await tell(`${name}, wrong key`, () => ask("sk-wrong", "m"));
}
await fetch("/", { method: "POST", body: JSON.stringify(told) });
