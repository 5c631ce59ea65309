"""Long work in the background of this process; a page tells how far it is.

How far it is and what came of it stand in the database: any process can show it, and a result
outlives the process that made it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from prefs.core.errors import PrefsError
from prefs.store import jobs
from prefs.store.jobs import Pair
from prefs.store.staff import Role
from prefs.web.console.session import Visit, signed_in
from prefs.web.context import Service

Tell = Callable[[str, int], None]
"""Says what is worked on and how much is done."""
Work = Callable[[Tell], Awaitable[Mapping[str, Any]]]
"""Returns what is kept; plain values that msgpack holds."""

BEAT = 1.0

T = TypeVar("T")

log = structlog.get_logger()


@dataclass
class _Far:
    step: str = ""
    done: int = 0

    def tell(self, step: str, done: int) -> None:
        self.step, self.done = step, done


class Jobs:
    """The jobs of one process."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, served: Service, brand: str, kind: str, about: str, work: Work) -> None:
        """Does nothing while one of this kind about the same thing runs."""
        now = served.clock().timestamp()
        id_ = await served.database.write(
            partial(jobs.start, brand=brand, kind=kind, about=about, now=now)
        )
        if id_ is not None:
            task = asyncio.create_task(_run(served, id_, kind, work))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """What still runs ends without a result."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _run(served: Service, id_: str, kind: str, work: Work) -> None:
    far = _Far()
    beating = asyncio.create_task(_beat(served, id_, far))
    result, reason = None, None
    try:
        result = await work(far.tell)
    except PrefsError as fault:
        reason = str(fault)
    except Exception as fault:
        log.exception("job_failed", kind=kind, fault=type(fault).__name__)
    finally:
        beating.cancel()
        now = served.clock().timestamp()
        end = partial(jobs.end, keys=served.keys, id_=id_, now=now, result=result, reason=reason)
        with suppress(PrefsError):  # then it counts as lost
            await served.database.write(end)


async def apart(call: Callable[[], T]) -> T:
    """Run a call of minutes in a thread of its own, which keeps no process from ending."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(set_: Callable[[Any], None], what: object) -> None:
        if not future.cancelled():
            set_(what)

    def run() -> None:
        try:
            done = partial(settle, future.set_result, call())
        except Exception as fault:  # noqa: BLE001  # it is raised where it is awaited
            done = partial(settle, future.set_exception, fault)
        with suppress(RuntimeError):  # the loop has ended, and nobody waits
            loop.call_soon_threadsafe(done)

    threading.Thread(target=run, name="prefs-job", daemon=True).start()
    return await future


async def _beat(served: Service, id_: str, far: _Far) -> None:
    while True:
        await asyncio.sleep(BEAT)
        now = served.clock().timestamp()
        with suppress(PrefsError):
            await served.database.write(
                partial(jobs.beat, id_=id_, done=far.done, step=far.step, now=now)
            )


def of(request: Request) -> Jobs:
    found: Jobs = request.app.state.jobs
    return found


async def latest(visit: Visit, kind: str, about: str = "") -> Pair:
    """The newest job of the visitor's brand, and its newest result."""
    served, brand, now = visit.served, visit.member.brand, visit.served.clock().timestamp()
    return await served.database.read(
        lambda conn: jobs.latest(conn, served.keys, brand, kind, about, now)
    )


@signed_in(Role.MANAGER)
async def far(request: Request, visit: Visit) -> Response:
    """The part of a page that says how far a job is; our script asks for it."""
    served, now = visit.served, visit.served.clock().timestamp()
    id_ = request.path_params["id"]
    job = await served.database.read(
        lambda conn: jobs.one(conn, served.keys, visit.member.brand, id_, now)
    )
    return visit.page("job.html", job=job)


routes = [Route("/staff/jobs/{id}", far, methods=["GET"])]
