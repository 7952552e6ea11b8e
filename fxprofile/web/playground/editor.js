/**
 * The dialog in which a picture is cropped, zoomed and turned before it is saved.
 */

import { Crop } from "./crop.js";
import { $, answer } from "./page.js";
import { encode, LONGEST } from "./render.js";

const STEP = 0.05;
const SMALL_STEP = 0.01;
const ZOOM_STEP = 0.1;
const ZOOM_PER_PIXEL = 0.0015;
const PIXELS_PER_LINE = 16;

/** The dialog; one picture is edited at a time. */
export class Editor {
  constructor() {
    this.pyramid = null;
    this.crop = null;
    this.pointers = new Map();
    this.listen();
  }

  get isOpen() {
    return $("editor").open;
  }

  /**
   * Let the user crop a picture.
   *
   * @param {File} file
   * @param {import("./render.js").Pyramid} pyramid of the file; it is closed in the end.
   * @param {{maxBytes: number, most: number, square: boolean}} options
   *     maxBytes: of the upload; most: of a file that is uploaded as it is.
   *     square: whether every picture becomes square.
   * @returns {Promise<?File>} what to upload: the file itself if nothing changes it; null if
   *     the user cancels.
   */
  async edit(file, pyramid, { maxBytes, most, square }) {
    this.pyramid = pyramid;
    this.crop = new Crop(pyramid.width, pyramid.height);
    $("shapes").hidden = square;
    $("shape-square").checked = true;
    $("editor").showModal();
    this.show();
    this.announce("");
    $("stage").focus();
    try {
      if (!(await answer("editor", "editor-save", "editor-cancel"))) return null;
      const small = Math.max(pyramid.width, pyramid.height) <= LONGEST && file.size <= most;
      if (this.crop.untouched && small) return file;
      return await encode(pyramid, this.crop, { name: file.name, maxBytes });
    } finally {
      $("editor").close();
      this.pointers.clear();
      pyramid.close();
    }
  }

  listen() {
    const zoom = (steps) => () => this.zoom(steps);
    const move = (across, down) => () => this.move(across * STEP, down * STEP);
    const tilt = (degrees) => () => this.straighten(this.crop.degrees + degrees);
    const actions = {
      "zoom-in": zoom(1),
      "zoom-out": zoom(-1),
      "tilt-left": tilt(-1),
      "tilt-right": tilt(1),
      "move-left": move(-1, 0),
      "move-right": move(1, 0),
      "move-up": move(0, -1),
      "move-down": move(0, 1),
      "turn-left": () => this.turn(-1),
      "turn-right": () => this.turn(1),
      "start-again": () => this.reset(),
    };
    for (const [id, action] of Object.entries(actions)) $(id).addEventListener("click", action);
    $("zoom").addEventListener("input", () => this.zoomTo($("zoom").value / 100));
    $("straighten").addEventListener("input", () => this.straighten(Number($("straighten").value)));
    for (const id of ["shape-square", "shape-whole"]) {
      $(id).addEventListener("change", () => this.shape($("shape-whole").checked));
    }
    const stage = $("stage");
    stage.addEventListener("keydown", (event) => this.key(event));
    stage.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    stage.addEventListener("pointerdown", (event) => this.grab(event));
    stage.addEventListener("pointermove", (event) => this.drag(event));
    for (const kind of ["pointerup", "pointercancel"]) {
      stage.addEventListener(kind, (event) => this.release(event));
    }
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = event.shiftKey ? SMALL_STEP : STEP;
    const actions = {
      ArrowLeft: () => this.move(-step, 0),
      ArrowRight: () => this.move(step, 0),
      ArrowUp: () => this.move(0, -step),
      ArrowDown: () => this.move(0, step),
      "+": () => this.zoom(1),
      "=": () => this.zoom(1),
      "-": () => this.zoom(-1),
      r: () => this.turn(1),
      R: () => this.turn(-1),
      0: () => this.reset(),
    };
    if (!Object.hasOwn(actions, event.key)) return;
    event.preventDefault();
    actions[event.key]();
  }

  wheel(event) {
    if (this.crop.whole) return;
    event.preventDefault();
    const pixels = event.deltaY * (event.deltaMode ? PIXELS_PER_LINE : 1);
    const factor = Math.exp(-pixels * ZOOM_PER_PIXEL);
    this.crop.zoomTo(this.crop.zoom * factor, ...this.point(event));
    this.changed(this.zoomWords());
  }

