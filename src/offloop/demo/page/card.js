// One document as it is seen: its name, how far it is, its pages and keywords, or what went wrong.
//
// Owns the drawing of one card. What a document says is only ever put in as text. How it travels is not known here.

/** @typedef {import("./socket.js").Problem} Problem */
/** @typedef {{number: number, text: string, words: number}} Page */
/** @typedef {{words: number, keywords: {phrase: string, score: number, count: number}[]}} Keywords */

/** Rows of pages that are drawn at once; the others when somebody asks. */
const ROWS = 50;

/** @param {unknown} number */
const count = (number) => Number(number).toLocaleString("en");
/** @param {number} number @param {string} word */
const several = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;

// When to try again is on the button, and counts down there.
const busy = () => "The server has too much to do; nothing is wrong with the file. Try again in a moment.";
const away = () => "The server is about to be replaced. Try again in a moment.";
const unknown = () => "Try again. Where that ends in the same way, it may be the file.";

/** What to do about a problem, by its reason. */
const ADVICE = {
  "encrypted-pdf": () => "Save a copy without a password, and send that.",
  "broken-pdf": () => "Open it in a PDF viewer and save it again, or send another file.",
  "empty-pdf": () => "If it is a scan, run text recognition on it first.",
  "too-many-pages": ({ pages, limit }) => `It has ${count(pages)} pages, and ${count(limit)} may be read. Split it.`,
  "oversized-pdf": () => "Split it, or leave the largest pages out.",
  "payload-too-large": () => "Split it, or save it with smaller pictures.",
  "unreadable": () => "Choose it again.",
  "endpoint-busy": busy,
  "queue-full": busy,
  "expired-in-queue": busy,
  "deadline-exceeded": () => "It took longer than the server allows. Try again when there is less to do, or split it.",
  "worker-lost": () => "Another takes its place. Try again; if that is lost, too, it may be the file.",
  "draining": away,
  "backend-unavailable": away,
  "drain-cut": away,
  "connection-lost": () => "Try again; that connects, too.",
};
/** What another try cannot mend: the same file would meet the same end. */
const FINAL = new Set([
  "encrypted-pdf", "broken-pdf", "empty-pdf", "too-many-pages", "oversized-pdf", "payload-too-large", "unreadable",
]);

/** What stands in the place of keywords, by the card's state. */
const NO_KEYWORDS = {
  done: "None stands out.",
  failed: "Not all of it was read.",
  cancelled: "Not all of it was read.",
};

