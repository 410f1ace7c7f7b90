// Formulas, typeset. Loaded by the first message that has one.
import "./inline_styles.js";
import "katex/dist/katex.min.css";
import katex from "katex";
import "katex/contrib/mhchem";

/** Replaces the source in `element` by the formula. Throws for a source that is none, and changes nothing then. */
export function typeset(element, source) {
  const place = document.createElement("span");
  katex.render(source.slice(delimiter(source), -delimiter(source)), place, {
    displayMode: element.classList.contains("math-display"),
    strict: "ignore",
    maxSize: 20,
    maxExpand: 1000,
  });
  element.replaceChildren(place.firstChild);
}

const delimiter = (source) => (/^(\$\$|\\)/.test(source) ? 2 : 1);
