/**
 * The three sizes of an avatar, for developers, and the portrait, which takes one of them.
 */

import { draw } from "./blurhash.js";
import { $ } from "./page.js";

/** The suffix of each size's URL, and its longest side. */
const SIZES = [
  { name: "small", suffix: "_small", side: 100 },
  { name: "default", suffix: "", side: 200 },
  { name: "large", suffix: "_large", side: 600 },
];

/** How far the sides of a square picture may differ, by rounding. */
const ROUNDING = 0.02;

const figures = SIZES.map(figure);
$("sizes").append(...figures.map((each) => each.element));
$("portrait").addEventListener("load", ({ target }) => {
  const ratio = target.naturalWidth / target.naturalHeight;
  target.classList.toggle("round", Math.abs(ratio - 1) < ROUNDING);
});

/** Show an avatar in its sizes; with null, show none. */
export function showSizes(avatar) {
  $("source").textContent = avatar ? source(avatar) : "\u00a0";
  for (const each of figures) each.show(avatar);
  const hash = avatar?.placeholder;
  $("placeholder").hidden = !hash;
  $("blurhash").textContent = hash ?? "";
  if (hash) draw($("blur"), hash);
}

/** Show an avatar, or an upload that may become it, as the portrait. */
export function showPortrait(avatar, draft) {
  const portrait = $("portrait");
  const shown = draft ? "draft" : (avatar?.url ?? "");
  if (!draft && portrait.dataset.shown === shown) return;
  portrait.dataset.shown = shown;
  if (portrait.src.startsWith("blob:")) URL.revokeObjectURL(portrait.src);
  portrait.removeAttribute("srcset");
  portrait.classList.toggle("draft", Boolean(draft));
  portrait.alt = draft ? "The picture that is being uploaded" : avatar ? "Your picture" : "";
  if (draft) portrait.src = URL.createObjectURL(draft);
  else if (!avatar) portrait.removeAttribute("src");
  else {
    if (isUploaded(avatar)) {
      const sources = SIZES.map(({ suffix, side }) => `${variant(avatar, suffix)} ${side}w`);
      portrait.sizes = "148px";
      portrait.srcset = sources.join(", ");
    }
    portrait.src = avatar.url;
  }
}

/** Return whether this is a picture of the user, and neither a monogram nor the default one. */
export function isUploaded({ id }) {
  return !/^0+$/.test(id);
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
      image.alt = "";
      link.removeAttribute("href");
      link.removeAttribute("aria-label");
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

/** Return whether this is a monogram, which the API draws for users without an avatar. */
function isLetter(avatar) {
  return !isUploaded(avatar) && !avatar.avatarDefault;
}

function source(avatar) {
  const { origin } = new URL(avatar.url);
  if (isLetter(avatar)) return "No avatar yet: the API draws this letter instead.";
  if (avatar.avatarDefault) return `No avatar yet: this is the default picture from ${origin}.`;
  return `From ${origin}, an origin of its own.`;
}
