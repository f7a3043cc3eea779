"""Draws a draft tree with what the target accepted, as text or as SVG. Pure functions.

Each node shows its token and its value (the product of the confidences on its path). Accepted nodes are
marked by form and weight as well as colour, so that the drawing reads without colour too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

import numpy as np

from eyas.engine.tree import DraftTree

# Sizes of the SVG in pixels.
ROW = 30
BOX = 22
CHARACTER = 7.3  # width of a character of the font below, at 12 px
GAP = 44  # between columns, room for the edges
MARGIN = 16


@dataclass(frozen=True)
class DrawnCycle:
    """One cycle as it is drawn.

    Attributes:
        tree: the drafted tree.
        texts: (N,) text of each node's token.
        path: accepted nodes, from the root on.
        bonus: text of the target's own token after the path.
        title: a line above the tree.
        summary: a line below it.
    """

    tree: DraftTree
    texts: Sequence[str]
    path: Sequence[int]
    bonus: str
    title: str = ""
    summary: str = ""
    children: list[list[int]] = field(init=False)

    def __post_init__(self) -> None:
        children: list[list[int]] = [[] for _ in self.texts]
        for node, parent in enumerate(self.tree.parents.tolist()):
            if parent >= 0:
                children[parent].append(node)
        for nodes in children:
            nodes.sort(key=lambda node: (-self.tree.log_values[node], node))
        object.__setattr__(self, "children", children)

    def value(self, node: int) -> str:
        """A node's value, two digits."""
        return show_value(float(self.tree.log_values[node]))


def quote_token(text: str) -> str:
    """A token's text in quotes; characters that do not print are escaped, so that it stays on its line."""
    signs = [sign if sign.isprintable() and sign not in '"\\' else _escaped(sign) for sign in text]
    return '"' + "".join(signs) + '"'


def show_value(log_value: float) -> str:
    """exp(log_value) with two digits after the point; below 0.005 as `<.01`."""
    value = math.exp(log_value)
    return f"{value:.2f}" if value >= 0.005 else "<.01"


def draw_text(cycle: DrawnCycle) -> str:
    """The tree in lines: value, branches, mark (● accepted, ○ not, ◆ the target's own), token."""
    lines = [cycle.title, ""] if cycle.title else []
    lines.append(f"      {quote_token(cycle.texts[0])}  root")
    accepted, last = set(cycle.path), cycle.path[-1]
    # Depth first without recursion; None stands for the bonus token.
    waiting: list[tuple[int | None, str, bool]] = []

    def push_children(node: int, prefix: str) -> None:
        below: list[int | None] = [*cycle.children[node]]
        if node == last:
            below.insert(0, None)
        ends = [False] * (len(below) - 1) + [True] if below else []
        waiting.extend(reversed([(child, prefix, end) for child, end in zip(below, ends, strict=True)]))

    push_children(0, "")
    while waiting:
        node, prefix, is_last = waiting.pop()
        branch = prefix + ("└─" if is_last else "├─")
        if node is None:
            lines.append(f"      {branch}◆ {quote_token(cycle.bonus)}  the target's own")
            continue
        mark = "●" if node in accepted else "○"
        lines.append(f"{cycle.value(node):>4}  {branch}{mark} {quote_token(cycle.texts[node])}")
        push_children(node, prefix + ("   " if is_last else "│  "))
    lines += ["", cycle.summary] if cycle.summary else []
    return "\n".join(lines) + "\n"


def draw_svg(cycle: DrawnCycle) -> str:
    """The tree from left to right, one column per depth, as a self-contained SVG document."""
    labels = [_shorten(quote_token(text)) for text in cycle.texts]
    bonus = _shorten(quote_token(cycle.bonus))
    tree, last = cycle.tree, cycle.path[-1]
    rows, bonus_row = _rows(cycle)
    depths = [int(depth) for depth in tree.depths]
    bonus_depth = depths[last] + 1
    boxes = [(depth, _width(label)) for depth, label in zip(depths, labels, strict=True)]
    lefts = _columns([*boxes, (bonus_depth, _width(bonus))])

    def y(row: float) -> float:
        return MARGIN + 34 + row * ROW

    accepted = set(cycle.path)
    edges, nodes = [], []
    for node in range(1, len(labels)):
        parent = int(tree.parents[node])
        start = lefts[depths[parent]] + _width(labels[parent])
        kind = "edge accepted" if node in accepted else "edge"
        edges.append(_edge(start, y(rows[parent]), lefts[depths[node]], y(rows[node]), kind))
    start = lefts[depths[last]] + _width(labels[last])
    edges.append(_edge(start, y(rows[last]), lefts[bonus_depth], y(bonus_row), "edge bonus"))
    for node, label in enumerate(labels):
        kind = "node accepted" if node in accepted else "node"
        value = "" if node == 0 else cycle.value(node)
        nodes.append(_box(lefts[depths[node]], y(rows[node]), label, value, kind))
    nodes.append(_box(lefts[bonus_depth], y(bonus_row), bonus, "", "node bonus"))

    # The accepted path is drawn last, above the others.
    edges.sort(key=lambda edge: "accepted" in edge)
    width = max(lefts[depth] + size for depth, size in [*boxes, (bonus_depth, _width(bonus))]) + 40 + MARGIN
    width = max(width, MARGIN * 2 + CHARACTER * max(len(cycle.title), len(cycle.summary)))
    height = y(max([*rows, bonus_row]) + 1) + 44
    return _document(width, height, cycle, edges + nodes)


