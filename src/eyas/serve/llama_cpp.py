"""What llama.cpp's clients ask of a server before they use it: its properties and its slots."""

from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response

import eyas
from eyas.serve.infill import InfillRequest
from eyas.serve.service import Service


def add_llama_cpp(app: FastAPI, service: Service) -> None:
    """Serve the routes."""
    limit = service.llm.runtime.target.context_limit
    total = service.settings.max_concurrent

    @app.get("/props")
    async def props() -> dict[str, Any]:
        """The model, its context and its chat template; the defaults are those of /infill."""
        return {
            "default_generation_settings": {"n_ctx": limit, "params": dict(InfillRequest.defaults)},
            "total_slots": total,
            "model_alias": service.model_name,
            "model_path": service.model_name,  # where it is on this machine is nobody's business
            "chat_template": service.llm.tokenizer.chat_template,
            "modalities": {"vision": False, "audio": False},
            "build_info": f"eyas {eyas.__version__}",
        }

    @app.get("/slots", responses={503: {"description": "With fail_on_no_slot=1: all are taken"}})
    async def slots(fail_on_no_slot: int = 0) -> Response:
        """A place for each answer that may be under way, and whether one is."""
        running = service.scheduler.num_running
        if fail_on_no_slot and running >= total:
            return JSONResponse({"error": {"message": "no slot is free.", "code": 503}}, 503)
        return JSONResponse(
            [
                {"id": at, "n_ctx": limit, "speculative": True, "is_processing": at < running}
                for at in range(total)
            ]
        )
