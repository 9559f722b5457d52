// The connection: one WebSocket for many requests, when it is opened again, and what becomes of each request.
//
// Owns the protocol and the waiting. Nothing of the page may enter: it is told by callbacks, and could be used by any.

/**
 * Why something did not work, in words for people. Those of the server have more members (RFC 9457).
 * @typedef {{reason: string, title: string, detail?: string, retryAfter?: number, [member: string]: unknown}} Problem
 */

/**
 * What a request tells. `reply` or `problem` is the last, and comes once.
 * @typedef {object} Hears
 * @property {() => void} sent
 * @property {(done: number, total: number | null) => void} progress
 * @property {(data: any) => void} chunk
 * @property {(data: any) => void} reply
 * @property {(problem: Problem) => void} problem
 */

/**
 * `down`: it will not be opened again by itself. Why is told with `retrying` and `down`.
 * @typedef {"connecting" | "open" | "retrying" | "down"} State
 */

/** Requests at once on one socket; the server's default (`OFFLOOP_WS_IN_FLIGHT`). The others wait here. */
const IN_FLIGHT = 16;
/** Attempts to connect, one after the other, before somebody has to ask for more. */
const ATTEMPTS = 6;
/** Milliseconds before the second attempt; twice that before the third, and so on. */
const FIRST_WAIT = 500;
const LONGEST_WAIT = 8000;

const UNREADY = ["The server takes no work at the moment.", "It is starting, or shutting down."];
const CANCELLED = { reason: "cancelled", title: "Cancelled" };
const UNREADABLE = {
  reason: "unreadable",
  title: "The file cannot be read",
  detail: "It may have been moved or changed.",
};
const TOO_LARGE = {
  reason: "payload-too-large",
  title: "The file is too large",
  detail: "The server takes smaller files only.",
};

/** One document on its way, from being asked for to its end. */
class Request {
  /** @type {"waiting" | "loading" | "live" | "ended"} */
  phase = "waiting";
  id = "";
  size = 0;
  heard = false;

  /**
   * @param {() => Promise<ArrayBuffer>} load
   * @param {Hears} hears
   */
  constructor(load, hears) {
    this.load = load;
    this.hears = hears;
  }

  /** @param {Problem} problem */
  fail(problem) {
    this.phase = "ended";
    this.hears.problem(problem);
  }
}

export class Connection {
  #url;
  #health;
  #changed;
  /** @type {WebSocket | null} */
  #socket = null;
  /** @type {Request[]} */
  #waiting = [];
  /** @type {Set<Request>} */
  #loading = new Set();
  /** @type {Map<string, Request>} */
  #live = new Map();
  #numbered = 0;
  #attempts = 0;
  #timer = 0;
  /** Whether somebody has asked for a connection, with or without anything to send. */
  #asked = false;
  /** @type {Problem | null} */
  #why = null;

  /**
   * @param {URL} url where the socket is
   * @param {URL} health answers 200 while the server takes requests: a browser does not tell why a socket was refused
   * @param {(state: State, why: Problem | null) => void} changed
   */
  constructor(url, health, changed) {
    this.#url = url;
    this.#health = health;
    this.#changed = changed;
  }

  /**
   * Send a document, now or when there is room and a connection.
   * @param {() => Promise<ArrayBuffer>} load gives the bytes, once it is their turn
   * @param {Hears} hears
   * @returns {() => void} cancels it; its end is still told
   */
  ask(load, hears) {
    const request = new Request(load, hears);
    this.#waiting.push(request);
    this.#goOn();
    return () => this.#cancel(request);
  }

  /** Connect because somebody wants to: at once, and with all attempts again. */
  connect() {
    this.#asked = true;
    this.#attempts = 0;
    this.#open();
  }

