// Two methods side by side: computed one after the other, then played back together.

import { Answer, pieceElement, statsElements } from "./answer.js";
import { loadCounts, Problem, streamChat } from "./api.js";
import { areValid, comparedMethods, controlValues, requestOptions } from "./controls.js";
import { byId, element, onEnter, shareLink } from "./dom.js";

const PATIENCE = 20; // times that a busy engine is asked again
const PAUSE = 500; // milliseconds between them

export class Compare {
  #running = null; // AbortController
  #lanes = []; // {method, answer, pieces, text, stats}
  #time = 0; // of the replay, in seconds
  #length = 0;
  #isPlaying = false;
  #frame = 0; // time of the last one, in milliseconds

  constructor() {
    byId("compare-form").addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.#running) this.#running.abort();
      else this.#run();
    });
    onEnter(byId("compare-prompt"), () => !this.#running && byId("compare-form").requestSubmit());
    byId("compare-link").onclick = () => shareLink(byId("compare-link"), this.#fragment());
    byId("play").onclick = () => (this.#isPlaying ? this.#pause() : this.#play());
    byId("time").oninput = () => {
      this.#show(Number(byId("time").value));
      this.#pause();
    };
  }

  /** Take a prompt from a link. */
  restore(prompt) {
    byId("compare-prompt").value = prompt;
    byId("compare-prompt").focus();
  }

  async #run() {
    if (!areValid()) return;
    this.#pause();
    byId("replay").hidden = true;
    byId("compare-link").disabled = true;
    this.#running = new AbortController();
    byId("compare-run").textContent = "Stop";
    try {
      await this.#compute();
    } catch (error) {
      this.#fail(error);
    } finally {
      this.#running = null;
      byId("compare-run").textContent = "Run both";
    }
  }

  async #compute() {
    const messages = [{ role: "user", content: byId("compare-prompt").value }];
    const methods = comparedMethods();
    let seed;
    let isAlone = true;
    this.#lanes = [];
    for (const [index, method] of methods.entries()) {
      const options = requestOptions(method);
      const say = (text) => status(`${index + 1} of 2, ${method}: ${text}`);
      const before = await this.#idle(say);
      const answer = new Answer();
      const pieces = [];
      for await (const chunk of streamChat({ messages, ...options, seed: seed ?? options.seed }, this.#running.signal)) {
        pieces.push(...answer.add(chunk));
        say(`computing, ${answer.tokens.length} tokens so far`);
      }
      pieces.push(...answer.finish());
      seed ??= answer.settings.seed; // the second answer is drawn with the first one's
      isAlone &&= (await loadCounts()).tokens - before.tokens === answer.tokens.length;
      this.#lanes.push({ method, answer, pieces });
    }
    this.seed = seed;
    this.#present(isAlone);
  }

  /** Wait until the engine has nothing else to do; returns the counts then. */
  async #idle(say) {
    for (let tries = 0; tries < PATIENCE; tries++) {
      const counts = await loadCounts();
      if (counts.active === 0) return counts;
      say("waiting for the engine, which has other answers to make");
      await new Promise((resolve) => setTimeout(resolve, PAUSE));
      this.#running.signal.throwIfAborted();
    }
    throw new Problem("The engine is busy with other answers, so times would mean nothing; try again later.");
  }

  #fail(error) {
    if (error.name === "AbortError") {
      status("Stopped.");
      return;
    }
    if (!(error instanceof Problem)) console.error(error);
    status(error instanceof Problem ? error.message : "The page itself failed; reload it, please.", "error");
    if (error.status === 401) document.dispatchEvent(new Event("key-wanted"));
  }

  #present(isAlone) {
    byId("pair").replaceChildren(...this.#lanes.map(lane));
    this.#length = Math.max(...this.#lanes.map(({ answer }) => answer.stats().seconds));
    Object.assign(byId("time"), { max: this.#length, value: 0 });
    status("");
    byId("alone").textContent = isAlone ? ", each alone on the engine" : "";
    byId("compare-status").append(...verdict(this.#lanes, isAlone));
    byId("replay").hidden = false;
    byId("compare-link").disabled = false;
    this.#time = 0;
    this.#play();
  }

  #play() {
    if (this.#time >= this.#length) this.#time = 0;
    this.#isPlaying = true;
    this.#frame = performance.now();
    byId("play").textContent = "Pause";
    requestAnimationFrame((now) => this.#tick(now));
  }

  #pause() {
    this.#isPlaying = false;
    byId("play").textContent = this.#time >= this.#length ? "Play again" : "Play";
  }

  #tick(now) {
    if (!this.#isPlaying) return;
    const elapsed = Math.max(0, now - this.#frame) / 1000;
    this.#frame = now;
    this.#show(this.#time + elapsed * Number(byId("speed").value));
    if (this.#time >= this.#length) this.#pause();
    else requestAnimationFrame((next) => this.#tick(next));
  }

  /** What both had written `time` seconds after their first token. */
  #show(time) {
    this.#time = Math.min(time, this.#length);
    byId("time").value = this.#time;
    byId("clock").textContent = `${this.#time.toFixed(2)} s`;
    for (const { answer, text, stats, box } of this.#lanes) {
      const { cycles } = answer;
      const seen = cycles.filter(({ seconds }) => seconds - cycles[0].seconds <= this.#time + 1e-9).length;
      for (const piece of text.children) piece.hidden = Number(piece.dataset.cycle) >= seen;
      stats.replaceChildren(...statsElements(answer.stats(seen)));
      box.classList.toggle("done", seen === cycles.length);
    }
  }

  #fragment() {
    const values = new URLSearchParams({ view: "compare", ...controlValues(), seed: this.seed });
    values.append("user", byId("compare-prompt").value);
    return values;
  }
}

function status(text, className = "") {
  Object.assign(byId("compare-status"), { textContent: text, className });
}

/** A column of the replay; its parts join the lane. */
function lane(own) {
  own.text = element("div", { className: "text" }, ...own.pieces.map(pieceElement));
  own.stats = element("p", { className: "stats" });
  const seconds = own.answer.stats().seconds.toFixed(2);
  own.box = element(
    "article",
    {},
    element("h2", {}, own.method, element("span", { className: "muted took", textContent: ` ${seconds} s` })),
    own.text,
    own.stats,
  );
  return own.box;
}

/** Whether the ids are equal, how the times compare, and what speaks against them. */
function verdict(lanes, isAlone) {
  const parts = [sameIds(...lanes), ratio(...lanes)];
  if (!isAlone) {
    parts.push(
      element("span", {
        className: "warning",
        textContent: " Other answers were made meanwhile, so these times are not comparable; run it again.",
      }),
    );
  }
  return parts;
}

function sameIds(first, second) {
  const [a, b] = [first, second].map(({ answer }) => answer.tokens.map(({ id }) => id));
  if (a.length === b.length && a.every((id, index) => id === b[index])) {
    return element("span", { className: "same", textContent: `✓ The ids are equal, all ${a.length} of them.` });
  }
  let at = 0;
  while (a[at] === b[at]) at++;
  const loose = [first, second].find(({ answer }) => answer.settings.lossless !== "ids");
  const why = loose ? ` ${loose.method} does not promise equal ids with these options.` : "";
  return element("span", { className: "differ", textContent: `✗ The ids differ from token ${at + 1} on.${why}` });
}

function ratio(first, second) {
  const [a, b] = [first, second].map(({ answer }) => answer.stats());
  if (!(a.seconds > 0 && b.seconds > 0)) return "";
  const [fast, slow] = a.seconds < b.seconds ? [first, second] : [second, first];
  const times = slow.answer.stats().seconds / fast.answer.stats().seconds;
  const passes = `${fast.answer.stats().passes} passes of the model against ${slow.answer.stats().passes}`;
  return ` ${fast.method} was ${times.toFixed(2)} times as fast as ${slow.method} (${passes}).`;
}
