// Follows a running answer. The server renders; this puts what arrives into its place.
//
// Not htmx's own extension: that one opens a new connection after a break, without the id of the last event, and so
// loses its place. The browser's EventSource sends the id by itself; where it gives up, `?after=` carries it.
import htmx from "htmx.org";
import { enrich } from "./rich.js";
import { following } from "./scrolling.js";
import { localise } from "./times.js";

const SILENCE = 35_000; // the server says something every 10 s

/** Starts a stream for each running answer in what has been added to the page. */
export function follow(element) {
  const running = element.matches?.("[data-stream]") ? [element] : element.querySelectorAll?.("[data-stream]");
  for (const message of running ?? []) {
    if (!message.following) message.following = new Stream(message);
  }
}

class Stream {
  constructor(message) {
    this.message = message;
    this.blocks = message.querySelector("[data-blocks]");
    this.status = message.querySelector("[data-status]");
    this.after = message.dataset.after;
    this.failures = 0;
    // It may have ended, and only what is made after it is still to come.
    this.ended = message.getAttribute("aria-busy") !== "true";
    if (!this.ended) {
      announce("Answer started");
      running(true);
    }
    this.connect();
  }

  connect() {
    if (!this.message.isConnected) return;
    const source = new EventSource(`${this.message.dataset.stream}?after=${encodeURIComponent(this.after)}`);
    this.source = source;
    source.onopen = () => {
      this.failures = 0;
      this.online();
      this.alive();
    };
    source.onerror = () => {
      this.say("Connection lost. The answer goes on, reconnecting");
      // While it is CONNECTING the browser tries again by itself, with the last id. Else there was an answer, and it
      // was a refusal.
      if (source.readyState === EventSource.CLOSED) this.refused();
    };
    const on = (type, handle) =>
      source.addEventListener(type, (event) => {
        if (event.lastEventId) this.after = event.lastEventId;
        this.online();
        this.alive();
        handle(event.data && JSON.parse(event.data));
      });
    on("ping", () => {});
    on("status", ({ text }) => this.ended || (this.status.textContent = this.words = text));
    on("blocks", (data) => following(() => this.place(data)));
    on("reasoning", (data) => following(() => this.think(data)));
    on("done", (data) => this.finish(data));
    on("afterword", (data) => this.goOn(data));
  }

  /** A line can be dead without either end noticing. */
  alive() {
    clearTimeout(this.watch);
    this.watch = setTimeout(() => this.reconnect(), SILENCE);
  }

  reconnect() {
    this.source.close();
    clearTimeout(this.watch);
    this.say("Connection lost. The answer goes on, reconnecting");
    this.failures += 1;
    setTimeout(() => this.connect(), Math.min(10_000, 500 * 2 ** this.failures));
  }

  /** A login or a chat that is gone does not come back by waiting: then the page itself says so. */
  async refused() {
    const page = await fetch(location.href, { method: "HEAD" }).catch(() => null);
    if (page?.redirected || page?.status === 404) location.reload();
    else this.reconnect();
  }

  /** Shows that the line is broken, and afterwards again what was there before. */
  say(text) {
    if (this.ended) return;
    this.words ??= this.status.textContent;
    this.status.textContent = text;
    this.lost = true;
  }

  online() {
    if (!this.lost) return;
    this.lost = false;
    if (this.words) this.status.textContent = this.words;
  }

  place({ count, changed }) {
    while (this.blocks.children.length > count) this.blocks.lastElementChild.remove();
    for (const [index, html] of changed) {
      const block = this.blocks.children[index] ?? this.blocks.appendChild(document.createElement("div"));
      block.innerHTML = html;
    }
  }

  think({ text, fresh }) {
    const thoughts = this.message.querySelector("[data-reasoning]");
    thoughts.hidden = false;
    const body = thoughts.querySelector("[data-reasoning-text]");
    if (fresh) body.textContent = "";
    body.append(text);
  }

  finish({ footer, more, parts, summary }) {
    if (!more) this.close();
    if (this.ended) return;
    this.ended = true;
    this.lost = false;
    following(() => {
      const old = this.message.querySelector("[data-footer]");
      old.insertAdjacentHTML("afterend", footer);
      const fresh = old.nextElementSibling;
      old.remove();
      if (fresh) htmx.process(fresh);
      replace(parts);
      mark(summary);
    });
    // "An answer is being written" is no longer true.
    document.getElementById("composer-error")?.replaceChildren();
    this.message.setAttribute("aria-busy", "false");
    enrich(this.message);
    localise(this.message);
    running(Boolean(document.querySelector("[data-stream][aria-busy=true]")));
    announce("Answer finished");
  }

  /** What a model said of the chat after its answer: a title, and questions to go on with. */
  goOn({ follow_ups, title, parts }) {
    this.close();
    if (!title) return;
    document.title = `${title} · aiia`;
    document.getElementById("chat-title").textContent = title;
    replace(parts);
    const newest = [...document.querySelectorAll("#messages > article")].at(-1) === this.message;
    if (!follow_ups || !newest || document.getElementById("follow-ups")) return;
    following(() => {
      this.message.insertAdjacentHTML("afterend", follow_ups);
      htmx.process(document.getElementById("follow-ups"));
    });
  }

  close() {
    this.source.close();
    clearTimeout(this.watch);
    this.message.removeAttribute("data-stream");
  }
}

/** Shows below which message the model reads all of the chat, and above it a summary. */
function mark({ below, html }) {
  const last = below && document.getElementById(below);
  if (!last) return;
  document.getElementById("summary-marker")?.remove();
  last.insertAdjacentHTML("afterend", html);
}

/** Puts parts of the page, by their ids, into the place of those that are there. */
function replace(parts) {
  for (const [id, html] of Object.entries(parts)) {
    const old = document.getElementById(id);
    if (!old) continue;
    old.outerHTML = html;
    htmx.process(document.getElementById(id));
  }
}

/** Whether the composer stops or sends. */
function running(value) {
  document.getElementById("composer")?.toggleAttribute("data-running", value);
}

function announce(text) {
  const place = document.getElementById("announcer");
  if (place) place.textContent = text;
}
