"""Answers on disk, and how a sequence becomes training pairs.

The alignment, for a prompt of two tokens and an answer of three (docs/algorithm.md, section 1):

    row j          0     1     2     3     4
    token x_j      p     p     a     a     a       prompt, prompt, answer, answer, answer
    feature f_j    f_0   f_1   f_2   f_3   f_4     of the target, after its final norm

    input pair     (f_0,x_1) (f_1,x_2) (f_2,x_3) (f_3,x_4)        at rotary position j = 0..3
    predicts       f_1       f_2       f_3       f_4              and through the LM head the token after
    that is for    x_2       x_3       x_4       what follows x_4
    in decoding        -     first     yes       only if x_4 does not end the answer

The first pair that decoding uses is (f_1, x_2): last prompt feature, first answer token. The last useful
one is the pair of row length - 3, which leads to the last token.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eyas.errors import DataError
from eyas.training.json_lines import Row, parse_rows, read_rows, row_field, row_id


@dataclass(frozen=True, slots=True)
class Sample:
    """A prompt with the target's own answer, as token ids."""

    id: str
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    temperature: float
    category: str = ""
    target: str | None = None  # fingerprint of the model that answered, where that is known

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Prompt and answer."""
        return self.prompt_ids + self.response_ids

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that name the sequence."""
        return hashlib.sha256(repr(self.token_ids).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.response_ids)


def read_samples(paths: Sequence[Path]) -> list[Sample]:
    """Answers from JSON lines (plain or .gz) with `prompt_ids`, `response_ids` and `temperature`.

    Raises:
        DataError: a broken line, by its number, or an empty file.
    """
    samples = [_sample(row, path, number) for path in paths for number, row in read_rows(path)]
    if not samples:
        raise DataError(
            f"{', '.join(map(str, paths)) or 'no file'} holds no answers; run `eyas train distil`."
        )
    return samples


def parse_samples(lines: Iterable[bytes], path: Path) -> list[Sample]:
    """Answers from lines of the file `path`; there may be none.

    Raises:
        DataError: a broken line, by its number.
    """
    return [_sample(row, path, number) for number, row in parse_rows(lines, path)]


def split_held_out(samples: Sequence[Sample], every: int) -> tuple[list[Sample], list[Sample]]:
    """Training and held-out samples: one in `every`, by a hash of the id, so that it stays held out."""
    held = [sample for sample in samples if _hash(sample.id) % every == 0]
    return [sample for sample in samples if _hash(sample.id) % every], held


def plan_batches(
    lengths: Sequence[int], rows: int, rng: np.random.Generator, window: int = 256
) -> list[list[int]]:
    """Indices of one epoch in batches of about `rows` padded rows, like lengths together.

    Samples are shuffled, sorted by length within windows, cut into batches, and the batches are shuffled.
    """
    order, batches = rng.permutation(len(lengths)), []
    for start in range(0, len(order), window):
        batch: list[int] = []
        for index in sorted(order[start : start + window], key=lambda i: lengths[i]):
            if batch and (len(batch) + 1) * lengths[index] > rows:
                batches.append(batch)
                batch = []
            batch.append(int(index))
        batches.append(batch)
    return [batches[i] for i in rng.permutation(len(batches))]


def why_unwritten(error: Exception) -> str:
    """The first line of an error, such as one of the file system, which torch may have wrapped in many."""
    reason = error.strerror if isinstance(error, OSError) else None
    return (reason or next(iter(str(error).strip().splitlines()), type(error).__name__))[:120]


def _sample(row: Row, path: Path, number: int) -> Sample:
    prompt = row_field(row, "prompt_ids", list, path, number)
    response = row_field(row, "response_ids", list, path, number)
    if not all(type(t) is int and t >= 0 for t in (*prompt, *response)):
        raise DataError(f"{path}, line {number}: prompt_ids and response_ids hold token ids only.")
    if not prompt or not response:
        raise DataError(f"{path}, line {number}: prompt_ids or response_ids holds no token ids; delete it.")
    temperature = row.get("temperature", 0.0)
    if type(temperature) not in (int, float) or not 0 <= temperature < math.inf:
        raise DataError(
            f"{path}, line {number}: temperature is {json.dumps(temperature)[:40]}, but it must be a number "
            "of at least 0; correct or delete it."
        )
    target = row.get("target")
    return Sample(
        id=row_id(row, f"{path.name}:{number}", path, number),
        prompt_ids=tuple(prompt),
        response_ids=tuple(response),
        temperature=float(temperature),
        category=str(row.get("category", "")),
        target=None if target is None else str(target),
    )


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
