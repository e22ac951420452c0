// Requests to the gateway. Every failure is a Problem, whose message can be shown.

export class Problem extends Error {
  // code: the HTTP status, 0 if there was no answer; kind: the server's name of the error
  constructor(code, message, kind = "") { super(message); Object.assign(this, { code, kind }); }
}

// Of an error in our shape or, under /v1, in OpenAI's, whose `code` is our `type`.
function problemOf(status, error) {
  const ours = typeof error.code !== "string";
  return new Problem((ours && error.code) || status, error.message, ours ? error.type : error.code);
}

async function check(response) {
  if (response.ok) return response;
  let error = { message: `The server answered ${response.status}.` };
  try { error = (await response.json()).error ?? error; } catch { /* not JSON: the status has to do */ }
  throw problemOf(response.status, error);
}

async function ask(path, { key, ...options } = {}) {
  const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
  return orUnreachable(async () => check(await fetch(path, { ...options, headers })));
}

// Browsers say "Failed to fetch" or "network error", which helps nobody.
async function orUnreachable(action) {
  try { return await action(); } catch (error) {
    if (error instanceof Problem || error.name === "AbortError") throw error;
    throw new Problem(0, "Check that the server runs and that this computer is connected, then try again.");
  }
}

async function* lines(response) {
  const decoder = new TextDecoder();
  const reader = response.body.getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await orUnreachable(() => reader.read());
    rest += value ? decoder.decode(value, { stream: true }) : "";
    const parts = rest.split("\n");
    rest = done ? "" : parts.pop();
    yield* parts.filter((part) => part.trim());
    if (done) return;
  }
}

function parse(text) {
  const part = JSON.parse(text);
  if (part.error) throw problemOf(500, part.error);
  return part;
}

export async function readConfig() { return (await ask("config.json")).json(); }

export async function listModels(key) { return (await (await ask("v1/models", { key })).json()).data; }

export async function readSample(file) { return (await ask(file)).blob(); }

// A folder that is dropped looks like a file, and a file can be moved or changed; `fetch` would call that a failed network.
async function fillForm(image, fields) {
  try { await image.slice(0, 1).arrayBuffer(); } catch { throw new Problem(0, "It is a folder, or was moved or changed. Choose the file again.", "UnreadableInput"); }
  const form = new FormData();
  // The file's name may identify a patient, and the server does not need it.
  form.append("image", image, "image");
  for (const [name, value] of Object.entries(fields)) form.append(name, value);
  return form;
}

export async function fetchDraft(format, image, fields, { key, signal }) {
  return (await ask(`drafts/${format}`, { method: "POST", body: await fillForm(image, fields), key, signal })).blob();
}

// Calls `onText` with every piece of text; returns the whole answer.
export async function writeReport(model, image, options, { key, signal, onText = () => {} }) {
  const body = await fillForm(image, options);
  const response = await ask(`predictions/${encodeURIComponent(model)}`, { method: "POST", body, key, signal });
  for await (const line of lines(response)) {
    const part = parse(line);
    if (part.report !== undefined) return part;
    onText(part.text);
  }
  throw new Problem(0, "The answer ended before the report did. Try again.");
}

// Calls `onText` with every piece of the reply; returns the reply.
export async function complete(model, messages, { key, signal, onText }) {
  const body = JSON.stringify({ model, messages, stream: true });
  const headers = { "Content-Type": "application/json" };
  const response = await ask("v1/chat/completions", { method: "POST", body, headers, key, signal });
  let reply = "";
  for await (const line of lines(response)) {
    if (line === "data: [DONE]") return reply;
    if (!line.startsWith("data: ")) continue;
    const text = parse(line.slice(6)).choices[0]?.delta.content ?? "";
    reply += text;
    onText(text);
  }
  throw new Problem(0, "The answer ended too early. Ask again.");
}
