/**
 * The avatar: select an image, follow its upload, see its sizes, delete it.
 */

import { call, upload } from "./api.js";
import { draw } from "./blurhash.js";
import { $, fail, pause, record, say } from "./page.js";

/** The suffix of each size's URL, and its size on this page. */
const SIZES = [
  { name: "small", suffix: "_small", side: 100 },
  { name: "default", suffix: "", side: 200 },
  { name: "large", suffix: "_large", side: 600 },
];

const FIRST_PAUSE = 200;
const LONGEST_PAUSE = 3000;

export class Picture {
  /**
   * @param {{changed: () => Promise<void>}} options
   *     changed: called when the user's avatar has changed.
   */
  constructor({ changed }) {
    this.changed = changed;
    this.account = null;
    this.maxBytes = Infinity;
    /** The current upload; aborting it stops sending and polling. */
    this.task = null;
    this.figures = SIZES.map(figure);
    $("sizes").append(...this.figures.map(({ element }) => element));
    this.listen();
  }

  listen() {
    $("file").addEventListener("change", () => {
      const [file] = $("file").files;
      if (file) this.send(file);
      // Otherwise selecting the same file again would not be a change.
      $("file").value = "";
    });
    $("cancel").addEventListener("click", () => {
      this.stop();
      say($("picture-status"), "Cancelled.");
      $("file").focus();
    });
    $("delete").addEventListener("click", () => this.remove());

    let inside = 0;
    const over = (by) => {
      inside = by === 0 ? 0 : inside + by;
      $("drop").classList.toggle("over", inside > 0);
    };
    addEventListener("dragenter", (event) => hasFiles(event) && over(1));
    addEventListener("dragleave", (event) => hasFiles(event) && over(-1));
    addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
    addEventListener("drop", (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      over(0);
      const [file] = event.dataTransfer.files;
      if (file) this.send(file);
    });
    addEventListener("paste", (event) => {
      const [file] = event.clipboardData?.files ?? [];
      if (!file) return;
      event.preventDefault();
      this.send(file);
    });
  }

  /** Select another account, and stop everything of the one before. */
  use(account) {
    this.stop();
    this.account = account;
    say($("picture-status"), "");
    this.show(null);
  }

  /** Stop the current upload. */
  stop() {
    this.task?.abort();
    this.task = null;
    this.idle();
  }

  /** @param {File} file */
  async send(file) {
    if (!this.account) return;
    this.stop();
    preview(file);
    if (file.size > this.maxBytes) {
      const sizes = `${megabytes(file.size)}; at most ${megabytes(this.maxBytes)} are allowed`;
      say($("picture-status"), `“${file.name}” has ${sizes}.`, "bad");
      return;
    }
    const task = (this.task = new AbortController());
    const { token } = this.account;
    say($("picture-status"), `Uploading “${file.name}”…`);
    this.busy(0);
    try {
      const sent = (share) => {
        if (task.signal.aborted) return;
        this.busy(share);
        if (share === 1) say($("picture-status"), "Processing…");
      };
      const exchange = await upload(token, file, { signal: task.signal, sent });
      task.signal.throwIfAborted();
      record(exchange);
      await this.follow(exchange.body, task.signal);
    } catch (error) {
      if (!task.signal.aborted) fail($("picture-status"), error);
    } finally {
      if (this.task === task) this.stop();
    }
  }

  /** Poll the status of an upload until it has ended. */
  async follow({ id, status }, signal) {
    const { token } = this.account;
    let wait = FIRST_PAUSE;
    let outcome = { status };
    while (outcome.status === "processing") {
      this.busy(1);
      await pause(wait, signal);
      wait = Math.min(wait * 1.5, LONGEST_PAUSE);
      try {
        const exchange = await call(token, "GET", `/v1/avatar/upload/${id}`, { signal });
        outcome = exchange.body;
        if (outcome.status !== "processing") record(exchange);
        say($("picture-status"), "Processing…");
      } catch (error) {
        if (!error.passing) throw error;
        fail($("picture-status"), error);
      }
    }
    if (outcome.status === "ready") {
      say($("picture-status"), "This is your avatar now.", "good");
      await this.changed();
    } else if (outcome.status === "replaced") {
      say($("picture-status"), "A newer upload has taken its place.");
      await this.changed();
    } else {
      say($("picture-status"), outcome.error?.message ?? "The image could not be processed.", "bad");
    }
  }

  async remove() {
    const { account } = this;
    this.stop();
    say($("picture-status"), "Deleting…");
    try {
      record(await call(account.token, "DELETE", "/v1/avatar"));
      if (account !== this.account) return;
      say($("picture-status"), "Your avatar is deleted.", "good");
      // The button is about to be disabled, and would lose the focus.
      $("file").focus();
      await this.changed();
    } catch (error) {
      if (account === this.account) fail($("picture-status"), error);
    }
  }

