// Shows a picture with a window and a zoom. The window is that of PS3.3 C.11.2.1.2 (LINEAR) on gray levels 0 to 255.

const START = { level: 128, width: 256, zoom: 100 };
const LARGEST = 800;
const clamp = (value, least, most) => Math.min(most, Math.max(least, value));

// The gray shown for each of the 256 levels.
function windowTable(level, width) {
  return Uint8ClampedArray.from({ length: 256 }, (_, x) => 255 * ((x - (level - 0.5)) / (width - 1) + 0.5));
}

function outline(context, [left, top, right, bottom], label) {
  const { width, height } = context.canvas;
  const size = Math.max(9, width / 24);
  const [x, y] = [left * width, top * height];
  context.lineWidth = Math.max(1, width / 200);
  context.strokeStyle = context.fillStyle = "#ffb000";
  context.font = `bold ${size}px sans-serif`;
  context.strokeRect(x, y, (right - left) * width, (bottom - top) * height);
  context.fillText(label, x, y > size ? y - context.lineWidth : y + size);
}

// frame: the element that clips and takes the pointer and keys; its canvas has the picture
// sliders: {level, width, zoom}, each {input, output}
export class Viewer {
  constructor(frame, sliders) {
    this.frame = frame;
    this.canvas = frame.querySelector("canvas");
    this.sliders = sliders;
    this.pixels = null;
    this.boxes = [];
    this.pointers = new Map();
    for (const name of Object.keys(START)) sliders[name].input.addEventListener("input", ({ target }) => this.change({ [name]: Number(target.value) }));
    frame.addEventListener("keydown", (event) => this.press(event));
    frame.addEventListener("wheel", (event) => { event.preventDefault(); this.zoomAt(event, Math.exp(-event.deltaY / 400)); }, { passive: false });
    frame.addEventListener("dblclick", () => this.reset());
    frame.addEventListener("contextmenu", (event) => event.preventDefault());
    frame.addEventListener("pointerdown", (event) => { frame.setPointerCapture(event.pointerId); this.pointers.set(event.pointerId, event); });
    frame.addEventListener("pointermove", (event) => this.drag(event));
    for (const end of ["pointerup", "pointercancel"]) frame.addEventListener(end, (event) => this.pointers.delete(event.pointerId));
    this.reset();
  }

  // Returns the picture's width and height.
  async show(url) {
    const image = new Image();
    image.src = url;
    await image.decode();
    const { naturalWidth: width, naturalHeight: height } = image;
    Object.assign(this.canvas, { width, height });
    this.boxes = [];
    const context = this.canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    this.pixels = context.getImageData(0, 0, width, height);
    this.reset();
    return { width, height };
  }

  reset() { Object.assign(this, START, { x: 0, y: 0 }); this.change({}); }

  change(values) {
    Object.assign(this, values);
    this.level = clamp(Math.round(this.level), 0, 255);
    this.width = clamp(Math.round(this.width), 2, 512);
    this.zoom = clamp(this.zoom, 100, LARGEST);
    const { clientWidth, clientHeight } = this.frame;
    // As far as an edge of the picture reaches the middle of the frame.
    const [right, down] = [clientWidth, clientHeight].map((size) => (size * (this.zoom / 100 - 1)) / 2);
    this.x = clamp(this.x, -right, right);
    this.y = clamp(this.y, -down, down);
    for (const [name, { input, output }] of Object.entries(this.sliders)) {
      input.value = this[name];
      output.textContent = `${Math.round(this[name])}${name === "zoom" ? " %" : ""}`;
    }
    this.frame.classList.toggle("zoomed", this.zoom > 100);
    this.canvas.style.transform = `translate(${this.x}px, ${this.y}px) scale(${this.zoom / 100})`;
    if (!("x" in values || "zoom" in values)) this.paint();
  }

  paint() {
    if (!this.pixels) return;
    const { data, width, height } = this.pixels;
    const table = windowTable(this.level, this.width);
    const shown = new Uint8ClampedArray(data.length);
    for (let i = 0; i < data.length; i += 4) {
      for (let c = 0; c < 3; c += 1) shown[i + c] = table[data[i + c]];
      shown[i + 3] = data[i + 3];
    }
    const context = this.canvas.getContext("2d");
    context.putImageData(new ImageData(shown, width, height), 0, 0);
    this.boxes.forEach((box, i) => outline(context, box, `${i + 1}`));
  }

  // Shows numbered boxes: left, top, right, bottom, in parts of the picture's sides.
  mark(boxes) { this.boxes = boxes; this.paint(); }

  // What is under the pointer stays there.
  zoomAt({ clientX, clientY }, factor) {
    const box = this.frame.getBoundingClientRect();
    const [px, py] = [clientX - box.left - box.width / 2, clientY - box.top - box.height / 2];
    const zoom = clamp(this.zoom * factor, 100, LARGEST);
    const ratio = zoom / this.zoom;
    this.change({ zoom, x: px - (px - this.x) * ratio, y: py - (py - this.y) * ratio });
  }

  drag(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    this.pointers.set(event.pointerId, event);
    const [dx, dy] = [event.clientX - before.clientX, event.clientY - before.clientY];
    const other = [...this.pointers.values()].find(({ pointerId }) => pointerId !== event.pointerId);
    if (other) {
      const distance = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
      const middle = { clientX: (event.clientX + other.clientX) / 2, clientY: (event.clientY + other.clientY) / 2 };
      this.change({ x: this.x + dx / 2, y: this.y + dy / 2 });
      this.zoomAt(middle, distance(event) / Math.max(1, distance(before)));
    } else if (event.buttons & 2) {
      this.change({ width: this.width + dx, level: this.level + dy });
    } else {
      this.change({ x: this.x + dx, y: this.y + dy });
    }
  }

  press(event) {
    const step = 40;
    const changes = {
      "+": { zoom: this.zoom * 1.25 }, "=": { zoom: this.zoom * 1.25 }, "-": { zoom: this.zoom / 1.25 }, 0: { ...START, x: 0, y: 0 },
      ArrowLeft: { x: this.x + step, y: this.y }, ArrowRight: { x: this.x - step, y: this.y },
      ArrowUp: { x: this.x, y: this.y + step }, ArrowDown: { x: this.x, y: this.y - step },
    }[event.key];
    if (!changes || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    if (event.key === "0") this.reset(); else this.change(changes);
  }
}
