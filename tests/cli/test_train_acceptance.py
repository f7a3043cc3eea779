"""`eyas train acceptance`: rates that a head's confidences are worth, written into its config.json."""

import json
import shutil

from eyas.drafters.eagle_head import EAGLE
from eyas.drafters.heads import read_head

WATCH = ("--limit", "3", "--max-new-tokens", "12", "--draft-tokens", "8", "--depth", "3", "--threads", "1")


def test_maps_are_fitted_and_read_again(eyas, model, tmp_path):
    head = tmp_path / "head"
    shutil.copytree(model / "head", head)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"tell {n}"}) + "\n" for n in range(4)))
    before = json.loads((head / "config.json").read_text())
    argv = ("train", "acceptance", "--head", head, "--prompts", prompts, "--model", model, *WATCH)
    done = eyas(*argv)
    assert done.code == 0, done.err
    assert [line.split(":")[0] for line in done.out.splitlines()] == ["greedy", "coupled", "top-k"]
    maps = read_head(EAGLE, head).config.acceptance
    assert set(maps) == {"greedy", "coupled", "top-k"}
    assert all(1 <= len(fit.rate_by_depth) <= 3 for fit in maps.values())
    after = json.loads((head / "config.json").read_text())
    after.pop("acceptance_map")
    assert after == before
    again = eyas(*argv)  # what was written does not change what is watched
    assert again.out == done.out


def test_a_head_that_is_none_is_one_line(eyas, model, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "tell"}\n')
    done = eyas("train", "acceptance", "--head", tmp_path, "--prompts", prompts, "--model", model)
    assert done.code == 2
    assert "config.json" in done.err
    assert len(done.err.splitlines()) == 1


def test_no_prompts_leave_the_head_as_it_is(eyas, model, tmp_path):
    head, prompts = tmp_path / "head", tmp_path / "prompts.jsonl"
    shutil.copytree(model / "head", head)
    prompts.write_text("\n")
    before = (head / "config.json").read_bytes()
    argv = ("train", "acceptance", "--head", head, "--prompts", prompts, "--model", model)
    assert "holds no prompts" in eyas(*argv, *WATCH).error
    prompts.write_text('{"prompt": "tell"}\n')
    one_token = ("--max-new-tokens", "1", "--threads", "1")  # the prompt's own pass gives it
    assert "showed no drafts (greedy)" in eyas(*argv, *one_token).error
    assert (head / "config.json").read_bytes() == before
