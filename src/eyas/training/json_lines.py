"""Files of JSON lines, read strictly: what is wrong is said with the number of its line."""

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from eyas.api.prompts import is_unicode
from eyas.errors import DataError

Row = dict[str, Any]
Numbered = tuple[int, Row]  # the number of a line, from 1, and its object


def read_rows(path: Path) -> Iterator[Numbered]:
    """Objects of a file, plain or .gz.

    Raises:
        DataError: the file cannot be read, or a line is broken.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            yield from parse_rows(file, path)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}).") from error


def parse_rows(lines: Iterable[bytes], path: Path) -> Iterator[Numbered]:
    """Objects of lines of the file `path`; blank ones are left out.

    Raises:
        DataError: a broken line, by its number.
    """
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode())
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{path}, line {number}: invalid JSON ({error}); correct or delete it."
            ) from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: not a JSON object; correct or delete it.")
        yield number, row


def row_id(row: Row, otherwise: str, path: Path, number: int) -> str:
    """The `id` of an object."""
    name = str(row.get("id", otherwise))
    check_text(name, "id", path, number)
    return name


def check_text(text: str, name: str, path: Path, number: int) -> None:
    """Refuse half of a surrogate pair, which JSON can spell but UTF-8 cannot."""
    if not is_unicode(text):
        raise DataError(
            f"{path}, line {number}: {name} is invalid text ({text[:40]!a}); correct or delete it."
        )


def row_field(row: Row, name: str, kind: type, path: Path, number: int) -> Any:
    """A field of an object, of type `kind`."""
    value = row.get(name)
    if not isinstance(value, kind):
        raise DataError(
            f"{path}, line {number}: {name} is missing or not a {kind.__name__}; correct or delete it."
        )
    return value
