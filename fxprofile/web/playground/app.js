/**
 * The playground: the accounts, the profile, and the display name.
 */

import { call } from "./api.js";
import { $, fail, record, say } from "./page.js";
import { Picture } from "./picture.js";

const REMEMBERED = "fxprofile account";

const picture = new Picture({ changed: refresh });
let account = null;

async function start() {
  let known;
  try {
    const response = await fetch("/playground/accounts.json", { cache: "no-store" });
    if (!response.ok) throw new Error();
    known = await response.json();
  } catch {
    notice("The accounts cannot be read. Open this page at its loopback address.");
    return;
  }
  picture.maxBytes = known.maxBytes;
  $("file-hint").textContent += `, up to ${Math.floor(known.maxBytes / (1 << 20))} MiB`;
  if (!known.accounts.length) {
    notice("There are no accounts: set identity.dev.accounts.");
    return;
  }
  const last = known.accounts.findIndex(({ email }) => email === remembered());
  $("accounts").append(...known.accounts.map(choice));
  $("accounts").querySelectorAll("input")[Math.max(0, last)].click();
}

function choice(candidate, index) {
  const label = document.createElement("label");
  const input = document.createElement("input");
  const text = document.createElement("span");
  input.type = "radio";
  input.name = "account";
  input.value = index;
  text.textContent = candidate.email;
  label.append(input, text);
  input.addEventListener("change", () => use(candidate));
  return label;
}

async function use(chosen) {
  account = chosen;
  remember(chosen.email);
  picture.use(chosen);
  say($("name-status"), "");
  notice("");
  try {
    const exchange = await call(chosen.token, "GET", "/v1/profile");
    if (chosen !== account) return;
    record(exchange);
    describe(exchange.body);
    $("name-field").value = exchange.body.displayName ?? "";
    await showAvatar(exchange.body);
  } catch (error) {
    if (chosen !== account) return;
    describe({ email: chosen.email });
    $("name-field").value = "";
    fail(shownNotice(), error);
  }
}

/** Show the current profile. */
async function refresh() {
  const asker = account;
  const { body } = await call(asker.token, "GET", "/v1/profile");
  if (asker !== account) return;
  describe(body);
  await showAvatar(body);
}

async function showAvatar(profile) {
  const asker = account;
  // Not with a token that may not read avatars.
  if (!("avatar" in profile)) return picture.show(null);
  const { body } = await call(asker.token, "GET", "/v1/avatar");
  if (asker === account) picture.show(body);
}

function describe(profile) {
  $("name").textContent = profile.displayName ?? "No name yet";
  $("name").classList.toggle("unset", !profile.displayName);
  $("email").textContent = profile.email ?? "";
  $("portrait").alt = profile.avatar ? "Your avatar" : "";
  if (profile.avatar) $("portrait").src = profile.avatar;
  else $("portrait").removeAttribute("src");
  const facts = {
    uid: profile.uid,
    locale: profile.locale,
    "two-step": profile.twoFactorAuthentication === undefined
      ? undefined
      : profile.twoFactorAuthentication ? "yes" : "no",
  };
  $("facts").replaceChildren(
    ...Object.entries(facts)
      .filter(([, value]) => value !== undefined)
      .flatMap(([term, value]) => [element("dt", term, term), element("dd", value, term)]),
  );
}

function element(name, text, className = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

async function setName(name) {
  const asker = account;
  if (!asker) return;
  const field = $("name-field");
  field.removeAttribute("aria-invalid");
  try {
    const exchange = await call(asker.token, "POST", "/v1/display_name", {
      json: { displayName: name },
    });
    if (asker !== account) return;
    record(exchange);
    field.value = name;
    say($("name-status"), name ? "Saved." : "Removed.", "good");
    await refresh();
  } catch (error) {
    if (asker !== account) return;
    field.setAttribute("aria-invalid", "true");
    fail($("name-status"), error);
  }
}

$("name-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setName($("name-field").value);
});
$("name-clear").addEventListener("click", () => setName(""));

function shownNotice() {
  $("notice").hidden = false;
  return $("notice");
}

function notice(text) {
  say($("notice"), text, text && "bad");
  $("notice").hidden = !text;
}

// If storage is forbidden, the first account is selected.
function remembered() {
  try {
    return localStorage.getItem(REMEMBERED);
  } catch {
    return null;
  }
}

function remember(email) {
  try {
    localStorage.setItem(REMEMBERED, email);
  } catch {
    // Storage is forbidden.
  }
}

start();
