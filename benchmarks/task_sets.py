"""Two question sets of our own, where drafts are mostly copies: edits of files, and texts turned into JSON.

    python benchmarks/task_sets.py build/tasks
    eyas bench run --questions build/tasks/edits.jsonl build/tasks/extract.jsonl --max-new-tokens 1024 ...

`edits`: 50 small changes to 13 files of 80 to 230 lines in ten languages (`benchmarks/edits`); the answer is the
whole file. `extract`: 40 short texts of eight kinds (`benchmarks/extract`); the answer is JSON by the kind's schema.
"""

import argparse
import json
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LANGUAGES = {
    ".py": "python", ".js": "js", ".ts": "ts", ".c": "c", ".cpp": "cpp", ".rs": "rust", ".go": "go",
    ".java": "java", ".sql": "sql", ".sh": "bash",
}  # fmt: skip


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, questions in (("edits", edits()), ("extract", extract())):
        lines = [json.dumps(question, ensure_ascii=False) + "\n" for question in questions]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def edits() -> Iterator[dict[str, Any]]:
    """A question for each task; the first thirteen are about different files."""
    tasks = json.loads((HERE / "edits/tasks.json").read_text(encoding="utf-8"))
    by_file: dict[str, list[dict[str, str]]] = {}
    for task in tasks:
        by_file.setdefault(task["file"], []).append(task)
    for number, task in enumerate(in_turn(by_file.values()), 1):
        path = HERE / "edits/files" / task["file"]
        text = path.read_text(encoding="utf-8")
        fenced = f"```{LANGUAGES[path.suffix]}\n{text}```"
        prompt = (
            f"{task['task']} Answer with the whole file in one code block, and nothing else.\n\n{fenced}\n"
        )
        yield {"question_id": number, "category": task["kind"], "turns": [prompt]}


def extract() -> Iterator[dict[str, Any]]:
    """A question for each text, with the schema of its answer; kinds take turns."""
    schemas = json.loads((HERE / "extract/schemas.json").read_text(encoding="utf-8"))
    texts = json.loads((HERE / "extract/texts.json").read_text(encoding="utf-8"))
    kinds = [[(kind, text) for text in some] for kind, some in texts.items()]
    for number, (kind, text) in enumerate(in_turn(kinds), 1):
        fields = ", ".join(schemas[kind]["properties"])
        prompt = f"Extract the following as JSON with the fields {fields}.\n\n{text}\n"
        yield {"question_id": number, "category": kind, "turns": [prompt], "json_schema": schemas[kind]}


def in_turn(groups: Any) -> Iterator[Any]:
    """The first of each group, then the second of each, and so on."""
    for items in zip_longest(*groups):
        yield from (item for item in items if item is not None)


if __name__ == "__main__":
    main()
