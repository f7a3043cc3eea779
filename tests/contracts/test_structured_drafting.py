"""Every drafter under a grammar: the ids of plain decoding under the same grammar (docs/laws.md, L1 and L3).

The models are random, so what they would write has nothing to do with a grammar: almost every draft of theirs
is forbidden. What they write under one still has to be valid.
"""

import json
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from method_cases import Case, default_cases, each, option_cases
from test_drafters import UNSIZED, contract_settings, prompts, refuses_auto

import fake
from eyas.engine.grammar import Grammars
from eyas.engine.sampling import SamplingConfig
from eyas.engine.stopping import StoppingConfig
from eyas.engine.structure import StructureConfig
from eyas.engine.tree_options import TreeOptions
from fake import AUTO, FAST, FREE, SLOW, answer
from letters import Letters
from tiny import VOCAB

LETTERS = Letters()
GRAMMARS = Grammars(LETTERS, VOCAB)
STOPS = [2, 7]
PLAIN = Case("autoregressive")
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"enum": ["ana", "bo", None]},
        "ages": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 110}, "maxItems": 3},
    },
    "required": ["name", "ages"],
    "additionalProperties": False,
}
REGEX = "(na|me|name){2,5}( [0-9]{1,3})?"
KINDS = {
    "schema": {"json_schema": json.dumps(SCHEMA)},
    "compact": {"json_schema": json.dumps(SCHEMA), "whitespace_pattern": ""},
    "regex": {"regex": REGEX},
    "choice": {"choice": ("name and age", "name or age", "me")},
    "gbnf": {"grammar": 'root ::= "[" (item ("," item)*)? "]"\nitem ::= root | [0-9]{1,2}'},
}
EVERY_RULE = {"ids", "distribution", "no"}


def make_request(case, prompt, sampling, most, kind, **size):
    grammar = GRAMMARS.open(StructureConfig(**KINDS[kind]), STOPS)
    stopping = StoppingConfig(max_new_tokens=most)
    return fake.make_request(
        prompt,
        sampling,
        stopping,
        vocab_size=VOCAB,
        stops=STOPS,
        options=case.options,
        grammar=grammar,
        **size,
    )


def check_valid(kind, run):
    """What ended by itself is valid; what was cut off can still become so."""
    *token_ids, last = run.generated
    if last not in STOPS:
        grammar = GRAMMARS.open(StructureConfig(**KINDS[kind]), STOPS)
        assert grammar.num_allowed([], run.generated) == len(run.generated)
        return
    text = LETTERS.decode(token_ids)
    if kind in ("schema", "compact"):
        Draft202012Validator(SCHEMA).validate(json.loads(text))
        assert kind == "schema" or re.sub(r"\s", "", text) == text
    elif kind == "regex":
        assert re.fullmatch(REGEX, text)
    elif kind == "choice":
        assert text in KINDS["choice"]["choice"]
    else:
        json.loads(re.sub("[0-9]+", "1", text))


def check_same_answer(case, engines, prompt, sampling, kind, most=40, **size):
    if size.get("tree", TreeOptions()).is_auto and refuses_auto(case):
        size = {}
    plain, _ = answer(engines(PLAIN), make_request(PLAIN, prompt, sampling, most, kind))
    drafted, _ = answer(engines(case), make_request(case, prompt, sampling, most, kind, **size))
    assert drafted.generated == plain.generated
    check_valid(kind, drafted)
    return drafted


