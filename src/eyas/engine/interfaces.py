"""Where the engine, the drafters and the runtimes meet.

A *runtime* owns everything heavy: weights, caches, devices, threads. The engine and the drafters hold
opaque handles (a feature is a row of the runtime's own array) and small NumPy arrays. A *drafter* is
written once, from the blocks that every runtime offers; it never asks which runtime it is on, and nothing
asks a drafter what it is.

One cycle (arXiv 2406.16858, Fig. 3), for each sequence:

    def cycle(
        runtime: Runtime,
        cache: PathCache,
        session: DraftSession,
        sampler: Sampler,
        tokens: list[int],
        start: int,
    ) -> None:
        # 1. Draft: a tree under the newest token, at most 5 levels deep.
        tree = session.propose(tokens, 5)
        # 2. One pass of the target over all nodes of the tree.
        [rows] = runtime.forward([TargetCall(cache, tree.token_ids, tree.parents)])
        # 3. Verify: the accepted path, and one bonus token. The answer begins at tokens[start].
        accepted = accept_same_ids(tree, Verifier(rows, sampler, tokens[start:]))
        # 4. Commit: keep the path's rows, drop the others.
        cache.commit(accepted.path)
        session.extend(runtime.select(rows.features, accepted.path), accepted.token_ids)
        tokens += accepted.token_ids

Shape letters: T rows of a call, N tree nodes (root included), H hidden size, V vocabulary, K top-k.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from eyas.config import Options
from eyas.engine.batch_cost import SequenceShare
from eyas.engine.costs import CostTable
from eyas.engine.metrics import Laps
from eyas.engine.sampling import Sampler, best_of_row, log_softmax
from eyas.engine.stopping import StoppingConfig
from eyas.engine.tree import DraftTree, Floats, Ints
from eyas.engine.tree_options import AUTO_DRAFT_TOKENS, TreeOptions
from eyas.engine.verification import SAME_IDS, AcceptanceRule, TargetScores
from eyas.errors import CapacityError, ConfigError
from eyas.models.spec import StackSpec

Weights = Mapping[str, NDArray[Any]]
# Which of the target's hidden states a drafter reads, side by side, as `hidden_states` of transformers counts
# them: k is the residual stream after k layers (0: the embedding), FINAL the output after the final norm.
Taps = tuple[int, ...]
FINAL = -1
Shortcut = tuple[NDArray[Any], NDArray[Any] | None] | None  # weight (outputs, inputs) and bias (outputs,)
NormWeights = tuple[NDArray[Any], float] | None  # weight (n,) and epsilon of an RMSNorm


class Features(Protocol):
    """(T, len(taps) * H) rows of the runtime's own array; `rows[[2, 5]]` and `rows[1:]` select some."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> "Features": ...


class PathCache(Protocol):
    """Keys and values of one sequence in one network: committed rows, then pending ones.

    A forward appends pending rows, each under a parent: a pending row, or -1 for the end of the committed
    prefix. A row sees the committed prefix, its pending ancestors and itself, at position
    `length` + its depth among the pending rows (docs/laws.md, L6). Several forwards may append before one
    commit: that is how a drafter grows its tree level by level.
    """

    @property
    def length(self) -> int:
        """Committed rows."""
        ...

    @property
    def num_pending(self) -> int:
        """Rows appended since the last commit."""
        ...

    def commit(self, path: Sequence[int]) -> None:
        """Keep the pending rows of `path` (indices ascend, each the parent of the next), drop the others."""
        ...

    def truncate(self, length: int) -> None:
        """Drop all pending rows and the committed ones from `length` on."""
        ...

    def fork(self, length: int) -> Self:
        """A cache with a copy of the first `length` committed rows; the two are independent."""
        ...


@dataclass(frozen=True)
class TargetCall:
    """Rows of one sequence in a target forward."""

    cache: PathCache
    token_ids: Ints  # (T,)
    parents: Ints | None = None  # (T,) among the cache's pending rows; None is a chain, as in prefill
    last_only: bool = False  # choose() will be called for the last row only (prefill)
    taps: Taps = (FINAL,)  # what `features` of the result hold