  grab(event) {
    $("stage").setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, this.point(event));
  }

  /** One pointer drags the picture; two pinch it. */
  drag(event) {
    if (!this.pointers.has(event.pointerId) || this.crop.whole) return;
    const before = spot([...this.pointers.values()]);
    this.pointers.set(event.pointerId, this.point(event));
    const after = spot([...this.pointers.values()]);
    this.crop.move(after.across - before.across, after.down - before.down);
    if (before.apart > 0 && after.apart > 0) {
      this.crop.zoomTo((this.crop.zoom * after.apart) / before.apart, after.across, after.down);
    }
    this.show();
  }

  release(event) {
    if (!this.pointers.delete(event.pointerId) || this.crop.whole) return;
    this.announce(`${this.zoomWords()}. ${this.placeWords()}`);
  }

  /** Return the place of an event in sides of the square, from its centre. */
  point({ clientX, clientY }) {
    const { left, top, width, height } = $("stage").getBoundingClientRect();
    return [(clientX - left) / width - 0.5, (clientY - top) / height - 0.5];
  }

  move(across, down) {
    if (this.crop.whole) return;
    this.crop.move(across, down);
    this.changed(this.placeWords());
  }

  zoom(steps) {
    this.zoomTo(Math.round((this.crop.zoom + steps * ZOOM_STEP) * 10) / 10);
  }

  zoomTo(zoom) {
    if (this.crop.whole) return;
    this.crop.zoomTo(zoom);
    this.changed(this.zoomWords());
  }

  straighten(degrees) {
    if (this.crop.whole) return;
    this.crop.straighten(degrees);
    this.changed(this.angleWords());
  }

  turn(quarters) {
    this.crop.turn(quarters);
    this.changed(this.angleWords());
  }

  reset() {
    this.crop.reset();
    this.changed(`As at the start. ${this.zoomWords()}`);
  }

  shape(whole) {
    this.crop.whole = whole;
    this.crop.place(this.crop.x, this.crop.y);
    this.changed(whole ? "The whole picture; nothing is cut off" : "A square of the picture");
  }

  changed(words) {
    this.show();
    this.announce(words);
  }

  zoomWords() {
    return `Zoom ${Math.round(this.crop.zoom * 100)} %`;
  }

  angleWords() {
    const degrees = this.crop.quarters * 90 + (this.crop.whole ? 0 : this.crop.degrees);
    return `Turned ${degrees > 180 ? degrees - 360 : degrees}°`;
  }

  placeWords() {
    const { across, down } = this.crop.position;
    return `Crop at ${across} % across, ${down} % down`;
  }

  announce(words) {
    $("readout").textContent = words;
  }

  /** Draw the picture and its previews, and set the controls. */
  show() {
    const { crop } = this;
    const [width, height] = crop.sides;
    for (const id of ["stage", "preview-square"]) {
      const canvas = $(id);
      const longest = id === "stage" ? 640 : 192;
      canvas.width = Math.max(1, Math.round((longest * width) / Math.max(width, height)));
      canvas.height = Math.max(1, Math.round((longest * height) / Math.max(width, height)));
      this.pyramid.draw(canvas, crop);
    }
    $("preview-round").parentElement.hidden = crop.whole && width !== height;
    if (!$("preview-round").parentElement.hidden) this.pyramid.draw($("preview-round"), crop);
    $("preview-shape").textContent = width === height ? "Square" : "Whole";
    $("stage").classList.toggle("whole", crop.whole);
    const percent = Math.round(crop.zoom * 100);
    slide($("zoom"), percent, `${percent} %`);
    slide($("straighten"), crop.degrees, `${crop.degrees}°`);
    const still = "zoom zoom-in zoom-out straighten tilt-left tilt-right";
    const moves = "move-left move-right move-up move-down";
    for (const id of `${still} ${moves}`.split(" ")) $(id).disabled = crop.whole;
  }
}

function slide(input, value, words) {
  input.value = value;
  input.setAttribute("aria-valuetext", words);
  $(`${input.id}-value`).textContent = words;
}

/** Return the middle of some pointers, and how far apart two of them are. */
function spot(points) {
  const [[x, y], [u, v] = [x, y]] = points;
  return { across: (x + u) / 2, down: (y + v) / 2, apart: Math.hypot(x - u, y - v) };
}
