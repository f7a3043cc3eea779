"""The file of answers: one JSON object a line, appended and synced one by one, so that a kill loses one.

A row's `key` is a hash of everything that determines the answer; of several rows with one key the last
counts.
"""

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from eyas.errors import DataError
from eyas.models.appending import hold, mended

Row = dict[str, Any]
BEGINNING = b'{"key": "'  # of every row that `append` writes


class AnswerFile:
    """Rows on disk, `rows` by key. One process at a time; use it as a context."""

    def __init__(self, path: Path) -> None:
        """Open or create the file.

        Raises:
            DataError: another process writes to it, or a line of it is no row; it stays as it was.
        """
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b", buffering=0)
        except OSError as error:
            raise DataError(f"cannot write {path}: {error.strerror}; choose another --out.") from None
        try:
            hold(self._file, path, "--out")
            self.rows = self._read()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def append(self, row: Row) -> None:
        """Write a row and wait until it is on the disk.

        Raises:
            DataError: the disk is full or gone; what was written before stays.
        """
        line = json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
        # A file's name may be no UTF-8; what is left of it is an escape in JSON too.
        self._write(line.encode(errors="backslashreplace"))
        self.rows[row["key"]] = row

    def _write(self, line: bytes) -> None:
        size = self._file.seek(0, os.SEEK_END)
        try:
            written = self._file.write(line)
            if written != len(line):
                raise OSError(0, "the disk took a part of a row only")
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(size)
            raise DataError(
                f"cannot write {self.path}: {error.strerror}; make room and run again, it resumes."
            ) from None

    def _read(self) -> dict[str, Row]:
        self._file.seek(0)
        content = self._file.read() or b""
        whole = mended(content, BEGINNING)
        rows = parse_rows(whole, self.path)
        if len(whole) < len(content):
            self._file.truncate(len(whole))
        elif len(whole) > len(content):
            self._write(b"\n")
        return rows


def parse_rows(content: bytes, path: Path) -> dict[str, Row]:
    """Rows by key, from the lines of a file; what follows the last line feed is left out.

    Raises:
        DataError: a line is broken; its number is named.
    """
    rows: dict[str, Row] = {}
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), start=1):
        try:
            row = json.loads(line)
            rows[row["key"]] = row
        except (ValueError, KeyError, TypeError, RecursionError):
            raise DataError(
                f"{path}, line {number}: no row of an evaluation; remove the line or choose another --out."
            ) from None
    return rows


def described(error: Exception) -> str:
    """An error as a row keeps it."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
