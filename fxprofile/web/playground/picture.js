/**
 * The avatar: choose a picture, crop it, follow its upload, delete it.
 */

import { call } from "./api.js";
import { hasCamera, takePhoto } from "./camera.js";
import { Editor } from "./editor.js";
import { remind, showHistory } from "./history.js";
import { identify } from "./kinds.js";
import { $, isolated, record, say } from "./page.js";
import { Removal } from "./removal.js";
import { measure, MOST_PIXELS, Pyramid } from "./render.js";
import { isUploaded, showPortrait, showSizes } from "./sizes.js";
import { follow, idle, send } from "./transfer.js";
import {
  explain, failed, Refusal, sentWhole, tooManyBytes, tooWide, unsupported,
} from "./words.js";

export class Picture {
  /**
   * @param {{changed: () => Promise<void>}} options
   *     changed: called when the user's avatar has changed.
   */
  constructor({ changed }) {
    this.changed = changed;
    this.account = null;
    this.avatar = null;
    /** What the service accepts: see ``Playground.get_accounts``. */
    this.rules = {};
    /** The current upload; aborting it stops sending and polling. */
    this.task = null;
    /** Whether leaving the page would lose an upload. */
    this.isSending = false;
    this.editor = new Editor();
    this.removal = new Removal({
      removed: (account, options) => this.remove(account, options),
      kept: () => this.show(this.avatar),
    });
    this.listen();
  }

  /** Whether something goes on that a refresh of the page's data would disturb. */
  get isBusy() {
    return this.task !== null || this.removal.isPending || document.querySelector("dialog[open]");
  }

  listen() {
    $("file").addEventListener("change", () => {
      const [file] = $("file").files;
      // Otherwise selecting the same file again would not be a change.
      $("file").value = "";
      if (file) this.choose(file);
    });
    $("camera-open").hidden = !hasCamera();
    $("camera-open").addEventListener("click", async () => {
      const photo = await takePhoto();
      if (photo) this.choose(photo);
    });
    for (const id of ["cancel", "give-up"]) $(id).addEventListener("click", () => this.cancel());
    $("delete").addEventListener("click", async () => {
      if (await this.removal.ask(this.account)) this.show(this.avatar);
    });
    addEventListener("beforeunload", (event) => this.isSending && event.preventDefault());
    addEventListener("paste", (event) => {
      const [file] = event.clipboardData?.files ?? [];
      if (!file) return;
      event.preventDefault();
      this.choose(file);
    });
    this.listenForDrops();
  }

