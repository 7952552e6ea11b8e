/**
 * Deleting the avatar: a question, and seconds in which it can be undone.
 *
 * The API cannot bring a deleted avatar back, so the call is made when the time is over, or
 * when the page is left before that.
 */

import { $, answer, say } from "./page.js";

export class Removal {
  /**
   * @param {{removed: (account: object, options: {keepalive: boolean}) => Promise<void>,
   *     kept: () => void}} options
   *     removed: called to delete the avatar; kept: called after an undo.
   */
  constructor({ removed, kept }) {
    this.removed = removed;
    this.kept = kept;
    this.account = null;
    this.timer = null;
    $("undo").addEventListener("click", () => this.undo());
    $("delete-now").addEventListener("click", () => this.finish());
    addEventListener("pagehide", () => this.finish({ keepalive: true }));
  }

  get isPending() {
    return this.account !== null;
  }

  /** Ask; and if the answer is yes, start the time. @returns {Promise<boolean>} */
  async ask(account) {
    $("question").showModal();
    // An Enter that opened the question does not answer it.
    $("question-keep").focus();
    const wanted = await answer("question", "question-delete", "question-keep");
    $("question").close();
    if (!wanted) return false;
    this.account = account;
    $("removal").hidden = false;
    say($("picture-status"), "Your picture will be deleted.");
    $("undo").focus();
    this.count(Number($("removal").dataset.seconds));
    return true;
  }

  count(seconds) {
    $("undo").textContent = `Undo (${seconds} s)`;
    if (seconds === 0) this.finish();
    else this.timer = setTimeout(() => this.count(seconds - 1), 1000);
  }

  undo() {
    this.stop();
    say($("picture-status"), "Your picture is kept.", "good");
    this.kept();
  }

  /** Delete the avatar now, if it is about to be deleted. */
  async finish({ keepalive = false } = {}) {
    const account = this.stop();
    if (account) await this.removed(account, { keepalive });
  }

  /** Stop the time. @returns {?object} the account whose avatar was about to be deleted. */
  stop() {
    const { account } = this;
    clearTimeout(this.timer);
    this.account = null;
    const inside = $("removal").contains(document.activeElement);
    $("removal").hidden = true;
    if (inside) $("file").focus();
    return account;
  }
}
