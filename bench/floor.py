"""The floor: a bare Starlette POST of the same size on the same server."""

from __future__ import annotations

import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from prefs.web.server import calm_collector, config

ANSWER = (
    b'{"results":[{"to":"person500000@example.co.uk","allowed":false,"reason":"opted_out",'
    b'"basis":null,"since":"2026-03-02T10:00:00Z"}]}'
)


async def bare(request: Request) -> Response:
    await request.body()
    return Response(ANSWER, media_type="application/json")


def main(port: int) -> None:
    app = Starlette(routes=[Route("/bare", bare, methods=["POST"])])
    calm_collector()
    uvicorn.Server(config(app, "127.0.0.1", port)).run()


if __name__ == "__main__":
    main(int(sys.argv[1]))
