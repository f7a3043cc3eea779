"""The compiled module, for functions that have a twin in Python; None in an installation without it."""

try:
    from eyas import _native as native
except ImportError:
    native = None  # type: ignore[assignment]

__all__ = ["native"]
