import { diagnosticReport } from "./fhir.js";
import { chat, listModels, readConfig, writeReport } from "./server.js";

const find = (id) => document.getElementById(id);
const show = (id, visible) => { find(id).hidden = !visible; };
const made = (tag, text) => Object.assign(document.createElement(tag), { textContent: text });

let config, image = null, answer = null, served = null, turns = [];

function fail(error) {
  find("problem").textContent = error.message;
  show("problem", true);
  find("state").textContent = "";
}

function showPicture(url, caption) {
  find("picture").src = url;
  find("caption").textContent = caption;
  show("figure", true); show("view", true); show("hint", false);
}

function take(file) {
  image = file; answer = null; turns = [];
  find("write").disabled = false;
  show("report", false); show("problem", false); show("figure", false); show("view", false); show("hint", true);
  find("turns").replaceChildren(); show("chat", false);
  find("hint").textContent = `Image of ${(file.size / 1e6).toFixed(1)} MB. Drop another one here, or`;
  find("state").textContent = "Ready to write a report.";
}

async function readModel() {
  // Without a key the gateway does not say what the model is; the form still works.
  try { served = (await listModels(find("key").value))[0]; } catch { served = null; }
  show("prompt-label", Boolean(served?.prelim.takes_prompts));
}

function readOptions() {
  const [beams, reports] = [Number(find("beams").value), Number(find("reports").value)];
  const options = { num_beams: beams, num_return_sequences: reports, return_image: true };
  if (beams === 1 && reports === 1) options.stream = true;
  if (find("tokens").value) options.max_new_tokens = find("tokens").value;
  if (find("prompt").value) options.prompt = find("prompt").value;
  return options;
}

function showAnswer() {
  const parts = Object.entries(answer.sections).filter(([, text]) => text);
  const text = parts.length ? parts.flatMap(([name, body]) => [made("h3", name[0].toUpperCase() + name.slice(1)), made("p", body)]) : [made("p", answer.report)];
  find("text").replaceChildren(...text);
  find("warnings").replaceChildren(...answer.warnings.map((warning) => made("li", warning)));
  find("alternatives").replaceChildren(...answer.alternatives.flatMap((other, i) => [made("h3", `Alternative ${i + 1}`), made("p", other.report)]));
  const total = Object.values(answer.timing_ms).reduce((sum, ms) => sum + ms, 0);
  const { name, version, sha256 } = answer.model;
  find("facts").textContent = `${name} ${version} (${sha256.slice(0, 12)}), ${answer.num_tokens} tokens in ${Math.round(total)} ms, mean log-probability ${answer.avg_logprob.toFixed(2)}`;
  if (answer.images?.length) showPicture(`data:image/png;base64,${answer.images[0]}`, "as the model reads it");
  show("actions", true);
  show("chat", Boolean(served?.prelim.takes_messages));
  find("state").textContent = "Draft finished.";
}

async function write() {
  show("problem", false); show("report", true); show("actions", false);
  for (const id of ["text", "warnings", "alternatives"]) find(id).replaceChildren();
  find("facts").textContent = "";
  find("state").textContent = "Writing ...";
  find("write").disabled = true;
  try {
    const current = image;
    const reply = await writeReport(find("model").value, image, readOptions(), find("key").value, (text) => find("text").append(text));
    // Another image may have been chosen meanwhile; this report is not about it.
    if (current === image) { answer = reply; showAnswer(); }
  } catch (error) { show("report", false); fail(error); }
  finally { find("write").disabled = image === null; }
}

const dataUri = (blob) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.onload = () => resolve(`data:application/octet-stream;base64,${reader.result.split(",")[1]}`);
  reader.onerror = () => reject(new Error("the file cannot be read"));
  reader.readAsDataURL(blob);
});

async function ask(question) {
  const text = { type: "text", text: question };
  const content = turns.length ? question : [text, { type: "image_url", image_url: { url: await dataUri(image) } }];
  const reply = made("li", "UNVERIFIED: ");
  find("turns").append(made("li", question), reply);
  let said = "";
  try {
    await chat(served.id, [...turns, { role: "user", content }], find("key").value, (piece) => { said += piece; reply.append(piece); });
    turns.push({ role: "user", content }, { role: "assistant", content: said });
  } catch (error) { reply.remove(); fail(error); }
}

function download(name, contents) {
  const url = URL.createObjectURL(new Blob([JSON.stringify(contents, null, 1)], { type: "application/json" }));
  Object.assign(document.createElement("a"), { href: url, download: name }).click();
  URL.revokeObjectURL(url);
}

function adjust() {
  const [bright, contrast, zoom] = ["brightness", "contrast", "zoom"].map((id) => find(id).value);
  Object.assign(find("picture").style, { filter: `brightness(${bright}%) contrast(${contrast}%)`, height: `${zoom}%` });
}

function listen() {
  const drop = find("drop");
  find("file").addEventListener("change", (event) => event.target.files[0] && take(event.target.files[0]));
  drop.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => { event.preventDefault(); drop.classList.remove("over"); if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]); });
  document.addEventListener("paste", (event) => event.clipboardData.files[0] && take(event.clipboardData.files[0]));
  find("options").addEventListener("submit", (event) => { event.preventDefault(); write(); });
  find("key").addEventListener("change", readModel);
  for (const id of ["brightness", "contrast", "zoom"]) find(id).addEventListener("input", adjust);
  find("reset").addEventListener("click", () => { for (const id of ["brightness", "contrast", "zoom"]) find(id).value = 100; adjust(); });
  find("copy").addEventListener("click", async () => { await navigator.clipboard.writeText(`${answer.status}: ${answer.report}`); find("state").textContent = "Copied."; });
  find("json").addEventListener("click", () => { const { images, ...rest } = answer; download("report.json", rest); });
  find("fhir").addEventListener("click", () => download("diagnostic-report.json", diagnosticReport(answer)));
  find("ask").addEventListener("submit", (event) => { event.preventDefault(); ask(find("question").value); find("question").value = ""; });
}

async function start() {
  listen();
  config = await readConfig();
  find("model").replaceChildren(...config.models.map((name) => made("option", name)));
  show("model-label", config.models.length > 1);
  show("key-label", config.needs_key);
  for (const sample of config.samples) {
    const button = Object.assign(made("button", sample.title), { type: "button" });
    button.addEventListener("click", async () => { try { take(await (await fetch(sample.file)).blob()); await write(); } catch (error) { fail(error); } });
    find("samples").append(button);
  }
  show("samples", config.samples.length > 0);
  await readModel();
}

start().catch(fail);
