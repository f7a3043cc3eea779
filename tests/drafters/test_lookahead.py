"""Lookahead decoding: mask and positions as described, window and pool step by step, what it gains."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
from eyas.api.options import GenerationOptions
from eyas.drafters.lookahead import Lookahead, LookaheadOptions, Window
from eyas.engine.cycle import Engine
from eyas.engine.sampling import SamplingConfig
from eyas.engine.stopping import StoppingConfig
from eyas.engine.tree import DraftTree, ancestor_mask, before_stop, node_depths, trie
from eyas.errors import ConfigError
from fake import FakeRuntime, answer, make_request

VOCAB = 6
sizes = st.builds(
    LookaheadOptions,
    lookahead_window=st.integers(1, 7),
    lookahead_level=st.integers(3, 6),
    lookahead_guesses=st.integers(1, 7),
)


class Markov(FakeRuntime):
    """The next token depends on the newest one alone, so n-grams come again."""

    def logits(self, prefix):
        return super().logits(prefix[-1:])


def request(options, sampling=None, tokens=24, prompt=(1, 3, 4), **more):
    stopping = StoppingConfig(max_new_tokens=tokens, ignore_eos=True)
    return make_request(list(prompt), sampling, stopping, vocab_size=VOCAB, options=options, **more)


def steps(engine, wanted):
    """The tree of each cycle, with the run after it."""
    run, _ = engine.start(wanted)
    while not run.is_finished:
        engine.step([run])
        yield run, run.last_cycle.tree


def window_size(options):
    return 1 + (options.lookahead_window - 1) + options.lookahead_window * (options.lookahead_level - 2)


@settings(max_examples=30)
@given(options=sizes, seed=st.integers(0, 10**6))
def test_rows_see_what_the_description_says(options, seed):
    """Row r sees root and row 0 up to its column, and rows 1..r in it; guesses see the root and their own."""
    width, level = options.lookahead_window, options.lookahead_level
    runtime = Markov(VOCAB, 200, seed=seed)
    for cycle, (_, tree) in enumerate(steps(Engine(runtime, Lookahead()), request(options))):
        if cycle < level - 2:  # warm-up
            assert tree.num_draft_tokens == 0
            continue
        nodes = len(tree.token_ids)
        token_ids, parents = tree.rows
        assert len(token_ids) - tree.num_draft_tokens == window_size(options)
        assert tree.num_draft_tokens <= options.lookahead_guesses * (level - 1)
        mask, positions = ancestor_mask(parents), node_depths(parents)
        at = {(0, 0): 0} | {(0, column): nodes + column - 1 for column in range(1, width)}
        at |= {
            (row, column): nodes + width - 1 + width * (row - 1) + column
            for row in range(1, level - 1)
            for column in range(width)
        }
        for (row, column), query in at.items():
            seen = {at[0, c] for c in range(column + 1)} | {at[r, column] for r in range(1, row + 1)}
            assert set(np.flatnonzero(mask[query])) == seen
            assert positions[query] == row + column
            assert sorted(positions[mask[query]]) == list(range(row + column + 1)), "one run of positions"
        for node in range(1, nodes):
            assert set(np.flatnonzero(mask[node])) == set(tree.path(node)), "no guess sees the window"


def test_the_published_step_has_28_window_tokens_and_at_most_28_of_guesses():
    assert window_size(LookaheadOptions()) == 28
    trees = [tree for _, tree in steps(Engine(Markov(VOCAB, 200), Lookahead()), request(LookaheadOptions()))]
    assert len(trees[-1].rows[0]) - trees[-1].num_draft_tokens == 28
    assert max(tree.num_draft_tokens for tree in trees) <= 28


@settings(max_examples=30)
@given(
    options=sizes,
    seed=st.integers(0, 10**6),
    sampling=st.sampled_from(
        [SamplingConfig(), SamplingConfig(temperature=1.0, presence_penalty=0.5, seed=3)]
    ),
    kind=st.sampled_from([FakeRuntime, Markov]),
)
def test_window_and_pool_follow_the_description_step_by_step(options, seed, sampling, kind):
    """The fake target's choice depends on all that a row sees, so a wrong mask would show."""
    runtime = kind(VOCAB, 200, sharpness=3.0, seed=seed)
    wanted = request(options, sampling)
    run, _ = Engine(runtime, Lookahead()).start(wanted)
    text, first_row, emitted, seen = list(run.token_ids), list(run.session._window.rows[0]), [], []
    assert set(first_row) <= set(wanted.prompt_ids)
    while not run.is_finished:
        before = len(run.token_ids)
        Engine(runtime, Lookahead()).step([run])
        emitted.append(run.token_ids[before:])
        pool = {token: run.session._pool.after(token) for token in range(VOCAB)}
        seen.append(([list(row) for row in run.session._window.rows], pool))

    def choose(tokens):
        return wanted.sampler.choose(runtime.logits(tuple(tokens)), tokens[len(wanted.prompt_ids) :])

    sizes = options.lookahead_level, options.lookahead_guesses
    for (rows, pool), (their_rows, theirs) in zip(
        seen, reference.lookahead(choose, text, first_row, *sizes, emitted), strict=True
    ):
        assert rows == their_rows
        assert pool == {token: theirs.get(token, []) for token in range(VOCAB)}


