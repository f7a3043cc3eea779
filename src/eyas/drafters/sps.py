"""Speculative sampling with a small draft model: it writes a few tokens, one after the other.

Source: Leviathan et al. (arXiv 2211.17192), Chen et al. (arXiv 2302.01318). The draft model is decoder layers
between the target's embedding and LM head (`eyas train draft-lm`), or any whole model with the target's
vocabulary. Its cache holds committed tokens; what it drafted stays pending until the next cycle, which keeps
the rows that were accepted:

    committed   a b c            drafted  d e f      rows of a b c (committed), d e (pending)
    accepted    d e, bonus x     next     keeps the rows of d e, reads x
    accepted    d e f, bonus x   next     keeps the rows of d e, reads f x

How many tokens (`sps_length`):

* "heuristic", transformers' rule up to version 4.44: 5 at first; 2 more if all were accepted, else 1 less.
* "confidence", its rule since: up to 20; a token of which the draft is less sure than 0.4 is the last.
* a number.

The length starts again with each answer. At temperature > 0 the draft takes the argmax of its processed
logits plus the sampler's noise (docs/algorithm.md, section 4), and verification keeps plain decoding's ids.
`sps_ratio` is the classical scheme instead: the draft samples from its own processed distribution, and
speculative sampling verifies.

With tree="auto" the draft model ranks several children of each node, as any network does; then a number as
`sps_length` bounds the depth of the trees. The two rules are for chains; "confidence" is refused there.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Protocol, Self

import numpy as np

from eyas.config import Option
from eyas.drafters.head_layers import stack_config, stack_shapes
from eyas.drafters.heads import HeadCheckpoint, kind_of, read_config, register_head
from eyas.drafters.ranked import MOST_DEPTH, Frontier, RankedSession, TreeLimits
from eyas.drafters.registry import register_drafter
from eyas.drafters.target import AnswerHead, check_vocabulary, read_for_target
from eyas.engine.interfaces import (
    Coupling,
    DraftContext,
    DraftFiles,
    DraftOptions,
    Features,
    LMHead,
    PathCache,
    Runtime,
    TargetCall,
)
from eyas.engine.tree import DraftTree, Floats, Ints, Prefix, root_only
from eyas.engine.verification import SAME_IDS, SPECULATIVE_SAMPLING, AcceptanceRule
from eyas.errors import CheckpointError, ConfigError
from eyas.models import is_gguf
from eyas.models.spec import StackSpec

FIRST_LENGTH, LONGER, SHORTER = 5, 2, 1  # "heuristic"
MOST, LEAST_CONFIDENCE = 20, 0.4  # "confidence"
ROWS = 256  # of one pass over a prompt: bounds the memory of its mask

# Two layers are 14 MB for the default target, where its vocabulary alone would be 57 MB.
DRAFT_LM = register_head(
    "draft-lm",
    title="a small draft model",
    config=lambda file: stack_config(file.document, file.directory),
    tensors=stack_shapes,
    trainer="eyas.training.draft_lm:DraftLMTrainer",
    mark=("model_type", "eyas-draft-lm"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpsOptions(DraftOptions):
    """How much is drafted, and how it is verified at temperature > 0."""

    sps_length: Annotated[
        str | int,
        Option(
            "tokens drafted at once: a number, heuristic (more after success, fewer after failure), or "
            "confidence (until the draft model is unsure)"
        ),
    ] = "heuristic"
    sps_ratio: Annotated[
        bool,
        Option(
            "draw the draft tokens and accept them by speculative (rejection) sampling: the answer has the "
            "same distribution, but other tokens"
        ),
    ] = False

    def check(self) -> None:
        """Raise ConfigError for a length that is neither a number nor a rule's name."""
        if self.sps_length not in ("heuristic", "confidence") and not 1 <= self.fixed_length <= MOST_DEPTH:
            raise ConfigError(
                f"sps_length is {self.sps_length!r}, but it must be 'heuristic', 'confidence' or a whole "
                f"number from 1 to {MOST_DEPTH}."
            )

    def check_auto(self) -> None:
        """Raise ConfigError for the rule that ends a chain."""
        if self.sps_length == "confidence":
            raise ConfigError(
                "tree is 'auto', but sps_length is 'confidence', a rule for single chains; give a number, "
                "which bounds the depth, leave sps_length out, or set tree='fixed'."
            )

    @property
    def fixed_length(self) -> int:
        """The number that was given, else 0."""
        text = str(self.sps_length)
        return int(text) if text.isdecimal() else 0

    @property
    def rule(self) -> AcceptanceRule:
        """The same ids, or speculative sampling."""
        return SPECULATIVE_SAMPLING if self.sps_ratio else SAME_IDS

    @property
    def own_draft_tokens(self) -> int:
        """A chain of the given length, or of the longest."""
        return MOST if self.sps_length == "confidence" else self.fixed_length or MOST_DEPTH


