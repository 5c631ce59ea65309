"""The composition root: with `cli` alone in knowing connectors and webhooks."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

import structlog
from sqlalchemy import Connection
from starlette.applications import Starlette
from starlette.middleware import Middleware

import connectors
from connectors.budget import TokenBudget
from prefs import checkpoints, mailbox, mailer, texts
from prefs.checkpoints import WATCH_EVERY, Checkpoints, Watch
from prefs.chores import (
    FORGET_EVERY,
    RESUME_EVERY,
    SEAL_EVERY,
    SEALER,
    SWEEP_EVERY,
    Forgetting,
    Resuming,
    Sealer,
    Sweep,
    every,
)
from prefs.core.errors import PrefsError, Refused, Unavailable
from prefs.core.keys import Keyring
from prefs.core.propagation import Connector, Key, Target, Timed
from prefs.core.signals import Delivery, Text
from prefs.core.words import Channel
from prefs.door import Door
from prefs.intake import Intake, TargetInfo
from prefs.lanes import LOOK_EVERY, Lane, Pace, Share, Worker, new_holder
from prefs.move import Move, Tell
from prefs.scan import Scan
from prefs.settings import Settings, load
from prefs.store import events, marks, migrate
from prefs.store.clock import SYNC_EVERY, DatabaseClock
from prefs.store.database import Database
from prefs.store.keys import check_keys
from prefs.store.permissions import LookUp
from prefs.store.vault import StoreVault
from prefs.web import (
    centre,
    check,
    complain,
    confirm,
    holding,
    inbox,
    openapi,
    pages,
    pause,
    people,
    preferences,
    problems,
    signup,
    status,
    stop_all,
    unsubscribe,
)
from prefs.web import hooks as web_hooks
from prefs.web.around import Arrivals, Hosts, Measured
from prefs.web.auth import KeyCache
from prefs.web.console import (
    accounts,
    api_keys,
    batches,
    by_hand,
    calls,
    campaign,
    jobs,
    lists,
    me,
    overview,
    person,
    search,
    sign_in,
    systems,
    takeover,
    task_list,
)
from prefs.web.context import Service, Vendors
from prefs.web.figures import Figures
from prefs.web.hooks import Webhook
from prefs.web.scrub import door as scrub
from prefs.web.server import calm_collector, take_turns

log = structlog.get_logger()

MAIL_EVERY = 0.5

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    return datetime.now(UTC)


def known_keys() -> Mapping[str, Mapping[str, Key]]:
    """The configuration keys of every system there is a connector for."""
    return {name: connectors.load(name).KEYS for name in connectors.SYSTEMS}


def load_settings(path: Path, environ: Mapping[str, str]) -> Settings:
    """Raises SettingsError with every fault of the file."""
    return load(path, environ, known_keys())


@dataclass
class Runtime:
    """The opened parts of one process."""

    settings: Settings
    database: Database
    keys: Keyring
    intake: Intake
    clock: Clock
    door: Door
    look_up: LookUp
    checkpoints: Checkpoints | None = None
    watch: Watch = field(default_factory=Watch)

    @property
    def service(self) -> Service:
        return Service(
            self.settings,
            self.database,
            self.intake,
            self.keys,
            self.clock,
            self.door,
            self.look_up,
            self.watch,
            self.checkpoints,
        )

    @property
    def targets(self) -> list[Target]:
        return list(self.settings.targets.values())

    def close(self) -> None:
        self.database.close()


def open_runtime(
    settings: Settings, given: Clock | None = None, *, patient_reads: bool = False
) -> Runtime:
    """Open the database (an empty one is brought up), check the keys, and hold it against its
    checkpoints. Without a clock it goes by the database's, where that is not on this machine alone.
    `patient_reads` for what is done by hand, where one may take minutes. Raises SettingsError."""
    migrate.ensure(settings.database)
    keys = Keyring(settings.secret_keys)
    database = Database(settings.database, patient_reads=patient_reads).open()
    try:
        clock = given or (DatabaseClock(database) if database.many_write else utc_now)
        database.write_now(lambda conn: check_keys(conn, keys, clock().timestamp()))
    except PrefsError:
        database.close()
        raise
    brands = {name: brand.controller for name, brand in settings.brands.items()}
    infos = [
        TargetInfo(
            label,
            target.brand,
            _channels(target, clock),
            target.system,
            connectors.load(target.system).facts.unsubscribes_at,
        )
        for label, target in settings.targets.items()
    ]
    intake = Intake(brands, infos, keys, clock)
    door, look_up = Door(database, intake), LookUp(database)
    kept = checkpoints.of(settings.checkpoint, database, keys, clock, settings.alerts)
    runtime = Runtime(settings, database, keys, intake, clock, door, look_up, kept)
    try:
        if kept:
            kept.compare()
        database.read_now(runtime.watch.look)
    except PrefsError:
        database.close()
        raise
    return runtime


def make_move(settings: Settings, target: str, tell: Tell) -> Move:
    """Carries the configured database over to another one, which it does not open yet."""
    keys = Keyring(settings.secret_keys)
    brands = {name: brand.controller for name, brand in settings.brands.items()}
    return Move(settings.database, target, Intake(brands, [], keys, utc_now), tell)


def _channels(target: Target, clock: Clock) -> frozenset[Channel]:
    """What the target holds as it is configured."""
    kind = connectors.load(target.system)
    connector = cast(Connector, kind(target, TokenBudget(kind.facts.limit), clock))
    return frozenset(slot.channel for slot in connector.slots)


# --- the worker --------------------------------------------------------------------------------


def make_worker(runtime: Runtime, *, polls: bool = True) -> Worker:
    """The lanes of every target, and the chores beside them; without `polls` they only carry."""
    settings, clock = runtime.settings, runtime.clock
    pace = Pace(
        settings.worker.first_retry,
        settings.worker.max_retry,
        settings.worker.poll_every,
        settings.worker.lease,
    )
    holder = new_holder()
    lanes = [_make_lane(runtime, target, pace, holder, polls) for target in runtime.targets]
    database = runtime.database
    share = None
    if database.many_write:
        seen = database.of(marks.presence(holder))
        share = Share(seen, holder, clock, pace.lease, len(lanes))
    for lane in lanes:
        lane.share = share
    sweep = Sweep(database, runtime.targets, runtime.keys, clock, settings.alerts)
    resuming = Resuming(database, runtime.intake)
    forgetting = Forgetting(database, clock)
    post = mailer.Mailer(runtime.service)
    reader = mailbox.Mailbox(runtime.service)
    return Worker(
        lanes,
        [
            *([lambda: every(LOOK_EVERY, share.look)] if share else []),
            *sealing(runtime),
            lambda: every(SWEEP_EVERY, sweep.run),
            lambda: every(RESUME_EVERY, resuming.run),
            lambda: every(FORGET_EVERY, forgetting.run),
            lambda: every(MAIL_EVERY, post.run),
            lambda: every(mailbox.EVERY, reader.run),
        ],
        share,
    )


def sealing(runtime: Runtime) -> list[Callable[[], Coroutine[None, None, None]]]:
    """The chores that give rows their seal and tell it to the folder of checkpoints."""
    chores = [partial(every, SEAL_EVERY, Sealer(runtime.database.of(SEALER)).run)]
    if runtime.checkpoints:
        chores.append(partial(every, SEAL_EVERY, runtime.checkpoints.run))
    return list(chores)


def make_connector(runtime: Runtime, target: Target) -> Connector:
    """The adapter of a target, with a budget and a vault of its own."""
    kind = connectors.load(target.system)
    vault = StoreVault(runtime.database.of(target.label), runtime.keys, target.label, runtime.clock)
    budget = TokenBudget(target.limit or kind.facts.limit)
    return cast(Connector, kind(replace(target, vault=vault), budget, runtime.clock))


def make_scan(runtime: Runtime, target: Target) -> Scan:
    """A reader of a target beside its lane. Close its connector."""
    connector = make_connector(runtime, target)
    return Scan(target, connector, runtime.database, runtime.intake, runtime.clock)


def _make_lane(runtime: Runtime, target: Target, pace: Pace, holder: str, polls: bool) -> Lane:
    connector = make_connector(runtime, target)
    side = runtime.database.of(target.label)
    lane = Lane(target, connector, side, runtime.intake, runtime.clock, pace, holder)
    lane.polls = polls
    if hasattr(connector, "message_time"):
        lane.answer_open = _answer_open
    return lane


async def _answer_open(lane: Lane) -> None:
    """Ask the gateway when a kept START was sent, and judge it by that time. A fault of ours holds
    up that one alone: raised, it would end the lane's walks with it, each time anew."""
    now = lane.clock().timestamp()
    label = lane.target.label
    rows = await lane.database.read(lambda conn: events.open_raw(conn, label, now))
    for row in rows:
        try:
            await _answer_one(lane, row)
        except Unavailable:
            raise
        except Exception as fault:
            if isinstance(fault, PrefsError):
                log.warning("message_time_unknown", target=label, reason=str(fault))
            else:
                log.exception("start_not_judged", target=label, fault=type(fault).__name__)
            wait = lane.pace.backoff.after(row.attempts)
            await lane.database.write(partial(events.retry_raw, id_=row.id, due_at=now + wait))


