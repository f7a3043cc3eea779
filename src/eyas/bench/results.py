"""A result folder: rows.jsonl has a row for each answer, run.json says where the rows come from."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from eyas.bench.equality import PLAIN
from eyas.bench.files import write_whole
from eyas.bench.plan import CHECKED
from eyas.bench.rows import Row, parse_rows
from eyas.errors import DataError

ROWS, RUN = "rows.jsonl", "run.json"

PromptKey = tuple[Any, ...]  # set, question id, turn, seed


@dataclass(frozen=True)
class Results:
    """The rows of a folder; of several for one request, the newest.

    Attributes:
        run: the document of run.json.
    """

    path: Path
    run: Mapping[str, Any]
    rows: Sequence[Row]

    @classmethod
    def load(cls, path: Path, *, mixed: bool = False) -> "Results":
        """Read a folder.

        Args:
            mixed: accept rows that several versions of the code, models, heads or machines made.

        Raises:
            DataError: it is not a result folder, a row is broken, rows are mixed without `mixed`, or one
                contender answered a prompt with several options.
        """
        run = read_run(path)
        try:
            content = (path / ROWS).read_bytes()
        except OSError as error:
            raise DataError(f"cannot read {path / ROWS}: {error.strerror}; is it a result folder?") from None
        try:
            rows = list({row["asked"]: row for row in parse_rows(content, path / ROWS).values()}.values())
            made = {row["made"] for row in rows}
            heads = {(row["contender"], row["head"]) for row in rows}
            places = Counter(place(row) for row in rows)
        except KeyError as error:
            raise DataError(f"{path / ROWS} holds a row without {error}; is it a result folder?") from None
        if not rows:
            raise DataError(f"{path / ROWS} holds no rows; `eyas bench run` makes them.")
        if not mixed and (len(made) > 1 or len(heads) > len({name for name, _ in heads})):
            raise DataError(
                f"rows in {path / ROWS} were made by several codes, models, heads or machines; measure "
                "again, or give --mixed to take them together."
            )
        twice = next((found for found, count in places.items() if count > 1), None)
        if twice is not None:
            raise DataError(
                f"rows in {path / ROWS} answer question {twice[3]!r} of {twice[2]} for {twice[0]} at "
                f"T={twice[1]:g} with several options or question files; measure each into its own folder."
            )
        return cls(path, run, rows)

    @cached_property
    def contenders(self) -> list[str]:
        """Names of all contenders in the order of the run, outside baselines last."""
        named = [name for name in self.run.get("contenders", {}) if name in self._names]
        rest = [name for name in self._names if name not in named]
        return sorted([*named, *rest], key=lambda name: self._names[name] is None)

    @cached_property
    def methods(self) -> list[str]:
        """Contenders without the outside baselines."""
        return [name for name in self.contenders if self._names[name] is not None]

    @cached_property
    def sets(self) -> list[str]:
        """Names of the question sets, in the order of the rows."""
        return list(dict.fromkeys(row["set"] for row in self.rows))

    @cached_property
    def temperatures(self) -> list[float]:
        """Temperatures, ascending."""
        return sorted({row["temperature"] for row in self.rows})

    def checked(self, contender: str, temperature: float | None = None) -> list[Row]:
        """A contender's checked rows: ids, counts, errors."""
        return [
            row
            for row in self._by_contender.get(contender, ())
            if row["repeat"] == CHECKED and temperature in (None, row["temperature"])
        ]

    def timed(self, contender: str, temperature: float) -> list[Row]:
        """A contender's timed rows without error."""
        return [
            row
            for row in self._by_contender.get(contender, ())
            if is_timed(row) and row["temperature"] == temperature and sound(row)
        ]

    def answer(self, row: Row) -> tuple[list[int], str]:
        """Token ids and text of a row without error; if they equal plain decoding's, its row holds them."""
        if row["token_ids"] is None:
            row = self._plain[(row["temperature"], *prompt_key(row))]
        return row["token_ids"], row["text"]

    @cached_property
    def _names(self) -> dict[str, str | None]:
        return {row["contender"]: row["method"] for row in self.rows}

    @cached_property
    def _by_contender(self) -> dict[str, list[Row]]:
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row["contender"], []).append(row)
        return found

    @cached_property
    def _plain(self) -> dict[PromptKey, Row]:
        return {(row["temperature"], *prompt_key(row)): row for row in self.checked(PLAIN)}


def prompt_key(row: Row) -> PromptKey:
    """The identity of a prompt at one temperature."""
    return row["set"], row["question_id"], row["turn"], row["seed"]


def place(row: Row) -> PromptKey:
    """Where a row stands in a table, whatever its options: contender, temperature, prompt, repeat."""
    return row["contender"], row["temperature"], *prompt_key(row), row["repeat"]


def is_timed(row: Row) -> bool:
    """Whether a row's seconds count; rows of older folders do not say so."""
    timed: bool = row.get("timed", row["repeat"] != CHECKED)
    return timed


def sound(row: Row) -> bool:
    """Whether a row counts in rates and speeds: no error, and ids as its method promises."""
    return row["error"] is None and row["check"]["state"] != "failed"


def read_run(path: Path) -> dict[str, Any]:
    """The document of run.json; empty where there is none.

    Raises:
        DataError: it is broken.
    """
    try:
        document: dict[str, Any] = json.loads((path / RUN).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path / RUN} ({error}); remove or repair it.") from None
    return document


def write_run(path: Path, document: Mapping[str, Any]) -> None:
    """Write run.json whole."""
    write_whole(path / RUN, json.dumps(document, ensure_ascii=False, indent=2) + "\n")


def write_session(
    path: Path, earlier: Mapping[str, Any], described: Mapping[str, Any], session: Mapping[str, Any]
) -> None:
    """Write run.json with one more session.

    Args:
        path: the folder.
        earlier: its document before this session.
        described: what the rows refer to (`Bench.describe`), added to that of earlier sessions.
        session: command line, versions, times.
    """
    document = dict(earlier)
    for name, part in described.items():
        document[name] = {**document.get(name, {}), **part} if name != "left_out" else part
    document["sessions"] = [*earlier.get("sessions", []), session]
    write_run(path, document)
