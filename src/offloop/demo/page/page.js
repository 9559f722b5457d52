// The page: what people do with it, and what they are told of the connection.
//
// Owns the wiring between the two halves: `socket.js` does not know the page, and `card.js` does not know the socket.

import { Card } from "./card.js";
import { Connection } from "./socket.js";

/** What the endpoint takes (`max_body`), and the demo's server of one frame (`ws_max_size`); a larger one ends the socket. */
const LARGEST = 32 * 2 ** 20;
/** Announcements that are kept; a screen reader has read the older ones. */
const KEPT = 5;

/** @param {string} id */
const at = (id) => /** @type {HTMLElement} */ (document.getElementById(id));
const input = /** @type {HTMLInputElement} */ (at("files"));
const url = new URL("documents/keywords/stream", document.baseURI);
url.protocol = url.protocol.replace("http", "ws");
const connection = new Connection(url, new URL("offloop/readyz", document.baseURI), connected);
/** @type {Set<Card>} */
const cards = new Set();
/** @type {Set<Card>} */
const waiting = new Set();
let offline = false;

/** Tell who cannot see it. @param {string} text */
function say(text) {
  const line = document.createElement("p");
  line.textContent = text;
  at("said").append(line);
  while (at("said").children.length > KEPT) at("said").firstElementChild?.remove();
}

// ---- documents

/**
 * @param {string} name
 * @param {number | null} bytes
 * @param {() => Promise<ArrayBuffer>} load
 */
function add(name, bytes, load) {
  let cancel = () => {};
  const card = new Card(name, bytes, {
    cancel() {
      if (card.ended) return;
      card.cancelling();
      cancel();
    },
    again() {
      card.restart();
      ask();
    },
    remove() {
      // The focus was on what goes: it moves to the next card, or to where documents are chosen.
      const next = card.element.nextElementSibling ?? card.element.previousElementSibling;
      forget(card);
      (/** @type {HTMLElement | null} */ (next) ?? input).focus();
    },
  });
  const ask = () => {
    waiting.add(card);
    cancel = connection.ask(load, {
      sent() {
        waiting.delete(card);
        card.sent();
      },
      progress: (done, total) => card.progress(done, total),
      chunk: (page) => card.page(page),
      reply(found) {
        card.done(found);
        ended(`${name} is read. ${found.keywords.length ? `It is about ${found.keywords[0].phrase}.` : ""}`);
      },
      problem(problem) {
        waiting.delete(card);
        card.problem(problem);
        ended(`${name}: ${problem.title}`);
      },
    });
    if (waiting.has(card)) card.wait(offline);
  };
  cards.add(card);
  at("cards").append(card.element);
  at("documents").hidden = false;
  if (bytes !== null && bytes > LARGEST) {
    card.problem({ reason: "payload-too-large", title: "The file is too large", detail: "Up to 32 MB can be sent." });
    ended(`${name} is too large.`);
  } else {
    ask();
  }
}

/** @param {string} text */
function ended(text) {
  say(text);
  at("clear").hidden = [...cards].filter((card) => card.ended).length < 2;
}

/** @param {Card} card */
function forget(card) {
  cards.delete(card);
  card.element.remove();
  at("clear").hidden = [...cards].filter((one) => one.ended).length < 2;
  at("documents").hidden = cards.size === 0;
}

/** @param {Iterable<File>} files */
function addAll(files) {
  for (const file of files) add(file.name, file.size, () => file.arrayBuffer());
}

input.addEventListener("change", () => {
  addAll(input.files ?? []);
  input.value = ""; // so that the same file can be chosen again
});

at("samples").addEventListener("click", ({ target }) => {
  if (!(target instanceof HTMLButtonElement)) return;
  const { value } = target;
  add(value, null, async () => {
    const answer = await fetch(new URL(`samples/${value}`, document.baseURI));
    if (!answer.ok) throw new Error(`${answer.status}`);
    return answer.arrayBuffer();
  });
});

at("clear").addEventListener("click", () => {
  for (const card of [...cards].filter((one) => one.ended)) forget(card);
  (cards.size ? at("documents-title") : input).focus();
});

// The whole window takes files: one that misses the zone would otherwise be opened in the page's place.
for (const event of ["dragover", "dragleave", "drop"]) {
  window.addEventListener(event, (moved) => {
    const { dataTransfer, type, relatedTarget } = /** @type {DragEvent} */ (moved);
    if (!dataTransfer?.types.includes("Files")) return;
    moved.preventDefault();
    at("drop").classList.toggle("over", type === "dragover" || (type === "dragleave" && relatedTarget !== null));
    if (type === "drop") addAll(dataTransfer.files);
  });
}

// ---- the connection

/**
 * @param {import("./socket.js").State} state
 * @param {import("./socket.js").Problem | null} why
 */
function connected(state, why) {
  if (state !== "connecting") offline = state !== "open";
  for (const card of waiting) card.wait(offline);
  if (why !== null) {
    at("connection-title").textContent = why.title;
    at("connection-detail").textContent = state === "retrying" ? "Trying again in a moment." : (why.detail ?? "");
    at("connect").textContent = state === "retrying" ? "Try now" : "Connect again";
    if (at("connection").hidden || state === "down") say(why.title);
    at("connection").hidden = false;
  } else if (state === "open" && !at("connection").hidden) {
    const focused = document.activeElement === at("connect");
    at("connection").hidden = true;
    say("Connected again.");
    if (focused) input.focus();
  }
}

at("connect").addEventListener("click", () => connection.connect());
