"""int8 weights: what a head loses by them is measured and said."""

import numpy as np
import pytest
from making import recipe_class, trainer_class, write

from eyas.drafters.eagle2 import Eagle2, Eagle2Options
from eyas.engine.interfaces import DraftFiles
from eyas.models import int8
from eyas.training.features import FeatureSource
from eyas.training.measure import Case, measure
from eyas.training.precision import Int8Drafts, what_int8_costs

RATIO = 4000.0
CASE = Case(name="60 rows", options=Eagle2Options())


@pytest.fixture
def uneven(runtime, samples, tmp_path, monkeypatch):
    """A head of a target with tiny embeddings: its weights for them are as much larger."""
    recipe = recipe_class("eagle")(
        learning_rate=3e-3,
        noise=0.0,
        ce_weight=1.0,
        first_pair=True,
        batch_rows=256,
        epochs=8,
        closed_form_start=True,
    )
    run = trainer_class("eagle")(runtime, samples, recipe, None, FeatureSource(runtime, 64))
    run.run(tmp_path / "work")
    hidden, embed = runtime.target.hidden_size, runtime.embed
    run.network.fc.weight.data[:, :hidden] *= RATIO
    monkeypatch.setattr(runtime, "embed", lambda token_ids: embed(token_ids) / RATIO)
    return write("eagle", tmp_path / "head", runtime, run.network)


def acceptance(runtime, blocks, head, samples):
    drafter = Eagle2.load(blocks, DraftFiles(head=lambda: head))
    found = measure(runtime, drafter, [CASE], samples[:24], FeatureSource(runtime, 64))
    return found["T=0, 60 rows"]["acceptance_length"]


@pytest.mark.slow
def test_uneven_halves_survive_int8(runtime, uneven, samples, monkeypatch):
    exact = acceptance(runtime, runtime, uneven, samples)
    assert exact > 1.5
    assert acceptance(runtime, Int8Drafts(runtime), uneven, samples) > 0.97 * exact
    monkeypatch.setattr(int8, "MOST_SPREAD", np.inf)  # a scale per row, as it was
    assert acceptance(runtime, Int8Drafts(runtime), uneven, samples) < 0.9 * exact


@pytest.mark.parametrize(
    ("after", "share"), [(3.0, None), (2.98, None), (2.9, "3 %"), (2.1, "30 %"), (3.2, None)]
)
def test_a_loss_is_said_in_one_line(after, share):
    measured = {
        "T=0, 60 rows": {"acceptance_length": 3.0},
        "T=0, 60 rows, top-k": {"acceptance_length": 9.0},
        "T=0, 60 rows, int8 weights": {"acceptance_length": after},
        "T=1, 60 rows": {"acceptance_length": None},
        "T=1, 60 rows, int8 weights": {"acceptance_length": None},
    }
    line = what_int8_costs(measured, CASE)
    if share is None:
        assert line is None
    else:
        assert (
            f"cost this head {share} of its acceptance length (T=0, 60 rows: {after} instead of 3.0)" in line
        )
        assert "--draft-dtype bfloat16" in line


def test_a_run_measures_int8_weights_and_warns(runtime, samples, tmp_path, caplog, monkeypatch):
    from eyas.training import finish

    monkeypatch.setattr(finish, "what_int8_costs", lambda measured, case: "a warning")
    recipe = recipe_class("medusa")(epochs=0.2, draft_vocab=None, held_out_every=5, batch_rows=256)
    measured = finish.train_head(
        "medusa", runtime, samples, recipe, work=tmp_path / "work", place=tmp_path / "medusa"
    )
    assert measured["T=0, 64 rows, int8 weights"]["answers"] == measured["T=0, 64 rows"]["answers"] > 0
    assert [record.message for record in caplog.records] == ["a warning"]
