// <keygate-keys>: the keys of one person in somebody's page: list, new key, shown once, rotate, revoke.
//
//   const keys = document.querySelector("keygate-keys");
//   keys.open(async () => (await fetch("/my/token", { method: "POST" })).json());
//
// The function passed to `open` gets the answer of POST /v1/embed-tokens from the page's own backend. It is
// called again when the token has ended. The token stays in memory. All text comes from the service; nothing
// here is HTML.
const words = /* words */ {};
const service = new URL("../", import.meta.url);

const STYLE = `
:host { display: block; font: inherit; color-scheme: light dark; }
* { box-sizing: border-box; }
h2, h3 { margin: 0; font-size: 1.125rem; }
h2, h3, p, dd, label, output { overflow-wrap: anywhere; }
p { margin: .5rem 0; }
button, input, select { font: inherit; max-inline-size: 100%; min-block-size: 2rem; padding: .25rem .75rem; }
button { cursor: pointer; }
:focus-visible { outline: 2px solid Highlight; outline-offset: 2px; }
[tabindex="-1"]:focus { outline: none; }
.head, .bar { display: flex; flex-wrap: wrap; gap: .75rem; align-items: center; justify-content: space-between; }
.bar { justify-content: flex-start; margin-block-start: 1rem; }
ul { list-style: none; margin: 1rem 0 0; padding: 0; display: grid; gap: .75rem; }
li.key { border: 1px solid color-mix(in srgb, currentColor 25%, transparent); border-radius: .5rem; padding: .75rem; }
dl { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin: .5rem 0; }
dl > div { display: flex; gap: .375rem; }
dt { opacity: .75; }
dd { margin: 0; }
label { display: block; font-weight: 600; margin-block-start: .75rem; }
fieldset { border: 0; margin: .75rem 0 0; padding: 0; }
legend { font-weight: 600; padding: 0; }
fieldset label { font-weight: 400; display: flex; gap: .5rem; align-items: center; margin: .25rem 0; }
fieldset input { flex: none; margin: 0; min-block-size: 1.5rem; inline-size: 1.5rem; }
output { display: block; font-family: ui-monospace, monospace; margin: .75rem 0; }
.note { border-inline-start: 3px solid currentColor; padding-inline-start: .75rem; }
.hidden { position: absolute; inline-size: 1px; block-size: 1px; overflow: hidden; clip-path: inset(50%); }
`;

const fill = (text, places) => text.replace(/\{(\w+)\}/g, (_, name) => places[name] ?? "");

const el = (tag, fields = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(fields)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child != null));
  return made;
};

// What a person can see of a name; the id of a key whose name shows nothing.
const called = (key) => (/[^\p{Cc}\p{Cf}\p{Z}\p{Default_Ignorable_Code_Point}\u2800]/u.test(key.name) ? key.name : key.id);

const day = (text) => new Intl.DateTimeFormat(words.lang, { dateStyle: "medium" }).format(new Date(text));

const when = (text) => el("time", { datetime: text }, day(text));

// No answer about the change itself: it may have been made, or may still be.
const isUnsettled = (answer, told) => answer.status >= 500 || [408, 425, 429].includes(answer.status) || (answer.ok && !told);

const reason = (error) => (error instanceof TypeError ? words.offline : error.message);

const unique = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16)).join("-");

class KeygateKeys extends HTMLElement {
  #root;
  #main;
  #told;
  #ask;
  #given;
  #grantable = [];
  // What may have been carried out unseen, by its name: if it is sent again, it is done only once.
  #names = new Map();
  #ended = false;

  constructor() {
    super();
    this.#root = this.attachShadow({ mode: "closed" });
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(STYLE);
    this.#root.adoptedStyleSheets = [sheet];
    this.#main = el("section", { lang: words.lang, "aria-label": words.title });
    this.#told = el("p", { class: "hidden", "aria-live": "polite" });
    this.#root.append(this.#main, this.#told);
  }

  // `ask`: gets a new token from the page's backend.
  async open(ask) {
    this.#ask = ask;
    this.#given = null;
    await this.#list();
  }

  // Keeps nothing when the element is removed.
  disconnectedCallback() {
    this.#given = null;
    this.#names.clear();
    this.#ended = true;
    this.#main.replaceChildren();
  }

