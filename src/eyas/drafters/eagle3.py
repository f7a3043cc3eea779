"""EAGLE-3: the head reads hidden states of several of the target's layers, and predicts its own.

Source: EAGLE-3 (arXiv 2503.01840), Sec. 3.1. With H_l the target's residual stream entering layer l, and the
taps l1, l2, .. (the authors': 2, n / 2 and n - 3 of n layers), the head reads at position j

    g_j = W_fc [H_l1; H_l2; ..]_j                     where the target has been
    x   = [norm_e embed(t_{j+1}); norm_h g_j]         2H wide: query, key and value are products of it
    r   = g_j + W_o attention(x)                      t_{j+1} stands at position j, as in EAGLE
    r   = r + mlp(norm r)
    t_{j+2} ~ softmax(W_lm norm(r)),  g_{j+1} = r     where it has not been: no fc

W_lm is the head's own, over a draft vocabulary: `d2t` gives the target's ids of its rows. Trees, caches and
options are EAGLE-2's.

Variants, by entries of config.json:

    norm_before_residual    r = norm_h g_j + ..             heads of the `speculators` library
    norm_before_fc          W_fc norm([H_l1; H_l2; ..])     `input_norm.weight`
    fc_norm                 W_fc [norm_1 H_l1; ..]          `fc_norm.0.weight` and so on
    norm_output             g_{j+1} = norm(r)               EAGLE-3.1

On disk, besides the decoder layers (the first with `hidden_norm`):

    fc.weight [h, taps h]   norm.weight [h]   lm_head.weight [M, h]   d2t [M] int64

An `embed_tokens.weight` may be there; the target's is used. So is the target's LM head where there is no
`lm_head.weight`. `eagle_aux_hidden_state_layer_ids` in config.json names the taps. `eagle3_layouts` reads and
writes the files of other programs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

from eyas.drafters.eagle2 import Eagle2Options, Eagle2Session
from eyas.drafters.eagle3_layouts import LAYOUTS, SWITCHES, TAPS, authors_taps, read_gguf
from eyas.drafters.eagle_head import (
    AnyEagleConfig,
    AnyEagleHead,
    HeadOfAnswer,
    hidden_size,
    read_acceptance,
    read_coupled_scale,
)
from eyas.drafters.head_layers import stack_config, stack_shapes
from eyas.drafters.heads import HeadFile, register_head
from eyas.drafters.registry import register_drafter
from eyas.drafters.target import AnswerHead, OwnHead, check_vocabulary, read_for_target
from eyas.engine.interfaces import (
    DraftFiles,
    Features,
    Linear,
    LMHead,
    Norm,
    NormWeights,
    PathCache,
    Runtime,
    Taps,
    TargetInfo,
    TreeGrower,
)
from eyas.engine.tree import Ints
from eyas.errors import CheckpointError
from eyas.models.spec import StackSpec


@dataclass(frozen=True, kw_only=True)
class Eagle3Config(AnyEagleConfig):
    """What a head's config.json says.

    Attributes:
        taps: layers whose inputs it reads; None is the authors' choice.
        num_taps: how many.
        norm_before_fc: one norm over all that fc reads.
        fc_norm: a norm for each tap.
        norm_output: whether the next g is normed; if so, the stack has a final norm.
        fc_bias: whether fc has a bias.
        own_rows: rows of its own LM head; None where it has none.
    """

    taps: Taps | None
    num_taps: int
    norm_before_fc: bool
    fc_norm: bool
    norm_output: bool
    fc_bias: bool
    own_rows: int | None

    def taps_on(self, target: TargetInfo, directory: Path) -> Taps:
        """The taps on a target.

        Raises:
            CheckpointError: the target has no such layers.
        """
        layers = target.num_layers
        taps = authors_taps(layers) if self.taps is None else self.taps
        wrong = [tap for tap in taps if not 0 <= tap < layers]
        if wrong:
            raise CheckpointError(
                f"{directory} reads the inputs of layers {list(taps)}, but {target.name} has layers 0 to "
                f"{layers - 1}; use this target's head, or name its layers in {TAPS} of config.json."
            )
        return taps


def _config(file: HeadFile) -> Eagle3Config:
    switches = {name: _switch(file, name) for name in SWITCHES}
    if switches["norm_before_fc"] and switches["fc_norm"]:
        raise CheckpointError(
            f"{file.directory}/config.json has norm_before_fc and fc_norm, but one excludes the other."
        )
    activation = file.document.get("hidden_act", "silu")
    if activation != "silu":
        raise CheckpointError(f"{file.directory}/config.json has hidden_act {activation!r}; it is silu.")
    entries = {**file.document, "qkv_bias": "layers.0.self_attn.q_proj.bias" in file.arrays}
    stack = stack_config(entries, file.directory, final_norm=switches["norm_output"], scaled_rope=True)
    num_taps = _num_taps(file, stack.hidden_size)
    return Eagle3Config(
        stack=with_embedding(stack, switches["norm_before_residual"]),
        coupled_scale=read_coupled_scale(file),
        acceptance=read_acceptance(file),
        taps=_taps(file, num_taps),
        num_taps=num_taps,
        norm_before_fc=switches["norm_before_fc"],
        fc_norm=switches["fc_norm"],
        norm_output=switches["norm_output"],
        fc_bias="fc.bias" in file.arrays,
        own_rows=_own_rows(file),
    )


def _switch(file: HeadFile, name: str) -> bool:
    value = file.document.get(name)
    if value not in (None, False, True):
        raise CheckpointError(f"{file.directory}/config.json has {name} {value!r}; it is true or false.")
    return bool(value)


def _num_taps(file: HeadFile, hidden: int) -> int:
    """How many states fc reads."""
    fc = file.arrays.get("fc.weight")
    if fc is None or fc.ndim != 2 or fc.shape[1] < hidden or fc.shape[1] % hidden:
        found = "is missing" if fc is None else f"has shape {list(fc.shape)}"
        raise CheckpointError(
            f"{file.directory}: fc.weight {found}; it needs {hidden} inputs for each of the states that the "
            "head reads, and a target of another hidden size than the head's is not supported."
        )
    return int(fc.shape[1]) // hidden


def _taps(file: HeadFile, count: int) -> Taps | None:
    """The layers that config.json names; None where it names none and there are three."""
    named = file.document.get(TAPS)
    if named is None and count == 3:
        return None
    if not (isinstance(named, list) and len(named) == count and all(type(tap) is int for tap in named)):
        raise CheckpointError(
            f"{file.directory}/config.json has {TAPS} {named!r}, but fc.weight reads {count} states; name as "
            "many layers."
        )
    return tuple(named)


def _own_rows(file: HeadFile) -> int | None:
    """Rows of the head's own LM head; None where it has none."""
    weight = file.arrays.get("lm_head.weight")
    if weight is None:
        return None
    return len(weight) if file.draft_ids is None else len(file.draft_ids)