class DraftModel(Protocol):
    """A language model over the target's tokens."""

    @property
    def limit(self) -> int:
        """Positions."""
        ...

    def new_cache(self) -> PathCache:
        """An empty cache."""
        ...

    def forward(self, cache: PathCache, token_ids: Ints, parents: Ints | None) -> Features:
        """Append tokens (T,) under `parents`; outputs (T, H) for the LM head."""
        ...

    def answer_head(self) -> AnswerHead:
        """Its LM head for one answer."""
        ...


class OwnLayers:
    """Decoder layers between the target's embedding and LM head."""

    def __init__(self, runtime: Runtime, checkpoint: HeadCheckpoint[StackSpec]) -> None:
        self.limit = runtime.target.context_limit
        self._runtime = runtime
        self._draft_ids = checkpoint.draft_ids
        self._stack = runtime.decoder_stack(checkpoint.config, checkpoint.weights)

    def new_cache(self) -> PathCache:
        """An empty cache of the layers."""
        return self._stack.new_cache()

    def forward(self, cache: PathCache, token_ids: Ints, parents: Ints | None) -> Features:
        """Embed and run the layers."""
        return self._stack.forward(cache, self._runtime.embed(token_ids), parents)

    def answer_head(self) -> AnswerHead:
        """The target's, over the draft vocabulary."""
        return AnswerHead(self._runtime, self._draft_ids)


class WholeModel:
    """A model of its own, on a runtime of its own."""

    def __init__(self, runtime: Runtime) -> None:
        self.limit = runtime.target.context_limit
        self._runtime = runtime

    def new_cache(self) -> PathCache:
        """An empty cache of the model."""
        return self._runtime.new_cache()

    def forward(self, cache: PathCache, token_ids: Ints, parents: Ints | None) -> Features:
        """A pass of the model."""
        [rows] = self._runtime.forward([TargetCall(cache, token_ids, parents, last_only=True)])
        return rows.features

    def answer_head(self) -> AnswerHead:
        """Its own, whole."""
        return AnswerHead(self._runtime, None)


@register_drafter("sps", options=SpsOptions, head="draft-lm")
class SpeculativeSampling:
    """Speculative sampling: a small draft model writes a chain; any local model serves (--head DIR)."""

    def __init__(self, model: DraftModel) -> None:
        self._model = model

    @classmethod
    def load(cls, runtime: Runtime, files: DraftFiles) -> Self:
        """Read the draft model and put it on the runtime, or on one of its own."""
        directory: Path = files.head()
        if not is_gguf(directory) and kind_of(read_config(directory)) == DRAFT_LM.name:
            checkpoint = read_for_target(DRAFT_LM, runtime, directory, lambda config: config.hidden_size)
            return cls(OwnLayers(runtime, checkpoint))
        if files.model is None:
            raise CheckpointError(
                f"{directory} is a whole model, and nothing here loads one; use `eyas.load`."
            )
        own = files.model(directory)
        check_vocabulary(runtime, directory, own.target.vocab_size)
        return cls(WholeModel(own))

    def open(self) -> "SpsSession":
        """A session with an empty cache."""
        return SpsSession(self._model)


