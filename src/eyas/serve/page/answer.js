// One answer as it comes: its text in pieces, its cycles, and the rates derived from them.

import { element } from "./dom.js";

const MAX_TINT = 6; // deeper tokens share the last tint
const LONGEST = 8; // signs that one token without readable text may stand for
const BROKEN = "\uFFFD"; // a token that is a part of a character

/** What the server has told about one answer. The first cycle is the prefill: one pass, one token, no tree. */
export class Answer {
  text = "";
  tokens = []; // {id, text, depth, cycle}
  cycles = []; // {tree, seconds, tokens, before}: `before` is the text so far, for the tree's title
  settings = null;
  reason = null;

  #aligner = new Aligner();

  /** Take a chunk; returns the pieces of text that it completes. */
  add(chunk) {
    const choice = chunk.choices[0];
    this.settings ??= chunk.eyas ?? null;
    if (!choice) return [];
    const { tokens, tree, seconds } = choice.eyas;
    const own = tokens.map((token) => ({ ...token, cycle: this.cycles.length }));
    this.cycles.push({ tree, seconds, tokens: own, before: this.text });
    this.tokens.push(...own);
    this.text += choice.delta.content;
    this.reason = choice.finish_reason;
    return this.#aligner.add(choice.delta.content, own);
  }

  /** The rest of the text, once nothing more comes. */
  finish() {
    return this.#aligner.finish();
  }

  /** Counts and rates of the first `cycles` cycles. */
  stats(cycles = this.cycles.length) {
    const seen = this.cycles.slice(0, cycles);
    const tokens = seen.reduce((total, cycle) => total + cycle.tokens.length, 0);
    const drafted = seen.slice(1);
    const reached = drafted.reduce((total, { tree }) => total + (tree ? tree.path.length : 1), 0);
    const seconds = seen.length ? seen.at(-1).seconds - seen[0].seconds : 0;
    return {
      tokens,
      passes: seen.length,
      saved: tokens - seen.length,
      seconds,
      tokensPerSecond: seconds > 0 ? (tokens - 1) / seconds : null,
      acceptanceLength: drafted.length ? reached / drafted.length : null, // the bonus token included
    };
  }
}

/** Cuts a text where its tokens end. A character may take several tokens, a special token shows nothing. */
class Aligner {
  #text = ""; // not cut yet
  #waiting = []; // tokens whose text has not been found yet
  #latest = null;

  add(text, tokens) {
    this.#text += text;
    this.#waiting.push(...tokens);
    const pieces = [];
    while (this.#cut(pieces));
    return pieces;
  }

  finish() {
    const token = this.#waiting.at(-1) ?? this.#latest;
    return this.#text && token ? [{ text: this.#text, token }] : [];
  }

  /** Cut off the next token whose text is found, and before it what the tokens without readable text gave. */
  #cut(pieces) {
    for (const [index, token] of this.#waiting.entries()) {
      if (!token.text || token.text.includes(BROKEN)) continue;
      const at = this.#text.indexOf(token.text);
      if (at < 0 || at > LONGEST * index + 1) continue;
      if (at > 0 && index > 0) pieces.push({ text: this.#text.slice(0, at), token: this.#waiting[index - 1] });
      const start = index > 0 ? at : 0; // tokenizers that drop a space before a lone token give it here
      const end = at + token.text.length;
      pieces.push({ text: this.#text.slice(start, end), token });
      this.#text = this.#text.slice(end);
      this.#waiting.splice(0, index + 1);
      this.#latest = token;
      return true;
    }
    return false;
  }
}

/** A piece as a tinted span that knows its cycle. */
export function pieceElement({ text, token }) {
  const own = token.depth === null;
  const made = element("span", {
    className: own ? "own" : `d${Math.min(token.depth, MAX_TINT)}`,
    textContent: text,
    title: own ? "the target's own token" : `drafted, accepted at depth ${token.depth}`,
  });
  made.dataset.cycle = token.cycle;
  return made;
}

/** The rates as labelled numbers. */
export function statsElements(stats) {
  const show = (value, digits) => (value === null ? "–" : value.toFixed(digits));
  return [
    labelled(show(stats.tokensPerSecond, stats.tokensPerSecond < 10 ? 1 : 0), "tokens/s"),
    labelled(show(stats.acceptanceLength, 2), "tokens a pass", "Acceptance length: mean tokens per cycle"),
    labelled(`${stats.saved} of ${stats.tokens}`, "passes saved", `${stats.tokens} tokens, ${stats.passes} passes`),
  ];
}

function labelled(value, label, title = "") {
  return element("span", { title }, element("b", { textContent: value }), ` ${label}`);
}