class TargetRows(TargetScores, Protocol):
    """Results of one call, valid until the next forward of the same runtime; features stay valid."""

    @property
    def features(self) -> Features:
        """(T, len(taps) * H) the hidden states that the call asked for, side by side in its order.

        Without taps of the call's own these are (T, H) outputs after the final norm: what the LM head reads.
        """
        ...


@dataclass(frozen=True)
class TopK:
    """The best continuations of T rows, best first, ties to the lower id."""

    token_ids: Ints  # (T, K) target ids
    log_probs: Floats  # (T, K) natural logs of the confidences, <= 0


@dataclass(frozen=True)
class Coupling:
    """Draft with the sampler's own noise: children are the best of (processed draft logit + g(t, .)).

    The draws belong to the sampler, so the ids do not change; a child's confidence is then its
    probability of winning *given* that noise, softmax((processed logit + g) / scale) (docs/algorithm.md).
    """

    sampler: Sampler
    generated: Sequence[Sequence[int]]  # per row: the answer up to and including that row's token
    scale: float

    def best(self, rows: Floats, k: int, columns: Ints | None = None) -> tuple[Ints, Floats]:
        """The k best columns (T, k) of `rows` (T, M) by coupled score, and the logs of their chances to win.

        The reference implementation. A row with fewer than k columns that can win is filled up with others,
        of probability 0. `columns` (M,), ascending, says which token ids they belong to; None means all.
        """
        best = np.empty((len(rows), k), dtype=np.int64)
        log_probs = np.full((len(rows), k), -np.inf)
        for row, (logits, generated) in enumerate(zip(rows, self.generated, strict=True)):
            scores = self.sampler.scores(logits, generated, columns=columns)
            able = best_of_row(scores, k)
            rest = np.flatnonzero(~np.isfinite(scores))[: k - len(able)]
            best[row] = np.concatenate((able, rest))
            if len(able):
                log_probs[row, : len(able)] = log_softmax(scores / self.scale)[able]
        return best, log_probs


@dataclass(frozen=True, slots=True)
class TreeCoupling:
    """`Coupling` of all levels of a tree.

    Attributes:
        answer_length: tokens up to and including the root.
        scales: of the children at depth 1, 2, ..; the last one serves all deeper levels.
    """

    sampler: Sampler
    answer_length: int
    scales: Sequence[float]


class LMHead(Protocol):
    """Rows of the target's LM head: all, or those of a draft vocabulary."""

    def top_k(self, hidden: Features, k: int, coupling: Coupling | None = None) -> TopK:
        """The best k continuations of each row of `hidden` (T, H), with log-softmax confidences."""
        ...

    def logits(self, hidden: Features) -> Floats:
        """(T, V) unprocessed logits in float64; -inf for tokens that this head cannot give."""
        ...

    def plus(self, token_ids: Sequence[int]) -> "LMHead":
        """This head, and the target's rows for further ids in any order; itself if it has them all."""
        ...


class DraftStack(Protocol):
    """A stack of decoder layers with its own caches."""

    def new_cache(self) -> PathCache:
        """An empty cache, grown as needed."""
        ...

    def forward(
        self,
        cache: PathCache,
        inputs: Features,
        parents: Ints | None = None,
        embeddings: Features | None = None,
    ) -> Features:
        """Append T rows (T, H) under `parents` (None: a chain) and return their outputs (T, H).

        `embeddings` (T, H) are for a stack whose first layer reads them beside its inputs.
        """
        ...


class Linear(Protocol):
    """y = W [x1; x2; ...] + b over the concatenated inputs."""

    def __call__(self, *inputs: Features) -> Features:
        """Inputs (T, H_i) each; the result is (T, outputs)."""
        ...


