"""The floor: a bare Starlette POST of the same size on the same server, uvicorn with uvloop and
httptools, as they come: nothing of ours around it.

python -m bench.floor PORT BYTES
"""

from __future__ import annotations

import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from prefs.web.server import calm_collector


def app(size: int) -> Starlette:
    answer = b'"' + b"x" * (size - 2) + b'"'

    async def bare(request: Request) -> Response:
        await request.body()
        return Response(answer, media_type="application/json")

    return Starlette(routes=[Route("/bare", bare, methods=["POST"])])


def main(port: int, size: int) -> None:
    made = app(size)
    calm_collector()
    server = uvicorn.Config(
        made, port=port, loop="uvloop", http="httptools", log_config=None, access_log=False
    )
    uvicorn.Server(server).run()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
