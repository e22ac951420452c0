import { Chat } from "./chat.js";
import { addDraftButtons, enableDraftButtons, saveDraft } from "./drafts.js";
import { create, download, find, reveal, show } from "./elements.js";
import { clearReport, isEmpty, showReport, showWarnings } from "./report.js";
import { listModels, Problem, readConfig, readSample, writeReport } from "./server.js";
import { Viewer } from "./viewer.js";
import { explainProblem } from "./words.js";

// A report of one token costs little more than reading the image, which the server then keeps for the real one.
const PREVIEW = { return_image: true, num_beams: 1, num_return_sequences: 1, min_new_tokens: 0, max_new_tokens: 1 };

const sliders = Object.fromEntries(["level", "width", "zoom"].map((name) => [name, { input: find(name), output: find(`${name}-value`) }]));
const viewer = new Viewer(find("viewer"), sliders);
// image: a Blob; read: the answer to PREVIEW; draft: {image, answer, options}; served: the default model as /v1/models
// describes it; offered: formats of documents; task: AbortController of the request that runs
let image = null, read = null, draft = null, served = null, offered = [], chat = null, task = null;

const key = () => find("key").value;
const isDefault = () => served?.id === find("model").value;

// Runs one request at a time: a new one ends the one before. Returns whether it succeeded.
async function run(doing, work, again) {
  task?.abort();
  const mine = new AbortController();
  task = mine;
  show("problem", false);
  const focused = document.activeElement === find("write");
  show("stop", true); show("write", false);
  if (focused) find("stop").focus();
  find("send").disabled = true;
  find("state").textContent = doing;
  find("state").classList.add("busy");
  try {
    const said = await work(mine.signal);
    // It may have succeeded just before it was stopped.
    mine.signal.throwIfAborted();
    find("state").textContent = said;
    return true;
  } catch (error) {
    if (task === mine) showProblem(error, again);
    return false;
  } finally {
    if (task === mine) {
      task = null;
      const stopped = document.activeElement === find("stop");
      show("stop", false); show("write", true);
      find("write").disabled = read === null;
      if (stopped) find("write").focus();
      find("send").disabled = false;
      find("state").classList.remove("busy");
    }
  }
}

function showProblem(error, again) {
  find("state").textContent = error.name === "AbortError" ? "Stopped." : "";
  if (error.name === "AbortError") return;
  const { title, plain, detail } = explainProblem(error);
  find("problem-title").textContent = title;
  find("problem-text").replaceChildren(plain, ...(detail ? [create("small", detail)] : []));
  show("problem", true);
  reveal("problem");
  // The same image would be refused again.
  show("retry", Boolean(again) && ![400, 413, 415, 422].includes(error.code));
  find("retry").onclick = again;
  if (error.code === 401) find("key").focus();
}

// By the magic words of PNG, JPEG, WebP and TIFF: DICOM files without a preamble have none.
async function isDicom(file) {
  const [first, magic] = await Promise.all([file.slice(0, 1).arrayBuffer(), file.slice(128, 132).text()]);
  return magic === "DICM" || ![0x89, 0xff, 0x52, 0x49, 0x4d].includes(new Uint8Array(first)[0]);
}

async function take(file) {
  image = file; read = draft = chat = null;
  clearReport();
  for (const id of ["figure", "view", "remarks"]) show(id, false);
  show("drop", true);
  return run("Reading the image…", async (signal) => {
    await prepare();
    const preview = await writeReport(find("model").value, file, PREVIEW, { key: key(), signal });
    signal.throwIfAborted();
    if (!preview.images?.length) throw new Problem(0, "The server did not return the image.", "UnreadableAnswer");
    // Sizes are measured when the picture is shown.
    show("figure", true); show("view", true); show("drop", false);
    const { width, height } = await viewer.show(`data:image/png;base64,${preview.images[0]}`);
    find("caption").textContent = `As the model reads it: ${width} × ${height} pixels.`;
    const checked = await isDicom(file);
    signal.throwIfAborted();
    showWarnings(preview.warnings, checked ? [] : ["Only DICOM files say what they show. Nothing has checked that this is a radiograph this model reads."]);
    enableDraftButtons(offered, checked);
    read = preview;
    return "Ready to write a report.";
  }, () => take(file));
}

function readOptions() {
  const drafts = Number(find("drafts").value);
  // Several drafts are the best of so many beams.
  find("beams").value = Math.max(drafts, Number(find("beams").value));
  const options = { num_beams: Number(find("beams").value), num_return_sequences: drafts };
  if (find("tokens").value) options.max_new_tokens = Number(find("tokens").value);
  return options;
}