class TreeGrower(Protocol):
    """The networks of an EAGLE head, which draft all levels of a dynamic tree in one call.

    It does what `eyas.drafters.expansion.grow` does with the head's `Expander`, and gives the same bits.
    """

    def accepts(self, sampler: Sampler) -> bool:
        """Whether drafts can be coupled to this sampler: an answer's length must be all that it needs."""
        ...

    def grow(
        self,
        builder: object,
        cache: PathCache,
        lm_head: LMHead,
        waiting: tuple[Features, Ints],
        k: int,
        coupling: TreeCoupling | None,
    ) -> int:
        """Read and commit what waits, then add levels until the builder has no use for another.

        Args:
            builder: a compiled `TreeBuilder` without nodes, of at least one level.
            cache: of the head's stack; the tree's rows stay pending.
            lm_head: ranks the children.
            waiting: (T, H) features and (T,) the token after each.
            k: children of each node.
            coupling: chooses them with the sampler's noise; None ranks them by logit.

        Returns:
            The number of passes of the head, one a level.

        Raises:
            ModelError: the head gave a logit that is not a number.
        """
        ...


class Norm(Protocol):
    """RMSNorm: y = x / sqrt(mean(x^2) + eps) * weight."""

    def __call__(self, rows: Features) -> Features:
        """Rows (T, n), as many for the result."""
        ...


class ResBlock(Protocol):
    """y = R [x1; x2; ...] + SiLU(W [x1; x2; ...] + b); without R the inputs themselves are added."""

    def __call__(self, *inputs: Features) -> Features:
        """Inputs (T, H_i) each; the result is (T, outputs)."""
        ...


@dataclass(frozen=True, kw_only=True)
class TargetInfo:
    """What the layers above may know of the target."""

    name: str
    family: str  # model_type of its config
    runtime: str
    runtime_reason: str | None = None  # why "auto" did not choose native
    dtype: str
    kv_dtype: str | None = None  # of keys and values, where the runtime has a choice
    device: str = "cpu"
    hidden_size: int
    vocab_size: int
    num_layers: int  # decoder layers
    context_limit: int  # positions
    context_reason: str = "its max_position_embeddings"  # what sets the limit, for messages
    threads: int | None = None
    fingerprint: str | None = None
    base_fingerprint: str | None = None  # which all quantisations of the model share

    def check_prompt(self, prompt_ids: Sequence[int]) -> None:
        """Refuse a prompt that is empty, leaves no room for an answer, or has unknown token ids.

        Raises:
            CapacityError: it is empty or fills the context.
            ConfigError: it has an id outside the vocabulary.
        """
        if not prompt_ids:
            raise CapacityError("the prompt is empty; give it at least one token.")
        if len(prompt_ids) >= self.context_limit:
            raise CapacityError(
                f"the prompt has {len(prompt_ids)} tokens, but {self.name} holds {self.context_limit} "
                f"({self.context_reason}), answer included; shorten the prompt."
            )
        low, high = min(prompt_ids), max(prompt_ids)
        if low < 0 or high >= self.vocab_size:
            raise ConfigError(
                f"the prompt has token id {low if low < 0 else high}, but the model's ids end at "
                f"{self.vocab_size - 1}; use the tokenizer of {self.name}."
            )

    def check_stopping(self, config: StoppingConfig) -> None:
        """Refuse `max_new_tokens` beyond the context, and stop tokens that the model does not have.

        A prompt and an answer that together exceed the context end when it is full.

        Raises:
            CapacityError: names the value and the limit.
        """
        unknown = [token_id for token_id in config.stop_token_ids if token_id >= self.vocab_size]
        if unknown:
            raise CapacityError(
                f"stop_token_ids has {unknown[0]}, but the ids of {self.name} end at {self.vocab_size - 1}; "
                "leave it out."
            )
        if config.max_new_tokens > self.context_limit:
            raise CapacityError(
                f"max_new_tokens is {config.max_new_tokens}, but {self.name} holds {self.context_limit} "
                f"tokens ({self.context_reason}); lower it."
            )


