"""How these tests make and write heads of every kind."""

import pytest

from eyas.drafters.heads import find_head_kind, write_head
from eyas.training.finish import head_document, trainer_of

DISTILLED = ["medusa", "hydra", "draft-lm"]
KINDS = ["eagle", "eagle3", *DISTILLED]


def trainer_class(kind):
    return trainer_of(find_head_kind(kind))


def recipe_class(kind):
    return trainer_class(kind).recipe


def write(kind, directory, runtime, network, draft_ids=None, **entries):
    """Write a network into a folder, which is made; returns the folder."""
    directory.mkdir(parents=True, exist_ok=True)
    document = head_document(runtime, network, entries)
    write_head(find_head_kind(kind), directory, network.to_weights(), document, draft_ids)
    return directory


def recipe(kind, **changes):
    """A recipe for the tiny target, which has too few layers for the default taps of EAGLE-3."""
    return recipe_class(kind)(**({"taps": "0,1"} if kind == "eagle3" else {}), **changes)


def stopped_and_resumed(fresh, folder):
    """A trainer whose run was interrupted half way, in another trainer; `fresh` makes either."""

    def interrupt(label, done, total):
        if done == total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fresh().run(folder, interrupt)
    resumed = fresh()
    resumed.run(folder)
    return resumed