def test_repeating_text_is_accepted_and_a_whole_guess_counts():
    """A target that cycles through few tokens: all N - 1 tokens of a guess are kept, with the bonus N."""
    run, _ = answer(Engine(Markov(VOCAB, 300), Lookahead()), request(LookaheadOptions(), tokens=100))
    plain, _ = answer(Engine(Markov(VOCAB, 300), Lookahead()), request(LookaheadOptions(), tokens=5))
    stats = run.stats()
    assert run.generated[:5] == plain.generated
    assert len(stats.accepted_by_depth) == 4
    assert stats.acceptance_length > 3
    assert stats.draft_forwards == 0


def test_a_replay_drafts_the_same():
    """The window starts from the answer's own seed, not from any global state."""
    sampling = SamplingConfig(temperature=1.0, seed=7)

    def rows(choice=0):
        wanted = request(LookaheadOptions(), sampling, prompt=range(1, 6), choice=choice)
        return [
            tree.rows[0].tolist() for _, tree in steps(Engine(FakeRuntime(VOCAB, 200), Lookahead()), wanted)
        ]

    first = rows()
    np.random.seed(1)
    assert rows() == first
    assert rows(choice=1) != first


def test_the_window_ends_with_the_context():
    """The fake runtime refuses positions beyond its context; the last one is still used."""
    run, _ = answer(Engine(Markov(VOCAB, 30), Lookahead()), request(LookaheadOptions(), tokens=60))
    assert len(run.token_ids) == 30
    short, _ = answer(Engine(Markov(VOCAB, 8), Lookahead()), request(LookaheadOptions(), tokens=60))
    assert len(short.token_ids) == 8


def test_columns_are_read_downwards():
    window = Window([1, 2], level=3)
    assert window.advance(9, [11, 12]) == []
    assert window.rows == [[2], [11, 12]]
    assert window.parents(num_nodes=5) == [0, 0, 5]
    assert window.advance(8, [21, 22]) == [(8, (11, 21)), (2, (12, 22))]
    assert window.rows == [[12], [21, 22]]


@given(paths=st.lists(st.lists(st.integers(0, 2), max_size=4), max_size=5))
def test_a_trie_holds_each_prefix_once(paths):
    tree = trie(9, paths)
    assert isinstance(tree, DraftTree)
    found = [tuple(tree.token_ids[tree.path(node)[1:]].tolist()) for node in range(len(tree.token_ids))]
    assert len(found) == len(set(found))
    assert set(found) == {()} | {tuple(path[:end]) for path in paths for end in range(len(path) + 1)}


def test_nothing_is_proposed_from_a_stop_on():
    assert before_stop([4, 2, 5], {2}) == [4]
    assert before_stop([4, 5], {2}) == [4, 5]


@pytest.mark.parametrize(
    "given", [{"lookahead_level": 2}, {"lookahead_window": 0}, {"lookahead_guesses": 0}], ids=str
)
def test_impossible_sizes_are_refused(given):
    [name] = given
    with pytest.raises(ConfigError, match=f"{name} is {given[name]}, but it must be"):
        GenerationOptions.from_names(given)
