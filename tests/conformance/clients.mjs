// OpenAI's client for Node against a server: node clients.mjs URL MODEL. Where it is run, `npm install openai` was.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(pathToFileURL(`${process.cwd()}/`));
const OpenAI = require("openai");
const [url, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "x", maxRetries: 0 });
const messages = [{ role: "user", content: "Hi" }];
const parameters = { type: "object", properties: { n: { enum: [1, 2] } }, required: ["n"], additionalProperties: false };

const models = await client.models.list();
assert.deepEqual(models.data.map((item) => item.id), [model]);

const answer = await client.chat.completions.create({ model, messages });
assert.ok(answer.choices[0].message.content && answer.usage.total_tokens > 0);

let text = "";
let usage = null;
for await (const chunk of await client.chat.completions.create({
  model, messages, stream: true, stream_options: { include_usage: true },
})) {
  text += chunk.choices[0]?.delta.content ?? "";
  usage = chunk.usage ?? usage;
}
assert.equal(text, answer.choices[0].message.content);
assert.ok(usage.completion_tokens > 0);

const tools = [{ type: "function", function: { name: "count", parameters } }];
const called = await client.chat.completions.create({ model, messages, tools, tool_choice: "required" });
assert.equal(called.choices[0].message.tool_calls[0].function.name, "count");

const response = await client.responses.create({ model, input: "Hi" });
assert.ok(response.output_text);

await assert.rejects(
  client.chat.completions.create({ model: "another", messages }),
  (error) => error instanceof OpenAI.NotFoundError && error.code === "model_not_found",
);
await assert.rejects(
  client.chat.completions.create({ model, messages, temperature: 9 }),
  (error) => error instanceof OpenAI.BadRequestError && error.param === "temperature",
);

const controller = new AbortController();
const stream = await client.chat.completions.create(
  { model, messages, stream: true, max_tokens: 400 }, { signal: controller.signal },
);
for await (const chunk of stream) {
  assert.ok(chunk.choices.length === 1);
  controller.abort();
}
console.log("openai for Node");
