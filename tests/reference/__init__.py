"""Slow, obvious versions of the mathematics: oracles for the property tests and makers of golden files.

Everything here is written from the paper's definitions with dictionaries and recursion; nothing is shared
with `eyas`.
"""

import itertools
import math


def philox_word(counter, key):
    """First word of Philox4x32-10 in plain integers (Salmon et al., SC 2011, Sec. 4.2)."""
    c, k = list(counter), list(key)
    for _ in range(10):
        product0, product1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [
            (product1 >> 32) ^ c[1] ^ k[0],
            product1 & 0xFFFFFFFF,
            (product0 >> 32) ^ c[3] ^ k[1],
            product0 & 0xFFFFFFFF,
        ]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def gumbel(seed, choice, position, token):
    word = philox_word((position, token, 0, 0), (seed, choice))[0]
    return -math.log(-math.log((word + 0.5) / 2**32))


def eagle2_tree(confidences, top_k, depth, draft_tokens, by_value=True, rerank=True, shape=None):
    """EAGLE-2 by definition. `confidences(path)` gives [(token, probability), ...] below a path, best first.

    Without `by_value` nodes are expanded by their own probability; without `rerank` those that were expanded
    are kept, and of the last level those that would be. With a `shape` only these nodes, named by the
    sibling ranks on their path, are drafted, and only those with children in it expanded. Returns the kept
    nodes as (path, value), in the order of their flat indices.
    """
    candidates = []  # (path, value) in flat order
    expanded = []  # flat indices
    frontier = [((), 1.0)]
    ranks = {(): ()}
    for _ in range(depth):
        level = []
        for path, value in frontier:
            for rank, (token, confidence) in enumerate(
                confidences(path) if shape else confidences(path)[:top_k]
            ):
                ranks[*path, token] = (*ranks[path], rank)
                if shape is None or ranks[*path, token] in shape:
                    factor = value if by_value else 1.0
                    level.append(((*path, token), value * confidence, factor, confidence))
        order = sorted(range(len(level)), key=lambda i: (-level[i][2] * level[i][3], i))
        if shape is not None:
            order = [i for i in order if (*ranks[level[i][0]], 0) in shape]
        order = order[:top_k]
        expanded += [len(candidates) + i for i in order]
        candidates += [node[:2] for node in level]
        frontier = [level[i][:2] for i in order]
    order = sorted(range(len(candidates)), key=lambda i: (-candidates[i][1], i)) if rerank else expanded
    return [candidates[i] for i in sorted(order[:draft_tokens])]


def connected_sets(parents, size):
    """All sets of `size` nodes (root left out) that hold each node's parent."""
    nodes = range(1, len(parents))
    for chosen in itertools.combinations(nodes, size):
        if all(parents[node] == 0 or parents[node] in chosen for node in chosen):
            yield chosen


def rejection_walk(children, probs, path=()):
    """The distribution of what EAGLE-2's own rule emits: {(accepted path, bonus): probability}.

    `children[path]` lists the drafted tokens below a path in order, `probs(path)` is the target's
    distribution there. Each child is accepted with its remaining probability; a rejected one leaves p.
    """
    outcome = {}
    p = list(probs(path))
    reached = 1.0
    for token in children.get(path, []):
        total = sum(p)
        accept = p[token] / total if total > 0 else 0.0
        for (accepted, bonus), weight in (
            rejection_walk(children, probs, (*path, token)) if accept > 0 else {}
        ).items():
            key = (accepted, bonus)
            outcome[key] = outcome.get(key, 0.0) + reached * accept * weight
        reached *= 1 - accept
        p[token] = 0.0
    total = sum(p)
    if total > 0:
        for token, mass in enumerate(p):
            if mass > 0:
                key = (path, token)
                outcome[key] = outcome.get(key, 0.0) + reached * mass / total
    return outcome


def recursive_rejection(p, q, siblings):
    """What EAGLE-1's rule emits at one node: siblings drawn from q without replacement, tested in turn.

    A sibling x drawn from what is left of q is accepted with min(1, p(x) / q(x)); otherwise p becomes
    norm(max(0, p - q)) and x leaves q. Returns the distribution of the emitted token.
    """
    if siblings == 0 or not sum(q):
        return list(p)
    q = [value / sum(q) for value in q]
    emitted = [0.0] * len(p)
    rest = [max(0.0, a - b) for a, b in zip(p, q, strict=True)]
    rest = [value / sum(rest) for value in rest] if sum(rest) > 1e-15 else list(p)
    for x, drawn in enumerate(q):
        if not drawn:
            continue
        accept = min(1.0, p[x] / drawn)
        emitted[x] += drawn * accept
        if accept < 1:
            left = [0.0 if token == x else value for token, value in enumerate(q)]
            for token, mass in enumerate(recursive_rejection(rest, left, siblings - 1)):
                emitted[token] += drawn * (1 - accept) * mass
    return emitted


def typical_path(paths, probs, epsilon, delta):
    """Medusa's rule: of the drafted `paths` whose tokens are all typical the longest, then most probable one.

    A token x is typical below a path where p(x) > min(epsilon, delta * exp(-entropy of p)).
    """

    def is_typical(path, token):
        p = probs(path)
        entropy = -sum(value * math.log(value) for value in p if value > 0)
        return p[token] > min(epsilon, delta * math.exp(-entropy))

    def log_prob(path):
        return sum(math.log(probs(path[:at])[path[at]]) for at in range(len(path)))

    kept = [path for path in paths if all(is_typical(path[:at], path[at]) for at in range(len(path)))]
    return max(kept, key=lambda path: (len(path), log_prob(path)))


def prompt_lookup(tokens, rule, max_ngram, count):
    """Prompt lookup by its two rules: what follows the earliest earlier occurrence of the newest tokens."""
    length = len(tokens)
    for n in range(max_ngram, 0, -1):
        for start in range(length - n + 1):
            if tokens[start : start + n] != tokens[length - n :]:
                continue
            after = start + n
            if rule == "reference" and after + count <= length and after < length - n:
                return tokens[after : after + count]
            if rule == "transformers" and after < min(after + count, length):
                return tokens[after : min(after + count, length)]
    return []


def lookahead(choose, text, first_row, level, size, emitted):
    """Lookahead decoding's window and pool after each cycle, by its own description.

    `choose(tokens)` is the target's token after a sequence, `text` the committed tokens, `first_row` the
    random start of row 0, `level` N, `size` G, and `emitted` the tokens that each cycle adds to the text.
    Yields (rows, {first token: list of n-grams, least recently seen first}).
    """
    text, rows, pool = list(text), [list(first_row)], {}
    for tokens in emitted:
        root, before = text[-1], text[:-1]
        row0 = [root, *rows[0]]

        def after(column, below, row0=row0, before=before):
            return choose([*before, *row0[: column + 1], *(row[column] for row in below)])

        if len(rows) < level - 1:  # warm-up
            new = [after(column, rows[1:]) for column in range(1, len(row0))]
            rows = [row[1:] for row in rows] + [new]
        else:
            new = [after(column, rows[1:]) for column in range(len(row0))]
            for column, first in enumerate(row0):
                ngram = (*(row[column] for row in rows[1:]), new[column])
                seen = [other for other in pool.get(first, []) if other != ngram]
                pool[first] = [*seen, ngram][-size:]
            rows = [rows[1][1:], *rows[2:], new]
        text += tokens
        yield rows, pool
