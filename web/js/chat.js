// A conversation about one image, in OpenAI's chat format.

import { create, find } from "./elements.js";
import { complete } from "./server.js";

async function dataUri(blob) {
  const reader = new FileReader();
  await new Promise((resolve, reject) => {
    Object.assign(reader, { onload: resolve, onerror: () => reject(new Error("The file can no longer be read. Choose it again.")) });
    reader.readAsDataURL(blob);
  });
  return `data:application/octet-stream;base64,${reader.result.split(",")[1]}`;
}

function addTurn(speaker, text) {
  const turn = create("li", "", speaker);
  const body = create("span", text);
  turn.append(create("b", speaker === "user" ? "You" : "Model, UNVERIFIED"), body);
  find("turns").append(turn);
  return { turn, body };
}

export class Chat {
  constructor(image, model) { Object.assign(this, { image, model, messages: [] }); }

  // Adds question and reply to the page. Neither stays there after an error.
  async ask(question, { key, signal }) {
    const asked = addTurn("user", question);
    const reply = addTurn("model", "");
    try {
      const text = { type: "text", text: question };
      const content = this.messages.length ? question : [text, { type: "image_url", image_url: { url: await dataUri(this.image) } }];
      const messages = [...this.messages, { role: "user", content }];
      const said = await complete(this.model, messages, { key, signal, onText: (piece) => reply.body.append(piece) });
      if (!said.trim()) reply.body.textContent = "(no text)";
      this.messages = [...messages, { role: "assistant", content: said }];
    } catch (error) {
      asked.turn.remove();
      reply.turn.remove();
      throw error;
    }
  }
}