class SpsSession(RankedSession):
    """One sequence's draft cache; writes a chain per cycle."""

    num_forwards = 0

    def __init__(self, model: DraftModel) -> None:
        self._model = model
        self._cache = model.new_cache()
        self._pending: dict[tuple[int, int], int] = {}  # token and parent -> pending row of the cache

    def begin(self, context: DraftContext, keep: int = 0) -> None:
        """Start an answer; rows of the first `keep` tokens stay."""
        assert isinstance(context.options, SpsOptions), "the options of this method"
        self.num_forwards = 0
        self._context = context
        self._options = context.options
        self._answer_head = self._model.answer_head()
        self._is_drawn = context.options.sps_ratio and not context.sampler.config.is_greedy
        self._length = _Length(context.options)
        self._cache.truncate(min(keep, self._cache.length))
        self._pending = {}

    def fork(self) -> "SpsSession":
        """A session with a copy of the draft's cache."""
        fork = SpsSession(self._model)
        fork._cache = self._cache.fork(self._cache.length)
        return fork

    def extend(self, features: Features, token_ids: Sequence[int]) -> None:  # noqa: ARG002 - tokens are read later
        """Learn how many drafted tokens were accepted."""
        self._length.settle(len(token_ids) - 1)

    def limits(self, token_ids: Sequence[int]) -> TreeLimits:
        """The draft model's context bounds the depth, and so does `sps_length` if it is a number."""
        limits = TreeLimits()
        depth = min(limits.depth, self._options.fixed_length or limits.depth, max(0, self._room(token_ids)))
        return replace(limits, depth=depth)

    def unread(self, token_ids: Sequence[int], most: int) -> int:  # noqa: ARG002 - it reads all of them
        """Tokens that the draft model reads before it drafts."""
        return len(token_ids) - self._cache.length - len(self._accepted_rows(token_ids))

    def propose(self, token_ids: Sequence[int], max_depth: int) -> DraftTree:
        """A chain of drafted tokens."""
        most = min(max_depth, self._length.most, self._room(token_ids))
        if most < 1:
            return root_only(token_ids[-1])
        drafted, log_values, proposals = [token_ids[-1]], [0.0], dict[int, Floats]()
        with self.expander(token_ids) as expand:
            frontier = None
            while True:
                token, log_prob = self._next(expand, frontier, proposals)
                if log_prob == -math.inf:  # nothing that the draft model knows may follow
                    break
                drafted.append(token)
                log_values.append(log_values[-1] + min(0.0, log_prob))
                is_last = len(drafted) > most or log_prob < self._length.least_log_prob
                if is_last or token in self._context.stop_token_ids:
                    break
                frontier = Frontier(np.array([token]), np.array([0]))
        self._length.num_drafted = len(drafted) - 1
        return DraftTree(np.array(drafted), np.arange(-1, len(drafted) - 1), np.array(log_values), proposals)

    def expander(self, token_ids: Sequence[int], most_read: int | None = None) -> "SpsExpander":  # noqa: ARG002
        """Get ready to draft below the root `token_ids[-1]`."""
        return SpsExpander(self, token_ids)

    def read(self, token_ids: Sequence[int]) -> tuple[Features, LMHead]:
        """Keep the pending rows that came true, and read what is missing; the output (1, H) at the root."""
        path = self._accepted_rows(token_ids)
        missing = token_ids[self._cache.length + len(path) :]
        self._cache.commit(path)
        self._pending = {}
        for start in range(0, len(missing), ROWS):
            part = missing[start : start + ROWS]
            features = self._forward(part, None)
            self._cache.commit(range(len(part)))
        return features[-1:], self._answer_head.after(token_ids)

    def append(self, token_ids: Sequence[int], parents: Sequence[int]) -> Features:
        """Run drafted tokens (T,) under pending rows; they stay pending until the next tree."""
        features = self._forward(token_ids, np.array(parents))
        for key in zip(token_ids, parents, strict=True):
            self._pending[key] = len(self._pending)
        return features

    @property
    def num_pending(self) -> int:
        """Rows of the tree under way."""
        return len(self._pending)

    @property
    def context(self) -> DraftContext:
        """Of the answer."""
        return self._context

    def _room(self, token_ids: Sequence[int]) -> int:
        """Levels for which the draft model has positions.

        The last drafted token needs no row, so n tokens and k drafted ones take n + k - 1 positions.
        """
        return self._model.limit - len(token_ids) + 1

    def _accepted_rows(self, token_ids: Sequence[int]) -> list[int]:
        """Pending rows that agree with what was committed since, but for the root."""
        path: list[int] = []
        row = -1
        for token in token_ids[self._cache.length : -1]:
            if (token, row) not in self._pending:
                break
            row = self._pending[token, row]
            path.append(row)
        return path

    def _forward(self, token_ids: Sequence[int], parents: Ints | None) -> Features:
        laps = self._context.laps
        self.num_forwards += 1
        if laps is not None:
            laps.mark("tree")
        features = self._model.forward(self._cache, np.array(token_ids), parents)
        if laps is not None:
            laps.mark("draft")
        return features

    def _next(
        self, expand: "SpsExpander", frontier: Frontier | None, proposals: dict[int, Floats]
    ) -> tuple[int, float]:
        """The token after a row and its log-probability; what it was drawn from joins `proposals`."""
        if not self._is_drawn:
            token_ids, log_probs = expand(frontier, 1)
            return int(token_ids[0, 0]), float(log_probs[0, 0])
        token, distribution = expand.sample(frontier)
        proposals[len(proposals)] = np.exp(distribution)
        return token, float(distribution[token])


