// The page's only script: copying, dialogs, and how far a change is in force. All text comes from the
// document, and everything except copying works without the script.
document.documentElement.classList.add("script");

const told = document.querySelector("[data-told]");
const tell = (text) => { if (told) told.textContent = text; };

for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    const from = document.getElementById(button.dataset.copy);
    const text = from?.textContent.trim() ?? "";
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Without TLS there is no clipboard, but the text can at least be selected.
      getSelection()?.selectAllChildren(from);
      return;
    }
    const label = button.querySelector("[data-label-of]");
    const before = label.textContent;
    label.textContent = button.dataset.done;
    tell(button.dataset.done);
    setTimeout(() => { label.textContent = before; }, 2000);
  });
}

// If there is a dialog with the same content, a link opens the dialog instead of another page.
for (const link of document.querySelectorAll("a[data-opens]")) {
  const dialog = document.getElementById(link.dataset.opens);
  if (!dialog?.showModal) continue;
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    dialog.showModal();
  });
  for (const close of dialog.querySelectorAll("[data-closes]")) {
    close.addEventListener("click", (event) => { event.preventDefault(); dialog.close(); });
  }
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
}

// Typing into the field of a radio button chooses that button.
for (const field of document.querySelectorAll("[data-chooses]")) {
  field.addEventListener("input", () => {
    const radio = document.getElementById(field.dataset.chooses);
    if (radio && field.value) radio.checked = true;
  });
}

// Of a whole secret only the beginning gets into an address, and so into a history or the log of a proxy.
for (const field of document.querySelectorAll("input[data-heads]")) {
  const heads = field.dataset.heads.split(" ").map((head) => head.split(":"));
  field.form.addEventListener("submit", () => {
    const text = field.value.trim();
    const [head, shown] = heads.find(([begin]) => text.startsWith(begin)) ?? [];
    // A name may begin with the prefix as well.
    const symbols = shown?.endsWith("-") ? /^[0-9A-Za-z-]+$/ : /^[0-9A-Za-z]+$/;
    if (head && symbols.test(text.slice(head.length))) field.value = text.slice(0, head.length + parseInt(shown));
  });
}

// Pressed twice, a form would be sent twice, and the browser would show the second answer: without the secret.
for (const form of document.querySelectorAll('form[method="post"]')) {
  form.addEventListener("submit", (event) => {
    if (form.dataset.sent) event.preventDefault();
    form.dataset.sent = "yes";
    // The answer may have gone to another tab, or somebody may have stopped the wait for it.
    setTimeout(() => delete form.dataset.sent, 5000);
  });
}
addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("form[data-sent]")) delete form.dataset.sent;
});

// Choosing an organization switches to it, without a button.
for (const select of document.querySelectorAll("select[data-submits]")) {
  select.addEventListener("change", () => select.form.requestSubmit());
}

// Adds the address from which the browser asked for the page, as one more line.
for (const button of document.querySelectorAll("button[data-adds]")) {
  button.addEventListener("click", (event) => {
    const field = document.getElementById(button.dataset.to);
    if (!field) return;
    event.preventDefault();
    const lines = field.value.split(/\s+/).filter(Boolean);
    if (!lines.includes(button.dataset.adds)) lines.push(button.dataset.adds);
    field.value = lines.join("\n");
    field.focus();
  });
}

// The one-use sign-in code is in the fragment, which reaches no log. The button posts it.
const code = document.querySelector("input[data-fragment]");
if (code && location.hash.length > 1) {
  code.value = decodeURIComponent(location.hash.slice(1));
  code.closest("[data-code]").hidden = true;
  history.replaceState(null, "", location.pathname);
}

// How far a change is in force: asks until all sidecars have it, but at most 20 times.
const force = document.querySelector("[data-force]");
const follow = async (rest) => {
  const answer = await fetch(force.dataset.force, { headers: { accept: "application/json" } });
  if (!answer.ok) return;
  const { text, done } = await answer.json();
  if (text && force.textContent !== text) force.textContent = text;
  if (!done && rest > 0) setTimeout(() => follow(rest - 1), 500);
};
if (force) follow(20).catch(() => {});
