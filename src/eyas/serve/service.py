"""One model behind the routes: from a checked body to answers of the scheduler, and to a response."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import Request as HttpRequest
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

import eyas
from eyas.api.llm import LLM
from eyas.api.options import GenerationOptions
from eyas.api.prompts import Prompt
from eyas.drafters.registry import Method, find_method, methods
from eyas.engine.cycle import Piece, Request
from eyas.errors import CheckpointError, ConfigError, ModelError
from eyas.serve.channel import DONE, Channel, ClientLeftError, EventStream, dump, event, unless_gone
from eyas.serve.errors import CLIENT_LEFT, ApiError, describe, error_response, request_id
from eyas.serve.logs import RequestLog, log_error, log_event
from eyas.serve.metrics import ServerMetrics
from eyas.serve.queue import Job
from eyas.serve.replies import Reply, Texts
from eyas.serve.scheduler import Scheduler
from eyas.serve.schemas import AnswerRequest
from eyas.serve.settings import ServeSettings

ALIAS = "default"  # names whichever model a server has
SHOWN = ("method", "lossless", "tree", "draft_tokens", "depth", "cost_table", "seed", "temperature")

log = logging.getLogger(__name__)

Pieces = AsyncIterator[tuple[int, Piece]]  # with the index of their answer


class Service:
    """A loaded model, its scheduler and its metrics.

    Raises:
        ConfigError: the caches could hold no request.
    """

    def __init__(self, llm: LLM, settings: ServeSettings) -> None:
        target = llm.runtime.target
        limit_tokens = settings.limit_tokens(target.context_limit)
        options = llm.options({})
        least = 2 + 1 + options.of_method(llm.method).max_draft_tokens(options.tree)
        if limit_tokens < least:
            raise ConfigError(
                f"cache_tokens is {limit_tokens}, but a prompt and an answer of one token each take {least} "
                "with their tree; raise it."
            )
        self.llm = llm
        self.settings = settings
        self.model_name = settings.served_model_name or model_name(target.name)
        self.metrics = ServerMetrics(self.model_name)
        self.texts = Texts(llm.tokenizer)
        self.is_ready = False
        self.scheduler = Scheduler(
            self.metrics,
            max_concurrent=settings.max_concurrent,
            max_queue=settings.max_queue,
            limit_tokens=limit_tokens,
            keep=settings.keep,
            on_idle=llm.measure_again,
        )
        self._fingerprint = f"eyas-{eyas.__version__}-{(target.fingerprint or target.dtype)[:12]}"
        self._started = int(time.time())
        self._methods = [name for name, method in methods().items() if self._has_networks(method)]
        self._warm: set[str] = set()

    async def start(self) -> None:
        """Start the scheduler; ready once the server's own method is loaded and measured."""
        self.scheduler.start()
        await self._warm_up(self.llm.method)
        self.is_ready = True
        log_event(log, "ready", model=self.model_name, method=self.llm.method)

    async def stop(self) -> None:
        """End the scheduler; answers still under way end with an error."""
        self.is_ready = False
        await run_in_threadpool(self.scheduler.close)

    def check_model(self, name: str | None) -> None:
        """Refuse a model other than the one served here."""
        if name not in (None, ALIAS, self.model_name):
            raise ApiError(
                f"the model {name!r} is not served here; this server has {self.model_name!r}.",
                status=404,
                param="model",
                code="model_not_found",
            )

    def describe_model(self) -> dict[str, Any]:
        """The entry of /v1/models, with the methods whose networks were found."""
        target = self.llm.runtime.target
        return {
            "id": self.model_name,
            "object": "model",
            "created": self._started,
            "owned_by": "eyas",
            "max_model_len": target.context_limit,
            "eyas": {
                "method": self.llm.method,
                "methods": self._methods,
                "sized_methods": [name for name in self._methods if find_method(name).options.sizes],
                "runtime": target.runtime,
                "dtype": target.dtype,
            },
        }

    async def answer(
        self, http: HttpRequest, body: AnswerRequest, kind: type[Reply], client: str, *, stream: bool
    ) -> Response:
        """Answer a request, in one body or as a stream of events."""
        record = RequestLog(request_id(http), http.url.path, client)
        try:
            reply, jobs, pieces = await self._begin(http, body, kind, client)
            record.reply = reply
            if self.settings.log_prompts:
                record.prompts = body.prompts
            if not stream:
                response: Response = await self._guarded(http, jobs, _whole(reply, pieces))
                record.write(200)
                return response
            first = await self._guarded(http, jobs, anext(pieces))
        except ClientLeftError:
            record.write(CLIENT_LEFT)
            return Response(status_code=CLIENT_LEFT)
        except Exception as error:
            log_error(log, error, record.request_id)
            response = error_response(error, record.request_id)
            record.write(response.status_code)
            return response

        def at_end() -> None:
            self.scheduler.cancel(jobs)
            record.write(200 if reply.is_whole else record.failed or CLIENT_LEFT)

        return EventStream(_events(record, reply, pieces, first), at_end)

    async def _begin(
        self, http: HttpRequest, body: AnswerRequest, kind: type[Reply], client: str
    ) -> tuple[Reply, list[Job], Pieces]:
        """Prepare a request's answers and queue them."""
        method = await self._warm_up(body.method or self.llm.method)
        options, requests = await run_in_threadpool(self._requests, body, method)
        described = self.llm.describe(options, method)
        reply = kind(
            request_id=request_id(http),
            model=self.model_name,
            fingerprint=self._fingerprint,
            prompt_tokens=[len(request.prompt_ids) for request in requests[:: body.n]],
            choices_per_prompt=body.n,
            settings={name: described[name] for name in SHOWN if name in described},
            texts=self.texts,
            logprobs=options.logprobs is not None,
            trace=body.trace,
            include_usage=body.include_usage,
        )
        channel, engine = Channel(), self.llm.engine(method)
        jobs = [
            Job(
                request,
                engine,
                options.stopping.max_new_tokens,
                channel.receiver(index),
                client,
                self.settings.deadline,
            )
            for index, request in enumerate(requests)
        ]
        self.scheduler.submit(jobs)
        return reply, jobs, channel.pieces(len(jobs))

    def _requests(self, body: AnswerRequest, method: str) -> tuple[GenerationOptions, list[Request]]:
        """What the engine is asked for, the n answers to each prompt together."""
        limit = self.llm.runtime.target.context_limit
        if body.options.get("max_new_tokens", 1) > limit:
            raise ApiError(
                f"max_tokens is {body.options['max_new_tokens']}, but the model holds {limit}; lower it.",
                param="max_tokens",
                code="context_length_exceeded",
            )
        options = self.llm.options(body.options, body.method).with_seed()
        requests = [
            request
            for prompt in body.prompts
            for request in self.llm.requests(self._prompt(prompt), options, method)
        ]
        for request in requests[:: body.n]:
            try:
                self.llm.runtime.target.check_prompt(request.prompt_ids)
            except ConfigError as error:
                raise ApiError(str(error), param="prompt", code="invalid_value") from None
        return options, requests

    def _prompt(self, prompt: Prompt) -> Prompt:
        """A prompt as `LLM.requests` takes it; a completion may begin with any text that has a token."""
        if isinstance(prompt, str) and not prompt.strip():
            return self.llm.tokenizer.encode(prompt)
        return prompt

    async def _guarded(self, http: HttpRequest, jobs: list[Job], work: Any) -> Any:
        """The result of `work`; if it fails or the client leaves, the jobs are cancelled."""
        try:
            return await unless_gone(http, work)
        except BaseException:
            self.scheduler.cancel(jobs)
            raise

    def _has_networks(self, method: Method) -> bool:
        return method.head is None or self.llm.find_head(method.name).path is not None

    async def _warm_up(self, name: str) -> str:
        """Load and measure a method once, between two steps of the batch; returns its name."""
        if name in self._warm:
            return name
        find_method(name)

        def load() -> None:
            self.llm.engine(name)
            if self.llm.options({}, name).tree.is_auto:
                self.llm.costs(name)

        try:
            await asyncio.wrap_future(self.scheduler.call(load))
        except (CheckpointError, ModelError) as error:
            if name == self.llm.method:
                raise
            log_event(log, "method unusable", method=name, reason=str(error))
            raise ApiError(
                f"the method {name!r} needs draft networks that this server does not have.",
                param="eyas.method",
                code="method_unusable",
            ) from error
        self._warm.add(name)
        return name


def model_name(name: str) -> str:
    """How the API calls a model: a hub id as it is, a directory by its last part."""
    return Path(name).name if Path(name).is_absolute() or Path(name).exists() else name


async def _whole(reply: Reply, pieces: Pieces) -> Response:
    """The body, once all answers have ended."""
    async for index, piece in pieces:
        reply.add(index, piece)
    return Response(dump(reply.body()), media_type="application/json")


async def _events(
    record: RequestLog, reply: Reply, pieces: Pieces, first: tuple[int, Piece]
) -> AsyncIterator[str]:
    """The events of a stream; an error becomes the last one before [DONE]."""
    try:
        index, piece = first
        reply.add(index, piece)
        yield event(reply.chunk(index, piece))
        async for index, piece in pieces:
            reply.add(index, piece)
            yield event(reply.chunk(index, piece))
        if reply.include_usage:
            yield event(reply.usage_chunk())
    except Exception as error:
        log_error(log, error, record.request_id)
        record.failed, document, _ = describe(error, record.request_id)
        yield event(document)
    yield DONE
