// Sidebar, menus, dialogs and copy buttons.
import Alpine from "@alpinejs/csp";
import htmx from "htmx.org";
import { sourceOf } from "./rich.js";

const narrow = matchMedia("(width < 48rem)");

Alpine.data("frame", () => ({
  init() {
    // The script opens the overlay with an attribute; the address's #sidebar is for pages without one.
    if (location.hash === "#sidebar") history.replaceState(null, "", location.pathname + location.search);
    addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.over()) this.close(), event.stopImmediatePropagation();
    }, true);
    let start = null;
    this.$refs.side.addEventListener("touchstart", (event) => (start = event.touches[0].clientX), { passive: true });
    this.$refs.side.addEventListener("touchend", (event) => {
      if (start !== null && start - event.changedTouches[0].clientX > 60) this.close();
    }, { passive: true });
  },
  over() {
    return this.$refs.side.hasAttribute("data-over");
  },
  show() {
    this.$refs.side.setAttribute("data-over", "");
    this.$refs.side.querySelector("a, button").focus();
  },
  close() {
    if (!this.over()) return;
    this.$refs.side.removeAttribute("data-over");
    this.$refs.opener.focus();
  },
  /** On a wide window the choice is kept on the server; the page need not wait for it. */
  toggle(event) {
    event.preventDefault();
    if (narrow.matches) return this.over() ? this.close() : this.show();
    const open = document.body.dataset.sidebar !== "open";
    document.body.dataset.sidebar = open ? "open" : "closed";
    htmx.ajax("POST", "/settings/sidebar/", { values: { open: open ? "1" : "" }, swap: "none" });
    (open ? this.$refs.closer : this.$refs.widener).focus();
  },
}));

Alpine.data("menu", () => ({
  dismiss() {
    this.$root.open = false;
  },
  escape(event) {
    if (!this.$root.open) return;
    event.stopPropagation();
    this.$root.open = false;
    this.$root.querySelector("summary").focus();
  },
}));

Alpine.data("toast", () => ({
  init() {
    // A notice goes by itself; an error stays until it was read.
    if (this.$root.dataset.level !== "error") setTimeout(() => this.close(), 4000);
  },
  close() {
    this.$root.remove();
  },
}));

/** Copies the text of the element that `data-copy` names and says so for two seconds. */
Alpine.data("copy", () => ({
  copied: false,
  async copy() {
    await write(sourceOf(document.getElementById(this.$root.dataset.copy)).trim());
    this.copied = true;
    setTimeout(() => (this.copied = false), 2000);
  },
  get idle() {
    return !this.copied;
  },
}));

addEventListener("click", async ({ target }) => {
  const button = target.closest?.(".code-copy");
  if (!button) return;
  await write(button.closest(".code").querySelector("code").textContent);
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = "Copy"), 2000);
});

async function write(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  // Plain HTTP on another machine's address has no clipboard interface.
  const area = Object.assign(document.createElement("textarea"), { value: text });
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

// A dialog that a fragment brings opens as soon as it is there, and leaves the page when it closes.
htmx.onLoad((element) => {
  const dialog = element.matches?.("dialog") ? element : element.querySelector?.("dialog[data-opens]");
  if (!dialog || dialog.open) return;
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog || event.target.closest("[data-close]")) event.preventDefault(), dialog.close();
  });
  dialog.showModal();
});

// Leaving a page with a form that was changed and not saved asks first.
const changed = new Set();
addEventListener("input", ({ target }) => {
  const form = target.form?.closest?.("[data-asks]");
  if (form) changed.add(form);
});
addEventListener("submit", ({ target }) => changed.delete(target));
addEventListener("beforeunload", (event) => {
  if ([...changed].some((form) => form.isConnected)) event.preventDefault();
});

// The sheet of shortcuts opens where the reader is; its address is for pages without scripts.
addEventListener("click", (event) => {
  const keys = document.getElementById("keys");
  if (!keys || event.ctrlKey || event.metaKey || !event.target.closest?.("[data-keys]")) return;
  event.preventDefault();
  keys.showModal();
});

function connection() {
  const notice = document.getElementById("no-connection");
  if (notice) notice.hidden = navigator.onLine;
}
addEventListener("online", connection);
addEventListener("offline", connection);

// A page that cannot be reached is answered by one of ours. Not before this one is there.
addEventListener("load", () => navigator.serviceWorker?.register("/offline.js").catch(() => {}));
