// stream.mjs BASE_URL MODEL PROMPT [OPTIONS]: one streamed chat completion by the real openai client.
//
// Prints a line of JSON for each thing that happens: {"response": {status, requestId, headers}},
// {"chunk": ...} as the client gives it, then {"finish": reason, "text": all} or {"error": ...}.
// OPTIONS is JSON: {"body": {...}, "headers": {...}, "maxRetries": 0, "timeoutMs": 30000,
// "stopAfter": 2} - `stopAfter` aborts after so many chunks. The exit code is 0 also for an error
// of the API: the test reads which one it was.

import OpenAI from "openai";

const [baseURL, model, prompt, options = "{}"] = process.argv.slice(2);
const { body = {}, headers = {}, maxRetries = 0, timeoutMs = 30000, stopAfter } = JSON.parse(options);
const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");

const client = new OpenAI({
  baseURL,
  apiKey: process.env.OPENAI_API_KEY ?? "test",
  defaultHeaders: headers,
  maxRetries,
  timeout: timeoutMs,
});

try {
  const messages = [{ role: "user", content: prompt }];
  const { data: stream, response, request_id: requestId } = await client.chat.completions
    .create({ model, messages, stream: true, ...body })
    .withResponse();
  say({ response: { status: response.status, requestId, headers: Object.fromEntries(response.headers) } });
  let text = "";
  let finish = null;
  let chunks = 0;
  for await (const chunk of stream) {
    say({ chunk });
    text += chunk.choices[0]?.delta?.content ?? "";
    finish = chunk.choices[0]?.finish_reason ?? finish;
    chunks += 1;
    if (chunks === stopAfter) break;
  }
  say({ finish, text });
} catch (error) {
  say({
    error: {
      class: error.constructor.name,
      message: error.message,
      status: error.status ?? null,
      code: error.code ?? null,
      type: error.type ?? null,
      requestId: error.requestID ?? null,
      retryAfter: error.headers?.get?.("retry-after") ?? null,
    },
  });
}
