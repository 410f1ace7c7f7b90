// Draws diagrams in a frame of its own, which has no rights: not to the page around it, not to any address.
// A message `{id, source, dark}` is answered by `{id, svg}`, where `svg` is "" when the source is no diagram.
import "./inline_styles.js";
import mermaid from "mermaid";

const { nonce } = document.querySelector("script[nonce]");
const createElement = document.createElement.bind(document);
// Mermaid measures with the styles that it adds.
document.createElement = (name, options) => {
  const element = createElement(name, options);
  if (name === "style") element.nonce = nonce;
  return element;
};

// Mermaid cleans a picture by parsing it once more, where its styles would count as inline.
const { parseFromString } = DOMParser.prototype;
DOMParser.prototype.parseFromString = function (text, type) {
  const known = String(text).replaceAll("<style>", `<style nonce="${nonce}">`);
  return parseFromString.call(this, known.replace(/(\s)style=/gi, "$1data-style="), type);
};
const withStyles = (svg) => svg.replaceAll(" data-style=", " style=");

/** Labels are text, with line breaks; <<stereotypes>> are Mermaid's own. */
const withoutTags = (source) =>
  source.replace(/<<[\w -]+>>|<br\s*\/?>|<(?=[a-z!?/])/gi, (found) => (found === "<" ? "#lt;" : found));

async function draw({ id, source, dark }) {
  const fixed = {
    startOnLoad: false,
    securityLevel: "strict",
    suppressErrorRendering: true,
    fontFamily: "system-ui, sans-serif",
    htmlLabels: false,
    flowchart: { htmlLabels: false },
    maxTextSize: 50_000,
    maxEdges: 500,
  };
  // What a diagram may not set for itself.
  const secure = [...Object.keys(fixed), "secure", "themeCSS", "dompurifyConfig", "fontSize"];
  mermaid.initialize({ ...fixed, secure, theme: dark ? "dark" : "default" });
  const { svg } = await mermaid.render(`diagram-${id}`, withoutTags(source));
  return withStyles(svg);
}

// One after the other: Mermaid has one configuration.
let last = Promise.resolve();
addEventListener("message", ({ data, source }) => {
  if (source !== parent) return;
  last = last
    .then(() => draw(data))
    .catch(() => "")
    .then((svg) => parent.postMessage({ id: data.id, svg }, "*"));
});
parent.postMessage({ ready: true }, "*");