  listenForDrops() {
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
      if (file) this.choose(file);
    });
  }

  /** Select another account, and stop everything of the one before. */
  use(account) {
    this.removal.finish();
    this.stop();
    this.account = account;
    say($("picture-status"), "");
    showHistory(account);
    this.show(null);
  }

  /** Stop the current upload. */
  stop() {
    this.task?.abort();
    this.task = null;
    this.isSending = false;
    idle();
  }

  cancel() {
    const { name } = this.task ?? {};
    this.stop();
    if (name) remind(this.account, name, "Cancelled");
    say($("picture-status"), "Cancelled.");
    this.show(this.avatar);
    $("file").focus();
  }

  /** Crop a picture, and upload it. @param {File} chosen */
  async choose(chosen) {
    if (!this.account || document.querySelector("dialog[open]")) return;
    await this.removal.finish();
    this.stop();
    const task = (this.task = new AbortController());
    task.name = chosen.name;
    say($("picture-status"), ["Opening ", isolated(chosen.name), "…"]);
    try {
      const prepared = await this.prepare(chosen);
      if (!task.signal.aborted && prepared) await this.upload(prepared, task);
      else if (!task.signal.aborted) say($("picture-status"), "Nothing was changed.");
    } catch (error) {
      if (!task.signal.aborted) this.refuse(error, task.name);
    } finally {
      if (this.task === task) this.finish();
    }
  }

  finish() {
    this.stop();
    this.show(this.avatar);
  }

  refuse(error, name) {
    if (error.exchange) record(error.exchange);
    say($("picture-status"), explain(error), "bad");
    remind(this.account, name, explain(error));
  }

  /**
   * Let the user crop a picture.  What the browser cannot decode is uploaded as it is.
   *
   * @returns {Promise<?{file: File, note: string}>} what to upload, and what the user should
   *     know about it; null if the user cancels.
   * @throws {Refusal} if neither the browser nor the service can open it.
   */
  async prepare(chosen) {
    const { maxBytes, maxSide, heic, fit } = this.rules;
    const { name, type } = await identify(chosen);
    const sides = await measure(chosen);
    const wide = sides && tooWide(sides, maxSide);
    if (wide) throw new Refusal(wide);
    const many = sides && sides.width * sides.height > MOST_PIXELS;
    const pyramid = many ? null : await Pyramid.decode(chosen).catch(() => null);
    const accepted = type && (heic || name !== "HEIC");
    if (pyramid) {
      // Only an accepted file may be uploaded as it is.
      const most = accepted ? maxBytes : 0;
      const options = { maxBytes, most, square: fit === "cover" };
      const file = await this.editor.edit(named(chosen, type), pyramid, options);
      return file && { file, note: "" };
    }
    if (!accepted) throw new Refusal(unsupported(name, heic));
    if (chosen.size > maxBytes) throw new Refusal(tooManyBytes(chosen.size, maxBytes));
    return { file: named(chosen, type), note: sentWhole(many ? "" : name) };
  }

  async upload({ file, note }, task) {
    const { account } = this;
    this.isSending = true;
    if (!note) showPortrait(null, file);
    const exchange = await send(account.token, file, task.name, task.signal);
    task.signal.throwIfAborted();
    this.isSending = false;
    record(exchange);
    const outcome = await follow(account.token, exchange.body, task.signal);
    await this.conclude(outcome, task.signal, task.name, note);
  }

  /** Show how an upload has ended. */
  async conclude({ status, error }, signal, name = "", note = "") {
    const { account } = this;
    const [words, kind, outcome] = {
      ready: ["This is your picture now.", "good", "Saved"],
      replaced: ["A newer upload has taken its place.", "", "Replaced by a newer upload"],
    }[status] ?? [failed(error), "bad", failed(error)];
    if (name) remind(account, name, outcome);
    // If this fails, the upload has succeeded all the same; the next look at the page shows it.
    if (kind !== "bad") await this.changed().catch(() => {});
    signal.throwIfAborted();
    say($("picture-status"), `${words} ${note}`.trim(), kind);
  }

  /** Delete the avatar; called when it can no longer be undone. */
  async remove(account, { keepalive }) {
    say($("picture-status"), "Deleting…");
    try {
      record(await call(account.token, "DELETE", "/v1/avatar", { keepalive }));
      if (account !== this.account) return;
      say($("picture-status"), "Your picture is deleted.", "good");
      await this.changed();
    } catch (error) {
      if (account !== this.account) return;
      if (error.exchange) record(error.exchange);
      say($("picture-status"), `Your picture was not deleted. ${explain(error)}`, "bad");
      this.show(this.avatar);
    }
  }

  /**
   * Show the current avatar.
   *
   * @param {?{id: string, url: string, avatarDefault: boolean, placeholder?: string,
   *     pending?: object}} avatar
   */
  show(avatar) {
    this.avatar = avatar;
    const shown = this.removal.isPending ? null : avatar;
    $("delete").disabled = !shown || !isUploaded(shown);
    showSizes(shown);
    if (!this.isSending) showPortrait(shown);
    if (!avatar?.pending || this.task) return;
    // An upload from before this page was opened.
    const task = (this.task = new AbortController());
    const { pending, ...rest } = avatar;
    this.avatar = rest;
    say($("picture-status"), "Processing an earlier upload…");
    follow(this.account.token, pending, task.signal)
      .then((outcome) => this.conclude(outcome, task.signal))
      .catch((error) => task.signal.aborted || say($("picture-status"), explain(error), "bad"))
      .finally(() => this.task === task && this.finish());
  }
}

/** Return the file with the media type that its bytes show. */
function named(file, type = file.type) {
  return new File([file], file.name, { type });
}

function hasFiles(event) {
  return event.dataTransfer?.types.includes("Files") ?? false;
}
