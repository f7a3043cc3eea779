"""Which head serves a model: where heads are looked for, and for which targets they are."""

import json
import sys
from importlib.metadata import EntryPoint

import gguf
import pytest

from eyas.drafters import find
from eyas.drafters.find import HeadFinder, is_for
from eyas.drafters.head_export import export_head
from eyas.errors import CheckpointError
from eyas.models import base_fingerprint, heads_dir, target_fingerprint
from tiny import write_eagle3, write_head
from tiny_gguf import write_gguf

Q8_0, Q4_0 = gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_0


@pytest.fixture(autouse=True)
def _nothing_ships(tmp_path, monkeypatch):
    monkeypatch.setattr(find, "SHIPPED", tmp_path / "shipped")
    find.packaged.cache_clear()
    yield
    find.packaged.cache_clear()


@pytest.fixture
def model(tmp_path):
    return write_gguf(tmp_path / "model.gguf", kind=Q8_0)


def made_for(model, folder, write=write_head):
    """A head that says it was trained for a model."""
    marks = {"target_fingerprint": target_fingerprint(model), "base_fingerprint": base_fingerprint(model)}
    return write(folder, **marks)


def problems(model):
    return {found.path: found.problem for found in HeadFinder.of(model).all()}


@pytest.mark.parametrize(
    ("head", "target", "fits"),
    [
        (("a", "x"), ("a", "x"), True),
        (("a", "x"), ("b", "x"), True),  # another quantisation
        (("a", "x"), ("b", "y"), False),
        (("a", None), ("b", None), False),
        (("a", None), ("b", "x"), False),
        ((None, None), ("b", "x"), True),  # published heads say nothing
        (("a", "x"), (None, None), True),
    ],
)
def test_whom_a_head_may_serve(head, target, fits):
    assert is_for(*head, *target) == fits


def test_next_to_the_model_comes_before_the_cache_packages_and_what_ships(tmp_path, model, monkeypatch):
    package = tmp_path / "site" / "my_heads"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.setattr(sys, "path", [str(package.parent), *sys.path])
    points = [
        EntryPoint("mine", "my_heads", "eyas.heads"),
        EntryPoint("gone", "no_such_module", "eyas.heads"),
    ]
    monkeypatch.setattr(find, "entry_points", lambda group: points)
    name = target_fingerprint(model)
    assert HeadFinder.of(model).find().path is None
    for place in (
        tmp_path / "shipped" / name,
        package / name,
        heads_dir() / name,
        model.with_suffix(".head"),
    ):
        made_for(model, place)
        found = HeadFinder.of(model).find()
        assert (found.path, found.check) == (place, "fingerprint")
    assert list(problems(model).values()) == [None] * 4


def test_a_file_of_llama_cpp_beside_the_model_is_found(tmp_path, model):
    export_head(write_eagle3(tmp_path / "made"), tmp_path / "model.eagle3.gguf", "gguf", str(model))
    found = HeadFinder.of(model).find("eagle3")
    assert (found.path, found.check) == (tmp_path / "model.eagle3.gguf", "shapes")
    assert HeadFinder.of(model).find("eagle").path is None
    assert problems(model) == {tmp_path / "model.eagle3.gguf": None}


def test_another_quantisation_has_the_same_head_but_its_own_comes_first(tmp_path, model):
    other = write_gguf(tmp_path / "other.gguf", kind=Q4_0)
    for_other = made_for(other, heads_dir() / target_fingerprint(other) / "eagle3", write_eagle3)
    found = HeadFinder.of(model).find("eagle3")
    assert (found.path, found.check) == (for_other, "base")
    own = made_for(model, heads_dir() / target_fingerprint(model) / "eagle3", write_eagle3)
    found = HeadFinder.of(model).find("eagle3")
    assert (found.path, found.check) == (own, "fingerprint")
    assert problems(model) == {own: None, for_other: None}


def test_a_head_for_another_model_is_listed_with_the_reason(tmp_path, model):
    other = write_gguf(tmp_path / "other.gguf", kind=Q8_0, seed=1)
    for_other = made_for(other, heads_dir() / target_fingerprint(other))
    broken = write_head(heads_dir() / "broken")
    (broken / "config.json").write_text("{")
    assert HeadFinder.of(model).find().path is None
    found = problems(model)
    assert found.keys() >= {for_other, broken}
    reason = f"for the target with fingerprint {target_fingerprint(other)}, not {target_fingerprint(model)}"
    assert found[for_other] == reason
    assert "config.json" in found[broken]


def test_a_broken_head_of_another_model_does_not_stop_the_search(model):
    broken = write_head(heads_dir() / "broken")
    (broken / "config.json").write_text(json.dumps([1]))
    assert HeadFinder.of(model).find().path is None
    with pytest.raises(CheckpointError, match=r"holds no config\.json"):
        HeadFinder(heads_dir(), model, None)
