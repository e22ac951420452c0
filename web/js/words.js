// The server's warnings and refusals in plain words. Its own text, which names the tag, is shown below them.

const WARNINGS = {
  anisotropic_pixels: "The pixels are not square: the picture may look stretched.",
  body_part_unknown: "The file does not say which part of the body it shows.",
  burned_in_annotation: "Text is part of the picture. It may name the patient.",
  burned_in_unknown: "The file does not say whether text is part of the picture. Such text may name the patient.",
  codestream: "The compressed picture departs from the standard. Compare it with the original.",
  colour: "The image has colors, and the model read it in gray. Is it a radiograph?",
  empty_report: "The model wrote no text with these options.",
  gray_as_color: "The image is gray but was stored in colors. Its gray levels were used.",
  invalid_value: "An entry of the file is invalid. It was left out.",
  lossy: "The image was compressed and may have lost detail.",
  malformed_marks: "Marks of the model, such as a box on the image, could not be read. They were left out.",
  multi_picture: "The file holds several pictures. Only the first was read.",
  no_end_marker: "The compressed picture has no end marker, but it is complete.",
  no_window: "The file does not say how bright it should be shown. Its own range was used.",
  overlay_ignored: "Drawings stored with the image (overlays) are not shown to the model.",
  padding: "The border that the file declares as filling is shown in black, although white would be usual here.",
  range: "The file does not say how bright its pixels can be. Their own range was used.",
  reasoning_unfinished: "The model was still thinking when it reached the longest length. It wrote no report, or not all of it.",
  sop_class_unknown: "The file does not say what kind of image it is.",
  transfer_syntax: "The pixels are not compressed as the file says. They were read as they are.",
  unlike_training: "The image is unlike those that the model was trained on. Do not rely on the text.",
  view_unknown: "The file does not say from which side it was taken.",
  voi_lut: "A table of the file that says how bright it should be contradicts itself. Its entries were used.",
};

const REFUSALS = {
  bits: "The pixels are stored in a way that is not read here.",
  body_part: "The file shows another part of the body than this model reads.",
  burned_in_annotation: "Text is part of the picture, and may name the patient.",
  codestream_size: "The compressed picture has another size than the file says.",
  elongated: "The image is too long and narrow for a radiograph.",
  flat_image: "The image has a single gray level: there is nothing to see.",
  for_processing: "This is raw data of the detector, not an image for reading.",
  modality: "The image comes from another kind of machine than this model reads.",
  multi_frame: "The file holds several images.",
  no_pixel_data: "The file has no image.",
  only_padding: "The image is empty: all of it is padding.",
  photometric: "The image has colors. This model reads gray radiographs.",
  presentation_lut: "The gray scale of this file is not read here.",
  sop_class: "The file holds another kind of image than this model reads.",
  too_small: "The image is too small.",
  transfer_syntax: "The compression of this file is not read here.",
  unlike_training: "The image is unlike those that the model was trained on.",
  view: "The image was taken from a side that this model does not read.",
};

const KINDS = {
  UnreadableInput: "This file cannot be read",
  InvalidOption: "An option is not allowed",
  SeveralFiles: "Choose one file",
  UnreadableAnswer: "The server's answer cannot be read",
};

const TITLES = {
  0: "The server cannot be reached",
  401: "An API key is needed",
  413: "Too large",
  415: "Not an image",
  422: "This image was refused",
  429: "Too many requests",
  500: "The model failed on this image",
  503: "The server is busy",
  504: "There was no report in time",
};

// "lossy: the image ..." -> {plain, detail}. A text without a known code is plain as it is.
function explain(text, sentences) {
  const found = /^(?:(image \d+): )?([a-z_]+): (.*)$/s.exec(text);
  const plain = found && sentences[found[2]];
  return plain ? { plain: found[1] ? `${found[1][0].toUpperCase()}${found[1].slice(1)}: ${plain}` : plain, detail: found[3] } : { plain: text, detail: "" };
}

export function explainWarning(text) { return explain(text, WARNINGS); }

// Of a Problem (server.js): {title, plain, detail}.
export function explainProblem(problem) {
  // An answer that lacks a part ends in one of JavaScript's own errors, whose text helps nobody.
  if (["TypeError", "SyntaxError", "RangeError"].includes(problem.name)) problem = { code: 0, kind: "UnreadableAnswer", message: "It is damaged or of another version. Try again." };
  const title = KINDS[problem.kind] ?? TITLES[problem.code] ?? "Something went wrong";
  return { title, ...explain(problem.message, REFUSALS) };
}