def with_embedding(stack: StackSpec, residual_is_normed: bool) -> StackSpec:
    """The same layers, the first of which reads embeddings beside the features."""
    first = replace(stack.layers[0], reads_embedding=True, residual_is_normed=residual_is_normed)
    return replace(stack, layers=(first, *stack.layers[1:]))


def _tensors(config: Eagle3Config) -> dict[str, tuple[int, ...]]:
    hidden, inputs = config.stack.hidden_size, config.num_taps * config.stack.hidden_size
    shapes = {"fc.weight": (hidden, inputs), "norm.weight": (hidden,), **stack_shapes(config.stack)}
    if config.fc_bias:
        shapes["fc.bias"] = (hidden,)
    if config.norm_before_fc:
        shapes["input_norm.weight"] = (inputs,)
    if config.fc_norm:
        shapes |= {f"fc_norm.{tap}.weight": (hidden,) for tap in range(config.num_taps)}
    if config.own_rows is not None:
        shapes["lm_head.weight"] = (config.own_rows, hidden)
    return shapes


EAGLE3 = register_head(
    "eagle3",
    title="an EAGLE-3 head",
    config=_config,
    tensors=_tensors,
    files=("model.safetensors", "pytorch_model.bin"),
    unused=("embed_tokens.weight",),
    trainer="eyas.training.eagle3:Eagle3Trainer",
    layouts=LAYOUTS,
    read_gguf=read_gguf,
)


