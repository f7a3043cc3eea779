"""Where numbers come from, as far as it can be checked without the machine at hand."""

import numpy as np

from eyas.bench import provenance
from tiny import write_head


def test_a_heads_hash_is_that_of_its_weights_and_config(tmp_path):
    head = write_head(tmp_path / "head")
    first = provenance.head_hash(head)
    (head / "README.md").write_text("a model card")
    assert provenance.head_hash(head) == first
    assert provenance.head_hash(write_head(tmp_path / "same")) == first
    assert provenance.head_hash(write_head(tmp_path / "other", seed=1)) != first
    (head / "config.json").write_text("{}")
    assert provenance.head_hash(head) != first
    assert provenance.head_hash(None) is None


def test_a_commit_is_that_of_the_package_only(monkeypatch, tmp_path):
    (tmp_path / "__init__.py").write_text("")
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path)
    assert provenance.git_commit() is None


def test_no_git_is_no_error(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance.git_commit() is None


def test_the_record_is_whole():
    record = provenance.provenance("eyas eval")
    assert record["command_line"] == "eyas eval"
    assert record["versions"]["numpy"] == np.__version__
    assert len(record["sources"]) == 64
    assert record["started"] <= provenance.now()
