"""The routes of the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib import resources

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute

from oobleck_stream.server.decoding import DecodeEndpoint
from oobleck_stream.server.guard import Guard, GuardMiddleware
from oobleck_stream.server.hub import Hub
from oobleck_stream.server.info import server_info
from oobleck_stream.server.listening import Rooms, listen
from oobleck_stream.server.live import serve_session
from oobleck_stream.server.metrics import CONTENT_TYPE

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}


def page_files() -> dict[str, Response]:
    """Return a response for each file of the page, keyed by file name.

    All files are read here, so the server never opens a path that a request contains.
    """
    folder = resources.files("oobleck_stream.server") / "page"
    return {
        entry.name: Response(
            entry.read_bytes(),
            media_type=TYPES["." + entry.name.rpartition(".")[2]],
            headers={"Cache-Control": "no-cache"},
        )
        for entry in folder.iterdir()
        if entry.is_file()
    }


def make_app(hub: Hub, guard: Guard) -> Starlette:
    """Return the application: every route, behind the guard.

    Parameters
    ----------
    hub : Hub
        Its decoding loop runs as long as the application runs.
    guard : Guard
    """
    files = page_files()
    rooms = Rooms(hub)

    async def page(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        return files.get(name) or JSONResponse({"error": "there is no such file"}, 404)

    async def help_page(_: Request) -> Response:
        return files["help.html"]

    async def openapi(_: Request) -> Response:
        return files["openapi.json"]

    async def info(_: Request) -> Response:
        return JSONResponse(server_info(hub), headers={"Cache-Control": "no-store"})

    async def health(_: Request) -> Response:
        return JSONResponse({"ready": not hub.seats.closing}, 503 if hub.seats.closing else 200)

    async def metrics(_: Request) -> Response:
        return Response(hub.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def latents(request: Request) -> Response:
        session = hub.sessions.get(request.path_params["session"])
        if session is None or session.kept is None:
            return JSONResponse({"error": "there is no such session (any more)"}, 404)
        headers = {
            "Content-Disposition": 'attachment; filename="latents.npy"',
            "Cache-Control": "no-store",
        }
        return Response(
            session.kept.as_npy(), media_type="application/octet-stream", headers=headers
        )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        ticking = asyncio.create_task(hub.run())
        try:
            yield
        finally:
            rooms.close_all()
            ticking.cancel()
            with suppress(asyncio.CancelledError):
                await ticking
            hub.seats.shutdown()

    routes = [
        Route("/", page),
        Route("/page/{name}", page),
        Route("/help", help_page),
        Route("/openapi.json", openapi),
        Route("/v1/info", info),
        Route("/v1/health", health),
        Route("/v1/metrics", metrics),
        Route("/v1/decode", DecodeEndpoint(hub), methods=["POST"]),
        Route("/v1/listen/{name}.wav", listen),
        Route("/v1/sessions/{session}/latents.npy", latents),
        WebSocketRoute("/v1/session", serve_session),
    ]
    app = Starlette(
        routes=routes, middleware=[Middleware(GuardMiddleware, guard=guard)], lifespan=lifespan
    )
    app.state.hub, app.state.rooms = hub, rooms
    return app