@dataclass(frozen=True, kw_only=True)
class Eagle3Head(AnyEagleHead):
    """The networks of an EAGLE-3 head.

    Attributes:
        taps: layers of the target whose inputs it reads.
        norms: of each of these, of all of them together, or none.
        fc: from these to what the first layer reads.
        own: its own LM head; None where the target's is used.
        output_norm: of what the target's LM head reads; None where the stack has normed it.
    """

    taps: Taps
    norms: Sequence[Norm]
    fc: Linear
    own: LMHead | None
    output_norm: NormWeights

    @classmethod
    def load(cls, runtime: Runtime, directory: Path) -> Self:
        """Read a checkpoint and put it on the runtime.

        Raises:
            CheckpointError: broken files, or a head for another target.
        """
        head = read_for_target(EAGLE3, runtime, directory, hidden_size)
        config, weights = head.config, head.weights
        eps = config.stack.layers[0].norms.eps
        output_norm = None if config.norm_output else (weights["norm.weight"], eps)
        own = None
        if config.own_rows is not None:
            if head.draft_ids is None:
                check_vocabulary(runtime, directory, config.own_rows)
            own = runtime.own_lm_head(weights["lm_head.weight"], None, head.draft_ids, output_norm)
        names = ["input_norm"] if config.norm_before_fc else []
        names += [f"fc_norm.{tap}" for tap in range(config.num_taps) if config.fc_norm]
        return cls(
            runtime=runtime,
            taps=config.taps_on(runtime.target, directory),
            norms=[runtime.norm(weights[f"{name}.weight"], eps) for name in names],
            fc=runtime.linear(weights["fc.weight"], weights.get("fc.bias")),
            stack=runtime.decoder_stack(config.stack, weights),
            own=own,
            output_norm=output_norm,
            draft_ids=head.draft_ids,
            coupled_scale=config.coupled_scale,
            acceptance=config.acceptance,
        )

    @cached_property
    def grower(self) -> TreeGrower | None:
        """Drafts whole trees, where the runtime can."""
        return self.runtime.tree_grower(None, self.stack)

    def take(self, features: Features) -> Features:
        """(T, H) g of the positions of `features` (T, taps H)."""
        if not self.norms:
            return self.fc(features)
        width = len(self.taps) // len(self.norms) * self.runtime.target.hidden_size
        parts = (features[:, start : start + width] for start in range(0, len(self.norms) * width, width))
        return self.fc(*(norm(part) for norm, part in zip(self.norms, parts, strict=True)))

    def predict(
        self, cache: PathCache, token_ids: Ints, features: Features, parents: Ints | None
    ) -> Features:
        """The next g."""
        return self.stack.forward(cache, features, parents, self.runtime.embed(token_ids))

    def lm_head(self) -> HeadOfAnswer:
        """Its own LM head, or the target's."""
        if self.own is not None:
            return OwnHead(self.own)
        return AnswerHead(self.runtime, self.draft_ids, self.output_norm)


@register_drafter("eagle3", options=Eagle2Options, head="eagle3", default_tree="auto")
class Eagle3:
    """EAGLE-3 dynamic draft trees; needs an EAGLE-3 head for the target."""

    def __init__(self, head: Eagle3Head) -> None:
        self._head = head

    @classmethod
    def load(cls, runtime: Runtime, files: DraftFiles) -> Self:
        """Read the head and put it on the runtime."""
        return cls(Eagle3Head.load(runtime, files.head()))

    @property
    def taps(self) -> Taps:
        """Hidden states that the head reads."""
        return self._head.taps

    def open(self) -> Eagle2Session:
        """A session with an empty head cache."""
        return Eagle2Session(self._head)
