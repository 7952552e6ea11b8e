/**
 * The last uploads of an account, which the browser remembers.
 */

import { $, element, isolated, remember, remembered } from "./page.js";

const MOST = 5;
const time = new Intl.DateTimeFormat("en", { dateStyle: "medium", timeStyle: "short" });

const key = ({ email }) => `uploads of ${email}`;

/** Remember how an upload ended, and show it. */
export function remind(account, name, outcome) {
  const entries = [{ name, outcome, at: Date.now() }, ...known(account)].slice(0, MOST);
  remember(key(account), entries);
  showHistory(account);
}

/** Show the last uploads of an account. */
export function showHistory(account) {
  const entries = known(account);
  $("history").hidden = entries.length === 0;
  $("uploads").replaceChildren(
    ...entries.map(({ name, outcome, at }) => {
      const item = element("li", "");
      const when = element("time", time.format(at));
      when.dateTime = new Date(at).toISOString();
      item.append(isolated(name), when, element("span", outcome));
      return item;
    }),
  );
}

function known(account) {
  const entries = remembered(key(account));
  return Array.isArray(entries) ? entries : [];
}