async def _answer_one(lane: Lane, row: Any) -> None:
    try:
        sent_at = await cast(Timed, lane.connector).message_time(row.message_id)
    except Refused:
        await lane.database.write(partial(events.close_raw, id_=row.id))
        return
    raw = events.read_raw(lane.intake.keys, row)
    await lane.database.write(
        partial(_judge_start, lane=lane, id_=row.id, raw=raw, sent_at=sent_at)
    )


def _judge_start(conn: Connection, lane: Lane, id_: int, raw: bytes, sent_at: datetime) -> None:
    system = _webhook(lane.target.system)
    delivery = Delivery("POST", "", (), _form_or_json(raw), raw, lane.clock())
    for found in system.normalise(delivery, lane.target, signed=True):
        if isinstance(found, Text):
            texts.take(conn, lane.intake, lane.target, found, raw, sent_at=sent_at)
    events.close_raw(conn, id_)


def _form_or_json(raw: bytes) -> dict[str, str]:
    json = raw.lstrip()[:1] in (b"{", b"[")
    return {"content-type": "application/json" if json else "application/x-www-form-urlencoded"}


def _webhook(system: str) -> Webhook:
    return cast(Webhook, importlib.import_module(f"webhooks.{system}"))


def _webhooks(targets: Iterable[Target]) -> dict[str, Webhook]:
    """By system; one whose vendor sends none (Google) has no module, and its URLs answer 404."""
    systems = {target.system for target in targets}
    return {
        system: _webhook(system)
        for system in sorted(systems)
        if importlib.util.find_spec(f"webhooks.{system}")
    }


