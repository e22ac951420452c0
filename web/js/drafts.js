// The draft as a document of the bridge: DICOM SR, FHIR and others.

import { create, download, find } from "./elements.js";
import { fetchDraft } from "./server.js";

const FORMATS = {
  sr: { label: "DICOM SR", file: "draft-sr.dcm", needsDicom: true },
  fhir: { label: "FHIR", file: "draft-fhir.json" },
  pdf: { label: "PDF in DICOM", file: "draft-pdf.dcm", needsDicom: true },
  tid1500: { label: "TID 1500", file: "draft-tid1500.dcm", needsDicom: true },
};
const USUAL = ["sr", "fhir"];

// A sentence on what cannot be saved, and why.
function reason(offered, isDicom) {
  if (!offered.length) return "DICOM SR and FHIR come from the bridge, and no bridge runs behind this gateway.";
  return isDicom ? "" : "DICOM documents need a DICOM file: they repeat its patient and study.";
}

// offered : formats that the bridge behind this gateway writes
// save    : called with a format and its file's name
export function addDraftButtons(offered, save) {
  const buttons = Object.entries(FORMATS).filter(([format]) => USUAL.includes(format) || offered.includes(format)).map(([format, { label, file }]) => {
    const button = Object.assign(create("button", label), { type: "button", id: format });
    button.addEventListener("click", () => save(format, file));
    return button;
  });
  find("json").before(...buttons);
}

export function enableDraftButtons(offered, isDicom) {
  for (const [format, { needsDicom }] of Object.entries(FORMATS)) {
    const button = find(format);
    if (button) button.disabled = !offered.includes(format) || (Boolean(needsDicom) && !isDicom);
  }
  find("limits").textContent = reason(offered, isDicom);
}

// answer, options : of the report that is saved
export async function saveDraft(format, file, { image, answer, options }, { key, signal }) {
  const { images, ...report } = answer;
  const fields = { report: JSON.stringify(report), options: JSON.stringify(options) };
  download(file, await fetchDraft(format, image, fields, { key, signal }));
}