/** @param {number} bytes */
function size(bytes) {
  if (bytes < 1000) return several(bytes, "byte");
  return bytes < 1e6 ? `${Math.round(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

/** @param {string} id */
const template = (id) => /** @type {HTMLTemplateElement} */ (document.getElementById(id)).content.firstElementChild;

let made = 0;

export class Card {
  /** @type {Page[]} */
  #pages = [];
  #drawn = 0;
  #allowed = ROWS;
  /** Whether the list shows its newest row: until somebody takes hold of it. */
  #follows = true;
  #total = 0;
  #countdown = 0;
  #bytes;
  ended = false;

  /**
   * @param {string} name of the file
   * @param {number | null} bytes of it, where known
   * @param {{cancel: () => void, again: () => void, remove: () => void}} does what the buttons do
   */
  constructor(name, bytes, does) {
    this.name = name;
    this.#bytes = bytes === null ? "" : `${size(bytes)}, `;
    this.element = /** @type {HTMLElement} */ (template("card").cloneNode(true));
    const title = this.#find("name");
    title.textContent = name;
    title.id = `card-${++made}`;
    this.element.setAttribute("aria-labelledby", title.id);
    this.#progress.setAttribute("aria-labelledby", title.id);
    for (const [button, act] of Object.entries(does)) {
      const element = this.#find(button);
      element.addEventListener("click", act);
      element.setAttribute("aria-describedby", title.id);
    }
    this.#find("more").addEventListener("click", () => this.#more());
    for (const event of ["wheel", "pointerdown", "focusin"]) {
      this.#find("pages").addEventListener(event, () => (this.#follows = false), { passive: true });
    }
    this.wait(false);
  }

  /** @param {string} name @returns {HTMLElement} */
  #find(name) {
    return /** @type {HTMLElement} */ (this.element.querySelector(`.${name}`));
  }

  get #progress() {
    return /** @type {HTMLProgressElement} */ (this.element.querySelector("progress"));
  }

  // ---- what happens to it

  /** Not sent yet. @param {boolean} offline */
  wait(offline) {
    this.#status(offline ? "waiting for the connection" : "waiting for its turn");
  }

  /** Another try: as at the beginning. */
  restart() {
    clearInterval(this.#countdown);
    this.#pages = [];
    this.#drawn = this.#total = 0;
    this.#allowed = ROWS;
    this.#follows = true;
    this.ended = false;
    this.#find("rows").replaceChildren();
    this.#find("ranked").replaceChildren();
    this.#find("problem").hidden = true;
    this.#progress.value = 0;
    this.#draw("waiting");
    this.#buttons("cancel");
    this.wait(false);
  }

  sent() {
    this.#status("waiting to be read");
  }

  /** @param {number} done @param {number | null} total */
  progress(done, total) {
    this.#total = total ?? this.#total;
    this.#progress.max = this.#total || 1;
    this.#progress.value = Math.max(this.#progress.value, done);
    this.#reading();
  }

  /** @param {Page} page */
  page(page) {
    this.#pages.push(page);
    // The bar is not told of every page; with the pages it never stands behind what is seen.
    if (this.#total) this.#progress.value = Math.max(this.#progress.value, this.#pages.length);
    this.#draw("reading");
    this.#reading();
  }

  cancelling() {
    this.#status("cancelling");
    /** @type {HTMLButtonElement} */ (this.#find("cancel")).ariaDisabled = "true";
  }

  /** @param {Keywords} found */
  done(found) {
    const ranked = found.keywords.map(({ phrase, count: times }) => {
      const row = document.createElement("li");
      const [what, often] = ["phrase", "often"].map((name) => {
        const span = document.createElement("span");
        span.className = name;
        return span;
      });
      what.textContent = phrase;
      often.textContent = several(times, "time");
      row.append(what, " ", often);
      return row;
    });
    this.#find("ranked").replaceChildren(...ranked);
    this.#progress.value = this.#progress.max;
    this.#end("done", `${several(this.#pages.length, "page")}, ${several(found.words, "word")}`, "remove");
    if (this.#follows) this.#find("pages").scrollTop = 0;
  }

  /** @param {Problem} problem */
  problem(problem) {
    const { reason, title, detail = "", retryAfter } = problem;
    const read = this.#pages.length ? ` after ${several(this.#pages.length, "page")}` : "";
    const final = FINAL.has(reason);
    const cancelled = reason === "cancelled";
    if (!cancelled) {
      this.#find("title").textContent = sentence(title);
      this.#find("detail").textContent = detail && sentence(detail) !== sentence(title) ? sentence(detail) : "";
      this.#find("advice").textContent = (ADVICE[reason] ?? unknown)(problem);
      this.#find("problem").hidden = false;
    }
    const buttons = final ? ["remove"] : ["again", "remove"];
    if (cancelled) this.#end("cancelled", `cancelled${read}`, ...buttons);
    else this.#end("failed", `${read ? "stopped" : "not read"}${read}`, ...buttons);
    if (retryAfter && !final) this.#count(retryAfter);
  }

  // ---- how that looks

  /** @param {string} text */
  #status(text) {
    this.#find("status").textContent = this.#bytes + text;
  }

  #reading() {
    const read = this.#pages.length;
    if (this.#total && read >= this.#total) this.#status("looking for keywords");
    else if (read || this.#total) this.#status(`page ${count(read)}${this.#total ? ` of ${count(this.#total)}` : ""}`);
  }

  /** @param {string} state @param {string} status @param {string[]} buttons */
  #end(state, status, ...buttons) {
    this.ended = true;
    this.#draw(state);
    this.#status(status);
    this.#buttons(...buttons);
  }

  /** @param {string[]} shown */
  #buttons(...shown) {
    const buttons = ["again", "cancel", "remove"].map((name) => /** @type {HTMLButtonElement} */ (this.#find(name)));
    const held = buttons.find((button) => button === document.activeElement);
    for (const button of buttons) {
      button.hidden = !shown.some((name) => button.classList.contains(name));
      button.ariaDisabled = null;
    }
    // To the card, and not to the button that stands there now: who was about to press one must not press another.
    if (held?.hidden) this.element.focus();
  }

  /** @param {number} seconds */
  #count(seconds) {
    const button = /** @type {HTMLButtonElement} */ (this.#find("again"));
    const until = Date.now() + seconds * 1000;
    const look = () => {
      const left = Math.ceil((until - Date.now()) / 1000);
      button.disabled = left > 0;
      button.textContent = left > 0 ? `Try again in ${left} s` : "Try again";
      if (left <= 0) clearInterval(this.#countdown);
    };
    clearInterval(this.#countdown);
    this.#countdown = setInterval(look, 250);
    look();
  }

  /** @param {string} state */
  #draw(state) {
    this.element.dataset.state = state;
    this.element.classList.toggle("bare", this.ended && !this.#pages.length);
    const [noPages, noKeywords] = this.element.querySelectorAll(".empty");
    /** @type {HTMLElement} */ (noPages).hidden = this.#pages.length > 0;
    /** @type {HTMLElement} */ (noKeywords).hidden = state === "done" && this.#find("ranked").children.length > 0;
    noKeywords.textContent = NO_KEYWORDS[state] ?? "They follow the last page.";
    const until = Math.min(this.#pages.length, this.#allowed);
    if (this.#drawn < until) {
      this.#find("rows").append(...this.#pages.slice(this.#drawn, until).map(row));
      this.#drawn = until;
      const list = this.#find("pages");
      if (this.#follows) list.scrollTop = list.scrollHeight;
    }
    const left = this.#pages.length - this.#drawn;
    this.#find("more").hidden = left === 0;
    this.#find("more").textContent = `Show ${count(Math.min(left, ROWS))} more of ${several(left, "page")}`;
  }

  #more() {
    const rows = this.#find("rows");
    const next = rows.children.length;
    this.#allowed += ROWS;
    this.#draw(this.element.dataset.state ?? "");
    /** @type {HTMLElement | null} */ (rows.children[next]?.querySelector("summary"))?.focus();
  }
}

/**
 * A page, closed. Its text is in the document only while it is open: there may be a thousand.
 * @param {Page} page
 */
function row(page) {
  const element = /** @type {HTMLElement} */ (template("row").cloneNode(true));
  const parts = ["number", "begins", "words", "text"].map((name) => element.querySelector(`.${name}`));
  const [number, begins, words, text] = parts;
  number.textContent = count(page.number);
  begins.textContent = page.text.slice(0, 160).replace(/\s+/g, " ");
  words.textContent = several(page.words, "word");
  const details = /** @type {HTMLDetailsElement} */ (element.querySelector("details"));
  details.addEventListener("toggle", () => {
    text.textContent = details.open ? page.text || "There is no text on this page." : "";
  });
  return element;
}

/** @param {string} text */
const sentence = (text) => (/[.!?…]$/.test(text) ? text : `${text}.`);
