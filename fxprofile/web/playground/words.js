/**
 * What went wrong, in one sentence for people, with a way out.
 */

const number = (value) => value.toLocaleString("en", { maximumFractionDigits: 1 });
const megabytes = (bytes) => `${number(bytes / (1 << 20))} MiB`;
const article = (name) => (/^[AI]|^SVG/.test(name) ? "an" : "a");

const EXPORT = "Export it as JPEG, or choose another picture.";

/** The failures of processing, by the word of the API. */
const REASONS = {
  corrupt: "This picture is damaged or incomplete. Export it again, or choose another one.",
  too_many_pixels: "This picture has too many pixels. Export it in a smaller size.",
  too_wide: "This picture is too wide or too high. Export it in a smaller size.",
  too_large: `This picture is too complex. ${EXPORT}`,
  timeout: `This picture took too long to process. ${EXPORT}`,
  memory: `This picture is too complex. ${EXPORT}`,
  crashed: `This picture could not be processed. ${EXPORT}`,
  dead: `This picture could not be processed. ${EXPORT}`,
  quarantined: "This picture is blocked here. Choose another one.",
  lost: "The upload was lost on its way. Choose the picture again.",
};

/** A file that is not sent, with the reason in words. */
export class Refusal extends Error {}

/** @param {string} name of the type, empty if it is unknown. */
export function unsupported(name, heic) {
  if (name === "HEIC" || name === "AVIF") {
    return `This is ${article(name)} ${name} photo, which cannot be opened here. ${EXPORT}`;
  }
  if (name === "video") return "This is a video. Choose a picture.";
  const types = `JPEG, PNG, GIF, WebP${heic ? ", AVIF or HEIC" : " or AVIF"}`;
  if (name === "PDF") return "This is a PDF document. Choose a picture, such as a JPEG or PNG file.";
  if (name) return `This is ${article(name)} ${name} picture, which cannot be opened here. ${EXPORT}`;
  return `This is not a picture that can be opened here. Choose a ${types} file.`;
}

/** Return why a picture of these sides is refused; empty if it is not. */
export function tooWide({ width, height }, limit) {
  const [side, word] = width >= height ? [width, "wide"] : [height, "high"];
  if (side <= limit) return "";
  return (
    `This picture is ${number(side)} pixels ${word}; the limit is ${number(limit)}. ` +
    "Export it in a smaller size."
  );
}

/** @param {string} name of the type that the browser cannot show; empty: it is too large. */
export function sentWhole(name) {
  const why = name ? `This browser cannot show ${name} files` : "It is too large to be cropped here";
  return `${why}, so the whole picture was sent.`;
}

export function tooManyBytes(size, limit) {
  return (
    `This file has ${megabytes(size)}; the limit is ${megabytes(limit)}. ` +
    "Export it as a smaller JPEG, or choose another picture."
  );
}

/** Return the sentence of an upload that failed after it had been accepted. */
export function failed({ reason, message } = {}) {
  return REASONS[reason] ?? message ?? REASONS.crashed;
}

/**
 * @param {any} error of a call, or a refusal.
 * @returns {string} what went wrong, and what to do about it.
 */
export function explain(error) {
  const { exchange } = error ?? {};
  if (!exchange) return error?.message ?? String(error);
  const { status, body, retryAfter } = exchange;
  if (body?.reason in REASONS) return REASONS[body.reason];
  if (body?.reason === "unsupported") return `${body.message} ${EXPORT}`;
  if (status === 401) return "You are no longer signed in. Choose the account again.";
  if (status === 403) return "This account may not do that. Choose another account.";
  if (status === 413) return "This file is too large. Export it as a smaller JPEG.";
  if (status === 429) return `That was too often. Try again in ${duration(retryAfter || 60)}.`;
  if (status >= 500) return "The service has a problem at the moment.";
  return body?.message ?? `The service responded with ${status}. Try again later.`;
}

/** Return a number of seconds in words. */
export function duration(seconds) {
  const whole = Math.max(1, Math.ceil(seconds));
  const [count, unit] = whole < 90 ? [whole, "second"] : [Math.round(whole / 60), "minute"];
  return `${number(count)} ${unit}${count === 1 ? "" : "s"}`;
}