  connectedCallback() {
    if (this.#ended && this.#ask) this.#list();
    this.#ended = false;
  }

  // `once` names a change: if it is sent twice, it is made only once.
  async #call(method, path, body, once, again = true) {
    this.#given ??= await this.#ask();
    const { org, token } = this.#given;
    const headers = { authorization: `Bearer ${token}`, accept: "application/json" };
    if (body) headers["content-type"] = "application/json";
    if (once) headers["idempotency-key"] = once;
    const url = new URL(`v1/orgs/${encodeURIComponent(org)}/keys${path}`, service);
    const options = { method, headers, credentials: "omit", cache: "no-store", referrerPolicy: "no-referrer" };
    const answer = await fetch(url, { ...options, body: body && JSON.stringify(body) }).catch(() => null);
    if (!answer) throw new Error(once ? words.unsettled : words.offline);
    if (answer.status === 401 && again) {
      this.#given = null;
      return this.#call(method, path, body, once, false);
    }
    // A proxy answers in HTML, and a connection may end in the middle.
    const told = await answer.json().catch(() => null);
    if (answer.ok && told) return told;
    const why = told?.detail ?? (once ? null : words.failed);
    const rest = once && isUnsettled(answer, told) ? words.unsettled : null;
    const text = [why, rest].filter(Boolean).join(". ") || words.failed;
    throw Object.assign(new Error(text), { code: told?.code });
  }

