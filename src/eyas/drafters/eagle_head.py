"""EAGLE's auto-regression head on a runtime's blocks, and the state of an EAGLE head for one sequence.

Source: EAGLE (arXiv 2401.15077), Sec. 4.1; EAGLE-2 uses the same head.

The head reads *pairs* and predicts the next feature, from which the target's LM head gives the next token:

    position j          0        1        2                     u_j   = W_fc [embed(x_{j+1}); f_j] + b
    feature            f_0      f_1      f_2                     f^_{j+1} = layers(u)_j
    token              x_1      x_2      x_3                     x_{j+2} ~ LM head(f^_{j+1})

A pair's position is that of its *feature*. Committed pairs always hold the target's true features; a tree
node holds its parent's predicted one. So the committed length of the head's cache equals the target's: the
position of the root (docs/laws.md, L7).

On disk a head has the layout of the authors' released ones, names without a prefix:

    fc.weight [h, 2h]   fc.bias [h]                     input: embedding first, feature second
    layers.0.self_attn.{q,k,v,o}_proj.weight            (+ .bias of q, k, v with "qkv_bias")
    layers.0.mlp.{gate,up,down}_proj.weight
    layers.0.post_attention_layernorm.weight [h]        there is no input_layernorm in layer 0
    embed_tokens.weight [V, h]                          may be there; the target's is used

Extensions of eyas beside those of `heads`: `layers.1.*` with `input_layernorm`; `coupled_scale` and
`acceptance_map` in config.json.

EAGLE-3's head (`eagle3`) reads other features and predicts in another way; everything behind that is shared:
`AnyEagleHead` says what differs.

The head can skip pairs: asked to read only the last ones (a long prompt, many cycles without drafting), it
clears its cache and starts there. The cache's first row then is a later pair, and positions, which are
relative, count from it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import numpy as np

from eyas.drafters.acceptance import AcceptanceMap
from eyas.drafters.head_arrays import write_arrays
from eyas.drafters.head_layers import stack_config, stack_shapes
from eyas.drafters.heads import (
    EXTENSIONS,
    HeadCheckpoint,
    HeadFile,
    HeadLayout,
    HeadTarget,
    register_head,
    write_config,
)
from eyas.drafters.ranked import Frontier, RankedSession
from eyas.drafters.target import AnswerHead, read_for_target
from eyas.drafters.tree_builder import AnyTreeBuilder, TreeBuilder
from eyas.engine.interfaces import (
    Coupling,
    DraftContext,
    DraftStack,
    Features,
    Linear,
    LMHead,
    PathCache,
    Runtime,
    TopK,
    TreeCoupling,
    TreeGrower,
)
from eyas.engine.tree import Floats, Ints, Prefix
from eyas.errors import CheckpointError, DataError
from eyas.models.spec import StackSpec

DEFAULT_COUPLED_SCALE = (1.0,)
ACCEPTANCE_MODES = ("greedy", "coupled", "top-k")


@dataclass(frozen=True, kw_only=True)
class AnyEagleConfig:
    """What the config.json of any EAGLE head says.

    Attributes:
        stack: sizes of its decoder layers.
        coupled_scale: per depth, the scale of coupled confidences (docs/algorithm.md, section 4).
        acceptance: maps confidences to acceptance rates (section 6), by how children are chosen: "greedy",
            "coupled" or "top-k" (temperature > 0, without the sampler's noise).
    """

    stack: StackSpec
    coupled_scale: tuple[float, ...]
    acceptance: Mapping[str, AcceptanceMap]


AnyConfig = TypeVar("AnyConfig", bound=AnyEagleConfig)


@dataclass(frozen=True, kw_only=True)
class EagleHeadConfig(AnyEagleConfig):
    """What a head's config.json says.

    Attributes:
        fc_bias: whether fc has a bias.
    """

    fc_bias: bool


def _config(file: HeadFile) -> EagleHeadConfig:
    return EagleHeadConfig(
        # The first layer has no input norm, and the output, in the target's feature space, no final one.
        stack=stack_config(file.document, file.directory, first_input_norm=False, final_norm=False),
        fc_bias="fc.bias" in file.arrays,  # the weights decide, not the config: both spellings are in use
        coupled_scale=read_coupled_scale(file),
        acceptance=read_acceptance(file),
    )


def read_coupled_scale(file: HeadFile) -> tuple[float, ...]:
    """`coupled_scale` of a config.json, see `AnyEagleConfig`; CheckpointError if it is no scale."""
    scale = tuple(float(value) for value in file.document.get("coupled_scale", DEFAULT_COUPLED_SCALE))
    if not scale or min(scale) <= 0:
        raise CheckpointError(
            f"{file.directory}/config.json has coupled_scale {scale}; expected positive numbers."
        )
    return scale


def _tensors(config: EagleHeadConfig) -> dict[str, tuple[int, ...]]:
    hidden = config.stack.hidden_size
    bias = {"fc.bias": (hidden,)} if config.fc_bias else {}
    return {"fc.weight": (hidden, 2 * hidden), **bias, **stack_shapes(config.stack)}


def read_acceptance(file: HeadFile) -> dict[str, AcceptanceMap]:
    """`acceptance_map` of a config.json: by mode {"confidence": [..], "rate_by_depth": [[..], ..]}.

    Raises:
        CheckpointError: it is no such map.
    """
    document: Any = file.document.get("acceptance_map", {})
    try:
        unknown = sorted(document.keys() - set(ACCEPTANCE_MODES))
        if unknown:
            raise DataError(f"unknown mode {unknown[0]!r}; the modes are {', '.join(ACCEPTANCE_MODES)}.")
        return {
            mode: AcceptanceMap(
                confidence=tuple(map(float, entry["confidence"])),
                rate_by_depth=tuple(tuple(map(float, rates)) for rates in entry["rate_by_depth"]),
            )
            for mode, entry in document.items()
        }
    except (AttributeError, DataError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{file.directory}/config.json has an unusable acceptance_map: {error}"
        ) from error


def write_plain(head: HeadCheckpoint[EagleHeadConfig], place: Path, _target: HeadTarget) -> None:
    """Write a one-layer head as published ones are: bfloat16, no draft vocabulary, none of eyas's entries.

    The draft vocabulary only selects rows of the target's LM head, so nothing is lost but speed.

    Raises:
        CheckpointError: a head of several layers.
    """
    layers = head.config.stack.num_layers
    if layers != 1:
        raise CheckpointError(
            f"the head has {layers} layers, but the layout eagle holds 1; train one with "
            "`eyas train eagle --layers 1`."
        )
    own = (*EXTENSIONS, "coupled_scale", "acceptance_map")
    document = {key: value for key, value in head.document.items() if key not in own}
    bias = np.zeros(head.config.stack.hidden_size, dtype=np.float32)  # SGLang's would stay what it is
    place.mkdir(parents=True)
    write_arrays(place / "model.safetensors", {"fc.bias": bias, **head.weights})
    write_config(place, document | {"bias": True})


EAGLE = register_head(
    "eagle",
    title="an EAGLE head",
    config=_config,
    tensors=_tensors,
    trainer="eyas.training.eagle:EagleTrainer",
    folder="",
    files=("model.safetensors", "pytorch_model.bin"),
    unused=("embed_tokens.weight",),
    mark=("coupled_scale", None),
    layouts=(HeadLayout(name="eagle", readers="the authors' code, vLLM, SGLang", write=write_plain),),
)


class HeadOfAnswer(Protocol):
    """The LM head that ranks the drafts of one answer (`AnswerHead`, `OwnHead`)."""

    def after(self, token_ids: Sequence[int]) -> LMHead:
        """For drafts behind `token_ids`: everything committed, prompt included, and more than before."""
        ...


@dataclass(frozen=True, kw_only=True)
class AnyEagleHead(ABC):
    """The networks of a head, shared by all sequences: what one kind of EAGLE heads has differently.

    Attributes:
        draft_ids: (M,) ascending target ids of the draft vocabulary; None for the whole vocabulary.
        coupled_scale: per depth, the scale of coupled confidences; the last serves all deeper levels.
        acceptance: maps confidences to acceptance rates, by how children are chosen.
    """

    runtime: Runtime
    stack: DraftStack
    draft_ids: Ints | None
    coupled_scale: tuple[float, ...]
    acceptance: Mapping[str, AcceptanceMap] = field(default_factory=dict)

    @property
    @abstractmethod
    def grower(self) -> TreeGrower | None:
        """Drafts whole trees, where the runtime can."""

    def take(self, features: Features) -> Features:
        """(T, H) what the head reads of the target's features (T, ..)."""
        return features

    @abstractmethod
    def predict(
        self, cache: PathCache, token_ids: Ints, features: Features, parents: Ints | None
    ) -> Features:
        """(T, H) what follows pairs of tokens (T,) and features (T, H), which are appended to the cache."""

    def lm_head(self) -> HeadOfAnswer:
        """Ranks the tokens after predicted features, for one answer."""
        return AnswerHead(self.runtime, self.draft_ids)

    def scale(self, depth: int) -> float:
        """Scale of the coupled confidence of nodes at `depth` (1 is below the root)."""
        return self.coupled_scale[min(depth, len(self.coupled_scale)) - 1]


def hidden_size(config: AnyEagleConfig) -> int:
    """Of the features that a head reads."""
    return config.stack.hidden_size


@dataclass(frozen=True, kw_only=True)
class EagleHead(AnyEagleHead):
    """The networks of an EAGLE-1/2 head."""

    fc: Linear

    @classmethod
    def load(cls, runtime: Runtime, directory: Path) -> Self:
        """Read a checkpoint in the EAGLE-1/2 layout and put it on the runtime.

        Raises:
            CheckpointError: broken files, or a head for another target.
        """
        head = read_for_target(EAGLE, runtime, directory, hidden_size)
        config, weights = head.config, head.weights
        return cls(
            runtime=runtime,
            fc=runtime.linear(weights["fc.weight"], weights.get("fc.bias")),
            stack=runtime.decoder_stack(config.stack, weights),
            draft_ids=head.draft_ids,
            coupled_scale=config.coupled_scale,
            acceptance=config.acceptance,
        )

    @cached_property
    def grower(self) -> TreeGrower | None:
        """Drafts whole trees, where the runtime can."""
        return self.runtime.tree_grower(self.fc, self.stack)

    def predict(
        self, cache: PathCache, token_ids: Ints, features: Features, parents: Ints | None
    ) -> Features:
        """The next features."""
        return self.stack.forward(cache, self.fc(self.runtime.embed(token_ids), features), parents)


class HeadState:
    """The head's cache for one sequence, and the pairs that it has not read yet."""

    def __init__(self, head: AnyEagleHead) -> None:
        self.num_forwards = 0
        self.head = head
        self._cache = head.stack.new_cache()
        self._num_skipped = 0  # pairs before the cache's first
        self._waiting: list[tuple[Features, Ints]] = []

    def begin(self, context: DraftContext, keep: int) -> None:
        """Start an answer on the first `keep` pairs."""
        self.num_forwards = 0
        self._answer_head = self.head.lm_head()
        self._context = context
        self._is_coupled = context.is_coupled
        self._grower = self.head.grower
        if self._grower and self._is_coupled and not self._grower.accepts(context.sampler):
            self._grower = None
        waiting, self._waiting = self._waiting, []
        start = self._num_skipped + self._cache.length
        self._cache.truncate(max(0, min(keep, start) - self._num_skipped))
        self._num_skipped = min(keep, self._num_skipped)
        for features, token_ids in waiting:
            count = min(len(token_ids), max(0, keep - start))
            if count:
                self._waiting.append((features[:count], token_ids[:count]))
            start += len(token_ids)

    def extend(self, features: Features, token_ids: Sequence[int]) -> None:
        """Remember pairs for the next tree."""
        assert len(features) == len(token_ids), "one token after each feature"
        self._waiting.append((features, np.array(token_ids, dtype=np.int64)))

    def fork(self) -> "HeadState":
        """A state with a copy of what this one has read, and of what waits."""
        fork = HeadState(self.head)
        fork._cache = self._cache.fork(self._cache.length)
        fork._num_skipped, fork._waiting = self._num_skipped, [*self._waiting]
        return fork

    def num_unread(self, token_ids: Sequence[int]) -> int:
        """Pairs that the head has not read yet, below the root `token_ids[-1]`."""
        return len(token_ids) - 1 - self._num_skipped - self._cache.length

    def expander(self, token_ids: Sequence[int], most_read: int | None) -> "Expander":
        """Get ready to draft below the root `token_ids[-1]`, reading at most the last `most_read` pairs."""
        return Expander(self, token_ids, most_read)

    def grow(self, builder: AnyTreeBuilder, token_ids: Sequence[int], most_read: int | None, k: int) -> bool:
        """Draft a whole tree in one call of the runtime; False, and nothing is done, where it cannot."""
        grower, laps = self._grower, self._context.laps
        if grower is None or isinstance(builder, TreeBuilder):
            return False
        coupling = None
        if self._is_coupled:
            answer_length = len(token_ids) - len(self._context.prompt_ids)
            coupling = TreeCoupling(self._context.sampler, answer_length, self.head.coupled_scale)
        lm_head = self._answer_head.after(token_ids)
        if laps is not None:
            laps.mark("tree")
        waiting, length = self._to_read(most_read), self._cache.length
        try:
            self.num_forwards += grower.grow(builder, self._cache, lm_head, waiting, k, coupling)
        except BaseException:  # Ctrl-C, too: what waits may be in the cache already
            self._cache.truncate(length)
            raise
        if laps is not None:
            laps.mark("draft")
        self._end_reading(token_ids)
        return True

    def answer(self, token_ids: Sequence[int]) -> list[Prefix]:
        """The answer below the prompt, up to the root `token_ids[-1]`; none where nothing depends on it."""
        if self._context.sampler.config.is_greedy and not self._is_coupled:
            return []
        return [Prefix(token_ids[len(self._context.prompt_ids) :])]

    def read(self, token_ids: Sequence[int], most: int | None) -> Features:
        """Read the waiting pairs; (1, H), what the head predicts below the root `token_ids[-1]`."""
        self._lm_head = self._answer_head.after(token_ids)
        features, tokens = self._to_read(most)
        output = self.append(tokens, features, None)
        self._cache.commit(range(len(tokens)))
        self._end_reading(token_ids)
        return output[-1:]

    def _end_reading(self, token_ids: Sequence[int]) -> None:
        """What waited below the root `token_ids[-1]` is committed."""
        self._waiting = []
        assert self._num_skipped + self._cache.length == len(token_ids) - 1, (
            "the head's cache ends before the root"
        )

    def _to_read(self, most: int | None) -> tuple[Features, Ints]:
        """The waiting pairs; those of several cycles are read in one pass."""
        assert self._waiting, "a root always comes with a new pair"
        features, tokens = self._waiting[0]
        if len(self._waiting) > 1:
            parts, ids = zip(*self._waiting, strict=True)
            features, tokens = self.head.runtime.join(parts), np.concatenate(ids)
        if most is not None and len(tokens) > most:
            self._num_skipped += self._cache.length + len(tokens) - most
            self._cache.truncate(0)
            features, tokens = features[-most:], tokens[-most:]
            self._waiting = [(features, tokens)]
        return self.head.take(features), tokens

    @property
    def acceptance(self) -> AcceptanceMap | None:
        """How the head's confidences are to be read for this answer; None as they are."""
        if self._context.sampler.config.is_greedy:
            mode = "greedy"
        else:
            mode = "coupled" if self._is_coupled else "top-k"
        return self.head.acceptance.get(mode)

    def append(self, token_ids: Ints, features: Features, parents: Ints | None) -> Features:
        """Run pairs (T,) through the head, as pending rows under `parents`; returns its outputs (T, H)."""
        head, laps = self.head, self._context.laps
        self.num_forwards += 1
        if laps is not None:
            laps.mark("tree")
        outputs = head.predict(self._cache, token_ids, features, parents)
        if laps is not None:
            laps.mark("draft")
        return outputs

    def select(self, features: Features, rows: Ints) -> Features:
        """Rows of features, for the rows below them."""
        return self.head.runtime.select(features, rows)

    @property
    def num_pending(self) -> int:
        """Rows of the tree under way."""
        return self._cache.num_pending

    def drop_tree(self) -> None:
        """Forget the tree's rows."""
        self._cache.commit(())

    def top_k(self, features: Features, k: int, prefixes: Sequence[Prefix], depth: int) -> TopK:
        """The `k` best children, at `depth`, of nodes with these predicted features (F, H) and prefixes."""
        coupling, laps = None, self._context.laps
        if self._is_coupled:
            sampler = self._context.sampler
            scale = 1.0 if sampler.config.is_greedy else self.head.scale(depth)
            coupling = Coupling(sampler, prefixes, scale)
        if laps is not None:
            laps.mark("tree")
        top = self._lm_head.top_k(features, k, coupling)
        if laps is not None:
            laps.mark("draft")
        return top

    def log_probs(self, features: Features, prefixes: Sequence[Prefix]) -> Floats:
        """(F, V) natural logs of the draft's distributions, processed as the target's are."""
        sampler, laps = self._context.sampler, self._context.laps
        if laps is not None:
            laps.mark("tree")
        logits = self._lm_head.logits(features)
        if laps is not None:
            laps.mark("draft")
        rows = [sampler.log_probs(row, prefix) for row, prefix in zip(logits, prefixes, strict=True)]
        return np.stack(rows)

    def draw(self, log_probs: Floats, prefix: Prefix, count: int) -> Ints:
        """Up to `count` tokens from (V,) `log_probs`, in order and without replacement."""
        return self._context.sampler.draw_draft(log_probs, len(prefix), count)


class Expander:
    """Drafts one tree, level by level; leave it as a context so that its rows are dropped.

    The head first reads what waits when it is asked for the root's children.
    """

    def __init__(self, state: HeadState, token_ids: Sequence[int], most_read: int | None) -> None:
        self._state = state
        self._token_ids = token_ids
        self._most_read = most_read
        self._features: Features  # (F, H) predicted features below the frontier's nodes
        # Per frontier node: the answer up to and including its token; none where nothing depends on it.
        self._prefixes: list[Prefix] = []
        self._first_row: int | None = None  # where the frontier's rows start among the pending ones
        self._depth = 1  # of the children to come

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._state.drop_tree()

    def grow(self, builder: AnyTreeBuilder, k: int) -> bool:
        """Draft all levels of a dynamic tree in one call; False, and nothing is done, where none can."""
        return self._state.grow(builder, self._token_ids, self._most_read, k)

    def __call__(self, frontier: Frontier | None, k: int) -> tuple[Ints, Floats]:
        """The `k` best children of each frontier node (None: of the root), as `expansion` asks."""
        self._descend(frontier)
        top = self._state.top_k(self._features, k, self._prefixes, self._depth)
        return top.token_ids, top.log_probs

    def sample(self, frontier: Frontier | None, k: int) -> tuple[Ints, Floats, Floats]:
        """Up to `k` children of each frontier node, *drawn* from the draft's processed distribution.

        Returns:
            (F, k) token ids in the order of the draws, without replacement; (F, k) their natural logs, -inf
            where a distribution has fewer tokens; and the (F, V) distributions.
        """
        self._descend(frontier)
        log_probs = self._state.log_probs(self._features, self._prefixes)
        token_ids = np.zeros((len(log_probs), k), dtype=np.int64)
        drawn = np.full(token_ids.shape, -np.inf)
        for row, prefix in enumerate(self._prefixes):
            found = self._state.draw(log_probs[row], prefix, k)
            token_ids[row, : len(found)] = found
            drawn[row, : len(found)] = log_probs[row, found]
        return token_ids, drawn, np.exp(log_probs)

    def _descend(self, frontier: Frontier | None) -> None:
        """Predict the features below a frontier; None is the root, and comes first."""
        if frontier is None:
            self._features = self._state.read(self._token_ids, self._most_read)
            self._prefixes = self._state.answer(self._token_ids)
            return
        first = self._first_row
        above = np.full(len(frontier.token_ids), -1) if first is None else first + frontier.parent_rows
        self._first_row = self._state.num_pending
        features = self._state.select(self._features, frontier.parent_rows)
        self._features = self._state.append(frontier.token_ids, features, above)
        self._depth += 1
        if self._prefixes:
            self._prefixes = [
                self._prefixes[row].extended(token)
                for token, row in zip(frontier.token_ids.tolist(), frontier.parent_rows.tolist(), strict=True)
            ]


class EagleSession(RankedSession):
    """One sequence's head state, as all EAGLE methods use it. A method adds its own tree (`propose`)."""

    def __init__(self, head: AnyEagleHead) -> None:
        self._state = HeadState(head)

    @property
    def num_forwards(self) -> int:
        """Passes of the head since `begin`."""
        return self._state.num_forwards

    @property
    def acceptance(self) -> AcceptanceMap | None:
        """Maps the head's confidences to acceptance rates, if its file has a map."""
        return self._state.acceptance

    def begin(self, context: DraftContext, keep: int = 0) -> None:
        """Start an answer; the head keeps its first `keep` pairs."""
        self._context = context
        self._state.begin(context, keep)

    def fork(self) -> Self:
        """A session with a copy of the head's cache."""
        fork = type(self)(self._state.head)
        fork._state = self._state.fork()
        return fork

    def extend(self, features: Features, token_ids: Sequence[int]) -> None:
        """Remember the committed pairs."""
        self._state.extend(features, token_ids)

    def unread(self, token_ids: Sequence[int], most: int) -> int:
        """Pairs that the head reads before it drafts."""
        return min(most, self._state.num_unread(token_ids))

    def expander(self, token_ids: Sequence[int], most_read: int | None = None) -> Expander:
        """Get ready to draft below the root `token_ids[-1]`."""
        return self._state.expander(token_ids, most_read)
