"""Training an EAGLE-3 head: its LM head learns, other tokens do not count, runs resume, heads continue."""

import numpy as np
import pytest
import torch
from making import stopped_and_resumed

from eyas.drafters.eagle3 import EAGLE3, Eagle3
from eyas.drafters.heads import read_head
from eyas.engine.interfaces import FINAL, DraftFiles
from eyas.errors import ConfigError
from eyas.training.data import Sample
from eyas.training.eagle3 import Eagle3Recipe, Eagle3Trainer
from eyas.training.features import FeatureSource
from eyas.training.finish import train_head
from eyas.training.losses import CHUNK, classification_loss
from tiny import VOCAB

QUICK = {"taps": "0,1", "learning_rate": 3e-3, "batch_rows": 256, "held_out_every": 8, "first_pair": True}


def trainer(runtime, samples, draft_ids=None, **changes):
    config = Eagle3Recipe(**QUICK, draft_vocab=None if draft_ids is None else len(draft_ids), **changes)
    return Eagle3Trainer(runtime, samples, config, draft_ids, FeatureSource(runtime, 64, taps=(0, 1, FINAL)))


def test_the_loss_and_the_gradients_of_an_own_lm_head_are_torchs_own():
    generator = torch.Generator().manual_seed(0)
    rows, vocab = CHUNK + 40, 30  # two chunks
    feature, output = torch.randn((2, rows, 8), generator=generator)
    head, own = torch.randn((2, vocab, 8), generator=generator)
    weights = torch.rand(rows, generator=generator)
    ours, theirs = ([part.clone().requires_grad_() for part in (output, own)] for _ in range(2))
    loss, agreement = classification_loss(ours[0], feature, head, weights, own=ours[1])
    each = torch.nn.functional.cross_entropy(
        theirs[0] @ theirs[1].T, (feature @ head.T).softmax(dim=-1), reduction="none"
    )
    expected = (each * weights).sum() / weights.sum()
    (3 * loss).backward()
    (3 * expected).backward()
    torch.testing.assert_close(loss, expected)
    for part, by_torch in zip(ours, theirs, strict=True):
        torch.testing.assert_close(part.grad, by_torch.grad)
    agreeing = (output[:CHUNK] @ own.T).argmax(-1) == (feature[:CHUNK] @ head.T).argmax(-1)
    assert agreement == pytest.approx(float(agreeing.float().mean()))


def test_only_rows_before_tokens_of_the_draft_vocabulary_count(runtime, samples):
    run = trainer(runtime, samples, np.array([5, 7]))
    sample = Sample("s", (3, 4), (5, 6, 7, 8), 0.0)
    # rows 0..3 lead to the tokens at 2..5
    assert run._learnable(sample, 5).tolist() == [1, 0, 1, 0]
    assert trainer(runtime, samples)._learnable(sample, 5).tolist() == [1, 1, 1, 1]


def test_tokens_outside_the_draft_vocabulary_change_no_loss(runtime, samples):
    """Not at the first step, and not at those of chains that began before them."""
    ids = np.unique([token for sample in samples for token in sample.response_ids])[::2]
    run = trainer(runtime, samples, ids, steps=3)
    features = run._features.get(samples)
    hidden = runtime.target.hidden_size

    class Changed:
        def get(self, some):
            changed = []
            for sample in some:
                rows = features[samples.index(sample)].clone()
                outside = ~np.isin(sample.token_ids[1 : len(rows) + 1], ids)
                rows[torch.from_numpy(outside), -hidden:] = 9.0  # labels there are wrong
                changed.append(rows)
            return changed

    def loss():
        return float(run.loss(samples[:6], torch.Generator().manual_seed(0))[0].detach())

    true = loss()
    run._features = Changed()
    assert loss() == pytest.approx(true)
    run.skips_other_tokens = False
    assert loss() != pytest.approx(true)


@pytest.mark.parametrize(
    "variant", [{}, {"fc_norm": True, "norm_output": True}, {"target_lm_head": True}], ids=str
)
def test_training_learns_and_resuming_changes_nothing(runtime, samples, tmp_path, variant):
    ids = np.arange(0, VOCAB, 2)
    whole = trainer(runtime, samples, ids, epochs=6, ema=0.9, **variant)
    before = {name: weight.clone() for name, weight in whole.network.state_dict().items()}
    whole.run(tmp_path / "whole")
    losses = [row[0] for row in whole.state.history]
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    assert all((before[name] != weight).any() for name, weight in whole.network.state_dict().items())

    resumed = stopped_and_resumed(
        lambda: trainer(runtime, samples, ids, epochs=6, ema=0.9, **variant), tmp_path / "stopped"
    )
    for name, weight in whole.best_network().state_dict().items():
        torch.testing.assert_close(resumed.best_network().state_dict()[name], weight, rtol=0, atol=0)


def test_a_head_is_made_measured_and_continued(runtime, samples, tmp_path):
    config = Eagle3Recipe(**QUICK, epochs=3, draft_vocab=40, norm_output=True, fc_norm=True)
    first, second = tmp_path / "first", tmp_path / "second"
    measured = train_head("eagle3", runtime, samples, config, work=tmp_path / "a", place=first)
    assert measured["T=1, 60 rows"]["acceptance_length"] > 1
    checkpoint = read_head(EAGLE3, first)
    assert (checkpoint.config.taps, checkpoint.config.own_rows) == ((0, 1), 40)
    assert len(checkpoint.config.coupled_scale) == 6
    assert Eagle3.load(runtime, DraftFiles(head=lambda: first)).taps == (0, 1)
    # sizes, variants and vocabulary are those of the head to start from
    more = Eagle3Recipe(**QUICK, epochs=1)
    train_head("eagle3", runtime, samples, more, work=tmp_path / "b", place=second, start=first)
    again = read_head(EAGLE3, second)
    np.testing.assert_array_equal(again.draft_ids, checkpoint.draft_ids)
    assert again.config.stack == checkpoint.config.stack
    assert again.config.fc_norm


def test_what_a_recipe_refuses(runtime, samples):
    with pytest.raises(ConfigError, match="norm_before_fc and fc_norm exclude each other"):
        Eagle3Recipe(norm_before_fc=True, fc_norm=True)
    with pytest.raises(ConfigError, match="has 2 layers, but EAGLE-3's taps need 8 or more; name some"):
        Eagle3Trainer.taps(runtime, Eagle3Recipe())