def _escaped(sign: str) -> str:
    return {"\n": "\\n", "\t": "\\t", "\r": "\\r", '"': '\\"', "\\": "\\\\"}.get(
        sign, f"\\u{{{ord(sign):x}}}"
    )


def _shorten(label: str, limit: int = 18) -> str:
    return label if len(label) <= limit else label[: limit - 2] + '…"'


def _width(label: str) -> float:
    return 14 + CHARACTER * len(label)


def _rows(cycle: DrawnCycle) -> tuple[list[float], float]:
    """The row of each node and of the bonus token: leaves in order, parents amid their children."""
    rows = np.zeros(len(cycle.texts))
    last, leaf, bonus_row = cycle.path[-1], 0, 0.0
    order, waiting = [], [0]
    while waiting:
        node = waiting.pop()
        order.append(node)
        if node == last:
            bonus_row, leaf = float(leaf), leaf + 1
        if not cycle.children[node]:
            if node != last:
                rows[node], leaf = leaf, leaf + 1
            else:
                rows[node] = bonus_row
        waiting.extend(reversed(cycle.children[node]))
    for node in reversed(order):
        below = [float(rows[child]) for child in cycle.children[node]]
        below += [bonus_row] if node == last else []
        if below:
            rows[node] = (min(below) + max(below)) / 2
    return rows.tolist(), bonus_row


def _columns(boxes: Sequence[tuple[int, float]]) -> list[float]:
    """The left edge of each depth's column."""
    widest = [0.0] * (1 + max(depth for depth, _ in boxes))
    for depth, width in boxes:
        widest[depth] = max(widest[depth], width)
    lefts = [float(MARGIN)]
    for width in widest[:-1]:
        lefts.append(lefts[-1] + width + 30 + GAP)
    return lefts


def _edge(x0: float, y0: float, x1: float, y1: float, kind: str) -> str:
    # Starts after the value to the right of a box.
    start = x0 + 32
    middle = (start + x1) / 2
    path = f"M{x0:.0f} {y0:.0f}H{start:.0f}C{middle:.0f} {y0:.0f} {middle:.0f} {y1:.0f} {x1:.0f} {y1:.0f}"
    return f'<path class="{kind}" d="{path}"/>'


def _box(left: float, y: float, label: str, value: str, kind: str) -> str:
    box = (
        f'<rect x="{left:.0f}" y="{y - BOX / 2:.0f}" width="{_width(label):.0f}" height="{BOX}" rx="5"/>'
        f'<text x="{left + 7:.0f}" y="{y + 4:.0f}">{escape(label)}</text>'
    )
    if value:
        at = left + _width(label) + 3
        box += f'<text class="value" x="{at:.0f}" y="{y - 4:.0f}">{escape(value)}</text>'
    return f'<g class="{kind}">{box}</g>'


# Colours of Okabe and Ito's palette, told apart with any colour vision.
STYLE = """
svg { --paper: #ffffff; --ink: #1b1f24; --faint: #8a929b; --good: #0072b2; --own: #b65300; }
@media (prefers-color-scheme: dark) {
  svg { --paper: #0d1117; --ink: #e6edf3; --faint: #7d8590; --good: #56b4e9; --own: #e69f00; }
}
text { font: 12px ui-monospace, Menlo, Consolas, monospace; fill: var(--ink); white-space: pre; }
.paper { fill: var(--paper); }
.edge { fill: none; stroke: var(--faint); stroke-width: 1; }
.node rect { fill: var(--paper); stroke: var(--faint); }
.value { font-size: 9.5px; fill: var(--ink); }
.edge.accepted { stroke: var(--good); stroke-width: 3; }
.node.accepted rect { stroke: var(--good); stroke-width: 3; }
.node.accepted text { font-weight: bold; }
.edge.bonus { stroke: var(--own); stroke-width: 2; stroke-dasharray: 5 3; }
.node.bonus rect { stroke: var(--own); stroke-width: 2; stroke-dasharray: 5 3; }
"""
LEGEND = "thick: accepted by the target · dashed: the target's own token · thin: drafted in vain"


def _document(width: float, height: float, cycle: DrawnCycle, parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" xml:space="preserve">'
    )
    texts = [
        f'<text x="{MARGIN}" y="{MARGIN + 4}">{escape(cycle.title)}</text>',
        f'<text x="{MARGIN}" y="{height - 32:.0f}">{escape(cycle.summary)}</text>',
        f'<text class="value" x="{MARGIN}" y="{height - 14:.0f}">{escape(LEGEND)}</text>',
    ]
    lines = [
        head,
        f"<title>{escape(cycle.title or 'a draft tree')}</title>",
        f"<style>{STYLE}</style>",
        '<rect class="paper" width="100%" height="100%"/>',
        *parts,
        *texts,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"
