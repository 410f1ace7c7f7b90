// Scrolling: the page stays at its end while the reader is there, and leaves them alone otherwise.
const NEAR = 80; // pixels from the end within which the reader counts as being there

const scroller = () => document.getElementById("scroller");
const atEnd = (box) => box.scrollHeight - box.scrollTop - box.clientHeight < NEAR;

/** Makes a change of the page. */
export function following(change) {
  const box = scroller();
  const follow = box && atEnd(box);
  change();
  if (follow) box.scrollTop = box.scrollHeight;
  newest();
}

export function toEnd() {
  const box = scroller();
  if (box) box.scrollTop = box.scrollHeight;
  newest();
}

export function newest() {
  const box = scroller();
  const button = document.getElementById("newest");
  if (box && button) button.hidden = atEnd(box);
}
