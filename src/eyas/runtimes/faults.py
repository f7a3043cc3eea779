"""Errors that every runtime raises, in one wording."""

from eyas.errors import ModelError


def broken_logits(origin: str) -> ModelError:
    """The target computed NaN; `origin` is its name and precision."""
    return ModelError(
        f"{origin} gave logits that are not numbers (NaN); "
        "try another dtype, such as float32, or check the weights."
    )


def broken_draft() -> ModelError:
    """A draft network computed NaN."""
    return ModelError("the draft network gave logits that are not numbers (NaN); check the head's weights.")