async function write() {
  if (read === null) return;
  clearReport();
  viewer.mark([]);
  show("report", true);
  reveal("state");
  const succeeded = await run("Writing…", async (signal) => {
    const onText = (text) => find("text").append(text);
    const options = readOptions();
    const sent = { ...options, stream: true };
    if (!find("prompt-label").hidden && find("prompt").value) sent.prompt = find("prompt").value;
    const answer = await writeReport(find("model").value, image, sent, { key: key(), signal, onText });
    signal.throwIfAborted();
    draft = { image, answer, options };
    showReport(answer, read.timing_ms);
    viewer.mark((answer.regions ?? []).map((region) => region.picture_box));
    show("actions", true);
    if (isDefault() && served.prelim.takes_messages) { chat = new Chat(image, served.id); show("chat", true); }
    return isEmpty(answer) ? "The draft is empty." : "Draft finished.";
  }, write);
  if (!succeeded && task === null) clearReport();
}

async function ask(event) {
  event.preventDefault();
  const question = find("question").value;
  const asked = () => run("Answering…", async (signal) => { await chat.ask(question, { key: key(), signal }); return "Answered."; }, asked);
  find("question").value = "";
  if (!(await asked()) && chat) find("question").value = question;
}

async function save(format, file) {
  const again = () => save(format, file);
  await run("Writing the document…", async (signal) => { await saveDraft(format, file, draft, { key: key(), signal }); return "Saved."; }, again);
}

async function copy() {
  const { answer } = draft;
  const drafts = [answer.report, ...answer.alternatives.map(({ report }, i) => `Alternative ${i + 1}: ${report}`)];
  try {
    await navigator.clipboard.writeText(`${answer.status}: ${drafts.join("\n")}`);
    find("saved").textContent = "Copied.";
  } catch { find("saved").textContent = "The browser does not allow copying here: select the text instead."; }
}

function saveJson() {
  const { images, ...rest } = draft.answer;
  download("report.json", new Blob([JSON.stringify(rest, null, 1)], { type: "application/json" }));
}

function chooseFrom(list) {
  if (list.length > 1) showProblem(new Problem(0, `${list.length} files were given, and one is read at a time.`, "SeveralFiles"));
  else if (list.length) take(list[0]);
}

function listen() {
  // On the whole page: a browser would open a file that is dropped elsewhere, and leave the page.
  const over = (is) => document.body.classList.toggle("over", is);
  document.addEventListener("dragover", (event) => { event.preventDefault(); over(true); });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) over(false); });
  document.addEventListener("drop", (event) => { event.preventDefault(); over(false); chooseFrom(event.dataTransfer.files); });
  document.addEventListener("paste", (event) => chooseFrom(event.clipboardData.files));
  // Emptied, so that the same file can be chosen again.
  find("file").addEventListener("change", ({ target }) => { chooseFrom([...target.files]); target.value = ""; });
  find("options").addEventListener("submit", (event) => { event.preventDefault(); if (!find("write").disabled) write(); });
  find("stop").addEventListener("click", () => task?.abort());
  find("reset").addEventListener("click", () => viewer.reset());
  find("copy").addEventListener("click", copy);
  find("json").addEventListener("click", saveJson);
  find("ask").addEventListener("submit", ask);
  find("key").addEventListener("change", readModel);
  find("model").addEventListener("change", async () => { await readModel(); if (image) take(image); });
}

async function readModel() {
  // Without a key the gateway does not say what the model is; the form still works.
  try { served = (await listModels(key()))[0]; } catch { served = null; }
  show("prompt-label", served !== null && (!isDefault() || served.prelim.takes_prompts));
}

function addSample({ file, title }) {
  const button = Object.assign(create("button", title), { type: "button" });
  const open = async () => {
    let sample = null;
    const fetched = await run("Fetching the sample…", async () => { sample = await readSample(file); return ""; }, open);
    if (fetched && await take(sample)) await write();
  };
  button.addEventListener("click", open);
  find("samples").append(button);
}

async function load() {
  const config = await readConfig();
  find("model").replaceChildren(...config.models.map((name) => create("option", name)));
  show("model-label", config.models.length > 1);
  show("key-label", config.needs_key);
  offered = config.drafts ?? [];
  addDraftButtons(offered, save);
  config.samples.forEach(addSample);
  show("samples", config.samples.length > 0);
  await readModel();
}

// Once; again only after a failure.
let preparing = null;
function prepare() {
  preparing ??= load().catch((error) => { preparing = null; throw error; });
  return preparing;
}

const connect = () => run("Connecting…", async () => { await prepare(); return "Choose an image to begin."; }, connect);

listen();
connect();
