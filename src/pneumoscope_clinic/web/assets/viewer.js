// The film on a canvas: window and level, zoom and pan, invert, and the heat map over it in colour.
// In: an element with data-film (address of the grey picture), data-colours (the heat map's scale, 17 colours)
// and the controls inside it. Out: nothing; the plain picture in the page stays where a canvas cannot be had.

const RANGE = 256;
const MAP_SIDE = 1024; // the map is enlarged to at most this before it is coloured, as strengths and not as colours
const MAX_ZOOM = 16;

class FilmViewer {
  constructor(root) {
    this.root = root;
    this.canvas = root.querySelector("canvas");
    this.context = this.canvas.getContext("2d");
    this.controls = (name) => root.querySelector(`[data-control="${name}"]`);
    this.colours = root.dataset.colours.split(" ").map((code) => [1, 3, 5].map((at) => parseInt(code.slice(at, at + 2), 16)));
    this.maps = new Map();
    this.pointers = new Map();
    this.tool = "window";
    this.start = { level: RANGE / 2, width: RANGE, inverted: false, zoom: 1, x: 0, y: 0 };
    Object.assign(this, this.start);
  }

  async open() {
    const picture = await load(this.root.dataset.film);
    this.film = surface(picture.naturalWidth, picture.naturalHeight);
    const context = this.film.getContext("2d", { willReadFrequently: true });
    context.drawImage(picture, 0, 0);
    this.image = context.getImageData(0, 0, this.film.width, this.film.height);
    this.pixels = new Uint32Array(this.image.data.buffer);
    this.grey = Uint8Array.from(this.pixels, (pixel) => pixel & 255);
    for (const part of this.root.querySelectorAll("[data-with-script]")) part.hidden = false;
    for (const part of this.root.querySelectorAll("[data-without-script]")) part.hidden = true;
    this.canvas.style.aspectRatio = `${this.film.width} / ${this.film.height}`;
    this.listen();
    new ResizeObserver(() => this.draw()).observe(this.canvas);
    await this.chooseMap();
    this.develop();
    this.root.dataset.ready = "true";
  }

  // Pixels through window and level: PS3.3 C.11.2.1.2 for 8 bits, as a table of 256 entries.
  develop() {
    const low = this.level - this.width / 2;
    const table = new Uint32Array(RANGE);
    for (let value = 0; value < RANGE; value += 1) {
      let shade = Math.round(Math.min(1, Math.max(0, (value + 0.5 - low) / this.width)) * 255);
      if (this.inverted) shade = 255 - shade;
      table[value] = 0xff000000 | (shade << 16) | (shade << 8) | shade;
    }
    for (let at = 0; at < this.grey.length; at += 1) this.pixels[at] = table[this.grey[at]];
    this.film.getContext("2d").putImageData(this.image, 0, 0);
    this.draw();
  }

