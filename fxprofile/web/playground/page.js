/**
 * What the parts of the page share: elements, status lines and the terminal.
 */

/** Return the element with this id. */
export const $ = (id) => document.getElementById(id);

/**
 * Show a status beside the controls; screen readers announce it.
 *
 * @param {HTMLElement} where
 * @param {string | (string | Node)[]} words
 * @param {"" | "good" | "bad"} kind
 */
export function say(where, words, kind = "") {
  where.replaceChildren(...[words].flat());
  where.dataset.kind = kind;
}

/** Return a new element with this text. */
export function element(name, text, className = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

/** Return a name that a user chose, isolated so that its direction changes nothing around it. */
export const isolated = (name) => element("bdi", name);

/**
 * Show the last call as a command, with its response.
 *
 * @param {import("./api.js").Exchange} exchange
 */
export function record(exchange) {
  $("curl").textContent = exchange.curl;
  $("outcome").dataset.kind = exchange.status < 400 ? "good" : "bad";
  const reason = exchange.body?.error ?? exchange.reason;
  $("outcome").textContent =
    `${exchange.status} ${reason} in ${Math.round(exchange.milliseconds)} ms`;
  $("answer").textContent = exchange.body === null ? "" : JSON.stringify(exchange.body, null, 2);
}

/**
 * Wait for the answer to an open dialog.
 *
 * @param {string} dialog its id.
 * @param {string} yes the id of one button.
 * @param {string} no the id of the other; Escape means the same.
 * @returns {Promise<boolean>}
 */
export function answer(dialog, yes, no) {
  return new Promise((resolve) => {
    $(yes).onclick = () => resolve(true);
    $(no).onclick = () => resolve(false);
    // The event of an earlier close may come after the dialog has opened again.
    $(dialog).onclose = () => $(dialog).open || resolve(false);
  });
}

/** Wait, unless the signal aborts. */
export function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}

/** Read what the browser remembers; null if there is nothing, or storage is forbidden. */
export function remembered(key) {
  try {
    return JSON.parse(localStorage.getItem(`fxprofile ${key}`));
  } catch {
    return null;
  }
}

/** Have the browser remember a value, if storage is allowed. */
export function remember(key, value) {
  try {
    localStorage.setItem(`fxprofile ${key}`, JSON.stringify(value));
  } catch {
    // Storage is forbidden.
  }
}

$("copy").addEventListener("click", async () => {
  let said = "Copied";
  try {
    await navigator.clipboard.writeText($("curl").textContent);
  } catch {
    // Without the permission, select the text for the reader to copy.
    getSelection().selectAllChildren($("curl"));
    said = "Selected";
  }
  $("copy").textContent = said;
  setTimeout(() => ($("copy").textContent = "Copy"), 1500);
});
