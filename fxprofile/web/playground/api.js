/**
 * Calls of the API; each returns its response and an equivalent curl command.
 */

/** A call that failed. */
export class Problem extends Error {
  /** @param {string} message @param {Exchange} [exchange] the response, if there is one. */
  constructor(message, exchange) {
    super(message);
    this.exchange = exchange;
  }

  /** Whether the same call may succeed later. */
  get passing() {
    return !this.exchange || this.exchange.status >= 500;
  }
}

/**
 * @typedef {object} Exchange
 * @property {string} curl the equivalent command.
 * @property {number} status
 * @property {string} reason the phrase of the status.
 * @property {any} body the parsed JSON, or null.
 * @property {number} milliseconds the duration.
 * @property {?string} retryAfter
 */

/**
 * Call the API.
 *
 * @param {string} token
 * @param {string} method
 * @param {string} path
 * @param {{json?: object, signal?: AbortSignal, keepalive?: boolean}} [options]
 *     keepalive: whether the call outlives the page.
 * @returns {Promise<Exchange>}
 * @throws {Problem}
 */
export async function call(token, method, path, { json, signal, keepalive } = {}) {
  const headers = { Authorization: `Bearer ${token}` };
  const body = json && JSON.stringify(json);
  if (body) headers["Content-Type"] = "application/json";
  const command = curl(method, path, headers, body && ["--data", body]);
  const started = performance.now();
  let response;
  let text;
  try {
    response = await fetch(path, { method, headers, body, signal, keepalive, cache: "no-store" });
    text = await response.text();
  } catch (error) {
    signal?.throwIfAborted();
    throw new Problem("The service cannot be reached.");
  }
  return checked({
    curl: command,
    status: response.status,
    reason: response.statusText,
    body: parsed(text),
    milliseconds: performance.now() - started,
    retryAfter: response.headers.get("Retry-After"),
  });
}

/**
 * Upload an avatar.  This uses XMLHttpRequest because fetch does not report how much of a
 * body has been sent.
 *
 * @param {string} token
 * @param {File} file
 * @param {{signal: AbortSignal, sent: (share: number) => void}} options
 *     sent: called with the share of the bytes that have been sent, 1 at the end.
 * @returns {Promise<Exchange>}
 * @throws {Problem}
 */
export function upload(token, file, { signal, sent }) {
  const path = "/v1/avatar/upload";
  const headers = {
    Authorization: `Bearer ${token}`,
    "Content-Type": file.type || "application/octet-stream",
  };
  const command = curl("POST", path, headers, ["--data-binary", `@${file.name}`]);
  const started = performance.now();
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", path);
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => event.lengthComputable && sent(event.loaded / event.total);
    request.upload.onload = () => sent(1);
    request.onerror = () => reject(new Problem("The upload was interrupted."));
    request.onabort = () => reject(signal.reason);
    request.onload = () => {
      try {
        resolve(
          checked({
            curl: command,
            status: request.status,
            reason: request.statusText,
            body: parsed(request.responseText),
            milliseconds: performance.now() - started,
            retryAfter: request.getResponseHeader("Retry-After"),
          }),
        );
      } catch (problem) {
        reject(problem);
      }
    };
    signal.throwIfAborted();
    signal.addEventListener("abort", () => request.abort(), { once: true });
    request.send(file);
  });
}

function checked(exchange) {
  if (exchange.status < 400) return exchange;
  const message = exchange.body?.message ?? `The service responded with ${exchange.status}.`;
  throw new Problem(message, exchange);
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function curl(method, path, headers, data) {
  const lines = [`curl ${quoted(location.origin + path)}`];
  if (method !== "GET" && !data) lines[0] = `curl -X ${method} ${quoted(location.origin + path)}`;
  for (const [name, value] of Object.entries(headers)) lines.push(`-H ${quoted(`${name}: ${value}`)}`);
  if (data) lines.push(`${data[0]} ${quoted(data[1])}`);
  return lines.join(" \\\n  ");
}

/** Quote a word for a POSIX shell; file names and display names may contain anything. */
function quoted(word) {
  return /^[\w.:/@%+=-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}