  draw() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => { this.waiting = 0; this.paint(); });
  }

  paint() {
    const { canvas, context, film } = this;
    const density = window.devicePixelRatio || 1;
    const width = Math.round(canvas.clientWidth * density);
    const height = Math.round(canvas.clientHeight * density);
    if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = "#090c0f";
    context.fillRect(0, 0, width, height);
    const { left, top, scale } = this.place(width, height);
    context.setTransform(scale, 0, 0, scale, left, top);
    context.imageSmoothingEnabled = scale < 4;
    context.imageSmoothingQuality = "high";
    context.drawImage(film, 0, 0);
    const map = this.maps.get(this.controls("map")?.value);
    if (map) {
      context.globalAlpha = Number(this.controls("opacity").value) / 100;
      context.imageSmoothingEnabled = true;
      context.drawImage(map, 0, 0, film.width, film.height);
      context.globalAlpha = 1;
    }
    this.report();
  }

  place(width, height) {
    const scale = Math.min(width / this.film.width, height / this.film.height) * this.zoom;
    const density = window.devicePixelRatio || 1;
    return {
      scale,
      left: (width - this.film.width * scale) / 2 + this.x * density,
      top: (height - this.film.height * scale) / 2 + this.y * density,
    };
  }

  report() {
    this.controls("level").value = Math.round(this.level);
    this.controls("width").value = Math.round(this.width);
    this.controls("invert").setAttribute("aria-pressed", String(this.inverted));
    const preset = `${Math.round(this.level)} ${Math.round(this.width)}`;
    const presets = this.controls("preset");
    presets.value = [...presets.options].some((option) => option.value === preset) ? preset : "";
    const said = this.root.querySelector("[data-state]");
    said.textContent = said.dataset.state
      .replace("{width}", Math.round(this.width)).replace("{level}", Math.round(this.level))
      .replace("{zoom}", Math.round(this.zoom * 100));
    this.canvas.classList.toggle("moves", this.tool === "pan" || this.zoom > 1);
    for (const name of ["window", "pan"]) this.controls(`tool-${name}`).setAttribute("aria-pressed", String(this.tool === name));
  }

  async chooseMap() {
    const choice = this.controls("map");
    const option = choice?.selectedOptions[0];
    if (option?.dataset.address && !this.maps.has(option.value)) {
      this.maps.set(option.value, this.coloured(await load(option.dataset.address)));
    }
    if (this.pixels) this.draw();
  }

  // Colour by strength, opacity by strength: what inference.overlay draws.
  coloured(picture) {
    const scale = Math.min(1, MAP_SIDE / Math.max(this.film.width, this.film.height));
    const map = surface(Math.max(1, Math.round(this.film.width * scale)), Math.max(1, Math.round(this.film.height * scale)));
    const context = map.getContext("2d", { willReadFrequently: true });
    context.imageSmoothingQuality = "high";
    context.drawImage(picture, 0, 0, map.width, map.height);
    const image = context.getImageData(0, 0, map.width, map.height);
    const data = image.data;
    for (let at = 0; at < data.length; at += 4) {
      const strength = data[at];
      const position = (strength / 255) * (this.colours.length - 1);
      const lower = Math.min(Math.floor(position), this.colours.length - 2);
      const share = position - lower;
      for (let channel = 0; channel < 3; channel += 1) {
        data[at + channel] = this.colours[lower][channel] * (1 - share) + this.colours[lower + 1][channel] * share;
      }
      data[at + 3] = strength;
    }
    context.putImageData(image, 0, 0);
    return map;
  }

  setWindow(level, width) {
    this.level = Math.min(RANGE, Math.max(0, level));
    this.width = Math.min(2 * RANGE, Math.max(2, width));
    this.develop();
  }

  zoomBy(factor, x = 0, y = 0) {
    const zoom = Math.min(MAX_ZOOM, Math.max(0.5, this.zoom * factor));
    const change = zoom / this.zoom;
    this.x = x - (x - this.x) * change;
    this.y = y - (y - this.y) * change;
    this.zoom = zoom;
    this.draw();
  }

  move(x, y) { this.x += x; this.y += y; this.draw(); }

  reset() { Object.assign(this, this.start); this.develop(); }

  listen() {
    const act = {
      "tool-window": () => { this.tool = "window"; this.draw(); },
      "tool-pan": () => { this.tool = "pan"; this.draw(); },
      "zoom-in": () => this.zoomBy(1.25),
      "zoom-out": () => this.zoomBy(0.8),
      invert: () => { this.inverted = !this.inverted; this.develop(); },
      reset: () => this.reset(),
      full: () => (document.fullscreenElement ? document.exitFullscreen() : this.root.requestFullscreen()),
    };
    for (const [name, does] of Object.entries(act)) this.controls(name).addEventListener("click", does);
    this.controls("level").addEventListener("input", (event) => this.setWindow(Number(event.target.value), this.width));
    this.controls("width").addEventListener("input", (event) => this.setWindow(this.level, Number(event.target.value)));
    this.controls("preset").addEventListener("change", (event) => {
      if (event.target.value) this.setWindow(...event.target.value.split(" ").map(Number));
    });
    this.controls("map")?.addEventListener("change", () => this.chooseMap());
    this.controls("opacity")?.addEventListener("input", () => this.draw());
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    this.canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    this.canvas.addEventListener("pointerdown", (event) => this.press(event));
    this.canvas.addEventListener("pointermove", (event) => this.drag(event));
    for (const name of ["pointerup", "pointercancel"]) {
      this.canvas.addEventListener(name, (event) => this.pointers.delete(event.pointerId));
    }
    this.canvas.addEventListener("dblclick", () => this.reset());
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = 32;
    const presets = [...this.controls("preset").options].filter((option) => option.value);
    const arrows = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    const arrow = arrows[event.key];
    if (arrow && event.shiftKey) this.setWindow(this.level + arrow[1] * 4, this.width - arrow[0] * 8);
    else if (arrow) this.move(arrow[0] * step, arrow[1] * step);
    else if (event.key === "+" || event.key === "=") this.zoomBy(1.25);
    else if (event.key === "-") this.zoomBy(0.8);
    else if (event.key === "0" || event.key === "Home") this.reset();
    else if (event.key === "i") this.controls("invert").click();
    else if (event.key === "h") this.toggleMap();
    else if (event.key >= "1" && event.key <= String(presets.length)) {
      this.setWindow(...presets[Number(event.key) - 1].value.split(" ").map(Number));
    } else return;
    event.preventDefault();
  }

  toggleMap() {
    const choice = this.controls("map");
    if (!choice) return;
    if (choice.value) this.lastMap = choice.value;
    choice.value = choice.value ? "" : this.lastMap || choice.options[1].value;
    this.chooseMap();
  }

  // The wheel scrolls the page until the film has the focus.
  wheel(event) {
    if (document.activeElement !== this.canvas && !event.ctrlKey) return;
    event.preventDefault();
    const box = this.canvas.getBoundingClientRect();
    this.zoomBy(event.deltaY < 0 ? 1.1 : 1 / 1.1, event.clientX - box.left - box.width / 2, event.clientY - box.top - box.height / 2);
  }

  press(event) {
    if (event.button === 2) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, [event.clientX, event.clientY, event.button]);
  }

  drag(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const [x, y] = [event.clientX - before[0], event.clientY - before[1]];
    if (this.pointers.size === 2) this.pinch(event, before);
    else if (this.pans(event, before)) this.move(x, y);
    else this.setWindow(this.level + y / 2, this.width + x);
    this.pointers.set(event.pointerId, [event.clientX, event.clientY, before[2]]);
  }

  pans(event, before) {
    const touched = event.pointerType === "touch" && this.zoom > 1;
    return this.tool === "pan" || touched || event.shiftKey || before[2] === 1;
  }

  pinch(event, before) {
    const other = [...this.pointers].find(([id]) => id !== event.pointerId)[1];
    const distance = (point) => Math.hypot(point[0] - other[0], point[1] - other[1]);
    const box = this.canvas.getBoundingClientRect();
    const middle = [(event.clientX + other[0]) / 2 - box.left - box.width / 2, (event.clientY + other[1]) / 2 - box.top - box.height / 2];
    if (distance(before) > 0) this.zoomBy(distance([event.clientX, event.clientY]) / distance(before), ...middle);
  }
}

function load(address) {
  return new Promise((resolve, reject) => {
    const picture = new Image();
    picture.onload = () => resolve(picture);
    picture.onerror = () => reject(new Error(address));
    picture.src = address;
  });
}

function surface(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  return canvas;
}

for (const root of document.querySelectorAll("[data-film]")) {
  new FilmViewer(root).open().catch(() => { root.querySelector("[data-failed]").hidden = false; });
}