# --- the service -------------------------------------------------------------------------------


def make_app(runtime: Runtime, *, work: bool) -> Starlette:
    """API, pages and webhooks; with `work` the worker runs inside. Set `state.leaving` when the
    process is to end soon: it is not ready any more, and its lanes are free for others at once."""
    leaving = asyncio.Event()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        working = asyncio.create_task(work_until(leaving, runtime)) if work else None
        beside = [
            asyncio.create_task(chore)
            for chore in (
                every(lists.SWEEP_EVERY, _sweep_of(app.state.lists)),
                every(WATCH_EVERY, lambda: runtime.database.read(runtime.watch.look)),
                *_unless_worked(runtime, work=work),
            )
        ]
        calm_collector()
        take_turns()
        try:
            yield
        finally:
            for task in beside:
                task.cancel()
            await app.state.jobs.stop()
            leaving.set()
            if working:
                await working
            elif runtime.checkpoints:
                await runtime.checkpoints.end()

    app = Starlette(
        routes=[
            *check.routes,
            *preferences.routes,
            *scrub.routes,
            *people.routes,
            *status.routes,
            *inbox.routes,
            *web_hooks.routes,
            *unsubscribe.routes,
            *centre.routes,
            *pause.routes,
            *stop_all.routes,
            *holding.routes,
            *confirm.routes,
            *complain.routes,
            *signup.routes,
            *pages.routes,
            *sign_in.routes,
            *search.routes,
            *person.routes,
            *calls.routes,
            *task_list.routes,
            *by_hand.routes,
            *jobs.routes,
            *systems.routes,
            *batches.routes,
            *takeover.routes,
            *accounts.routes,
            *api_keys.routes,
            *me.routes,
            *campaign.routes,
            *overview.routes,
            *openapi.routes,
        ],
        exception_handlers=problems.HANDLERS,
        middleware=[*_around(runtime.settings, leaving), Middleware(Hosts, runtime.settings)],
        lifespan=lifespan,
    )
    app.state.leaving = leaving
    app.state.service = runtime.service
    app.state.figures = Figures(runtime.service)
    app.state.key_cache = KeyCache()
    app.state.jobs = jobs.Jobs()
    app.state.lists = lists.Lists(runtime.settings)
    app.state.vendors = _vendors(runtime)
    app.state.webhooks = _webhooks(runtime.targets)
    app.state.make_scan = partial(make_scan, runtime)
    return app


