"""The compiled module, for code that also has a Python implementation; None where it is not installed."""

try:
    from eyas import _native as native
except ImportError:
    native = None  # type: ignore[assignment]

__all__ = ["native"]
