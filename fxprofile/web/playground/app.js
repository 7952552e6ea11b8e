/**
 * The page: the accounts, the profile, the display name, and other tabs.
 */

import { call } from "./api.js";
import { $, element, record, remember, remembered, say } from "./page.js";
import { Picture } from "./picture.js";
import { explain } from "./words.js";

const REMEMBERED = "account";

const picture = new Picture({ changed });
const tabs = new BroadcastChannel("fxprofile");
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
  picture.rules = known;
  describeRules(known);
  if (!known.accounts.length) {
    notice("There are no accounts: set identity.dev.accounts.");
    return;
  }
  const last = known.accounts.findIndex(({ email }) => email === remembered(REMEMBERED));
  $("accounts").append(...known.accounts.map(choice));
  $("accounts").querySelectorAll("input")[Math.max(0, last)].click();
}

function describeRules({ heic, fit }) {
  if (heic) $("file-hint").textContent = "JPEG, PNG, GIF, WebP, AVIF or HEIC";
  $("fit").hidden = fit !== "cover";
  $("fit").textContent = "Every picture becomes square.";
}

function choice(candidate, index) {
  const label = document.createElement("label");
  const input = document.createElement("input");
  input.type = "radio";
  input.name = "account";
  input.value = index;
  label.append(input, element("span", candidate.email));
  input.addEventListener("change", () => use(candidate));
  return label;
}

async function use(chosen) {
  account = chosen;
  remember(REMEMBERED, chosen.email);
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
    notice(trouble(error));
  }
}

/** Show the profile after a change, and let other tabs follow. */
async function changed() {
  tabs.postMessage(account.email);
  await refresh();
}

/** Show the current profile. */
async function refresh() {
  const asker = account;
  const { body } = await call(asker.token, "GET", "/v1/profile");
  if (asker !== account) return;
  describe(body);
  await showAvatar(body);
}

/** Show what another tab, or another program, has changed meanwhile. */
async function look() {
  if (!account || picture.isBusy) return;
  try {
    await refresh();
  } catch {
    // The next look or the next action shows what is wrong.
  }
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
    await changed();
  } catch (error) {
    if (asker !== account) return;
    field.setAttribute("aria-invalid", "true");
    say($("name-status"), trouble(error), "bad");
  }
}

$("name-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setName($("name-field").value);
});
$("name-clear").addEventListener("click", () => setName(""));

tabs.addEventListener("message", ({ data }) => data === account?.email && look());
addEventListener("focus", look);
document.addEventListener("visibilitychange", () => document.hidden || look());

/** Record a failed call, and return what is wrong in words. */
function trouble(error) {
  if (error.exchange) record(error.exchange);
  return error.exchange ? explain(error) : `${error.message} Try again in a moment.`;
}

function notice(text) {
  say($("notice"), text, text && "bad");
  $("notice").hidden = !text;
}

start();
