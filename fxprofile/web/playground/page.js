/**
 * What the parts of the page share: its elements, its words, its terminal.
 */

/** The element with this id. */
export const $ = (id) => document.getElementById(id);

/**
 * Tell how something went, beside its controls; screen readers say it too.
 *
 * @param {HTMLElement} where
 * @param {string} text
 * @param {"" | "good" | "bad"} kind
 */
export function say(where, text, kind = "") {
  where.textContent = text;
  where.dataset.kind = kind;
}

/**
 * Show what was just done as a command, with its answer.
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
 * Tell of a failure, unless it is one that was asked for.
 *
 * @param {HTMLElement} where
 * @param {unknown} error
 */
export function fail(where, error) {
  if (error?.name === "AbortError") return;
  if (error?.exchange) record(error.exchange);
  say(where, error?.message ?? String(error), "bad");
}

/** Wait, unless the signal says that nobody waits any longer. */
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

$("copy").addEventListener("click", async () => {
  let said = "Copied";
  try {
    await navigator.clipboard.writeText($("curl").textContent);
  } catch {
    // Without the permission, it is selected for the reader to copy.
    getSelection().selectAllChildren($("curl"));
    said = "Selected";
  }
  $("copy").textContent = said;
  setTimeout(() => ($("copy").textContent = "Copy"), 1500);
});
