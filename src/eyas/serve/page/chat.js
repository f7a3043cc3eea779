// The conversation: messages, answers as they stream, and their links.

import { Answer, pieceElement, statsElements } from "./answer.js";
import { Problem, streamChat } from "./api.js";
import { areValid, controlValues, requestOptions } from "./controls.js";
import { byId, element, onEnter, shareLink } from "./dom.js";
import { TreePanel } from "./trees.js";

const EXAMPLES = ["Name three rivers in Europe.", "Write a haiku about tides.", "Write a Python function that adds two numbers."];

export class Chat {
  #turns = []; // {user, answer, element, options}
  #running = null; // its AbortController

  constructor() {
    this.trees = new TreePanel((answer, index) => this.#mark(answer, index));
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.#running) this.#running.abort();
      else this.#send();
    });
    byId("clear").onclick = () => this.clear();
    onEnter(byId("prompt"), () => !this.#running && byId("composer").requestSubmit());
    byId("examples").append(
      ...EXAMPLES.map((text) => {
        const onclick = () => this.#fill(text);
        return element("li", {}, element("button", { type: "button", textContent: text, onclick }));
      }),
    );
  }

  /** Forget the conversation. */
  clear() {
    this.#running?.abort();
    this.#turns = [];
    byId("turns").replaceChildren();
    byId("clear").disabled = true;
    this.trees.clear();
    this.#welcome();
    byId("prompt").focus();
  }

  /** Take a conversation from a link: all of it but the last message is shown, that one waits to be sent. */
  restore(messages) {
    this.clear();
    while (messages.length > 1) {
      const [user, assistant] = messages.splice(0, 2);
      this.#addTurn(user, { text: assistant }).body.append(assistant);
    }
    this.#fill(messages[0] ?? "");
  }

  #fill(text) {
    byId("prompt").value = text;
    byId("prompt").focus();
  }

  #welcome() {
    byId("welcome").hidden = this.#turns.length > 0;
  }

  async #send() {
    if (!areValid()) return;
    const user = byId("prompt").value;
    const messages = [...this.#messages(), { role: "user", content: user }];
    const turn = this.#addTurn(user, new Answer());
    turn.messages = messages;
    byId("prompt").value = "";
    this.trees.show(turn.answer, 1);
    this.#setRunning(new AbortController());
    turn.element.setAttribute("aria-busy", "true");
    try {
      for await (const chunk of streamChat({ messages, ...requestOptions() }, this.#running.signal)) {
        this.#take(turn, chunk);
      }
    } catch (error) {
      if (error.name !== "AbortError") this.#fail(turn, error);
    } finally {
      turn.body.append(...turn.answer.finish().map(pieceElement));
      turn.element.removeAttribute("aria-busy");
      this.#setRunning(null);
      this.trees.follow(turn.answer);
    }
    if (turn.answer.tokens.length) this.#offer(turn);
  }

  #take(turn, chunk) {
    const turns = byId("turns");
    const isAtEnd = turns.scrollHeight - turns.scrollTop - turns.clientHeight < 60;
    turn.body.append(...turn.answer.add(chunk).map(pieceElement));
    turn.stats.replaceChildren(...statsElements(turn.answer.stats()));
    this.trees.follow(turn.answer);
    if (isAtEnd) turns.scrollTop = turns.scrollHeight;
  }

  #fail(turn, error) {
    const message = error instanceof Problem ? error.message : "The page itself failed; reload it, please.";
    turn.element.append(element("p", { className: "error", role: "alert", textContent: message }));
    if (!(error instanceof Problem)) console.error(error);
    if (turn.answer.tokens.length === 0 && byId("prompt").value === "") byId("prompt").value = turn.user;
    if (error.status === 401) document.dispatchEvent(new Event("key-wanted"));
  }

  /** Buttons below a whole answer. */
  #offer(turn) {
    const { seed, method } = turn.answer.settings;
    const fragment = () => {
      const values = new URLSearchParams({ ...turn.controls, method, seed });
      for (const { role, content } of turn.messages) values.append(role, content);
      return values;
    };
    const link = element("button", { type: "button", className: "quiet", textContent: "Copy link" });
    link.title = "A link that makes this answer again: its messages, options and seed";
    link.onclick = () => shareLink(link, fragment());
    const show = element("button", { type: "button", className: "quiet", textContent: "Show its trees" });
    show.onclick = () => this.trees.show(turn.answer, 1);
    turn.element.querySelector(".actions").append(element("span", { textContent: `${method}, seed ${seed}` }), show, link);
  }

  #addTurn(user, answer) {
    const body = element("div", { className: "text" });
    const stats = element("p", { className: "stats" });
    const item = element(
      "li",
      {},
      element("p", { className: "user", textContent: user }),
      element("div", { className: "answer" }, body, stats, element("p", { className: "actions" })),
    );
    const turn = { user, answer, body, stats, element: item, controls: controlValues(), messages: [] };
    body.onclick = ({ target }) => target.dataset.cycle && this.trees.show(answer, Math.max(1, Number(target.dataset.cycle)));
    this.#turns.push(turn);
    byId("turns").append(item);
    byId("turns").scrollTop = byId("turns").scrollHeight;
    byId("clear").disabled = false;
    this.#welcome();
    return turn;
  }

  /** What has been said so far; a turn without an answer is left out. */
  #messages() {
    return this.#turns
      .filter(({ answer }) => answer.text)
      .flatMap(({ user, answer }) => [
        { role: "user", content: user },
        { role: "assistant", content: answer.text },
      ]);
  }

  #setRunning(controller) {
    this.#running = controller;
    byId("send").textContent = controller ? "Stop" : "Send";
    byId("prompt").required = !controller; // an empty message may not be sent, but a running answer be stopped
  }

  /** Outline the tokens of the cycle that the trees show. */
  #mark(answer, index) {
    for (const { answer: other, body } of this.#turns) {
      for (const piece of body.children) {
        piece.classList.toggle("current", other === answer && Number(piece.dataset.cycle) === index);
      }
    }
  }
}
