"""Which inner hidden states of the target are kept besides the final one."""

from eyas.drafters.eagle3_layouts import authors_taps
from eyas.engine.interfaces import FINAL, Taps, TargetInfo
from eyas.errors import ConfigError

EAGLE3 = "eagle3"


def parse_taps(text: str | None, target: TargetInfo) -> Taps:
    """Taps from "2,14,25", or EAGLE-3's own from its name; the final one comes last. None is that alone.

    Raises:
        ConfigError: something else, or a tap beyond the target's layers.
    """
    if text is None:
        return (FINAL,)
    if text == EAGLE3:
        return (*eagle3_taps(target), FINAL)
    try:
        inner = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(
            f"taps are {text!r}; give numbers of layers such as 2,14,25, or {EAGLE3}."
        ) from error
    last = target.num_layers - 1
    wrong = [tap for tap in inner if not 0 <= tap <= last]
    if wrong or len(set(inner)) < len(inner):
        raise ConfigError(
            f"taps are {text}, but they must be different numbers in 0..{last}; tap k is the hidden state "
            "after k layers, and the final one always comes on top."
        )
    return (*inner, FINAL)


def eagle3_taps(target: TargetInfo) -> Taps:
    """The inputs of a low, a middle and a high layer that EAGLE-3's authors read (arXiv 2503.01840).

    Raises:
        ConfigError: the target has too few layers for three different ones.
    """
    count = target.num_layers
    taps = authors_taps(count)
    if not 2 < taps[1] < taps[2]:
        raise ConfigError(
            f"{target.name} has {count} layers, but EAGLE-3's taps need 8 or more; name some, say --taps 0,1."
        )
    return taps
