// Effect's AI packages for OpenAI's Responses and for Anthropic. What the gateway answers is decoded by schemas that were
// made of both vendors' own descriptions: a field that is missing, or null where it may not be, fails the call.
import { CHOOSE, HELLO, WEATHER, load, tell } from "./checks.mjs";

const { Effect, Layer, Redacted, Schema, Stream, Chunk } = await load("effect");
const { FetchHttpClient } = await load("@effect/platform");
const { LanguageModel, Tool, Toolkit } = await load("@effect/ai");
const { OpenAiClient, OpenAiLanguageModel } = await load("@effect/ai-openai");
const { AnthropicClient, AnthropicLanguageModel } = await load("@effect/ai-anthropic");

const Choice = Schema.Struct({ engine: Schema.Literal("vllm", "ollama"), gpu: Schema.Boolean });
const weather = Tool.make("get_weather", {
  description: "Tell the weather of a city.",
  parameters: { city: Schema.String },
  success: Schema.String,
});
const toolkit = Toolkit.make(weather);
const tools = toolkit.toLayer({ get_weather: ({ city }) => Effect.succeed(city) });

const layers = {
  responses: ({ url, apiKey, model }) =>
    Layer.provide(OpenAiLanguageModel.layer({ model }), OpenAiClient.layer({ apiKey, apiUrl: `${url}/v1` })),
  messages: ({ url, apiKey, model }) =>
    Layer.provide(
      AnthropicLanguageModel.layer({ model, config: { max_tokens: 200 } }),
      AnthropicClient.layer({ apiKey, apiUrl: url }),
    ),
};

await tell(({ url, key, dialect, model }) => {
  const layer = layers[dialect]({ url, apiKey: Redacted.make(key), model });
  const where = Layer.merge(Layer.provide(layer, FetchHttpClient.layer), tools);
  const run = async (effect) => {
    const done = await Effect.runPromise(Effect.either(Effect.provide(effect, where)));
    if (done._tag === "Right") return done.right;
    const { _tag, description, body } = done.left;
    throw Object.assign(new Error(description ?? body), { name: _tag });
  };
  const parts = async (options) => Chunk.toReadonlyArray(await run(Stream.runCollect(LanguageModel.streamText(options))));
  const called = (calls) => {
    const { name, params } = calls.find(({ type }) => type === "tool-call");
    return [name, params];
  };
  return {
    "whole answer": async () => (await run(LanguageModel.generateText({ prompt: HELLO }))).text,
    stream: async () => (await parts({ prompt: HELLO })).map(({ type, delta }) => (type === "text-delta" ? delta : "")),
    "tool call": async () => called((await run(LanguageModel.generateText({ prompt: WEATHER, toolkit }))).content),
    "streamed tool call": async () => called(await parts({ prompt: WEATHER, toolkit })),
    "structured answer": async () =>
      (await run(LanguageModel.generateObject({ prompt: CHOOSE, schema: Choice, objectName: "choice" }))).value,
    "structured answer by a tool": async () =>
      (await run(LanguageModel.generateObject({ prompt: `${CHOOSE} Do it by Choice.`, schema: Choice, objectName: "Choice" }))).value,
  };
});
