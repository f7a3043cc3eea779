"""Contenders as they are typed: options with their types, presets, and errors in one line."""

import pytest

from eyas.bench.contenders import Contender, contenders
from eyas.drafters.registry import methods
from eyas.errors import ConfigError


def parsed(*words):
    return {contender.name: contender for contender in contenders(words)}


def test_plain_decoding_is_always_there_and_first():
    assert (
        contenders([])[0]
        == contenders(["eagle2", "autoregressive"])[0]
        == Contender("autoregressive", "autoregressive")
    )


def test_options_have_their_types():
    found = parsed(
        "eagle2:draft_tokens=25,expand-by-value=no,score_precision=model,name=mine", "pld:pld_max_ngram=none"
    )
    assert found["mine"].options == {"draft_tokens": 25, "expand_by_value": False, "score_precision": "model"}
    assert found["pld pld_max_ngram=none"].options == {"pld_max_ngram": None}


def test_methods_may_be_joined_by_commas_and_come_from_presets():
    assert list(parsed("eagle2,pld")) == ["autoregressive", "eagle2", "pld"]
    assert set(parsed("all")) == set(methods())
    found = parsed("ablations", "eagle2")
    assert found["eagle2"].wanted
    assert not found["eagle2 without value"].wanted
    assert found["eagle2 without value"].options == {"expand_by_value": False}


def test_a_contender_is_named_for_what_it_holds():
    words = ("eagle2", "eagle2:tree=auto", "eagle2:tree=auto,lookup=off", "eagle2:draft_tokens=7,depth=2")
    wanted = ["eagle2", "eagle2 auto + lookup", "eagle2 auto", "eagle2 draft_tokens=7 depth=2"]
    assert list(parsed(*words))[1:] == wanted
    base = {"tree": "auto"}
    named = [contender.name for contender in contenders(["eagle2", "eagle2:tree=fixed"], base)]
    assert named == ["autoregressive", "eagle2 auto + lookup", "eagle2"]
    found = parsed("all", "auto")
    assert found["eagle2"].options == {"tree": "fixed"}
    assert found["eagle2 auto + lookup"].settings({}, 0.0, 0).tree.is_auto
    assert not [name for name in found if name.startswith("autoregressive ")]
    assert "pld auto" in found, "prompt lookup is all that it is"
    assert "pld auto + lookup" not in found


def test_options_of_the_run_go_to_whom_they_concern():
    base = {"draft_tokens": 15, "depth": 3, "lookup": False}
    own = Contender("pld", "pld", {"tree": "auto", "pld_tokens": 4}).settings(base, 0.0, 0)
    assert own.drafting == {"pld_tokens": 4}
    assert not own.tree.lookup
    fixed = Contender("eagle2", "eagle2", {"tree": "fixed"}).settings(base, 0.0, 0)
    assert fixed.drafting == {"draft_tokens": 15, "depth": 3}
    with pytest.raises(ConfigError, match="lookup is False, but tree is 'fixed'"):
        Contender("eagle2", "eagle2").settings({"lookup": False}, 0.0, 0)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("nothing", "unknown method 'nothing'"),
        ("eagle2:depth", "'depth' in 'eagle2:depth' is not of the form option=value"),
        ("eagle2:depth=two", "depth is 'two', but it must be a whole number from 1 to 128"),
        ("eagle2:rerank=maybe", "rerank is 'maybe', but it must be True or False"),
        ("eagle2:score_precision=low", "but it must be 'float32' or 'model'"),
        ("eagle2:draft_token=7", "not an option of eagle2; did you mean 'draft_tokens'"),
        ("eagle2:temperature=1", "'temperature' is not an option of eagle2; it has"),
        ("eagle2:depth=1,depth=2", "gives depth twice"),
        ("eagle2:name=", "has an empty name"),
        ("eagle2:draft_tokens=0", "draft_tokens is 0"),
        ("pld:pld_tokens=0", "pld_tokens is 0"),
    ],
)
def test_what_cannot_be_is_an_error(word, message):
    with pytest.raises(ConfigError, match=message) as error:
        contenders([word])
    assert "\n" not in str(error.value)


def test_two_of_one_name_are_an_error():
    with pytest.raises(ConfigError, match="two contenders are called 'x'"):
        contenders(["eagle2:depth=2,name=x", "eagle2:depth=3,name=x"])


def test_a_size_makes_a_tree_fixed_and_auto_drops_the_sizes_of_the_run():
    base = {"draft_tokens": 15, "depth": 3}
    auto = Contender("a", "eagle2", {"tree": "auto"}).settings(base, 0.0, 0)
    assert auto.tree.is_auto
    fixed = Contender("f", "eagle2", {"draft_tokens": 7}).settings({"tree": "auto"}, 0.0, 0)
    assert (fixed.tree.tree, fixed.of_method("eagle2").draft_tokens) == ("fixed", 7)
    plain = Contender("autoregressive", "autoregressive").settings(base, 1.0, 3)
    assert plain == Contender("autoregressive", "autoregressive").settings({"tree": "auto"}, 1.0, 3)
    assert plain.sampling.temperature == 1.0
