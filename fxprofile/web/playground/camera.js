/**
 * The dialog in which a photo is taken with a camera of the device.
 */

import { $, answer, say } from "./page.js";

const WORDS = {
  NotAllowedError: "The camera is blocked. Allow it in the browser's address bar, or choose a file.",
  NotFoundError: "No camera was found. Connect one, or choose a file.",
  NotReadableError: "Another program uses the camera. Close it, or choose a file.",
};
const BROKEN = "The camera does not work. Choose a file instead.";

/** Whether the browser can use a camera here; it needs HTTPS, or a loopback address. */
export const hasCamera = () => Boolean(navigator.mediaDevices?.getUserMedia);

/** @returns {Promise<?File>} the photo, or null if the user cancels. */
export async function takePhoto() {
  const ended = new AbortController();
  say($("camera-status"), "Starting the camera…");
  $("camera-take").disabled = true;
  $("camera").showModal();
  const decision = answer("camera", "camera-take", "camera-cancel");
  watch(ended.signal).catch((error) => say($("camera-status"), WORDS[error.name] ?? BROKEN, "bad"));
  try {
    return (await decision) ? await frame($("viewfinder")) : null;
  } finally {
    ended.abort();
    $("camera").close();
  }
}

/** Show what the camera sees, until the signal aborts. */
async function watch(signal) {
  const stream = await navigator.mediaDevices.getUserMedia({
    video: { facingMode: "user", width: { ideal: 1920 }, height: { ideal: 1440 } },
  });
  const stop = () => stream.getTracks().forEach((track) => track.stop());
  if (signal.aborted) return stop();
  signal.addEventListener("abort", () => {
    stop();
    $("viewfinder").srcObject = null;
  });
  $("viewfinder").srcObject = stream;
  await $("viewfinder").play();
  if (signal.aborted) return;
  say($("camera-status"), "");
  $("camera-take").disabled = false;
  $("camera-take").focus();
}

async function frame(video) {
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.95));
  return new File([blob], "photo.jpg", { type: "image/jpeg" });
}