def make_worker_app(runtime: Runtime) -> Starlette:
    """A worker alone, with the routes that tell how it is."""
    leaving = asyncio.Event()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        working = asyncio.create_task(work_until(leaving, runtime))
        calm_collector()
        try:
            yield
        finally:
            leaving.set()
            await working

    app = Starlette(
        routes=status.health,
        exception_handlers=problems.HANDLERS,
        middleware=_around(runtime.settings, leaving),  # asked for by whatever name
        lifespan=lifespan,
    )
    app.state.leaving = leaving
    app.state.service = runtime.service
    app.state.figures = Figures(runtime.service)
    return app


async def work_until(leaving: asyncio.Event, runtime: Runtime) -> None:
    """Carry marks until told to leave; then the leases are given up at once."""
    worker = make_worker(runtime)
    wake_on_commit(runtime.database, worker)
    worker.start()
    timing = asyncio.create_task(keep_time(runtime))
    try:
        await leaving.wait()
    finally:
        timing.cancel()
        await worker.stop()
        if runtime.checkpoints:
            await runtime.checkpoints.end()


def _around(settings: Settings, leaving: asyncio.Event) -> list[Middleware]:
    return [
        Middleware(Arrivals, settings.trusted_proxies),
        Middleware(Measured, leaving),
    ]


def _sweep_of(kept: lists.Lists) -> Callable[[], Awaitable[None]]:
    return lambda: asyncio.to_thread(kept.sweep, time.time())


def _unless_worked(runtime: Runtime, *, work: bool) -> list[Coroutine[None, None, None]]:
    """What is acknowledged here reaches the folder of checkpoints though no worker runs."""
    if work:
        return []
    seal = [chore() for chore in sealing(runtime)] if runtime.checkpoints else []
    return [keep_time(runtime), *seal]


def _vendors(runtime: Runtime) -> Vendors:
    systems = {target.system for target in runtime.targets}
    facts = {system: connectors.load(system).facts for system in systems}
    return Vendors(facts, partial(make_scan, runtime))


async def keep_time(runtime: Runtime) -> None:
    """For as long as the process runs."""
    if isinstance(runtime.clock, DatabaseClock):
        await every(SYNC_EVERY, runtime.clock.sync)


def wake_on_commit(database: Database, worker: Worker) -> None:
    """Every group commit may have set marks: let the lanes look at once."""
    loop = asyncio.get_running_loop()

    def wake() -> None:
        with suppress(RuntimeError):  # a commit after the loop's end has nobody to wake
            loop.call_soon_threadsafe(worker.wake)

    database.on_commit(wake)
