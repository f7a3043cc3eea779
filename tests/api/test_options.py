"""Options by name: grouping, defaults that fit together, and misspelt names."""

import pytest

from eyas.api.options import GenerationOptions, option_names
from eyas.drafters.registry import methods
from eyas.errors import ConfigError


def test_names_find_their_groups():
    options = GenerationOptions.from_names(
        {"temperature": 0.5, "draft_tokens": 7, "depth": 3, "stop": ("x",), "n": 2, "seed": 4}
    )
    assert (options.sampling.temperature, options.of_method("eagle2").draft_tokens, options.n) == (0.5, 7, 2)
    assert options.stopping.stop == ("x",)
    of_methods = {name for method in methods().values() for name in method.option_names}
    shared = set(option_names()) - of_methods
    assert options.to_dict().keys() == shared | {"draft_tokens", "depth"}, (
        "the others are a method's to report"
    )


def test_a_methods_options_are_checked_and_belong_to_it_alone():
    options = GenerationOptions.from_names({"pld_tokens": 4})
    assert options.of_method("pld").pld_tokens == 4
    assert options.to_dict()["pld_tokens"] == 4
    with pytest.raises(ConfigError, match="pld_tokens is not an option of eagle2; leave it out"):
        options.of_method("eagle2")
    with pytest.raises(ConfigError, match="pld_tokens is 0"):
        GenerationOptions.from_names({"pld_tokens": 0})


@pytest.mark.parametrize(
    ("given", "draft_tokens"),
    [({}, 59), ({"depth": 1}, 10), ({"tree_top_k": 2}, 22), ({"depth": 8}, 59)],
    ids=str,
)
def test_small_trees_keep_all_their_candidates_by_default(given, draft_tokens):
    assert GenerationOptions.from_names(given).of_method("eagle2").draft_tokens == draft_tokens


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"temprature": 1}, "did you mean 'temperature'"),
        ({"zzz": 1}, "the options are"),
        ({"n": 0}, "n is 0"),
        ({"logprobs": -1}, "logprobs is -1"),
        ({"raw": True, "system": "x"}, "exclude each other"),
        ({"depth": 1, "draft_tokens": 11}, "only 10 candidates"),
        ({"tree": "auto", "depth": 3}, "tree is 'auto', .* but depth is 3; leave one of them out"),
        ({"tree": "auto", "rerank": False}, "tree is 'auto', which needs expand_by_value and rerank"),
        (
            {"tree": "auto", "expand_by_value": False},
            "tree is 'auto', which needs expand_by_value and rerank",
        ),
        ({"tree": "auto", "sps_length": "confidence"}, "tree is 'auto', but sps_length is 'confidence'"),
        ({"lookup": True}, "lookup is True, but tree is 'fixed', .* set tree='auto', or leave lookup out"),
        ({"lookup": False, "tree": "fixed"}, "lookup is False, but tree is 'fixed'"),
        ({"lookup": False, "depth": 3}, "lookup is False, but tree is 'fixed'"),
        ({"tree": "wide"}, "tree is 'wide', but it must be 'auto' or 'fixed'"),
        ({"temperature": "0.5"}, "temperature is '0.5', but it must be a number"),
        ({"max_new_tokens": 3.5}, "max_new_tokens is 3.5, but it must be a whole number"),
        ({"seed": "x"}, "seed is 'x', but it must be a whole number"),
        ({"n": True}, "n is True, but it must be a whole number"),
        ({"raw": "no"}, "raw is 'no', but it must be True or False"),
        ({"stop": 5}, "stop is 5, but it must be a list of strings"),
        ({"stop": (5,)}, r"stop is \(5,\), but it must be a list of strings"),
        ({"stop_token_ids": 5}, "stop_token_ids is 5, but it must be a list of whole numbers of at least 0"),
        (
            {"stop_token_ids": (-1,)},
            r"stop_token_ids is \(-1,\), but it must be a list of whole numbers of at least 0",
        ),
        (
            {"logit_bias": {"5": 1}},
            "logit_bias has '5'=1, but it must be a mapping of token ids to numbers",
        ),
        ({"logit_bias": [5]}, r"logit_bias is \[5\], but it must be a mapping of token ids to numbers"),
        ({"depth": 129}, "depth is 129, but it must be a whole number from 1 to 128"),
        ({"tree_top_k": 129}, "tree_top_k is 129, but it must be a whole number from 1 to 128"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        GenerationOptions.from_names(given)


@pytest.mark.parametrize(
    ("given", "tree"),
    [
        ({}, "auto"),
        ({"tree": "fixed"}, "fixed"),
        ({"tree_top_k": 4}, "fixed"),
        ({"rerank": False}, "fixed"),
        ({"seed": 1}, "auto"),
    ],
    ids=str,
)
def test_a_size_means_a_fixed_tree(given, tree):
    options = GenerationOptions.from_names(given, default_tree="auto")
    assert options.tree.tree == tree
    assert options.to_dict()["tree"] == tree
    assert options.of_method("eagle2").draft_tokens == (63 if tree == "auto" else 59)


@pytest.mark.parametrize(
    "given",
    [
        {"tree": "auto", "lookup": False},
        {"tree": "auto", "sps_length": 4},
        {"tree": "fixed", "sps_length": "confidence"},
    ],
    ids=str,
)
def test_what_a_tree_policy_has_a_use_for_is_taken(given):
    kept = GenerationOptions.from_names(given).to_dict()
    assert given.items() <= kept.items()


def test_a_method_says_where_its_trees_are_cost_aware_by_default():
    found = methods()
    for name, method in found.items():
        assert method.default_tree_on("native") == ("auto" if name in ("eagle2", "eagle3") else "fixed")
        assert method.default_tree_on("torch") == "fixed"


def test_a_seed_is_drawn_only_where_it_is_needed():
    assert GenerationOptions.from_names({}).with_seed().sampling.seed == 0
    seeds = {GenerationOptions.from_names({"temperature": 1}).with_seed().sampling.seed for _ in range(4)}
    assert len(seeds) > 1
    assert GenerationOptions.from_names({"temperature": 1, "seed": 9}).with_seed().sampling.seed == 9
