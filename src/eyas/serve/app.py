"""The routes: OpenAI's completions and chats, vLLM's tokenize and metrics, health checks."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

import eyas
from eyas.api.llm import LLM
from eyas.serve import errors
from eyas.serve.guard import OPEN, Guard
from eyas.serve.infill import add_infill
from eyas.serve.llama_cpp import add_llama_cpp
from eyas.serve.logs import log_error
from eyas.serve.ollama import add_ollama
from eyas.serve.openai_replies import ChatReply, TextReply
from eyas.serve.page import PATHS, add_page
from eyas.serve.responses import add_responses
from eyas.serve.schemas import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeRequest,
    with_options,
)
from eyas.serve.service import ANSWERS, Service, log
from eyas.serve.settings import ServeSettings


def create_app(llm: LLM, settings: ServeSettings | None = None) -> FastAPI:
    """The application of one loaded model. Its lifespan runs the engine's thread."""
    settings = settings or ServeSettings()
    service = Service(llm, settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop()

    app = FastAPI(title="eyas", version=eyas.__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = service
    app.add_middleware(
        Guard,
        api_key=settings.api_key,
        max_body_bytes=settings.max_body_bytes,
        open_paths=(*OPEN, *PATHS),
    )
    if settings.cors_origin:  # outside of the guard: a browser asks first, without a key
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origin,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["X-Request-Id"],
        )
    _add_errors(app)
    _add_answers(app, service)
    add_infill(app, service)
    add_llama_cpp(app, service)
    add_ollama(app, service)
    add_responses(app, service)
    _add_refusals(app)
    _add_tokens(app, service)
    _add_operations(app, service)
    add_page(app)
    return app


def _add_answers(app: FastAPI, service: Service) -> None:
    async def chat(body: ChatRequest, request: Request) -> Response:
        """Answer a chat."""
        return await service.answer(request, body, ChatReply)

    async def completions(body: CompletionRequest, request: Request) -> Response:
        """Continue a text."""
        return await service.answer(request, body, TextReply)

    # FastAPI reads the annotations: these models have a field for each option that is registered now.
    chat.__annotations__["body"] = with_options(ChatRequest)
    completions.__annotations__["body"] = with_options(CompletionRequest)
    app.post("/v1/chat/completions", responses=ANSWERS)(chat)
    app.post("/v1/completions", responses=ANSWERS)(completions)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The one model that is served, and the methods that may draft for it."""
        return {"object": "list", "data": [service.describe_model()]}

    @app.get("/v1/models/{name:path}", responses={404: {"description": "Another model's name"}})
    async def model(name: str) -> dict[str, Any]:
        """The model, by its name."""
        service.check_model(name)
        return service.describe_model()


def _add_refusals(app: FastAPI) -> None:
    async def embeddings() -> Response:
        """Always an error."""
        raise errors.ApiError(
            "this server makes no embeddings: its model was trained to write; ask an embedding server.",
            code="unsupported",
        )

    for path in ("/v1/embeddings", "/api/embed", "/api/embeddings"):
        app.post(path, responses={400: {"description": "There are none"}})(embeddings)


def _add_tokens(app: FastAPI, service: Service) -> None:
    @app.post("/tokenize", responses=ANSWERS)
    def tokenize(body: TokenizeRequest) -> dict[str, Any]:
        """Token ids of a text or a chat."""
        service.check_model(body.model)
        tokenizer = service.llm.tokenizer
        if body.messages is not None:
            messages = [message.to_dict() for message in body.messages]
            tokens = tokenizer.apply_chat_template(
                messages,
                add_generation_prompt=body.add_generation_prompt,
                parse_special=body.parse_special,
            )
        else:
            tokens = tokenizer.encode(
                body.prompt or "", add_special=body.add_special_tokens, parse_special=body.parse_special
            )
        limit = service.llm.runtime.target.context_limit
        return {"count": len(tokens), "max_model_len": limit, "tokens": tokens}

    @app.post("/detokenize", responses=ANSWERS)
    def detokenize(body: DetokenizeRequest) -> dict[str, Any]:
        """The text of token ids."""
        service.check_model(body.model)
        largest = service.llm.runtime.target.vocab_size - 1
        if any(token > largest for token in body.tokens):
            raise errors.ApiError(f"tokens holds an id above {largest}, the model's last.", param="tokens")
        return {"prompt": service.llm.tokenizer.decode(body.tokens, skip_special=False)}


def _add_operations(app: FastAPI, service: Service) -> None:
    @app.get("/health")
    async def health() -> Response:
        """200 while the engine's thread lives."""
        alive = service.scheduler.is_alive
        return JSONResponse({"status": "ok" if alive else "dead"}, 200 if alive else 503)

    @app.get("/ready")
    async def ready() -> Response:
        """200 once requests are answered at full speed."""
        return JSONResponse({"ready": service.is_ready}, 200 if service.is_ready else 503)

    @app.get("/version")
    async def version() -> dict[str, Any]:
        """The version of eyas."""
        return {"version": eyas.__version__}

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Prometheus's text format, under vLLM's names."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _add_errors(app: FastAPI) -> None:
    """Every error leaves in OpenAI's format."""

    @app.exception_handler(eyas.EyasError)
    async def known(request: Request, error: Exception) -> Response:
        return errors.error_response(error, request)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return errors.error_response(errors.of_validation(error), request)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        return errors.error_response(errors.of_http(error), request)

    @app.exception_handler(Exception)
    async def unknown(request: Request, error: Exception) -> Response:
        log_error(log, error, errors.request_id(request))
        return errors.error_response(error, request)