class Runtime(Protocol):
    """Computes: one target with its caches, and the blocks that draft networks are made of."""

    @property
    def target(self) -> TargetInfo:
        """Names and sizes."""
        ...

    def new_cache(self) -> PathCache:
        """An empty cache of the target, grown as needed up to its context."""
        ...

    def forward(self, calls: Sequence[TargetCall]) -> Sequence[TargetRows]:
        """One pass over the rows of all calls; appends them to their caches as pending rows.

        The pass keeps the hidden states of the union of the calls' taps, and no others.

        Raises:
            ModelError: a tap beyond the target's layers.
        """
        ...

    def embed(self, token_ids: Ints) -> Features:
        """(T, H) rows of the target's input embedding, as a draft network reads them."""
        ...

    def lm_head(self, token_ids: Ints | None = None, norm: NormWeights = None) -> LMHead:
        """The target's LM head, or its rows for `token_ids` (ascending): a draft vocabulary.

        `norm` is applied to its inputs first.
        """
        ...

    def own_lm_head(
        self,
        weight: NDArray[Any],
        bias: NDArray[Any] | None,
        token_ids: Ints | None = None,
        norm: NormWeights = None,
    ) -> LMHead:
        """An LM head of a draft network's own: weight (M, H), bias (M,).

        `token_ids` (M,), ascending, says which ids its rows give (None: 0 .. M-1), and `norm` what is applied
        to its inputs first. It cannot be enlarged (`LMHead.plus`).
        """
        ...

    def join(self, parts: Sequence[Features]) -> Features:
        """Features (T_i, H) below each other, in their order."""
        ...

    def select(self, features: Features, rows: Sequence[int] | Ints) -> Features:
        """Rows of features (T, H), in memory of their own: (R, H)."""
        ...

    def linear(self, weight: NDArray[Any], bias: NDArray[Any] | None) -> Linear:
        """A linear layer of weight (outputs, inputs) and bias (outputs,)."""
        ...

    def res_block(self, weight: NDArray[Any], bias: NDArray[Any] | None, shortcut: Shortcut) -> ResBlock:
        """A residual block of weight (outputs, inputs), bias (outputs,), and its shortcut's weight and bias.

        `shortcut` None adds the inputs themselves; then there are as many outputs.
        """
        ...

    def decoder_stack(self, spec: StackSpec, weights: Weights) -> DraftStack:
        """Decoder layers from weights named `layers.0.self_attn.q_proj.weight` and so on."""
        ...

    def norm(self, weight: NDArray[Any], eps: float) -> Norm:
        """An RMSNorm of weight (n,)."""
        ...

    def tree_grower(self, fc: Linear | None, stack: DraftStack) -> TreeGrower | None:
        """An EAGLE head of blocks of this runtime; None where it drafts level by level only.

        Without `fc` the stack's first layer reads embeddings beside the features.
        """
        ...

    def round_score(self, values: Floats) -> Floats:
        """`values` rounded to the target's own precision, for score_precision="model"."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftOptions(Options):
    """Options of a single method, besides those of every tree. A method that has some derives from this.

    All methods' options live in one flat set, so a field's name begins with the method's. Where an option
    changes the acceptance rule, `rule` says so.
    """

    sizes: ClassVar[tuple[str, ...]] = ()  # those that size the method's own tree, so that they ask for it

    @classmethod
    def of(cls, given: Mapping[str, Any], tree: TreeOptions) -> Self:  # noqa: ARG003 - for methods with sizes
        """The options of a request from those that were given.

        Raises:
            ConfigError: a value out of bounds, or one that the tree policy excludes.
        """
        return cls(**given)

    @classmethod
    def means_fixed(cls, given: Mapping[str, Any]) -> bool:
        """Whether what was given asks for the method's own tree: `tree` is then "fixed" by default."""
        return any(size in given for size in cls.sizes)

    def check_auto(self) -> None:
        """Raise ConfigError where an option excludes cost-aware trees."""

    @property
    def rule(self) -> AcceptanceRule:
        """How drafts are accepted; the default keeps plain decoding's ids."""
        return SAME_IDS

    @property
    def own_draft_tokens(self) -> int:
        """Most draft tokens, auxiliary ones included, of a cycle with the method's own (fixed) tree."""
        return AUTO_DRAFT_TOKENS

    def max_draft_tokens(self, tree: TreeOptions) -> int:
        """Most tokens that a cycle adds behind the root: caches need room for them."""
        return AUTO_DRAFT_TOKENS if tree.is_auto else self.own_draft_tokens


