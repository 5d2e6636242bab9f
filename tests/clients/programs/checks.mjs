// The same as checks.py, for programs that Node runs. The first argument is the folder of the client's packages.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

export const NO_MODEL = "no-such-model";
export const WRONG_KEY = "sk-wrong";
export const HELLO = "What is this gateway?";
export const WEATHER = "What is the weather in Oslo?";
export const CHOOSE = "Choose an engine.";
export const SUNNY = "sunny in Oslo";

const found = createRequire(process.argv[2] + "/");
/** A package of the client's, as `import` gives it. */
export const load = (name) => import(pathToFileURL(found.resolve(name)));

/** Run the checks that `WAYS` asks for; write what each returned or threw as one line of JSON. */
export async function tell(checks) {
  const all = [];
  for (const { dialect, model, checks: names } of JSON.parse(process.env.WAYS)) {
    const way = { url: process.env.GATEWAY, key: process.env.KEY, dialect, model };
    const told = {};
    for (const name of names) {
      const wrong = { "wrong model": { ...way, model: NO_MODEL }, "wrong key": { ...way, key: WRONG_KEY } }[name];
      try {
        told[name] = { said: wrong ? await checks(wrong)["whole answer"]() : await checks(way)[name]() };
      } catch (error) {
        told[name] = { raised: error.constructor.name === "Error" ? error.name : error.constructor.name, text: String(error.message) };
      }
    }
    all.push(told);
  }
  console.log("\n" + JSON.stringify(all));
}
