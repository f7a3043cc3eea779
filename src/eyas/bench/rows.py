"""The file of results: one JSON object per line, appended and synced one by one, so a kill loses at most one.

A row's `key` is a hash of everything that determines it. Of several rows with one key the last one counts.
"""

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from eyas.errors import DataError
from eyas.models.appending import hold, without_cut_line

Row = dict[str, Any]
BEGINNING = b'{"key": "'  # of every row that `append` writes


class RowFile:
    """Rows on disk; `rows` holds them by key. One process at a time; use it as a context manager."""

    def __init__(self, path: Path) -> None:
        """Open or create the file.

        Raises:
            DataError: another process writes to it, or a line is not a row. The file is left as it was.
        """
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = hold(path, "--out")
        except OSError as error:
            raise DataError(f"cannot write {path}: {error.strerror}; choose another --out.") from None
        try:
            self._file = path.open("a+b", buffering=0)
        except OSError as error:
            self._lock.release()
            raise DataError(f"cannot write {path}: {error.strerror}; choose another --out.") from None
        try:
            self.rows = self._read()
        except BaseException:
            self._close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        self._file.close()
        self._lock.release()

    def append(self, row: Row) -> None:
        """Write a row and wait until it is on the disk.

        Raises:
            DataError: the disk is full or gone. Rows written before stay.
        """
        line = json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
        # A file name need not be UTF-8; the undecodable part is written as an escape, which JSON allows.
        self._write(line.encode(errors="backslashreplace"))
        self.rows[row["key"]] = row

    def _write(self, line: bytes) -> None:
        size = self._file.seek(0, os.SEEK_END)
        try:
            written = self._file.write(line)
            if written != len(line):
                raise OSError(0, "only part of a row fitted on the disk")
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(size)
            raise DataError(
                f"cannot write {self.path}: {error.strerror}; make room and run again, it resumes."
            ) from None

    def _read(self) -> dict[str, Row]:
        self._file.seek(0)
        content = self._file.read() or b""
        whole = without_cut_line(content, BEGINNING)
        rows = parse_rows(whole, self.path)
        if len(whole) < len(content):
            self._file.truncate(len(whole))
        elif len(whole) > len(content):
            self._write(b"\n")
        return rows


def parse_rows(content: bytes, path: Path) -> dict[str, Row]:
    """Rows by key, from the lines of a file; text after the last line feed is left out.

    Raises:
        DataError: a line is broken; the message gives its number.
    """
    rows: dict[str, Row] = {}
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), start=1):
        try:
            row = json.loads(line)
            rows[row["key"]] = row
        except (ValueError, KeyError, TypeError, RecursionError):
            raise DataError(
                f"{path}, line {number}: not a result row; remove the line or choose another --out."
            ) from None
    return rows


def error_text(error: Exception) -> str:
    """An error as a row stores it: type and message on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
