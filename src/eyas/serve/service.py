"""One model behind the routes: from a checked body to answers of the scheduler, and to a response."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from fastapi import Request as HttpRequest
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

import eyas
from eyas.api.llm import LLM
from eyas.api.options import GenerationOptions
from eyas.api.prompts import Chat, Prompt
from eyas.drafters.registry import Method, find_method, methods
from eyas.engine.cycle import Piece, Request
from eyas.errors import CheckpointError, ConfigError, ModelError
from eyas.models.facts import ModelFacts, model_facts
from eyas.serve.channel import AnswerStream, Channel, ClientLeftError, dump, unless_gone
from eyas.serve.errors import CLIENT_LEFT, ApiError, describe, error_response, request_id
from eyas.serve.logs import RequestLog, log_error, log_event
from eyas.serve.metrics import ServerMetrics
from eyas.serve.queue import Job
from eyas.serve.replies import Reply, Texts
from eyas.serve.said import SaidReply
from eyas.serve.scheduler import Scheduler
from eyas.serve.schemas import AnswerRequest, ChatRequest
from eyas.serve.settings import ServeSettings
from eyas.serve.tools.chat_format import ChatFormat

MAX_CLIENTS = 1024  # whose latest request is remembered
ALIAS = "default"  # names whichever model a server has
SHOWN = ("method", "lossless", "tree", "draft_tokens", "depth", "cost_table", "seed", "temperature")

ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "The answer, or with stream its chunks", "content": {"text/event-stream": {}}},
    **{
        status: {"description": "An error in OpenAI's format"}
        for status in (400, 401, 404, 413, 429, 500, 503, 504)
    },
}

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
        self.chat_format = ChatFormat(llm.tokenizer)
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
        self.started = int(time.time())
        self._methods = [name for name, method in methods().items() if self._has_networks(method)]
        self._warm: set[str] = set()
        self._latest: dict[str, Callable[[], None]] = {}  # ends each client's request that a next one ends

    @cached_property
    def facts(self) -> ModelFacts:
        """Sizes of the model, read from its files' headers."""
        return model_facts(self.llm.path)

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
            "created": self.started,
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

    async def answer(self, http: HttpRequest, body: AnswerRequest, kind: type[Reply]) -> Response:
        """Answer a request, in one body or as a stream."""
        self.check_model(body.model)
        body.check(self.settings)
        if body.trace and not kind.tells_trace:
            raise ApiError(
                f"{http.url.path} has no place for a trace; ask a chat or a completion.", param="eyas.trace"
            )
        # Whose turn it takes: its user's, or else its address's.
        client = body.user or (http.client.host if http.client else "")
        record = RequestLog(request_id(http), http.url.path, client)
        try:
            reply, jobs, pieces = await self._begin(http, body, kind, client)
            record.reply = reply
            if self.settings.log_prompts:
                record.prompts = body.prompts
            if not body.stream:
                response: Response = await self._guarded(http, jobs, _whole(reply, pieces))
                self.scheduler.cancel(jobs)  # those of a reply that needs no more
                record.write(200)
                return response
            first = await self._guarded(http, jobs, anext(pieces, None))
        except ClientLeftError:
            record.write(CLIENT_LEFT)
            return Response(status_code=CLIENT_LEFT)
        except Exception as error:
            log_error(log, error, record.request_id)
            response = error_response(error, http)
            record.write(response.status_code)
            return response

        def at_end() -> None:
            self.scheduler.cancel(jobs)
            record.write(200 if reply.is_whole else record.failed or CLIENT_LEFT)

        return AnswerStream(_parts(record, reply, pieces, first), kind.media_type, at_end)

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
            asked=body,
            stop_token_ids=requests[0].text.stop_token_ids,
            parsers=[
                self.chat_format.parser(body.callable_tools, request.prompt_ids, is_forced=body.is_forced)
                for request in requests
                if issubclass(kind, SaidReply) and isinstance(body, ChatRequest)
            ],
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
        if body.replaces_earlier:
            self._replace(client, jobs, channel)
        return reply, jobs, channel.pieces(len(jobs))

    def _replace(self, client: str, jobs: list[Job], channel: Channel) -> None:
        """End the client's earlier request of this kind with what it has; the next one will end this one."""

        def end() -> None:
            self.scheduler.cancel(jobs)
            channel.close()

        self._latest.pop(client, lambda: None)()
        if len(self._latest) >= MAX_CLIENTS:
            self._latest.pop(next(iter(self._latest)))
        self._latest[client] = end

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
        if isinstance(prompt, Chat):
            return self.chat_format.prepare(prompt)
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
        if not reply.has_ended(index):
            reply.add(index, piece)
        if reply.is_whole:
            break
    return Response(dump(reply.body()), media_type="application/json")


async def _parts(
    record: RequestLog, reply: Reply, pieces: Pieces, first: tuple[int, Piece] | None
) -> AsyncIterator[str]:
    """The parts of a stream; after an error the reply says how it ends."""
    try:
        for part in reply.opening():
            yield part
        latest = first
        while latest is not None:
            index, piece = latest
            if not reply.has_ended(index):
                for part in reply.parts(index, reply.add(index, piece)):
                    yield part
            latest = None if reply.is_whole else await anext(pieces, None)
        for part in reply.closing():
            yield part
    except Exception as error:
        log_error(log, error, record.request_id)
        record.failed, document, _ = describe(error, record.request_id)
        for part in reply.failure(document):
            yield part
