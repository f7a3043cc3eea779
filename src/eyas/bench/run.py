"""The runner of `eyas bench run` and `eyas eval`: makes the rows of a plan into a folder that resumes.

Equal ids come before speed: a contender whose checked answer differs from plain decoding's, without the
excuse of a near tie, gets no timed repeats on that prompt, and its row records the first difference. An
answer that fails costs its own row only.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any, Literal

from eyas.api.llm import LLM
from eyas.api.prompts import Prompt
from eyas.bench.contenders import Contender
from eyas.bench.cycles import CycleCounts, answered
from eyas.bench.equality import PLAIN, compare, first_difference
from eyas.bench.peers import Peer
from eyas.bench.plan import CHECKED, BenchConfig, BenchPlan, BenchPrompt, BenchTask, digest, maker
from eyas.bench.provenance import head_hash
from eyas.bench.questions import QuestionSet
from eyas.bench.results import place, read_run
from eyas.bench.rows import Row, RowFile, error_text
from eyas.engine.batch import run_all
from eyas.engine.cycle import Request, Run
from eyas.engine.metrics import is_looping
from eyas.errors import ConfigError, DataError, EyasError

WARM_UP_TOKENS = 8
UNCHECKED = {"state": "unchecked", "share": None}  # of a run that does not compare ids
Progress = Callable[[str, int, int], None]
# What to do with rows of other code, models, heads or machines: an error, count them, or leave them out.
Foreign = Literal["refuse", "count", "ignore"]


class Bench:
    """Contenders, ready to answer.

    Args:
        llm: the model.
        sets: the question files.
        contenders: methods with options. They are loaded here: a missing head is an error before the first
            answer, or leaves the contender out if it came with a preset.
        peers: outside baselines by name.
        config: how much to measure.
        base: generation options that all share.
        foreign: what becomes of rows in the folder that other code, models, heads or machines made.
            "ignore" also leaves rows of other options alone, which the other two refuse.

    Raises:
        ConfigError, CheckpointError: an option, method or head that cannot be used.
    """

    def __init__(
        self,
        llm: LLM,
        sets: Sequence[QuestionSet],
        contenders: Sequence[Contender],
        config: BenchConfig,
        base: Mapping[str, Any],
        *,
        peers: Mapping[str, Peer] | None = None,
        foreign: Foreign = "refuse",
    ) -> None:
        self.llm = llm
        self.left_out: dict[str, str] = {}
        self.maker = maker(llm.runtime.target, llm.draft_dtype)
        self.num_ignored = 0  # rows of the folder, after `read`
        self._peers = dict(peers or {})
        self._foreign = foreign
        self._warm: set[str] = set()
        self._rows: dict[str, Row] = {}
        if base.get("raw") and config.turns != 1 and any(len(q.turns) > 1 for s in sets for q in s.questions):
            raise ConfigError("raw prompts have no second turn; give --turns 1.")
        loaded = [contender for contender in contenders if self._loads(contender)]
        self.head_hashes = {c.name: head_hash(llm.find_head(c.method or PLAIN).path) for c in loaded}
        self.plan = BenchPlan(
            sets=sets,
            contenders=loaded,
            peers=[Contender(name, None) for name in self._peers],
            config=config,
            base=base,
            made=digest(self.maker),
            heads={name: value and value[:32] for name, value in self.head_hashes.items()},
        )
        # What each promises under its options; an option that does not fit its method is an error now.
        self._lossless: dict[str, str] = {
            c.name: c.settings(base, 0.0, 0).of_method(c.method or PLAIN).rule.lossless for c in loaded
        }

    def run(self, file: RowFile, progress: Progress) -> list[Row]:
        """Make the missing rows; returns those of the plan, in its order.

        Raises:
            DataError: the file holds rows that are refused (`read`), or the disk is full.
        """
        self.read(file)
        total, done, made = len(self.plan), 0, list[BenchTask]()
        for tasks in self.plan.steps():
            progress("answers", done, total)
            done += len(tasks)
            made += tasks
            for row in self._missing_rows(tasks):
                file.append(row)
                self._rows[row["asked"]] = row
        progress("answers", done, total)
        return [self._rows[task.asked] for task in made if task.asked in self._rows]

    def read(self, file: RowFile) -> int:
        """Take over the rows of a file; returns how many of the plan's it holds.

        Raises:
            DataError: rows of other code, another model, head or machine are among them, answers to the same
                prompts under other options, or lines that are not rows.
        """
        rows = list(file.rows.values())
        try:
            places = [(place(row), row["asked"], row["made"]) for row in rows]
        except KeyError as error:
            raise DataError(
                f"{file.path} holds a row without {error}, so it is not a result file; choose another --out."
            ) from None
        tasks = [task for prompt in self.plan.prompts() for task in self.plan.tasks(prompt)]
        if self._foreign == "ignore":
            keys = {task.key for task in tasks}
            self.num_ignored = sum(row["key"] not in keys for row in rows)
            self._rows = {row["asked"]: row for row in rows if row["key"] in keys}
            return len(self._rows)
        self._rows = {row["asked"]: row for row in rows}
        there = [task for task in tasks if task.asked in self._rows]
        known = {task.asked: task.key for task in there}  # where the head differs, the key does
        foreign = sum(
            row["made"] != self.plan.made or known.get(row["asked"], row["key"]) != row["key"] for row in rows
        )
        if foreign and self._foreign == "refuse":
            raise DataError(
                f"{foreign} of {len(rows)} rows in {file.path} were made by other code, another "
                "model, head, precision or machine; choose another --out, or give --mixed to count them too."
            )
        self._check_options(file, tasks, {where: asked for where, asked, _ in places})
        return len(there)

    def _check_options(
        self, file: RowFile, tasks: Iterable[BenchTask], places: Mapping[tuple[Any, ...], str]
    ) -> None:
        """Refuse a file whose answers to the same prompts were asked for with other options."""
        for task in tasks:
            if places.get(place(task.named), task.asked) != task.asked:
                how = self._differences(task, read_run(file.path.parent))
                raise DataError(
                    f"{file.path} holds answers of {task.contender.name} to the same questions with "
                    f"{how}; give the same, or choose another --out."
                )

    def _differences(self, task: BenchTask, earlier: Mapping[str, Any]) -> str:
        """How this request differs from an earlier session's."""
        contender, questions = task.contender, task.prompt.questions
        before = earlier.get("contenders", {}).get(contender.name, {})
        old = {"method": before.get("method"), **before.get("options", {})}
        new = {"method": contender.method, **json.loads(json.dumps(self._options(contender)))}
        found = [
            f"{name} {old[name]}, not {new[name]}"
            for name in old
            if before and name in new and old[name] != new[name]  # what it lacks is another method's
        ]
        file = earlier.get("questions", {}).get(questions.name, {})
        if file.get("sha256", questions.sha256) != questions.sha256:
            found.append(f"another {file['file']}")
        return " and ".join(found) or "other options"

    # ---- what run.json says ----

    def describe(self) -> dict[str, Any]:
        """What answers, for run.json; cost tables are those in use."""
        plan = self.plan
        return {
            "makers": {plan.made: self.maker},
            "contenders": {c.name: self._described(c) for c in plan.contenders},
            "left_out": self.left_out,
            "questions": {s.name: {"file": s.path.name, "sha256": s.sha256} for s in plan.sets},
        }

    def _described(self, contender: Contender) -> dict[str, Any]:
        method = contender.method or PLAIN
        is_auto = contender.settings(self.plan.base, 0.0, 0).tree.is_auto
        costs = self.llm.costs(method) if is_auto else None
        return {
            "method": method,
            "lossless": self._lossless.get(contender.name),
            "head_sha256": self.plan.heads[contender.name],
            "head_check": self.llm.find_head(method).check,
            "options": self._options(contender),
            "costs": None if costs is None else costs.to_dict(),
        }

    def _options(self, contender: Contender) -> dict[str, Any]:
        """All options of a contender except temperature and seed, of which a run has several."""
        options = contender.settings(self.plan.base, 0.0, 0)
        document = options.to_dict() | asdict(options.of_method(contender.method or PLAIN))
        return {name: value for name, value in document.items() if name not in ("temperature", "seed")}

    # ---- rows ----

    def _loads(self, contender: Contender) -> bool:
        try:
            self.llm.engine(contender.method)
        except EyasError as error:
            if contender.wanted:
                raise
            # Folders of this machine mean nothing to others.
            found = self.llm.find_head(contender.method or PLAIN).path
            self.left_out[contender.name] = error_text(error) if found else "no draft networks for this model"
            return False
        return True

    def _missing_rows(self, tasks: Sequence[BenchTask]) -> Iterator[Row]:
        """The rows of a step that are not there yet, or not compared yet although they should be."""
        missing = [task for task in tasks if self._is_missing(task)]
        for task, outcome in self._outcomes(missing):
            yield self._row(task, outcome)
        for task in tasks:
            row = self._rows.get(task.asked)
            is_unchecked = row is not None and row["error"] is None and row["check"]["state"] == "unchecked"
            if row is not None and is_unchecked and self.plan.config.compare:
                yield self._checked(task, row)

    def _is_missing(self, task: BenchTask) -> bool:
        row = self._rows.get(task.asked)
        if row is not None and row["error"] is None:
            return False
        if task.repeat == CHECKED:
            return True
        checked = self._rows[self.plan.task(task.prompt, task.contender, CHECKED).asked]
        return checked["error"] is None and checked["check"]["state"] != "failed"

    def _outcomes(self, tasks: Sequence[BenchTask]) -> Iterator[tuple[BenchTask, Row | Exception]]:
        """Each task with the columns that its answer fills, or with the error in its place."""
        if self.plan.config.batch > 1 and tasks:
            yield from self._batch(tasks)
            return
        for task in tasks:
            self._warm_up(task)
            try:
                outcome: Row | Exception = self._answer(task)
            except Exception as error:
                outcome = error
            yield task, outcome

    def _batch(self, tasks: Sequence[BenchTask]) -> Iterator[tuple[BenchTask, Row | Exception]]:
        """One contender's tasks, answered together."""
        asked: dict[Request, BenchTask] = {}
        for task in tasks:
            try:
                asked[self._request(task)] = task
            except Exception as error:
                yield task, error
        engine = self.llm.engine(tasks[0].contender.method)
        for request, run in run_all(engine, ([request] for request in asked), self.plan.config.batch):
            yield asked[request], run if isinstance(run, Exception) else _columns(run)

    def _warm_up(self, task: BenchTask) -> None:
        """A few tokens before a contender's first row: caches, lazy imports, the cost table."""
        if task.contender.name in self._warm:
            return
        self._warm.add(task.contender.name)
        stopping = replace(task.options.stopping, max_new_tokens=WARM_UP_TOKENS, min_new_tokens=0)
        with suppress(Exception):  # the row itself will report the error
            self._answer(replace(task, repeat=-1, options=replace(task.options, stopping=stopping)))

    def _row(self, task: BenchTask, outcome: Row | Exception) -> Row:
        row = {
            "key": task.key,
            "asked": task.asked,
            "made": self.plan.made,
            "head": self.plan.heads.get(task.contender.name),
            **task.named,
            "lossless": self._lossless.get(task.contender.name),
            "batch": self.plan.config.batch,
            "timed": self.plan.config.is_timed(task.repeat),
            "error": None,
        }
        if isinstance(outcome, Exception):
            return row | {"error": error_text(outcome)}
        return self._checked(task, row | outcome)

    def _checked(self, task: BenchTask, row: Row) -> Row:
        """An answer's row with the comparison of its ids."""
        try:
            check = self._check(task, row["token_ids"])
        except Exception as error:
            bare = {name: value for name, value in row.items() if name not in _COLUMNS}
            return bare | {"error": f"comparing ids: {error_text(error)}"}
        if check["state"] == "equal" and check["share"] is not None:
            row = row | {"token_ids": None, "text": None}  # those of plain decoding's checked row
        return row | {"check": check}

    def _request(self, task: BenchTask) -> Request:
        method = task.contender.method
        return self.llm.request(self._prompt(task.prompt), task.options, method=method or PLAIN)

    def _answer(self, task: BenchTask) -> Row:
        method, request = task.contender.method, self._request(task)
        if method is None:
            return self._peer_answer(task, request)
        counts = CycleCounts() if task.repeat == CHECKED and self.plan.config.cycles else None
        run = answered(self.llm.engine(method), request, counts)
        return _columns(run, None if counts is None or method == PLAIN else counts.to_dict())

    def _peer_answer(self, task: BenchTask, request: Request) -> Row:
        """An outside baseline's answer of as many tokens as plain decoding gave."""
        if task.prompt.question.json_schema is not None:
            raise DataError("the question has a json_schema, which other programs are not given")
        count = min(len(self._plain_ids(task)), task.options.stopping.max_new_tokens)
        token_ids, prefill, decode = self._peers[task.contender.name](request.prompt_ids, count)
        if len(token_ids) != count:
            raise DataError(f"it gave {len(token_ids)} tokens instead of {count}")
        return {
            "prompt_tokens": len(request.prompt_ids),
            "finish_reason": "length",
            "loops": is_looping(token_ids),
            "token_ids": token_ids,
            "text": self.llm.tokenizer.decode(token_ids),
            "stats": {"new_tokens": count, "prefill_seconds": prefill, "decode_seconds": decode},
            "cycles": None,
        }

    def _prompt(self, prompt: BenchPrompt) -> Prompt:
        """The first turn, or a conversation with plain decoding's answers: the same for all contenders."""
        turns, options = prompt.question.turns, self.plan.plain(prompt).options
        if prompt.turn == 1:
            return turns[0]
        messages = [] if options.system is None else [{"role": "system", "content": options.system}]
        for turn in range(1, prompt.turn):
            row = self._rows.get(self.plan.plain(replace(prompt, turn=turn)).asked)
            if row is None or row["error"] is not None:
                raise DataError(f"plain decoding has no answer to turn {turn}")
            messages.append({"role": "user", "content": turns[turn - 1]})
            messages.append({"role": "assistant", "content": row["text"]})
        return [*messages, {"role": "user", "content": turns[prompt.turn - 1]}]

    def _plain_ids(self, task: BenchTask) -> list[int]:
        row = self._rows.get(self.plan.plain(task.prompt).asked)
        if row is None or row["error"] is not None:
            raise DataError("plain decoding has no answer to compare with")
        ids: list[int] = row["token_ids"]
        return ids

    def _check(self, task: BenchTask, token_ids: Sequence[int]) -> dict[str, Any]:
        """How ids compare with plain decoding's; `share` is that of equal ids from the start."""
        if task.asked == self.plan.plain(task.prompt).asked:
            return {"state": "equal", "share": None}
        if not self.plan.config.compare:
            return UNCHECKED
        plain = self._plain_ids(task)
        at = first_difference(plain, token_ids)
        share = 1.0 if at is None else at / max(len(plain), len(token_ids))
        if self._lossless.get(task.contender.name) != "ids":
            return {"state": "equal" if at is None else "other", "share": share, "position": at}
        request = self._request(self.plan.plain(task.prompt))
        return asdict(compare(self.llm.runtime, request, plain, token_ids)) | {"share": share}


_COLUMNS = ("prompt_tokens", "finish_reason", "loops", "token_ids", "text", "stats", "cycles", "check")


def _columns(run: Run, cycles: dict[str, Any] | None = None) -> Row:
    """What a finished run fills in its row."""
    token_ids = run.generated
    return {
        "prompt_tokens": len(run.request.prompt_ids),
        "finish_reason": run.request.text.finish_reason or "",
        "loops": is_looping(token_ids),
        "token_ids": token_ids,
        "text": run.text,
        "stats": run.stats().to_dict(),
        "cycles": cycles,
    }
