// Formulas and diagrams in answers. Their libraries are large: the first message that needs one loads it. Until then,
// without a script, and where something is no formula or diagram after all, the source stands there.
import { following } from "./scrolling.js";

const addresses = () => document.getElementById("messages")?.dataset;

/** Shows the formulas and diagrams of what has been added to the page, except in an answer that is being written. */
export function enrich(element) {
  const settled = (found) => !found.closest("[aria-busy=true]");
  const formulas = [...element.querySelectorAll(".math:not([data-source])")].filter(settled);
  const diagrams = [...element.querySelectorAll(".diagram-source")].filter(settled);
  if (formulas.length) typesetAll(formulas);
  for (const code of diagrams) drawBeside(code);
}

/** The text of an element, with formulas as they were written and without what is there to click. */
export function sourceOf(element) {
  const copy = element.cloneNode(true);
  for (const part of copy.querySelectorAll(".code-head, summary")) part.remove();
  for (const formula of copy.querySelectorAll("[data-source]")) formula.textContent = formula.dataset.source;
  return copy.textContent;
}

async function typesetAll(formulas) {
  const { math, mathStyle } = addresses();
  if (!document.querySelector(`link[href="${mathStyle}"]`)) {
    document.head.append(Object.assign(document.createElement("link"), { rel: "stylesheet", href: mathStyle }));
  }
  const { typeset } = await import(math);
  following(() => formulas.filter((formula) => !formula.dataset.source).forEach((formula) => show(formula, typeset)));
}

function show(formula, typeset) {
  const source = formula.textContent;
  try {
    typeset(formula, source);
    formula.dataset.source = source;
  } catch {
    formula.classList.add("math-unread");
  }
}

// Diagrams

const prefersDark = matchMedia("(prefers-color-scheme: dark)");
const drawn = new Map();
let frame;

function isDark() {
  const { theme } = document.documentElement.dataset;
  return theme === "dark" || (theme !== "light" && prefersDark.matches);
}

/** The frame that draws, once it can. */
function drawer() {
  frame ??= new Promise((ready) => {
    const element = document.createElement("iframe");
    Object.assign(element, { src: addresses().diagrams, className: "drawer", title: "Diagrams", tabIndex: -1 });
    element.sandbox = "allow-scripts";
    element.ariaHidden = "true";
    addEventListener("message", ({ data, source }) => {
      if (source !== element.contentWindow) return;
      if (data.ready) ready(source);
      else if (data.svg) picture(drawn.get(data.id), String(data.svg));
    });
    document.body.append(element);
  });
  return frame;
}

function drawBeside(code) {
  code.classList.remove("diagram-source");
  const id = drawn.size;
  drawn.set(id, { code });
  ask(id);
}

async function ask(id) {
  const source = drawn.get(id).code.querySelector("code").textContent;
  (await drawer()).postMessage({ id, source, dark: isDark() }, "*");
}

/** As an image it neither runs scripts nor loads anything, whatever is in it. */
async function picture(diagram, svg) {
  if (!diagram) return;
  const image = (diagram.image ??= document.createElement("img"));
  image.width = /viewBox="\S+ \S+ ([\d.]+)/.exec(svg)?.[1] ?? 640;
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`;
  await image.decode();
  if (!image.isConnected) following(() => place(image, diagram.code));
}

/** Puts the image where the source was, and the source below it. */
function place(image, code) {
  const make = (tag, fields, child) => {
    const element = Object.assign(document.createElement(tag), fields);
    element.append(child);
    return element;
  };
  image.alt = "Diagram, with its source below";
  const details = make("details", { className: "diagram-details" }, make("summary", {}, "Source"));
  code.before(make("div", { className: "diagram", tabIndex: 0 }, image), details);
  details.append(code);
}

prefersDark.addEventListener("change", () => {
  for (const [id, { code }] of drawn) if (code.isConnected) ask(id);
});
