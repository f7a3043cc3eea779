"""Drawn trees: every node once, the accepted path marked, text that cannot break the drawing."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyas.cli.drawing import DrawnCycle, draw_svg, draw_text, quote_token
from eyas.engine.tree import DraftTree, root_only


def cycle(parents, values, path, texts=None, bonus="!"):
    tree = DraftTree(np.arange(len(parents)), np.array(parents), np.log(np.array(values)))
    texts = texts or [f"t{node}" for node in range(len(parents))]
    return DrawnCycle(tree, texts, path, bonus, title="a title", summary="a summary")


@st.composite
def cycles(draw):
    size = draw(st.integers(1, 30))
    parents = [-1] + [draw(st.integers(0, node - 1)) for node in range(1, size)]
    values = [1.0]
    for parent in parents[1:]:
        values.append(values[parent] * draw(st.floats(0.001, 1)))
    texts = draw(st.lists(st.text(max_size=6), min_size=size, max_size=size))
    end = draw(st.integers(0, size - 1))
    drawn = cycle(parents, values, [0], texts, draw(st.text(max_size=6)))
    return DrawnCycle(drawn.tree, texts, drawn.tree.path(end), drawn.bonus, "title", "summary")


def test_the_text_reads_like_the_tree():
    drawn = cycle([-1, 0, 0, 1, 1], [1, 0.3, 0.6, 0.2, 0.001], [0, 1, 3])
    assert draw_text(drawn).splitlines() == [
        "a title",
        "",
        '      "t0"  root',
        '0.60  ├─○ "t2"',
        '0.30  └─● "t1"',
        '0.20     ├─● "t3"',
        '         │  └─◆ "!"  the target\'s own',
        '<.01     └─○ "t4"',
        "",
        "a summary",
    ]


def test_a_root_alone_can_be_drawn():
    drawn = DrawnCycle(root_only(5), ["a"], [0], "b")
    assert draw_text(drawn) == '      "a"  root\n      └─◆ "b"  the target\'s own\n'
    ElementTree.fromstring(draw_svg(drawn))


@given(cycles())
def test_every_node_is_drawn_once(drawn):
    lines = draw_text(drawn).splitlines()
    assert len(lines) == len(drawn.texts) + 1 + 4  # the bonus; title and summary, each with a blank line
    marks = [re.match(r"[<.\d ]{4}  [│├└─ ]*─([●○◆]) ", line) for line in lines]
    found = "".join(mark[1] for mark in marks if mark)
    assert (found.count("●"), found.count("◆")) == (len(drawn.path) - 1, 1)
    root = ElementTree.fromstring(draw_svg(drawn))
    kinds = [g.get("class") for g in root.iter("{http://www.w3.org/2000/svg}g")]
    assert len(kinds) == len(drawn.texts) + 1
    assert kinds.count("node accepted") == len(drawn.path)
    edges = [p.get("class") for p in root.iter("{http://www.w3.org/2000/svg}path")]
    assert edges.count("edge accepted") == len(drawn.path) - 1
    assert len(edges) == len(drawn.texts)


@given(cycles())
def test_boxes_do_not_overlap(drawn):
    root = ElementTree.fromstring(draw_svg(drawn))
    boxes = [
        [float(r.get(k)) for k in ("x", "y", "width", "height")]
        for r in root.iter("{http://www.w3.org/2000/svg}rect")
        if r.get("x")
    ]
    for index, (x0, y0, w0, h0) in enumerate(boxes):
        for x1, y1, w1, h1 in boxes[index + 1 :]:
            assert x0 + w0 <= x1 or x1 + w1 <= x0 or y0 + h0 <= y1 or y1 + h1 <= y0
    width, height = float(root.get("width")), float(root.get("height"))
    assert all(x + w <= width and y + h <= height for x, y, w, h in boxes)


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        (" the", '" the"'),
        ("\n\t", '"\\n\\t"'),
        ('say "x\\', '"say \\"x\\\\"'),
        ("\x1b[31m", '"\\u{1b}[31m"'),
        ("\u202e", '"\\u{202e}"'),
        ("日本", '"日本"'),
    ],
)
def test_tokens_stay_on_their_line(text, quoted):
    assert quote_token(text) == quoted
