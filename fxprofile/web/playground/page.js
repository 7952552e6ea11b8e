/**
 * What the parts of the page share: elements, status lines and the terminal.
 */

/** Return the element with this id. */
export const $ = (id) => document.getElementById(id);

/**
 * Show a status beside the controls; screen readers announce it.
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
 * Show a failure, unless it is a cancellation.
 *
 * @param {HTMLElement} where
 * @param {unknown} error
 */
export function fail(where, error) {
  if (error?.name === "AbortError") return;
  if (error?.exchange) record(error.exchange);
  say(where, error?.message ?? String(error), "bad");
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