  // A change. Its name stays the same until an answer says that it was made, however often it is sent and whatever
  // happens in between: after no answer, nobody knows.
  async #change(what, method, path, body) {
    const { once } = this.#names.get(what) ?? { once: unique() };
    this.#names.set(what, { once, body });
    try {
      const told = await this.#call(method, path, body, once);
      this.#names.delete(what);
      return told;
    } catch (error) {
      if (error.code !== "idempotency_conflict") throw error;
      // Made, but out of what stood in the form before. The next one is another.
      this.#names.delete(what);
      throw new Error(words.sentBefore);
    }
  }

  // If `make` fails, shows why, and a way back. `first`: the element to focus afterwards.
  async #show(make, first) {
    const busy = el("p", { role: "status" }, words.wait);
    if (!this.#main.hasChildNodes()) this.#main.replaceChildren(busy);
    let shown;
    try {
      shown = await make();
    } catch (error) {
      const retry = el("button", { type: "button", onclick: () => this.#list() }, words.again);
      shown = [this.#heading(words.failed), el("p", { role: "alert", class: "note" }, reason(error)), retry];
    }
    this.#main.replaceChildren(...shown);
    const focused = first ?? this.#main.querySelector("[tabindex='-1']");
    focused?.focus({ preventScroll: true });
  }

  #heading(text) {
    return el("h2", { tabindex: "-1" }, text);
  }

  #tell(text) {
    this.#told.textContent = text;
  }

  #list(told) {
    return this.#show(async () => {
      const page = await this.#call("GET", "?state=kept&limit=50");
      this.#grantable = page.grantable ?? [];
      const head = el("div", { class: "head" }, this.#heading(words.title));
      head.append(el("button", { type: "button", onclick: () => this.#form() }, words.newKey));
      const list = el("ul", {}, ...page.keys.map((key) => this.#key(key)));
      if (told) this.#tell(told);
      if (!page.keys.length) return [head, el("h3", {}, words.emptyTitle), el("p", {}, words.empty)];
      return [head, list, page.next ? this.#more(list, page.next) : null].filter(Boolean);
    });
  }

  #more(list, next) {
    const button = el("button", { type: "button" }, words.more);
    const { fault, act } = this.#once(button, async () => {
      const page = await this.#call("GET", `?state=kept&limit=50&cursor=${encodeURIComponent(next)}`);
      list.append(...page.keys.map((key) => this.#key(key)));
      more.replaceWith(...(page.next ? [this.#more(list, page.next)] : []));
    });
    button.addEventListener("click", act);
    const more = el("div", {}, fault, button);
    return more;
  }

  // `does`, not again while it is under way; and where to say why it failed.
  #once(button, does) {
    const fault = el("p", { role: "alert", class: "note", hidden: true });
    const act = async (event) => {
      event.preventDefault();
      if (button.disabled) return;
      button.disabled = true;
      try {
        await does();
      } catch (error) {
        fault.textContent = reason(error);
        fault.hidden = false;
      }
      button.disabled = false;
    };
    return { fault, act };
  }

  #key(key) {
    const fact = (name, value) => el("div", {}, el("dt", {}, name), el("dd", {}, value));
    const act = (label, does) =>
      el("button", { type: "button", onclick: does }, label, el("span", { class: "hidden" }, `: ${called(key)}`));
    const acts = el("div", { class: "bar" });
    if (key.state === "active") acts.append(act(words.rotate, () => this.#confirmRotate(key)));
    acts.append(act(words.revoke, () => this.#confirmRevoke(key)));
    return el(
      "li",
      { class: "key" },
      el("h3", {}, el("bdi", {}, called(key))),
      el(
        "dl",
        {},
        fact(words.start, el("code", { dir: "ltr" }, `${key.start}…`)),
        fact(words.state, words.states[key.state] ?? key.state),
        fact(words.permissions, key.permissions.join(", ") || "–"),
        fact(words.lastUsed, key.last_used ? when(key.last_used.at) : words.never),
        fact(words.expires, key.expires ? when(key.expires) : words.neverExpires),
      ),
      acts,
    );
  }

  #form() {
    const name = el("input", { id: "name", name: "name", required: true, maxlength: "100", autocomplete: "off", "aria-describedby": "name-help" });
    const life = el(
      "select",
      { id: "life", name: "life" },
      ...[["90d", words.days90], ["30d", words.days30], ["365d", words.days365], ["", words.neverExpires]].map(
        ([value, label]) => el("option", { value }, label),
      ),
    );
    const boxes = this.#grantable.map(({ word, sentence }) => {
      const box = el("input", { type: "checkbox", value: word });
      return { box, label: el("label", {}, box, el("span", {}, sentence || word)) };
    });
    const button = el("button", {}, words.create);
    // Nothing typed is lost.
    const { fault, act } = this.#once(button, async () => {
      const permissions = boxes.filter((b) => b.box.checked).map((b) => b.box.value);
      const body = { name: name.value, permissions, expires: life.value || null };
      await this.#shown(await this.#change("new", "POST", "", body));
    });
    const form = el(
      "form",
      {},
      el("label", { for: "name" }, words.name),
      el("p", { id: "name-help" }, words.nameHelp),
      name,
      boxes.length ? el("fieldset", {}, el("legend", {}, words.permissions), el("p", {}, words.permissionsHelp), ...boxes.map((b) => b.label)) : null,
      el("label", { for: "life" }, words.expires),
      life,
      fault,
      this.#bar(button),
    );
    form.addEventListener("submit", act);
    this.#show(async () => [this.#heading(words.newKey), form], name);
  }

  #bar(...buttons) {
    const back = el("button", { type: "button", onclick: () => this.#list() }, words.cancel);
    return el("div", { class: "bar" }, ...buttons, back);
  }

  #shown({ key, secret }) {
    if (!secret) {
      const back = el("button", { type: "button", onclick: () => this.#list() }, words.done);
      return this.#show(async () => [this.#heading(words.wasShown), el("p", {}, words.wasShownText), back]);
    }
    // A pair is of no use without its public id.
    const id = key.public_id ? this.#value(key.public_id, words.publicId, words.copyId) : null;
    const value = this.#value(secret, words.secret, words.copy);
    const done = el("button", { type: "button", onclick: () => this.#list() }, words.done);
    const lines = [this.#heading(words.secret), el("p", {}, el("bdi", {}, called(key)))];
    if (id) lines.push(el("h3", {}, words.publicId), id.output, id.copy, el("h3", {}, words.pairSecret));
    lines.push(value.output, el("p", {}, words.keep), el("div", { class: "bar" }, value.copy, done));
    return this.#show(async () => lines);
  }

  // A text to copy, and the button for it.
  #value(text, label, copyLabel) {
    const output = el("output", { dir: "ltr", tabindex: "0", "aria-label": label }, text);
    const copy = el("button", { type: "button" }, copyLabel);
    copy.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text);
        this.#tell(words.copied);
        copy.textContent = words.copied;
      } catch {
        // Without TLS there is no clipboard, but the text can at least be selected.
        getSelection()?.selectAllChildren(output);
      }
    });
    return { output, copy };
  }

  #confirm(title, lines, label, does) {
    const button = el("button", { type: "button" }, label);
    const { fault, act } = this.#once(button, does);
    button.addEventListener("click", act);
    const all = lines.filter(Boolean).map((line) => el("p", {}, line));
    return this.#show(async () => [this.#heading(title), ...all, fault, this.#bar(button)]);
  }

  #confirmRotate(key) {
    const title = fill(words.rotateTitle, { name: called(key) });
    // A pair has two secrets at most: an earlier one that still counts makes room, or nothing is made.
    const former = key.former_secret_expires;
    const lines = [words.rotateText, words.overlap, former && fill(words.formerEnds, { end: day(former) })];
    return this.#confirm(title, lines, words.rotateButton, async () => {
      const what = `rotate ${key.id}`;
      // Sent again as it was: if it was made, the secret that would make room now is the one in use.
      const body = this.#names.get(what)?.body ?? (former ? { drop_former_secret: true } : {});
      await this.#shown(await this.#change(what, "POST", `/${key.id}/rotate`, body));
    });
  }

  #confirmRevoke(key) {
    const title = fill(words.revokeTitle, { name: called(key) });
    return this.#confirm(title, [words.revokeText], words.revokeKey, async () => {
      await this.#change(`revoke ${key.id}`, "DELETE", `/${key.id}`);
      await this.#list(words.revoked);
    });
  }
}

customElements.define("keygate-keys", KeygateKeys);
