// The composer and the chat's keys.
import htmx from "htmx.org";
import { newest, toEnd } from "./scrolling.js";

const composer = () => document.getElementById("composer");
const touch = matchMedia("(pointer: coarse)");

addEventListener("keydown", (event) => {
  const form = composer();
  const command = event.ctrlKey || event.metaKey;
  if (event.target.matches?.("#composer textarea") && event.key === "Enter") {
    // A phone's keyboard has no Shift-Enter; there the arrow sends. Enter also ends a word in Chinese or Japanese.
    if (event.shiftKey || event.isComposing || touch.matches) return;
    event.preventDefault();
    if (event.target.value.trim()) form.requestSubmit(form.querySelector("[data-send]"));
  } else if (event.key === "Escape" && !event.defaultPrevented && form?.hasAttribute("data-running")) {
    document.getElementById("stop")?.requestSubmit();
  } else if (command && event.shiftKey && event.key.toLowerCase() === "o") {
    event.preventDefault();
    location.assign("/");
  } else if (command && event.shiftKey && event.key.toLowerCase() === "c") {
    const copy = [...document.querySelectorAll("[data-copy-answer]")].at(-1);
    if (copy) event.preventDefault(), copy.click();
  } else if (command && !event.shiftKey && event.key.toLowerCase() === "k") {
    const search = document.querySelector("[data-search]");
    if (search) event.preventDefault(), location.assign(search.href);
  } else if (event.key === "ArrowUp" && event.target.matches?.("#composer textarea") && !event.target.value) {
    const edit = [...document.querySelectorAll("[data-edit-question]")].at(-1);
    if (edit) event.preventDefault(), location.assign(edit.href);
  } else if (event.key === "?" && !event.target.matches?.("input, textarea, select")) {
    document.getElementById("keys")?.showModal();
  }
});

addEventListener("click", ({ target }) => {
  if (target.closest?.("#newest")) toEnd();
  const keys = document.getElementById("keys");
  if (target === keys || target.closest?.("#keys [data-close]")) keys.close();
});

// A question to go on with is for the model that is chosen now.
htmx.on("htmx:configRequest", ({ detail }) => {
  const model = document.getElementById("model")?.value;
  if (detail.elt.id === "follow-ups" && model) detail.parameters.model = model;
});

// What was accepted leaves the composer; what was refused stays in it. Text typed meanwhile is not touched.
htmx.on("htmx:beforeRequest", ({ detail }) => {
  if (detail.elt !== composer()) return;
  composer().sent = composer().elements.text.value;
  clearTimeout(typing); // what is sent is no draft
});
htmx.on("htmx:afterRequest", ({ detail }) => {
  const form = composer();
  const suggested = document.getElementById("follow-ups");
  if (!detail.successful || (detail.elt !== form && detail.elt !== suggested)) return;
  suggested?.remove();
  const { text, files } = form.elements;
  if (detail.elt === form) {
    if (text.value === form.sent) text.value = "";
    files.value = "";
    form.querySelector(".composer-files").open = false;
    document.getElementById("welcome")?.remove();
  }
  if (!touch.matches) text.focus();
  toEnd();
});
htmx.on("htmx:sendError", ({ detail }) => {
  const place = detail.elt === composer() && document.getElementById("composer-error");
  if (place) place.textContent = "The server did not answer. Your text is still here, send it again";
});

// What is typed is kept on the server. Without a connection it is still in the composer.
let typing;
addEventListener("input", ({ target }) => {
  const form = composer();
  if (!form || target !== form.elements.text) return;
  clearTimeout(typing);
  typing = setTimeout(() => {
    const { text, csrfmiddlewaretoken } = form.elements;
    const body = new URLSearchParams({ text: text.value, csrfmiddlewaretoken: csrfmiddlewaretoken.value });
    fetch(form.dataset.draft, { method: "POST", body }).catch(() => {});
  }, 1000);
});

document.addEventListener("scroll", newest, { capture: true, passive: true });
// An address that names a message shows that one.
const arrive = () => document.getElementById(location.hash.slice(1) || "end")?.matches("article") || toEnd();
if (document.readyState === "loading") addEventListener("DOMContentLoaded", arrive);
else arrive();