samplings = st.builds(
    SamplingConfig,
    temperature=st.sampled_from([0.0, 0.6, 1.5]),
    top_k=st.sampled_from([0, 2]),
    top_p=st.sampled_from([1.0, 0.7]),
    min_p=st.sampled_from([0.0, 0.2]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    frequency_penalty=st.sampled_from([0.0, 0.5]),
    logit_bias=st.sampled_from([{}, {2: 60.0}, {LETTERS.ids["x"]: 60.0}]),
    seed=st.integers(0, 3),
)
sizes = st.sampled_from(
    [
        {},
        {"tree": TreeOptions(draft_sampling="top-k")},
        {"tree": replace(AUTO, draft_sampling="top-k"), "costs": FREE},
        *({"tree": AUTO, "costs": costs} for costs in (FREE, FAST, SLOW)),
    ]
)


@each([case for case in default_cases() if case != PLAIN], {"ids"})
@settings(contract_settings, max_examples=8)
@given(prompt=prompts, sampling=samplings, kind=st.sampled_from([*KINDS]), size=sizes)
def test_the_answer_is_plain_decodings(case, engines, prompt, sampling, kind, size):
    check_same_answer(case, engines, prompt, sampling, kind, **size)


@each(option_cases(), {"ids"})
@settings(contract_settings, max_examples=3)
@given(prompt=prompts, sampling=samplings, kind=st.sampled_from([*KINDS]), size=sizes)
def test_no_option_changes_the_answer(case, engines, prompt, sampling, kind, size):
    check_same_answer(case, engines, prompt, sampling, kind, **size)


@each(default_cases() + option_cases(), {"distribution", "no"})
@settings(contract_settings, max_examples=4)
@given(prompt=prompts, sampling=samplings, kind=st.sampled_from([*KINDS]), size=sizes)
def test_other_rules_write_valid_answers_too(case, engines, prompt, sampling, kind, size):
    """They keep the ids where greedy, and the grammar always."""
    size = {} if refuses_auto(case) else size
    drawn, _ = answer(engines(case), make_request(case, prompt, sampling, 40, kind, **size))
    check_valid(kind, drawn)
    check_same_answer(case, engines, prompt, replace(sampling, temperature=0.0), kind, **size)


@each(default_cases(), {"ids"})
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("size", [{}, {"tree": AUTO, "costs": FAST}], ids=["fixed", "auto"])
def test_nothing_forbidden_is_drafted_and_what_is_forced_costs_no_pass(case, engines, temperature, size):
    size = {} if case.method in UNSIZED else size
    sampling = SamplingConfig(temperature=temperature, seed=4)
    request = make_request(case, [9, 4, 33], sampling, 60, "compact", **size)
    most = case.options.max_draft_tokens(request.tree)
    run, _ = engines(case).start(request)
    accepted = 0
    while not run.is_finished:
        before = [*run.generated]
        engines(case).step([run])
        tree, fresh = run.last_cycle.tree, GRAMMARS.open(StructureConfig(**KINDS["compact"]), STOPS)
        assert len(tree.rows[0]) - 1 <= most
        for path in tree.leaf_paths():
            drafted = tree.token_ids[path[1:]].tolist()
            assert fresh.num_allowed(before, drafted) == len(drafted)
        accepted += run.last_cycle.num_accepted
    check_valid("compact", run)
    if case != PLAIN:
        name = GRAMMARS.open(StructureConfig(**KINDS["compact"]), STOPS).forced([], 99)
        assert run.generated[: len(name)] == name
        assert accepted >= min(most, len(name) - 1), "the first name comes at once"


def test_forced_tokens_come_many_at_a_time(engines):
    """Prompt lookup finds nothing here, and drafts all the same."""
    case = Case("pld")
    for size in ({}, {"tree": AUTO, "costs": FAST}):
        run = check_same_answer(case, engines, [9, 4, 33], SamplingConfig(), "compact", **size)
        stats = run.stats()
        assert stats.target_forwards < 0.6 * len(run.generated)


def test_a_batch_of_different_grammars(engines):
    """Each answer follows its own; one without any goes on beside them."""
    case, sampling = Case("pld"), SamplingConfig(temperature=1.0, seed=2)
    requests = [make_request(case, [9, 4, 33], sampling, 40, kind) for kind in KINDS]
    free = fake.make_request(
        [9], sampling, StoppingConfig(max_new_tokens=40), vocab_size=VOCAB, stops=STOPS, options=case.options
    )
    engine = engines(case)
    runs = [engine.start(request)[0] for request in [*requests, free]]
    while live := [run for run in runs if not run.is_finished]:
        engine.step(live)
    for kind, run in zip(KINDS, runs, strict=False):
        check_valid(kind, run)
        alone, _ = answer(engines(PLAIN), make_request(PLAIN, [9, 4, 33], sampling, 40, kind))
        assert run.generated == alone.generated


def test_several_answers_to_one_prompt(engines):
    case, sampling = Case("pld"), SamplingConfig(temperature=1.5, seed=2)
    requests = [make_request(case, [9, 4, 33], sampling, 40, "schema", choice=at) for at in range(3)]
    engine = engines(case)
    runs = [engine.open(request) for request in requests]
    for _ in engine.prefill(runs):
        pass
    while live := [run for run in runs if not run.is_finished]:
        engine.step(live)
    for run in runs:
        check_valid("schema", run)
    assert len({tuple(run.generated) for run in runs}) > 1