@dataclass(frozen=True, kw_only=True)
class DraftFiles:
    """What a drafter may load, found before it is made. Each finder raises with the remedy."""

    head: Callable[[], Path] = field(repr=False)  # directory of this method's draft networks
    model: Callable[[Path], "Runtime"] | None = field(default=None, repr=False)  # a whole model to draft with


@dataclass(frozen=True, kw_only=True)
class DraftContext:
    """One answer, as its drafter sees it."""

    prompt_ids: Sequence[int]
    sampler: Sampler
    tree: TreeOptions
    options: DraftOptions = field(default_factory=DraftOptions)  # of the method's own kind
    stop_token_ids: frozenset[int] = frozenset()  # nothing follows these: they are never expanded
    laps: Laps | None = None  # where to book the time of draft passes, if anybody asks
    costs: CostTable | None = None  # of this machine; needed by cost-aware trees (tree.is_auto)
    share: SequenceShare = field(default_factory=SequenceShare)  # of the cost of a batch
    prediction_ids: Sequence[int] = ()  # what the answer is expected to be for the most part

    @property
    def is_coupled(self) -> bool:
        """Whether drafts are chosen as the sampler chooses: with its noise, by its grammar.

        See docs/algorithm.md.
        """
        has_rule = not self.sampler.config.is_greedy or self.sampler.grammar is not None
        return self.tree.draft_sampling == "coupled" and has_rule


class DraftSession(Protocol):
    """The drafter's state for one sequence: begin, extend, then propose and extend in turn."""

    @property
    def num_forwards(self) -> int:
        """Forward passes of the draft network since `begin`."""
        ...

    def begin(self, context: DraftContext, keep: int = 0) -> None:
        """Start an answer. The first `keep` target rows are those of the answer before (a later turn)."""
        ...

    def extend(self, features: Features, token_ids: Sequence[int]) -> None:
        """Tokens were committed.

        `features` (T, H) are those of the newly cached target rows, `token_ids` (T,) the token after each:
        in the prompt f_0..f_{n-1} with x_1..x_n; after a cycle root and accepted nodes with accepted tokens
        and bonus. Cheap: the network runs at the next `propose`.
        """
        ...

    def fork(self) -> "DraftSession":
        """A session with a copy of what this one has read, for an answer that begins with the same tokens.

        `begin` follows, as for a later turn.
        """
        ...

    def propose(self, token_ids: Sequence[int], max_depth: int) -> DraftTree:
        """A tree under the root `token_ids[-1]`, at most `max_depth` (>= 0) deep.

        `token_ids` is everything committed, prompt included, root last.
        """
        ...


class LoadedDrafter(Protocol):
    """Proposes tokens; shared by all sequences.

    One that reads other hidden states than the final one says which in an attribute or property `taps`:
    `extend` then gets features (T, len(taps) * H).
    """

    def open(self) -> DraftSession:
        """A session for one sequence."""
        ...


class Drafter(LoadedDrafter, Protocol):
    """A method of proposing tokens. See docs/add-a-method.md."""

    @classmethod
    def load(cls, runtime: Runtime, files: DraftFiles) -> Self:
        """Build the networks on the runtime. Raises CheckpointError or ConfigError with the remedy."""
        ...


def taps_of(drafter: LoadedDrafter) -> Taps:
    """Which hidden states of the target a drafter reads: its `taps`, else the final one."""
    taps: Taps = getattr(drafter, "taps", (FINAL,))
    return taps