  /**
   * Show the current avatar.
   *
   * @param {?{id: string, url: string, avatarDefault: boolean, placeholder?: string,
   *     pending?: object}} avatar
   */
  show(avatar) {
    $("delete").disabled = !avatar || !isUploaded(avatar);
    $("source").textContent = avatar ? source(avatar) : "\u00a0";
    for (const figure of this.figures) figure.show(avatar);
    showPlaceholder(avatar?.placeholder);
    if (!avatar?.pending || this.task) return;
    // An upload from before this page was opened.
    const task = (this.task = new AbortController());
    say($("picture-status"), "Processing an earlier upload…");
    this.follow(avatar.pending, task.signal)
      .catch((error) => task.signal.aborted || fail($("picture-status"), error))
      .finally(() => this.task === task && this.stop());
  }

  /** @param {number} share of the bytes that have been sent. */
  busy(share) {
    $("picture").setAttribute("aria-busy", "true");
    $("work").hidden = false;
    // A complete upload cannot be cancelled.
    if (share === 1 && document.activeElement === $("cancel")) $("file").focus();
    $("cancel").hidden = share === 1;
    $("percent").textContent = share < 1 ? `${Math.floor(share * 100)} %` : "";
    if (share < 1) $("progress").value = share;
    else $("progress").removeAttribute("value");
  }

  idle() {
    $("picture").removeAttribute("aria-busy");
    $("work").hidden = true;
  }
}

function figure({ name, suffix, side }) {
  const element = document.createElement("figure");
  element.className = name;
  const link = document.createElement("a");
  const image = new Image();
  const caption = document.createElement("figcaption");
  const title = document.createElement("strong");
  const sides = document.createElement("span");
  title.textContent = name;
  caption.append(title, sides);
  link.target = "_blank";
  link.rel = "noopener";
  image.className = "size";
  image.alt = "";
  link.append(image);
  element.append(link, caption);
  image.addEventListener("load", () => {
    const drawing = element.classList.contains("drawing");
    sides.textContent = drawing ? "" : `${image.naturalWidth} × ${image.naturalHeight}`;
    element.classList.remove("broken");
  });
  image.addEventListener("error", () => {
    sides.textContent = "cannot be loaded";
    element.classList.add("broken");
  });
  const show = (avatar) => {
    if (!avatar) {
      sides.textContent = "";
      image.removeAttribute("src");
      link.removeAttribute("href");
      return;
    }
    const address = variant(avatar, suffix);
    if (image.getAttribute("src") === address) return;
    element.classList.toggle("drawing", isLetter(avatar));
    sides.textContent = `at most ${side}`;
    link.href = address;
    link.setAttribute("aria-label", `Open the ${name} size`);
    image.alt = `Your avatar, ${name}`;
    image.src = address;
  };
  return { element, show };
}

/** Return the URL of one size of an avatar: its suffix follows the id. */
function variant({ id, url }, suffix) {
  const at = url.lastIndexOf(id);
  return at < 0 ? url : url.slice(0, at + id.length) + suffix + url.slice(at + id.length);
}

/** Return whether this is a picture of the user, and neither a monogram nor the default one. */
function isUploaded({ id }) {
  return !/^0+$/.test(id);
}

/** Return whether this is a monogram, which the API draws for users without an avatar. */
function isLetter(avatar) {
  return !isUploaded(avatar) && !avatar.avatarDefault;
}

function showPlaceholder(hash) {
  $("placeholder").hidden = !hash;
  $("blurhash").textContent = hash ?? "";
  if (hash) draw($("blur"), hash);
}

function source(avatar) {
  const { origin } = new URL(avatar.url);
  if (isLetter(avatar)) return "No avatar yet: the API draws this letter instead.";
  if (avatar.avatarDefault) return `No avatar yet: this is the default picture from ${origin}.`;
  return `From ${origin}, an origin of its own.`;
}

function preview(file) {
  const image = $("preview-image");
  if (image.src) URL.revokeObjectURL(image.src);
  // Only if the browser can show it; the service decides whether it is an image.
  image.hidden = true;
  image.onload = () => (image.hidden = false);
  image.src = URL.createObjectURL(file);
}

function hasFiles(event) {
  return event.dataTransfer?.types.includes("Files") ?? false;
}

function megabytes(bytes) {
  return `${(bytes / (1 << 20)).toLocaleString("en", { maximumFractionDigits: 1 })} MiB`;
}
