// What Anthropic's SDK for JavaScript gets of the gateway, as one line of JSON. The first argument is where it lies.
"use strict";
const { createRequire } = require("node:module");
const { Anthropic } = createRequire(process.argv[2] + "/")("@anthropic-ai/sdk");

const client = new Anthropic({ maxRetries: 0 });
const user = (content) => ({ model: "m", max_tokens: 5, messages: [{ role: "user", content }] });
const tools = [{ name: "get", description: "Gets.", input_schema: { type: "object", properties: {} } }];

const told = (message) => ({
  content: message.content.map(({ type, text, thinking, name, input }) => [type, text ?? thinking ?? [name, input]]),
  reason: message.stop_reason,
  usage: [message.usage.input_tokens, message.usage.output_tokens],
});

async function main() {
  const found = {};
  found.whole = told(await client.messages.create(user("hi")));
  const stream = client.messages.stream(user("hi"));
  const pieces = [];
  stream.on("text", (text) => pieces.push(text));
  found.streamed = told(await stream.finalMessage());
  found.pieces = pieces.join("");
  found.call = told(await client.messages.create({ ...user("call it"), tools }));
  found.streamed_call = told(await client.messages.stream({ ...user("call it"), tools }).finalMessage());
  found.counted = (await client.messages.countTokens({ model: "m", messages: user("hi").messages })).input_tokens > 0;
  found.models = [];
  for await (const model of client.models.list({ limit: 1 })) found.models.push(model.id);
  try {
    await client.messages.create({ ...user("hi"), model: "n" });
  } catch (error) {
    found.error = [error.constructor.name, error.status, error.error.error.type, Boolean(error.requestID)];
  }
  console.log(JSON.stringify(found));
}

main();
