"""Structured logs: one JSON object a line, on stderr. Prompts are logged only if `log_prompts` is set."""

import json
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from time import perf_counter
from typing import Any

from eyas.api.prompts import Prompt
from eyas.errors import EyasError
from eyas.serve.replies import Reply

EXTRA = "fields"  # of a record: a dictionary that joins its line

log = logging.getLogger(__name__)


class JsonLines(logging.Formatter):
    """A record as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """Time, level, logger and message, then the record's own fields."""
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{when}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        line |= getattr(record, EXTRA, {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def set_up_logs() -> None:
    """Send eyas's and uvicorn's records to stderr as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in ("eyas", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)


def log_event(logger: logging.Logger, event: str, **fields: Any) -> None:
    """One line with fields."""
    logger.info(event, extra={EXTRA: fields})


def log_error(logger: logging.Logger, error: Exception, request_id: str) -> None:
    """Log an internal error with its traceback; errors of a request are not logged."""
    if not isinstance(error, EyasError):
        logger.error("request failed", exc_info=error, extra={EXTRA: {"request_id": request_id}})


@dataclass
class RequestLog:
    """The log line of a request for answers, without prompts and texts unless `prompts` is set."""

    request_id: str
    path: str
    client: str
    reply: Reply | None = None
    prompts: Sequence[Prompt] | None = None
    failed: int | None = None  # status of the error that ended a stream
    began: float = field(default_factory=perf_counter)

    def write(self, status: int) -> None:
        """The request has ended."""
        fields: dict[str, Any] = {
            "request_id": self.request_id,
            "path": self.path,
            "client": self.client,
            "status": status,
            "seconds": round(perf_counter() - self.began, 4),
        }
        if self.reply is not None:
            usage = self.reply.usage()
            fields |= {
                "method": self.reply.settings["method"],
                "prompt_tokens": usage["prompt_tokens"],
                "cached_tokens": usage["prompt_tokens_details"]["cached_tokens"],
                "completion_tokens": usage["completion_tokens"],
                "finish_reasons": self.reply.finish_reasons,
            }
        if self.reply is not None and self.prompts is not None:
            prompts = [asdict(prompt) if is_dataclass(prompt) else prompt for prompt in self.prompts]
            fields |= {"prompts": prompts, "texts": self.reply.answer_texts}
        log_event(log, "request", **fields)
