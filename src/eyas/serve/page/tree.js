// Draws one cycle's tree as SVG, from left to right, one column per depth. One child continues its parent's
// row: the accepted one, or else the best. So the root stays in the top left corner, and from there what
// became text runs along the top.

import { svg } from "./dom.js";

// Sizes in pixels.
const ROW = 27;
const BOX = 21;
const CHARACTER = 7.25; // width of one sign of the tree's font
const VALUE = 27; // room for a value inside its box
const GAP = 30; // between columns, for the edges
const TOP = 26; // room for the depths
const LONGEST = 16; // signs of a token that are shown
const BEND = 6; // radius of an edge's corners

/** The drawing of a cycle with a tree; its size is in `width` and `height`. */
export function drawTree(cycle) {
  const nodes = withBonus(cycle);
  place(nodes);
  const { lefts, width } = columns(nodes);
  for (const node of nodes) node.left = lefts[node.depth];
  const height = TOP + ROW * (1 + Math.max(...nodes.map((node) => node.row)));
  const edges = nodes.filter((node) => node.parent).sort((a, b) => rank(a) - rank(b));
  return svg(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": describe(cycle) },
    ...lefts.map((left, depth) => heading(left, depth, depth === nodes.at(-1).depth && nodes.at(-1).isBonus)),
    ...edges.map(edge),
    ...nodes.map(box),
  );
}

/** A token's text in signs that show: spaces, line breaks, and what does not print. */
export function visible(text) {
  const signs = [...text].map((sign) => {
    if (sign === " ") return "·";
    if (sign === "\n") return "↵";
    if (sign === "\t") return "⇥";
    return /\p{C}/u.test(sign) ? `\\u${sign.codePointAt(0).toString(16)}` : sign;
  });
  return signs.join("") || "∅";
}

/** A value with two digits after the point. */
export function showValue(value) {
  if (value >= 0.995) return "1.0";
  return value < 0.005 ? "<.01" : value.toFixed(2).slice(1);
}

/** What a cycle came to, in a sentence. */
export function describe({ tree, tokens }) {
  const verified = tree.kept.filter(Boolean).length - 1;
  const accepted = tree.path.length - 1;
  if (verified === 0) return `Nothing was drafted here: ${count(tokens.length, "token")} from one pass.`;
  return (
    `${accepted} of ${count(verified, "drafted token")} accepted: ` +
    `${count(tokens.length, "token")} from one pass of the model.`
  );
}

const count = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;

/** Nodes as objects, and behind them the target's own token as a child of the last accepted one. */
function withBonus({ tree, tokens }) {
  const accepted = new Set(tree.path);
  const nodes = tree.texts.map((text, index) => ({
    text,
    value: tree.values[index],
    isRoot: index === 0,
    isKept: tree.kept[index],
    isAccepted: accepted.has(index),
    children: [],
  }));
  nodes.forEach((node, index) => link(node, nodes[tree.parents[index]]));
  const bonus = tokens.at(-1);
  if (bonus && bonus.depth === null) {
    const node = { text: bonus.text, value: 1, isBonus: true, isKept: true, children: [] };
    link(node, nodes[tree.path.at(-1)]);
    nodes.push(node);
  }
  return nodes;
}

function link(node, parent) {
  node.parent = parent;
  node.depth = parent ? parent.depth + 1 : 0;
  parent?.children.push(node);
  const label = visible(node.text);
  node.label = label.length > LONGEST ? `${label.slice(0, LONGEST - 1)}…` : label;
  node.width = 15 + CHARACTER * cells(node.label) + (hasValue(node) ? VALUE : 0);
}

const hasValue = (node) => !node.isRoot && !node.isBonus;

/** Columns that a text takes in a font of fixed width. */
function cells(text) {
  return [...text].reduce((sum, sign) => sum + (/[\u1100-\u115f\u2e80-\uffdc]|\p{Emoji_Presentation}/u.test(sign) ? 2 : 1), 0);
}

/** Give each node its row: depth first, the first child on its parent's row. */
function place(nodes) {
  let lowest = 0;
  const visit = (node, row) => {
    node.row = row;
    node.children.sort((a, b) => rank(b) - rank(a) || b.value - a.value);
    node.children.forEach((child, index) => visit(child, index === 0 ? row : ++lowest));
  };
  visit(nodes[0], 0);
}

/** Left edges of the columns, and the whole width. */
function columns(nodes) {
  const widest = [];
  for (const { depth, width } of nodes) widest[depth] = Math.max(widest[depth] ?? 0, width);
  const lefts = [];
  let left = 2;
  for (const width of widest) {
    lefts.push(left);
    left += width + GAP;
  }
  return { lefts, width: Math.ceil(left - GAP + 3) };
}

const rank = (node) => (node.isAccepted || node.isBonus ? 2 : node.isKept ? 1 : 0); // high ones lie above
const middle = (node) => TOP + node.row * ROW + BOX / 2;

function kind(node) {
  if (node.isBonus) return "bonus";
  if (node.isAccepted) return "accepted";
  return node.isKept ? "kept" : "dropped";
}

function heading(left, depth, isBonus) {
  const text = depth === 0 ? "root" : isBonus && depth === 1 ? "" : `depth ${depth}`;
  return svg("text", { class: "depth", x: left, y: 11 }, text);
}

function edge(node) {
  const from = node.parent.left + node.parent.width;
  const [y0, y1] = [middle(node.parent), middle(node)];
  const trunk = node.left - GAP / 2;
  const d =
    y0 === y1
      ? `M${from} ${y0}H${node.left}`
      : `M${from} ${y0}H${trunk - BEND}Q${trunk} ${y0} ${trunk} ${y0 + BEND}` +
        `V${y1 - BEND}Q${trunk} ${y1} ${trunk + BEND} ${y1}H${node.left}`;
  return svg("path", { class: `edge ${kind(node)}`, d });
}

function box(node) {
  const y = middle(node);
  const parts = [
    svg("title", {}, title(node)),
    svg("rect", { class: "paper", x: node.left, y: y - BOX / 2, width: node.width, height: BOX, rx: 6 }),
    svg("rect", {
      class: "box",
      x: node.left,
      y: y - BOX / 2,
      width: node.width,
      height: BOX,
      rx: 6,
      // Values span orders of magnitude: the root spreads them.
      "fill-opacity": hasValue(node) && node.isKept ? (0.04 + 0.44 * Math.sqrt(node.value)).toFixed(3) : 0,
    }),
    svg("text", { x: node.left + 7.5, y: y + 4.2 }, node.label),
  ];
  if (hasValue(node)) {
    parts.push(svg("text", { class: "value", x: node.left + node.width - 6, y: y + 3.8 }, showValue(node.value)));
  }
  return svg("g", { class: `node ${kind(node)}` }, ...parts);
}

function title(node) {
  const text = JSON.stringify(node.text);
  if (node.isRoot) return `${text}, the newest token: the root`;
  if (node.isBonus) return `${text}, the target's own token`;
  const how = { accepted: "accepted", kept: "checked, not accepted", dropped: "dropped by rerank, not checked" };
  return `${text}, value ${node.value}, ${how[kind(node)]}`;
}
