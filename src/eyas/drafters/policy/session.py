"""A drafter under a tree policy: `fixed` is its own tree, `auto` a cost-aware one."""

from collections.abc import Sequence
from functools import cached_property
from time import perf_counter

from eyas.drafters.copies import CopyFinder
from eyas.drafters.expansion import best_of, grow
from eyas.drafters.policy.constrained import constrain, expected_chain
from eyas.drafters.policy.cost_aware import CostAwareTrees
from eyas.drafters.policy.lookup import ExpectedChains, Find
from eyas.drafters.ranked import (
    DEFAULT_LIMITS,
    ContinuationSession,
    PlainSession,
    RankedSession,
    SizableSession,
)
from eyas.drafters.tree_builder import NO_CHAIN, ExpectedChain, TreeRules
from eyas.engine.interfaces import (
    DraftContext,
    DraftOptions,
    DraftSession,
    Features,
    LoadedDrafter,
    Taps,
    taps_of,
)
from eyas.engine.tree import DraftTree, Prefix, root_only
from eyas.errors import ConfigError

# Tokens that a network reads at most for a cost-aware tree, of those that accumulated while it did not draft.
# Of prompts of 670 tokens the whole gave no more accepted tokens than the end (docs/log.md, 2026-11-24).
MOST_READ = 128
# In a batch a tree is a level or two, and has to pay before the batch changes: a quarter of the reading for 6
# % fewer accepted tokens (docs/log.md, 2026-11-27).
MOST_READ_IN_BATCH = 32


class TreePolicy:
    """A loaded drafter whose sessions follow the tree policy of each request.

    Args:
        drafter: proposes the method's own trees.
        name: of the method, for messages.
    """

    def __init__(self, drafter: LoadedDrafter, name: str) -> None:
        self.drafter = drafter
        self.name = name

    @property
    def taps(self) -> Taps:
        """The hidden states that the drafter reads."""
        return taps_of(self.drafter)

    @cached_property
    def is_sizable(self) -> bool:
        """Whether its trees have a size that can be chosen from costs."""
        return isinstance(self.drafter.open(), SizableSession)

    @cached_property
    def is_plain(self) -> bool:
        """Whether it never drafts anything, so that all policies are the same."""
        return isinstance(self.drafter.open(), PlainSession)

    def check_auto(self, options: DraftOptions) -> None:
        """Refuse cost-aware trees where they are impossible.

        Raises:
            ConfigError: the method, or one of its `options`, does not have them.
        """
        if not (self.is_sizable or self.is_plain):
            raise ConfigError(
                f"tree is 'auto', but {self.name} drafts no trees whose size can be chosen; set tree='fixed'."
            )
        if options.rule.lossless == "distribution":
            raise ConfigError(
                f"tree is 'auto', but speculative sampling ({self.name}) needs each tree as it was sampled; "
                "set tree='fixed'."
            )
        options.check_auto()

    def open(self) -> "PolicySession":
        """A session of the drafter under the policy."""
        return PolicySession(self.drafter.open(), self)


class PolicySession:
    """One sequence: passes everything on to the drafter's session, and sizes its trees where asked to."""

    def __init__(self, session: DraftSession, policy: TreePolicy) -> None:
        self.session = session
        self._policy = policy
        self._context: DraftContext
        self._auto: _AutoTrees | None = None

    @property
    def num_forwards(self) -> int:
        """Passes of the draft network since `begin`."""
        return self.session.num_forwards

    def begin(self, context: DraftContext, keep: int = 0) -> None:
        """Start an answer under the policy of its request.

        Raises:
            ConfigError: cost-aware trees without a table, or with a method or option that does not have them.
        """
        self._auto, self._context = None, context
        self.session.begin(context, keep)
        if context.tree.is_auto:
            self._policy.check_auto(context.options)
            self._auto = None if self._policy.is_plain else _AutoTrees(self.session, context)

    def fork(self) -> "PolicySession":
        """A session over a fork of the drafter's; what the policy has learned belongs to one answer."""
        return PolicySession(self.session.fork(), self._policy)

    def extend(self, features: Features, token_ids: Sequence[int]) -> None:
        """Tokens were committed."""
        self.session.extend(features, token_ids)
        if self._auto is not None:
            self._auto.end_cycle(len(token_ids))

    def propose(self, token_ids: Sequence[int], max_depth: int) -> DraftTree:
        """The tree of a cycle, within the answer's grammar."""
        context = self._context
        session = self.session if self._auto is None else self._auto
        tree = session.propose(token_ids, max_depth)
        grammar = context.sampler.grammar
        if grammar is None or self._policy.is_plain:
            return tree
        answer = Prefix(token_ids[len(context.prompt_ids) :])
        most = tree.num_draft_tokens if self._auto else context.options.max_draft_tokens(context.tree)
        return constrain(tree, grammar, answer, room=max_depth, most=most)


