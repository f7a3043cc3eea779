// The panel beside the chat: the tree of one cycle of one answer, and the way to the others.

import { byId } from "./dom.js";
import { describe, drawTree, visible } from "./tree.js";

const SHOWN_BEFORE = 48; // signs of the text before a cycle

export class TreePanel {
  #answer = null;
  #index = 0; // among the answer's cycles
  #isQueued = false;
  #welcome = byId("tree").firstElementChild;

  /** `onShow(answer, index)` is told what is shown. */
  constructor(onShow) {
    this.onShow = onShow;
    byId("first").onclick = () => this.go(1);
    byId("back").onclick = () => this.go(this.#index - 1);
    byId("on").onclick = () => this.go(this.#index + 1);
    byId("last").onclick = () => this.go(this.#latest);
    byId("cycle").oninput = (event) => this.go(Number(event.target.value));
    document.addEventListener("keydown", (event) => this.#key(event));
  }

  /** Show an answer, its latest cycle first unless told which. */
  show(answer, index = answer.cycles.length - 1) {
    this.#answer = answer;
    this.#index = index;
    this.#draw();
  }

  /** The shown answer has a new cycle: follow it, unless an earlier one is looked at. */
  follow(answer) {
    if (answer !== this.#answer) return;
    byId("tree-place").ariaLive = "off"; // nobody wants every cycle read out
    if (this.#index >= this.#latest - 1) this.#index = this.#latest;
    if (this.#isQueued) return;
    this.#isQueued = true; // one drawing a frame, however fast the cycles come
    requestAnimationFrame(() => {
      this.#isQueued = false;
      this.#draw();
    });
  }

  /** Show the cycle `index`; the first one is the prefill's and has no tree. */
  go(index) {
    if (this.#answer === null) return;
    byId("tree-place").ariaLive = "polite";
    this.#index = Math.max(1, Math.min(this.#latest, index));
    this.#draw();
  }

  /** Show nothing. */
  clear() {
    this.#answer = null;
    byId("tree").replaceChildren(this.#welcome);
    byId("tree-caption").textContent = byId("tree-place").textContent = "";
    document.querySelector(".tree-legend").hidden = true;
    this.#enable();
  }

  get #latest() {
    return this.#answer.cycles.length - 1;
  }

  #key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    if (this.#answer === null || event.target.closest("input, textarea, select")) return;
    if (document.body.dataset.view !== "chat") return;
    const goals = { ArrowLeft: this.#index - 1, ArrowRight: this.#index + 1, Home: 1, End: this.#latest };
    if (!(event.key in goals)) return;
    event.preventDefault();
    this.go(goals[event.key]);
  }

  #enable() {
    const [index, latest] = this.#answer ? [this.#index, this.#latest] : [0, 0];
    byId("first").disabled = byId("back").disabled = index <= 1;
    byId("last").disabled = byId("on").disabled = index >= latest;
    Object.assign(byId("cycle"), { disabled: latest < 2, max: Math.max(1, latest), value: Math.max(1, index) });
  }

  #draw() {
    if (this.#answer === null) return;
    this.#enable();
    this.onShow(this.#answer, this.#index);
    const cycle = this.#answer.cycles[this.#index];
    if (this.#index < 1 || !cycle) return;
    const before = this.#answer.cycles.slice(0, this.#index).flatMap(({ tokens }) => tokens);
    const text = before.map((token) => token.text).join("").replaceAll("\n", "↵");
    const shown = text.length > SHOWN_BEFORE ? `…${text.slice(-SHOWN_BEFORE)}` : text;
    byId("tree-place").textContent = `Cycle ${this.#index} of ${this.#latest}, after “${shown}”`;
    document.querySelector(".tree-legend").hidden = false;
    if (!cycle.tree) {
      byId("tree").replaceChildren();
      byId("tree-caption").textContent = `No tree: the target wrote “${visible(cycle.tokens[0]?.text ?? "")}” itself.`;
      return;
    }
    byId("tree").replaceChildren(drawTree(cycle));
    byId("tree-caption").textContent = describe(cycle);
  }
}
