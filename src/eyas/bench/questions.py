"""Question files in Spec-Bench's format: JSON lines of `question_id`, `category` and `turns`.

A question may have a `json_schema` that its answers must keep to. Other fields, such as `reference`, are
ignored. Reading is strict: half a file would give wrong figures.
"""

import hashlib
import json
import reprlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eyas.api.prompts import is_unicode
from eyas.errors import ConfigError, DataError

QuestionId = int | str
MAX_LINE_BYTES = 1 << 20  # a longer line is not a question and could fill the memory


@dataclass(frozen=True, slots=True)
class Question:
    """One question.

    Attributes:
        turns: the user's messages, in order.
        json_schema: of the answers, as JSON text; None for free text.
    """

    question_id: QuestionId
    category: str
    turns: tuple[str, ...]
    json_schema: str | None = None


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """One file's questions; `sha256` is that of the whole file."""

    name: str
    path: Path
    sha256: str
    questions: tuple[Question, ...]


def read_questions(path: Path) -> QuestionSet:
    """Read a question file.

    Raises:
        DataError: no such file, an empty one, or a broken line; the message gives its number.
    """
    digest = hashlib.sha256()
    questions: dict[QuestionId, tuple[int, Question]] = {}
    for number, line in _lines(path, digest):
        question = _question(path, number, line)
        if question.question_id in questions:
            first, _ = questions[question.question_id]
            raise _broken(path, number, f"question_id {question.question_id!r} is in line {first} already")
        questions[question.question_id] = number, question
    if not questions:
        raise DataError(f"{path} holds no questions; expected one JSON object per line.")
    return QuestionSet(
        name=path.stem,
        path=path,
        sha256=digest.hexdigest(),
        questions=tuple(question for _, question in questions.values()),
    )


def _lines(path: Path, digest: "hashlib._Hash") -> Iterator[tuple[int, str]]:
    """Numbered lines, blank ones left out. Only line feeds end a line: JSON strings may hold U+2028.

    `digest` sees the whole file.
    """
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    raise _broken(path, number, f"longer than {MAX_LINE_BYTES} bytes")
                digest.update(line)
                try:
                    text = line.decode("utf-8")
                except UnicodeDecodeError:
                    raise _broken(path, number, "not UTF-8") from None
                if text.strip():
                    yield number, text
    except OSError as error:
        raise DataError(f"cannot read the question file {path}: {error.strerror}.") from None


def _question(path: Path, number: int, line: str) -> Question:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise _broken(path, number, f"not JSON ({error.msg} at column {error.colno})") from None
    except ValueError:
        raise _broken(path, number, "not JSON that can be read (a number of too many digits)") from None
    except RecursionError:
        raise _broken(path, number, "not JSON that can be read (nested too deeply)") from None
    if not isinstance(row, dict):
        raise _broken(path, number, f"a JSON {type(row).__name__}, not an object")
    question_id = row.get("question_id")
    if isinstance(question_id, bool) or not isinstance(question_id, int | str):
        raise _broken(path, number, f"question_id is {_shown(question_id)}, not a number or string")
    category = row.get("category", "")
    if not isinstance(category, str):
        raise _broken(path, number, f"category is {_shown(category)}, not a string")
    for name, value in (("question_id", question_id), ("category", category)):
        if not is_unicode(str(value)):
            raise _broken(path, number, f"{name} holds half of a surrogate pair")
    schema = row.get("json_schema")
    if not isinstance(schema, dict | None):
        raise _broken(path, number, f"json_schema is {_shown(schema)}, not an object")
    text = None if schema is None else json.dumps(schema)
    return Question(question_id, category, _turns(path, number, row.get("turns")), text)


def _turns(path: Path, number: int, turns: Any) -> tuple[str, ...]:
    if not isinstance(turns, list):
        raise _broken(path, number, f"turns is {_shown(turns)}, not a list")
    if not turns:
        raise _broken(path, number, "turns is empty; a question has at least one")
    for index, turn in enumerate(turns, start=1):
        if not isinstance(turn, str):
            raise _broken(path, number, f"turn {index} is {_shown(turn)}, not a string")
        if not turn.strip():
            raise _broken(path, number, f"turn {index} is empty")
        if not is_unicode(turn):
            raise _broken(path, number, f"turn {index} holds half of a surrogate pair")
    return tuple(turns)


def _shown(value: Any) -> str:
    if value is None:
        return "missing"
    text = reprlib.repr(value)  # which stops after a few levels
    return text if len(text) <= 40 else text[:39] + "…"


def _broken(path: Path, number: int, reason: str) -> DataError:
    return DataError(f"{path}, line {number}: {reason}; repair or remove the line.")


def find_question_files(names: Sequence[str], folder: str | None) -> list[Path]:
    """Question files by path, or by name in `folder`; no names are all of the folder's.

    Raises:
        ConfigError: a name is neither, or there is nothing to choose from.
    """
    if not names:
        if folder is None:
            raise ConfigError(
                "no question files; give --questions FILE..., or set EYAS_EVAL_DATA to a folder."
            )
        found = sorted(Path(folder).glob("*.jsonl"))
        if not found:
            raise ConfigError(f"EYAS_EVAL_DATA is {folder}, which holds no .jsonl file; give --questions.")
        return found
    paths = []
    for name in names:
        choices = [Path(name)]
        if folder is not None:
            choices += [Path(folder) / name, Path(folder) / f"{name}.jsonl"]
        path = next((choice for choice in choices if choice.is_file()), None)
        if path is None:
            raise ConfigError(
                f"there is no question file {name!r}; give its path, or a name in the folder that "
                "EYAS_EVAL_DATA names."
            )
        paths.append(path)
    if len({path.stem for path in paths}) != len(paths):
        raise ConfigError("two question files have the same name; results are identified by it; rename one.")
    return paths
