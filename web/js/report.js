// Shows an answer of the server: text, alternatives, what is known of the image, timing.

import { create, find, show } from "./elements.js";
import { explainWarning } from "./words.js";

const TIMES = { queue: "Wait", preprocess: "Read image", vision: "Encode", decode: "Write" };
// The server keeps these: they take no time for an image that it has read before.
const KEPT = ["preprocess", "vision"];
// What the license of the model allows.
const USES = { research: "research only", "non-commercial": "non-commercial", "clinical-evaluation": "evaluation in a clinic", "within-terms": "within its terms" };
const seconds = (part, ms) => (ms === 0 && KEPT.includes(part) ? "cached" : `${(ms / 1000).toFixed(2)} s`);

export const isEmpty = ({ report, sections: parts }) => ![report, ...Object.values(parts)].some((text) => text?.trim());

// A paragraph in which the sentences to confirm are marked. left: those of the report that are not in it yet, in order
function paragraph(text, left) {
  const shown = create("p", "");
  // A section lacks the heading that its first sentence begins with.
  const wordsOf = ({ text: sentence }) => [sentence, sentence.replace(/^[\p{L} ]+:\s*/u, "")].find((words) => words && text.includes(words));
  for (let next = left.findIndex(wordsOf); next >= 0; next = left.findIndex(wordsOf)) {
    const words = wordsOf(left[next]);
    const [{ confidence, confirm }] = left.splice(0, next + 1).slice(-1);
    const mark = create(confirm ? "mark" : "span", words);
    if (confirm) mark.append(create("small", ` confirm: confidence ${confidence.toFixed(2)}`));
    shown.append(text.slice(0, text.indexOf(words)), mark);
    text = text.slice(text.indexOf(words) + words.length);
  }
  shown.append(text);
  return shown;
}

function sections(answer) {
  const parts = Object.entries(answer.sections).filter(([, text]) => text);
  if (isEmpty(answer)) return [create("p", "The model wrote no text for this image.", "detail")];
  const left = [...(answer.sentences ?? [])];
  if (!parts.length) return [paragraph(answer.report, left)];
  return parts.flatMap(([name, text]) => [create("h3", name[0].toUpperCase() + name.slice(1)), paragraph(text, left)]);
}

function alternative({ report, avg_logprob: logprob }, i) {
  const item = create("section", "");
  item.append(create("h3", `Alternative ${i + 1}`), create("p", report), create("p", `mean log-probability ${logprob.toFixed(2)}`, "detail"));
  return item;
}

// notes: further sentences, of the page's own
export function showWarnings(warnings, notes) {
  const items = [...notes.map((plain) => ({ plain, detail: "" })), ...warnings.map(explainWarning)].map(({ plain, detail }) => {
    const item = create("li", plain);
    if (detail) item.append(create("small", detail));
    return item;
  });
  find("warnings").replaceChildren(...items);
  show("remarks", items.length > 0);
}

// read: timing of the request that read the image; the server keeps what it read for the next one
export function showReport(answer, read) {
  find("text").replaceChildren(...sections(answer));
  if (answer.regions?.length) find("text").append(create("p", `Boxes on the image: ${answer.regions.map(({ text }, i) => `${i + 1} ${text}`).join("; ")}`, "detail"));
  if (answer.finish_reason === "length") find("text").append(create("p", "Cut off here: it reached the longest length.", "detail"));
  if (answer.sentences?.some(({ confirm }) => confirm)) find("text").append(create("p", "Marked sentences are those that are wrong most often. Look at them first; the others can be wrong too.", "detail"));
  find("alternatives").replaceChildren(...answer.alternatives.map(alternative));
  const { name, version, sha256, use } = answer.model;
  const times = { ...answer.timing_ms };
  for (const part of KEPT) times[part] ||= read[part];
  const facts = {
    Model: `${name} ${version}`, Use: USES[use] ?? "not stated", Archive: sha256.slice(0, 12), Length: `${answer.num_tokens} tokens`, "Mean log-probability": answer.avg_logprob.toFixed(2),
    ...Object.fromEntries(Object.entries(TIMES).map(([part, label]) => [label, seconds(part, times[part])])),
  };
  find("facts").replaceChildren(...Object.entries(facts).map(([label, value]) => {
    const pair = create("div", "");
    pair.append(create("dt", label), create("dd", value));
    return pair;
  }));
}

export function clearReport() {
  for (const id of ["text", "alternatives", "facts"]) find(id).replaceChildren();
  for (const id of ["report", "actions", "chat"]) show(id, false);
  find("turns").replaceChildren();
  find("saved").textContent = "";
}
