// The page's only script: copying, dialogs, and how far a change is in force. All words come from the
// document, and everything but copying works without it.
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
      // A page that is not served over TLS has no clipboard: the text is selected at least.
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

// A link that has a dialog of the same content opens that instead of another page.
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

// A choice of a radio button that has a field of its own.
for (const field of document.querySelectorAll("[data-chooses]")) {
  field.addEventListener("input", () => {
    const radio = document.getElementById(field.dataset.chooses);
    if (radio && field.value) radio.checked = true;
  });
}

// The organization is switched by choosing it.
for (const select of document.querySelectorAll("select[data-submits]")) {
  select.addEventListener("change", () => select.form.requestSubmit());
}

// The address that the page was asked from, as one more line.
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

// The one-use sign-in code is the fragment, which reaches no log; a press of the button posts it.
const code = document.querySelector("input[data-fragment]");
if (code && location.hash.length > 1) {
  code.value = decodeURIComponent(location.hash.slice(1));
  code.closest("[data-code]").hidden = true;
  history.replaceState(null, "", location.pathname);
}

// How far a change is in force: asked until all sidecars have it, at most 20 times.
const force = document.querySelector("[data-force]");
const follow = async (rest) => {
  const answer = await fetch(force.dataset.force, { headers: { accept: "application/json" } });
  if (!answer.ok) return;
  const { text, done } = await answer.json();
  if (text && force.textContent !== text) force.textContent = text;
  if (!done && rest > 0) setTimeout(() => follow(rest - 1), 500);
};
if (force) follow(20).catch(() => {});
