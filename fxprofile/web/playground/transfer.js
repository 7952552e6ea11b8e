/**
 * One upload: send the file, again after an outage, and follow it until it has ended.
 */

import { call, upload } from "./api.js";
import { $, isolated, pause, record, say } from "./page.js";
import { duration, explain } from "./words.js";

const FIRST_PAUSE = 200;
const LONGEST_PAUSE = 3000;
const FIRST_RETRY = 5000;
const LONGEST_RETRY = 60000;

/** The time after which the rate of an upload is known well enough. */
const MEASURED = 700;

/**
 * Send a file; after an outage, send it again.
 *
 * @param {string} token
 * @param {File} file
 * @param {string} name shown for it.
 * @param {AbortSignal} signal
 * @returns {Promise<import("./api.js").Exchange>}
 * @throws {import("./api.js").Problem} if it is refused.
 */
export async function send(token, file, name, signal) {
  for (let wait = FIRST_RETRY; ; wait = Math.min(wait * 2, LONGEST_RETRY)) {
    say($("picture-status"), ["Uploading ", isolated(name), "…"]);
    const meter = progress(signal);
    try {
      return await upload(token, file, { signal, sent: meter.sent });
    } catch (error) {
      if (signal.aborted || !error.passing) throw error;
      if (error.exchange) record(error.exchange);
      const why = error.exchange ? explain(error) : "The service cannot be reached.";
      say($("picture-status"), `${why} Your picture is kept here, and sent again by itself.`, "bad");
      meter.stop();
      await nextTry(wait, signal);
    } finally {
      meter.stop();
    }
  }
}

/** Wait until the user asks for it, the network returns, or the time is over. */
async function nextTry(wait, signal) {
  const heard = new AbortController();
  $("work").hidden = true;
  $("waiting").hidden = false;
  try {
    await Promise.race([
      new Promise((resolve) => {
        const options = { signal: heard.signal };
        $("retry").addEventListener("click", resolve, options);
        addEventListener("online", resolve, options);
      }),
      pause(wait, signal),
    ]);
  } finally {
    heard.abort();
    const inside = $("waiting").contains(document.activeElement);
    $("waiting").hidden = true;
    if (inside) $("file").focus();
  }
}

/** Show how much has been sent, and the time left, which grows while nothing moves. */
function progress(signal) {
  const started = performance.now();
  let sent = 0;
  const show = () => {
    const passed = performance.now() - started;
    const left = sent > 0 && passed > MEASURED ? (passed * (1 / sent - 1)) / 1000 : null;
    busy(sent, `${Math.floor(sent * 100)} %${left === null ? "" : `, about ${duration(left)} left`}`);
  };
  const timer = setInterval(show, 1000);
  const stop = () => clearInterval(timer);
  signal.addEventListener("abort", stop);
  show();
  return {
    stop,
    sent(share) {
      if (signal.aborted) return;
      sent = share;
      if (share < 1) return show();
      stop();
      busy(1, "");
      say($("picture-status"), "Processing…");
    },
  };
}

/**
 * Poll the status of an upload until it has ended.
 *
 * @returns {Promise<{status: string, error?: object}>}
 * @throws {import("./api.js").Problem}
 */
export async function follow(token, { id, status }, signal) {
  let wait = FIRST_PAUSE;
  let outcome = { status };
  while (outcome.status === "processing") {
    busy(1, "");
    await pause(wait, signal);
    wait = Math.min(wait * 1.5, LONGEST_PAUSE);
    try {
      const exchange = await call(token, "GET", `/v1/avatar/upload/${id}`, { signal });
      outcome = exchange.body;
      if (outcome.status !== "processing") record(exchange);
      say($("picture-status"), "Processing…");
    } catch (error) {
      if (!error.passing) throw error;
      if (error.exchange) record(error.exchange);
      say($("picture-status"), `${explain(error)} The picture has arrived, and is processed.`, "bad");
    }
  }
  return outcome;
}

/** Show how much of an upload has been sent; 1: it is complete, and cannot be cancelled. */
function busy(share, words) {
  $("picture").setAttribute("aria-busy", "true");
  $("work").hidden = false;
  if (share === 1 && document.activeElement === $("cancel")) $("file").focus();
  $("cancel").hidden = share === 1;
  $("percent").textContent = words;
  if (share < 1) $("progress").value = share;
  else $("progress").removeAttribute("value");
}

/** Show that nothing is uploaded. */
export function idle() {
  $("picture").removeAttribute("aria-busy");
  $("work").hidden = true;
  $("waiting").hidden = true;
}
