"""The options of draft trees that every method has: who chooses their size, and how their tokens are chosen.

What shapes a method's own tree is in the options of that method (`DraftOptions`).
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from eyas.config import Option, Options

DraftSampling = Literal["coupled", "top-k"]
TreeMode = Literal["auto", "fixed"]

AUTO_DRAFT_TOKENS, AUTO_DEPTH, AUTO_TOP_K = 63, 8, 10  # limits of tree="auto": 64 query tokens with the root


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeOptions(Options):
    """The tree policy (`tree`, `lookup`), and how draft tokens are chosen at temperature > 0."""

    title: ClassVar[str] = "draft tree"

    tree: Annotated[
        TreeMode,
        Option(
            "auto: each cycle chooses the size of its tree by costs measured on this machine; "
            "fixed: the method's own tree, which is also what giving a size of it means",
            common=True,
        ),
    ] = "fixed"
    lookup: Annotated[
        bool,
        Option("with --tree auto, add the continuation of the newest n-gram's previous occurrence"),
    ] = True
    draft_sampling: Annotated[
        DraftSampling,
        Option(
            "how draft tokens are chosen at temperature > 0: coupled uses the sampler's own Gumbel noise, "
            "top-k takes the most probable; the answer is the same"
        ),
    ] = "coupled"

    @property
    def is_auto(self) -> bool:
        """Whether each cycle chooses the size of its tree."""
        return self.tree == "auto"
