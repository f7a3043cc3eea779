"""A method as a model has loaded it: built once, whichever thread asks first."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from eyas.api.turns import TurnLock
from eyas.drafters.find import HeadChoice
from eyas.drafters.policy.calibration import calibrate
from eyas.drafters.policy.cost_store import forget_table, store_table, stored_table, table_path
from eyas.drafters.policy.session import TreePolicy
from eyas.drafters.registry import Method
from eyas.engine.costs import CostTable
from eyas.engine.cycle import Engine
from eyas.engine.interfaces import DraftFiles, Runtime
from eyas.errors import FetchError


class LoadedMethod:
    """A drafter on a runtime, ready to answer.

    Attributes:
        name: of the method.
        policy: its drafter, under the tree policy of each request.
        engine: runs its cycles.
        head: its draft networks.
        costs_path: where its cost table is kept; None for a method whose trees have no size to choose.

    Args:
        method: to load. The caller holds `lock`, the model's.
        runtime: of the target.
        head: the method's draft networks.
        draft_dtype: their precision.
        load_model: loads a whole model to draft with.
        lock: held while costs are measured.

    Raises:
        CheckpointError, ModelError: no networks, or unusable ones.
    """

    def __init__(
        self,
        method: Method,
        runtime: Runtime,
        head: HeadChoice,
        *,
        draft_dtype: str,
        load_model: Callable[[Path], Runtime] | None,
        lock: TurnLock,
    ) -> None:
        self.name = method.name
        self.head = head
        self.policy: TreePolicy = method.load(runtime, DraftFiles(head=head.require, model=load_model))
        self.engine = Engine(runtime, self.policy)
        self.costs_path: Path | None = None
        if self.policy.is_sizable:
            self.costs_path = table_path(runtime, self.name, head.path, draft_dtype)
        self._defaults = method.options()
        self._lock = lock
        self._costs: CostTable | None = None

    def costs(self, *, fresh: bool = False) -> CostTable | None:
        """The cost table on this machine: the one kept, or measured now (2 to 3 seconds).

        A table that was measured while the machine was busy is measured again by the next process, and so is
        one that the cycles contradict: its file is removed then. Until `measure_again` the table stays, and a
        request keeps its own, so that an answer can be replayed with the one that its `config` names.

        Args:
            fresh: measure again.

        Returns:
            None for a method whose trees have no size that could be chosen.
        """
        if self.costs_path is None or (self._costs is not None and not fresh):
            return self._costs
        with self._lock:
            if fresh or self._costs is None:
                table = None if fresh else stored_table(self.costs_path)
                if table is None or table.is_disturbed:
                    table = calibrate(self.engine.runtime, self.policy.drafter, self._defaults)
                    with suppress(FetchError):  # a cache that cannot be written: measured again next time
                        store_table(self.costs_path, table)
                table.live.on_doubt = partial(forget_table, self.costs_path)
                self._costs = table
        return self._costs

    def measure_again(self) -> None:
        """Measure again if the cycles contradict the table."""
        if self._costs is not None and self._costs.live.is_doubtful:
            self.costs(fresh=True)
