// Requests to the gateway. Every failure is an Error whose message can be shown.

async function check(response) {
  if (response.ok) return response;
  let message = `the server answered ${response.status}`;
  try { message = (await response.json()).error.message; } catch { /* not JSON: the status has to do */ }
  const wait = response.headers.get("Retry-After");
  throw new Error(wait ? `${message} (${wait} s)` : message);
}

function headers(key) { return key ? { Authorization: `Bearer ${key}` } : {}; }

async function* lines(response) {
  const decoder = new TextDecoder();
  const reader = response.body.getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    rest += value ? decoder.decode(value, { stream: true }) : "";
    const parts = rest.split("\n");
    rest = done ? "" : parts.pop();
    yield* parts.filter((part) => part.trim());
    if (done) return;
  }
}

export async function readConfig() { return (await check(await fetch("config.json"))).json(); }

export async function listModels(key) { return (await (await check(await fetch("v1/models", { headers: headers(key) }))).json()).data; }

// Calls `onText` with every piece of text; returns the whole answer.
export async function writeReport(model, image, options, key, onText) {
  const form = new FormData();
  // The file's name may identify a patient, and the server does not need it.
  form.append("image", image, "image");
  for (const [name, value] of Object.entries(options)) form.append(name, value);
  const response = await check(await fetch(`predictions/${encodeURIComponent(model)}`, { method: "POST", body: form, headers: headers(key) }));
  for await (const line of lines(response)) {
    const part = JSON.parse(line);
    if (part.error) throw new Error(part.error.message);
    if (part.report !== undefined) return part;
    onText(part.text);
  }
  throw new Error("the answer ended before the report did: try again");
}

export async function chat(model, messages, key, onText) {
  const body = JSON.stringify({ model, messages, stream: true });
  const response = await check(await fetch("v1/chat/completions", { method: "POST", body, headers: { "Content-Type": "application/json", ...headers(key) } }));
  for await (const line of lines(response)) {
    if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
    const part = JSON.parse(line.slice(6));
    if (part.error) throw new Error(part.error.message);
    onText(part.choices[0]?.delta.content ?? "");
  }
}