  get #wanted() {
    return this.#asked || this.#waiting.length > 0 || this.#loading.size > 0;
  }

  /** What was to be sent may have been cancelled meanwhile: then nobody needs the next attempt. */
  #rest() {
    if (!this.#timer || this.#wanted) return;
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.#changed("down", this.#why);
  }

  /** @param {Request} request */
  #cancel(request) {
    if (request.phase === "live") {
      this.#socket?.send(JSON.stringify({ id: request.id, event: "cancel" }));
    } else if (request.phase !== "ended") {
      this.#waiting = this.#waiting.filter((one) => one !== request);
      request.fail(CANCELLED);
      this.#rest();
    }
  }

  #goOn() {
    if (!this.#waiting.length) return;
    if (this.#socket === null) {
      // While a timer runs, another document is no reason to ask sooner.
      if (this.#timer) return;
      this.#attempts = 0;
      this.#open();
      return;
    }
    if (this.#socket.readyState !== WebSocket.OPEN) return;
    while (this.#waiting.length && this.#live.size + this.#loading.size < IN_FLIGHT) {
      this.#send(this.#waiting.shift(), this.#socket);
    }
  }

  /**
   * @param {Request} request
   * @param {WebSocket} socket
   */
  async #send(request, socket) {
    request.phase = "loading";
    this.#loading.add(request);
    const bytes = await request.load().catch(() => null);
    this.#loading.delete(request);
    if (request.phase === "loading") {
      if (bytes === null) {
        request.fail(UNREADABLE);
      } else if (socket.readyState !== WebSocket.OPEN) {
        request.phase = "waiting"; // it was never sent, so it is not lost
        this.#waiting.unshift(request);
      } else {
        // The server numbers the binary frames of a socket, from 1; those are the ids.
        request.id = String(++this.#numbered);
        request.size = bytes.byteLength;
        request.phase = "live";
        this.#live.set(request.id, request);
        socket.send(bytes);
        request.hears.sent();
      }
    }
    // Without a connection it goes on when there is one again; who asks for that is decided at the close.
    if (this.#socket?.readyState === WebSocket.OPEN) this.#goOn();
    else this.#rest();
  }

  /** @param {string} text */
  #hear(text) {
    this.#attempts = 0; // not before: one that accepts and closes at once is as good as none
    const said = JSON.parse(text);
    const request = this.#live.get(said.id);
    if (request === undefined) return;
    request.heard = true;
    if (said.event === "chunk") request.hears.chunk(said.data);
    else if (said.event === "progress") request.hears.progress(said.done, said.total);
    else {
      this.#live.delete(said.id);
      if (said.event === "reply") {
        request.phase = "ended";
        request.hears.reply(said.data);
      } else {
        request.fail(problem(said));
      }
      this.#goOn();
    }
  }

  // ---- opening and closing

  #open() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    if (this.#socket !== null) return;
    this.#attempts += 1;
    this.#changed("connecting", null);
    const socket = new WebSocket(this.#url);
    let opened = false;
    this.#socket = socket;
    this.#numbered = 0;
    socket.onopen = () => {
      opened = true;
      this.#asked = false;
      this.#changed("open", null);
      this.#goOn();
    };
    socket.onmessage = ({ data }) => this.#hear(data);
    socket.onclose = ({ code, reason }) => this.#closed(code, reason, opened);
  }

  /**
   * @param {number} code
   * @param {string} reason
   * @param {boolean} opened
   */
  async #closed(code, reason, opened) {
    this.#socket = null;
    const lost = [...this.#live.values()];
    this.#live.clear();
    // One frame was too large, which closed it for all: if any was, then the largest that nothing was heard of.
    const unheard = lost.filter((request) => !request.heard).sort((one, next) => next.size - one.size);
    const culprit = code === 1009 ? unheard[0] : undefined;
    const why = explained(code, reason);
    const other = { reason: "connection-lost", title: why.title };
    for (const request of lost) request.fail(request === culprit ? TOO_LARGE : other);
    // What waits is sent again by itself, but not for ever; who has nothing to send need not be connected.
    this.#why = opened ? why : await this.#refused();
    if (this.#socket !== null) return; // somebody has asked to connect meanwhile
    if (!this.#wanted || this.#attempts >= ATTEMPTS) {
      this.#asked = false;
      this.#changed("down", this.#why);
      return;
    }
    const wait = Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** Math.max(0, this.#attempts - 1));
    // Jitter: everybody has lost the same server at the same moment.
    this.#timer = setTimeout(() => this.#open(), wait * (0.5 + Math.random()));
    this.#changed("retrying", this.#why);
  }

  /** @returns {Promise<Problem>} */
  async #refused() {
    try {
      const { ok } = await fetch(this.#health, { cache: "no-store", signal: AbortSignal.timeout(3000) });
      return ok
        ? { reason: "refused", title: "The server refuses the connection.", detail: "It takes none from this page." }
        : { reason: "unready", title: UNREADY[0], detail: UNREADY[1] };
    } catch {
      return { reason: "unreachable", title: "The server cannot be reached.", detail: "It may be restarting." };
    }
  }
}

/**
 * A problem as it is told. What does not validate has FastAPI's shape, and no title.
 * @param {{problem: any, retry_after?: number}} said
 * @returns {Problem}
 */
function problem(said) {
  if (said.problem.reason) return { ...said.problem, retryAfter: said.retry_after };
  return { reason: "invalid-payload", title: "The server did not understand the request" };
}

/**
 * A close in words (RFC 6455, section 7.4.1, and IANA's registry).
 * @param {number} code
 * @param {string} reason
 * @returns {Problem}
 */
function explained(code, reason) {
  const [title, detail] = {
    1008: ["The server ended the connection.", reason ? `It says: ${reason}.` : ""],
    1009: ["The connection was closed.", "A file was larger than the server takes."],
    1012: ["The server is restarting.", "It answered what it could before."],
    1013: UNREADY,
  }[code] ?? ["The connection was lost.", "The server may have ended, or the network may be down."];
  return { reason: `closed-${code}`, title, detail };
}
