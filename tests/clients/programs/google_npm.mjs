// Google's own SDK for JavaScript.
import { CHOOSE, HELLO, WEATHER, load, tell } from "./checks.mjs";

const { GoogleGenAI, Type } = await load("@google/genai");

const choice = {
  type: Type.OBJECT,
  properties: { engine: { type: Type.STRING, enum: ["vllm", "ollama"] }, gpu: { type: Type.BOOLEAN } },
  required: ["engine", "gpu"],
};
const parameters = { type: Type.OBJECT, properties: { city: { type: Type.STRING } }, required: ["city"] };
const about = { name: "get_weather", description: "Tell the weather of a city.", parameters };
const offered = { tools: [{ functionDeclarations: [about] }] };

await tell(({ url, key, model }) => {
  const { models } = new GoogleGenAI({ apiKey: key, httpOptions: { baseUrl: url } });
  const asked = (contents, config) => ({ model, contents, config: { maxOutputTokens: 200, ...config } });
  const called = ([call]) => [call.name, call.args];
  const pieces = async (request) => {
    const found = [];
    for await (const piece of await models.generateContentStream(request)) found.push(piece);
    return found;
  };
  const form = { responseMimeType: "application/json", responseSchema: choice };
  return {
    "whole answer": async () => (await models.generateContent(asked(HELLO))).text,
    stream: async () => (await pieces(asked(HELLO))).map((piece) => piece.text),
    "tool call": async () => called((await models.generateContent(asked(WEATHER, offered))).functionCalls),
    "streamed tool call": async () =>
      called((await pieces(asked(WEATHER, offered))).flatMap((piece) => piece.functionCalls ?? [])),
    "structured answer": async () => JSON.parse((await models.generateContent(asked(CHOOSE, form))).text),
    "model list": async () => {
      const found = [];
      for await (const one of await models.list()) found.push(one.name.replace("models/", ""));
      return found;
    },
    "token count": async () => (await models.countTokens({ model, contents: HELLO })).totalTokens,
    embeddings: async () => {
      const contents = ["What is a gateway?", "Which port?"];
      return (await models.embedContent({ model, contents })).embeddings.map((one) => one.values.length);
    },
  };
});
