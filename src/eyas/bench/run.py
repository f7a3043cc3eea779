"""Measures contenders on question files: rows one by one, into a folder that resumes.

No speed before equal ids: a contender whose checked answer differs from plain decoding's without excuse gets
no timed repeats on that prompt, and its row keeps the first difference. A method that raises loses that
prompt.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

from eyas.api.llm import LLM
from eyas.api.prompts import Prompt as Prompted
from eyas.bench.answers import AnswerFile, Row, described
from eyas.bench.contenders import Contender
from eyas.bench.cycles import CycleCounts, answered
from eyas.bench.equality import PLAIN, compare, first_difference
from eyas.bench.peers import Peer
from eyas.bench.plan import CHECKED, BenchConfig, Plan, Prompt, Task, digest, maker
from eyas.bench.provenance import head_hash
from eyas.bench.questions import QuestionSet
from eyas.bench.results import place, read_run
from eyas.engine.metrics import is_looping
from eyas.errors import ConfigError, DataError, EyasError

WARM_UP_TOKENS = 8
Progress = Callable[[str, int, int], None]


class Bench:
    """Contenders, ready to answer.

    Args:
        llm: the model.
        sets: the question files.
        contenders: methods, plain decoding first. They are loaded here: a missing head is an error before the
            first answer, or leaves the contender out if it came with a preset.
        peers: outside baselines by name.
        config: how much to measure.
        base: generation options that all share.
        mixed: rows of other code, models or machines in the folder stay and count.

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
        mixed: bool = False,
    ) -> None:
        self.llm = llm
        self.left_out: dict[str, str] = {}
        self.maker = maker(llm.runtime.target, llm.draft_dtype)
        self._peers = dict(peers or {})
        self._mixed = mixed
        self._warm: set[str] = set()
        self._rows: dict[str, Row] = {}
        if base.get("raw") and config.turns != 1 and any(len(q.turns) > 1 for s in sets for q in s.questions):
            raise ConfigError("raw prompts have no second turn; give --turns 1.")
        loaded = [contender for contender in contenders if self._loads(contender)]
        self.plan = Plan(
            sets=sets,
            contenders=loaded,
            peers=[Contender(name, None) for name in self._peers],
            config=config,
            base=base,
            made=digest(self.maker),
            heads={c.name: (head_hash(llm.head(c.method).path) or "")[:32] or None for c in loaded},
        )
        # What each promises with its options; an option that does not fit its method is an error now.
        self._lossless: dict[str, str] = {
            c.name: c.settings(base, 0.0, 0).of_method(c.method or PLAIN).rule.lossless for c in loaded
        }

    def run(self, answers: AnswerFile, progress: Progress) -> None:
        """Make the rows that are missing.

        Raises:
            DataError: the file holds rows of other code, or the disk is full.
        """
        self.read(answers)
        total, done = len(self.plan), 0
        for prompt in self.plan.prompts():
            for task in self.plan.tasks(prompt):
                progress("rows", done, total)
                done += 1
                if self._is_missing(task):
                    self._warm_up(task)
                    row = self._row(task)
                    answers.append(row)
                    self._rows[task.asked] = row
        progress("rows", done, total)

    def read(self, answers: AnswerFile) -> int:
        """Take over the rows of a file; returns how many of the plan's it holds.

        Raises:
            DataError: rows of other code, another model, head or machine are among them, answers to the same
                prompts under other options, or what is no row of a benchmark.
        """
        try:
            self._rows = {row["asked"]: row for row in answers.rows.values()}
            places = [(place(row), row["asked"]) for row in self._rows.values()]
            made = [row["made"] for row in answers.rows.values()]
        except KeyError as error:
            raise DataError(
                f"{answers.path} holds a row without {error}, so it is no benchmark's; choose another --out."
            ) from None
        tasks = [task for prompt in self.plan.prompts() for task in self.plan.tasks(prompt)]
        there = [task for task in tasks if task.asked in self._rows]
        keys = {task.asked: task.key for task in there}  # where the head differs, the key does
        foreign = sum(
            by != self.plan.made or keys.get(row["asked"], row["key"]) != row["key"]
            for by, row in zip(made, answers.rows.values(), strict=True)
        )
        if foreign and not self._mixed:
            raise DataError(
                f"{foreign} of {len(answers.rows)} rows in {answers.path} were made by other code, another "
                "model, head, precision or machine; choose another --out, or give --mixed to count them too."
            )
        wanted = {place(task.named): task for task in tasks}
        for where, asked in places:
            task = wanted.get(where)
            if task is not None and task.asked != asked:
                how = self._differences(task, read_run(answers.path.parent))
                raise DataError(
                    f"{answers.path} holds answers of {task.contender.name} to the same questions with "
                    f"{how}; give the same, or choose another --out."
                )
        return len(there)

    def _differences(self, task: Task, earlier: Mapping[str, Any]) -> str:
        """How an answer was asked for by an earlier session, where it is asked for otherwise now."""
        contender, questions = task.contender, task.prompt.questions
        before = earlier.get("contenders", {}).get(contender.name, {})
        old = {"method": before.get("method"), **before.get("options", {})}
        new = {"method": contender.method, **json.loads(json.dumps(self._options(contender)))}
        told = [
            f"{name} {old[name]}, not {new[name]}" for name in old if before and old[name] != new.get(name)
        ]
        file = earlier.get("questions", {}).get(questions.name, {})
        if file.get("sha256", questions.sha256) != questions.sha256:
            told.append(f"another {file['file']}")
        return " and ".join(told) or "other options"

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
            "head_check": self.llm.head(method).check,
            "options": self._options(contender),
            "costs": None if costs is None else costs.to_dict(),
        }

    def _options(self, contender: Contender) -> dict[str, Any]:
        """All options of a contender but temperature and seed, of which a run has several."""
        options = contender.settings(self.plan.base, 0.0, 0)
        document = options.to_dict() | asdict(options.of_method(contender.method or PLAIN))
        return {name: value for name, value in document.items() if name not in ("temperature", "seed")}

    def _loads(self, contender: Contender) -> bool:
        try:
            self.llm.engine(contender.method)
        except EyasError as error:
            if contender.wanted:
                raise
            found = self.llm.head(contender.method).path  # folders of this machine say nothing to others
            self.left_out[contender.name] = described(error) if found else "no draft networks for this target"
            return False
        return True

    def _is_missing(self, task: Task) -> bool:
        row = self._rows.get(task.asked)
        if row is not None and row["error"] is None:
            return False
        if task.repeat == CHECKED:
            return True
        checked = self._rows[self.plan.task(task.prompt, task.contender, CHECKED).asked]
        return checked["error"] is None and checked["check"]["state"] != "failed"

    def _warm_up(self, task: Task) -> None:
        """A few tokens before a contender's first row: caches, lazy imports, the cost table."""
        if task.contender.name in self._warm:
            return
        self._warm.add(task.contender.name)
        stopping = replace(task.options.stopping, max_new_tokens=WARM_UP_TOKENS, min_new_tokens=0)
        with suppress(Exception):  # the row itself will say what is wrong
            self._answer(replace(task, options=replace(task.options, stopping=stopping)), None)

    def _row(self, task: Task) -> Row:
        contender = task.contender
        row = {
            "key": task.key,
            "asked": task.asked,
            "made": self.plan.made,
            "head": self.plan.heads.get(contender.name),
            **task.named,
            "lossless": self._lossless.get(contender.name),
            "error": None,
        }
        try:
            counts = CycleCounts() if task.repeat == CHECKED and self.plan.config.cycles else None
            told = self._answer(task, counts)
            check = self._check(task, told["token_ids"])
        except Exception as error:
            return row | {"error": described(error)}
        if check["state"] == "equal" and check["share"] is not None:
            told |= {"token_ids": None, "text": None}  # those of plain decoding's checked row
        return row | told | {"check": check}

    def _answer(self, task: Task, counts: CycleCounts | None) -> dict[str, Any]:
        prompt, method = self._prompt(task.prompt), task.contender.method
        request = self.llm.request(prompt, task.options, method=method or PLAIN)
        if method is None:
            count = min(len(self._plain_ids(task)), task.options.stopping.max_new_tokens)
            token_ids, prefill, decode = self._peers[task.contender.name](request.prompt_ids, count)
            if len(token_ids) != count:
                raise DataError(f"it gave {len(token_ids)} tokens instead of {count}")
            stats = {"new_tokens": count, "prefill_seconds": prefill, "decode_seconds": decode}
            reason, text = "length", self.llm.tokenizer.decode(token_ids)
        else:
            run = answered(self.llm.engine(method), request, counts)
            token_ids, stats, text = run.generated, run.stats().to_dict(), run.text
            reason = request.text.finish_reason or ""
        return {
            "prompt_tokens": len(request.prompt_ids),
            "finish_reason": reason,
            "loops": is_looping(token_ids),
            "token_ids": token_ids,
            "text": text,
            "stats": stats,
            "cycles": None if counts is None or method == PLAIN else counts.to_dict(),
        }

    def _prompt(self, prompt: Prompt) -> Prompted:
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

    def _plain_ids(self, task: Task) -> list[int]:
        row = self._rows.get(self.plan.plain(task.prompt).asked)
        if row is None or row["error"] is not None:
            raise DataError("plain decoding has no answer to compare with")
        ids: list[int] = row["token_ids"]
        return ids

    def _check(self, task: Task, token_ids: Sequence[int]) -> dict[str, Any]:
        """How an answer's ids compare with plain decoding's; `share` is that of equal ids from the start."""
        if task.asked == self.plan.plain(task.prompt).asked:
            return {"state": "equal", "share": None}
        plain = self._plain_ids(task)
        at = first_difference(plain, token_ids)
        share = 1.0 if at is None else at / max(len(plain), len(token_ids))
        if self._lossless.get(task.contender.name) != "ids":
            return {"state": "equal" if at is None else "other", "share": share, "position": at}
        request = self.llm.request(
            self._prompt(task.prompt), self.plan.plain(task.prompt).options, method=PLAIN
        )
        return asdict(compare(self.llm.runtime, request, plain, token_ids)) | {"share": share}
