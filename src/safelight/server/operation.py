"""For those who run the server: is it alive, is it ready, and how does it do."""

from fastapi import FastAPI
from starlette.responses import JSONResponse, Response

from safelight.server.service import Service
from safelight.version import __version__


def install(app: FastAPI, service: Service) -> None:
    """Add /health, /ready and /metrics."""

    @app.get("/health", tags=["operation"])
    async def health() -> dict[str, str]:
        """Whether the process answers at all."""
        return {"status": "ok", "version": __version__}

    @app.get(
        "/ready",
        tags=["operation"],
        responses={503: {"description": "It is loading a model, or stopping."}},
    )
    async def ready() -> JSONResponse:
        """Whether jobs are accepted and drawn at once: 503 while the server loads or stops."""
        status = "ready" if service.ready else "stopping" if service.stopping else "loading"
        headers = {} if service.ready else {"Retry-After": "5"}
        return JSONResponse({"status": status}, 200 if service.ready else 503, headers)

    @app.get("/metrics", tags=["operation"], response_class=Response)
    async def metrics() -> Response:
        """Figures in Prometheus' text format."""
        service.measure()
        return Response(service.metrics.text(), media_type=service.metrics.content_type)