class SpsExpander:
    """Drafts one tree, level by level. Its rows stay pending: the next tree keeps those that came true."""

    def __init__(self, session: SpsSession, token_ids: Sequence[int]) -> None:
        self._session = session
        self._context = session.context
        self._token_ids = token_ids
        self._prefixes = [Prefix(token_ids[len(self._context.prompt_ids) :])]  # one per frontier node
        self._rows = [-1]  # pending row of each frontier node

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to drop."""

    def __call__(self, frontier: Frontier | None, k: int) -> tuple[Ints, Floats]:
        """The `k` best children of each frontier node (None: of the root)."""
        features, sampler = self._descend(frontier), self._context.sampler
        coupling = Coupling(sampler, self._prefixes, 1.0) if self._context.is_coupled else None
        top = self._lm_head.top_k(features, k, coupling)
        return top.token_ids, top.log_probs

    def sample(self, frontier: Frontier | None) -> tuple[int, Floats]:
        """A child *drawn* from the draft's processed distribution, and that (V,) in natural logs.

        Where no token has a chance, all of these are -inf.
        """
        features, sampler = self._descend(frontier), self._context.sampler
        [prefix] = self._prefixes
        log_probs = sampler.log_probs(self._lm_head.logits(features)[0], prefix)
        drawn = sampler.draw_draft(log_probs, len(prefix), 1).tolist()
        return drawn[0] if drawn else 0, log_probs

    def _descend(self, frontier: Frontier | None) -> Features:
        if frontier is None:
            features, self._lm_head = self._session.read(self._token_ids)
            return features
        first = self._session.num_pending
        tokens, parents = frontier.token_ids.tolist(), frontier.parent_rows.tolist()
        features = self._session.append(tokens, [self._rows[row] for row in parents])
        pairs = zip(parents, tokens, strict=True)
        self._prefixes = [self._prefixes[row].extended(token) for row, token in pairs]
        self._rows = [*range(first, self._session.num_pending)]
        return features


class _Length:
    """How many tokens are drafted in the next cycle."""

    def __init__(self, options: SpsOptions) -> None:
        self.num_drafted = 0  # in the cycle under way
        self.most = options.fixed_length or FIRST_LENGTH
        self.least_log_prob = -math.inf
        self._adapts = options.sps_length == "heuristic"
        if options.sps_length == "confidence":
            self.most, self.least_log_prob = MOST, math.log(LEAST_CONFIDENCE)

    def settle(self, num_accepted: int) -> None:
        """Learn from a cycle that drafted."""
        if self._adapts and self.num_drafted:
            all_accepted = num_accepted >= self.num_drafted
            longer = self.most + (LONGER if all_accepted else -SHORTER)
            self.most = min(max(1, longer), MOST_DEPTH)
        self.num_drafted = 0