class _AutoTrees:
    """Cost-aware trees of one answer over a drafter's session."""

    def __init__(self, session: DraftSession, context: DraftContext) -> None:
        if context.costs is None:
            raise ConfigError(
                "tree is 'auto', but the request has no cost table; measure one, or set tree='fixed'."
            )
        self._context, self._costs = context, context.costs
        self._began, self._predicted_ms = 0.0, 0.0  # of the cycle under way
        self._ranked = session if isinstance(session, RankedSession) else None
        limits = DEFAULT_LIMITS if self._ranked is None else self._ranked.limits(context.prompt_ids)
        self._trees = CostAwareTrees(context.costs, limits, context.share, can_draft=self._ranked is not None)
        stops = context.stop_token_ids
        if self._ranked is None:
            self._rules = TreeRules(1, stops)
        else:
            self._rules = TreeRules(
                limits.top_k,
                stops,
                rounding=self._ranked.rounding,
                acceptance=self._ranked.acceptance,
                shape=limits.shape,
            )
        self._chains: ExpectedChains | None = None
        find: Find | None = None
        if context.tree.lookup:
            find = CopyFinder(stops, context.prediction_ids, len(context.prompt_ids))
        if isinstance(session, ContinuationSession):
            find = session.continuation
        if find is not None:
            self._chains = ExpectedChains(find, context.sampler.config.temperature)
        self._is_drafting = False  # a tree was proposed: tokens committed before are the prompt's

    def end_cycle(self, tokens: int) -> None:
        """Account for the tokens of a cycle, and compare its time with the table's."""
        if not self._is_drafting:
            return
        self._trees.end_cycle(tokens)
        if self._context.share.is_single and self._predicted_ms:
            actual_ms = 1e3 * (perf_counter() - self._began)
            self._costs.live.add(self._predicted_ms, actual_ms)

    def _chain(self, token_ids: Sequence[int], max_depth: int) -> ExpectedChain:
        """What follows for certain, or what is expected to."""
        chain = self._chains.after(token_ids, max_depth) if self._chains else NO_CHAIN
        grammar = self._context.sampler.grammar
        if grammar is None:
            return chain
        answer = Prefix(token_ids[len(self._context.prompt_ids) :])
        return expected_chain(chain, grammar, answer, max_depth)

    def propose(self, token_ids: Sequence[int], max_depth: int) -> DraftTree:
        """The tree with the most expected tokens per millisecond; the network does not run if none pays."""
        self._is_drafting = True
        self._began, self._predicted_ms = perf_counter(), 0.0
        root, ranked = token_ids[-1], self._ranked
        if max_depth < 1:
            return root_only(root)
        chain = self._chain(token_ids, max_depth)
        most_read = MOST_READ if self._context.share.is_single else MOST_READ_IN_BATCH
        unread = 1 if ranked is None else ranked.unread(token_ids, most_read)
        costs = self._trees.begin(has_chain=bool(chain.token_ids), unread=unread, context=len(token_ids) - 1)
        self._predicted_ms = self._trees.spent_ms
        if costs is None:
            return root_only(root)
        depth = 0 if ranked is None else min(max_depth, ranked.limits(token_ids).depth)
        builder = self._rules.builder(depth, chain, costs)
        if ranked is not None and depth and self._trees.may_draft and builder.begins():
            with ranked.expander(token_ids, most_read) as expand:
                grow(builder, expand, self._rules.top_k)
        tree = DraftTree(*builder.finish(root), best=best_of(builder, root))
        self._trees.spend(builder)
        self._predicted_ms = self._trees.spent_ms
        if self._context.share.draft_ms:
            self._predicted_ms += self._costs.reading(unread)
        return tree
