// Small functions on the page's elements.

export const find = (id) => document.getElementById(id);
export const show = (id, visible) => { find(id).hidden = !visible; };
export const create = (tag, text, className = "") => Object.assign(document.createElement(tag), { textContent: text, className });

// On a phone the report is below the image.
export function reveal(id) {
  const { top, bottom } = find(id).getBoundingClientRect();
  if (top < 0 || bottom > innerHeight) find(id).scrollIntoView({ block: "start" });
}

export function download(name, blob) {
  const url = URL.createObjectURL(blob);
  Object.assign(document.createElement("a"), { href: url, download: name }).click();
  URL.revokeObjectURL(url);
}
