"""The command line. Exit codes: 0 done, 1 refused or findings, 2 wrong use, 75 try later."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn, TypeVar, cast

import click
import structlog
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from sqlalchemy import Connection
from starlette.applications import Starlette

from prefs import (
    __version__,
    app,
    doctor,
    exporting,
    importing,
    move,
    onboarding,
    replay,
    retract,
    screening,
    scrubbing,
    sync,
    tracing,
)
from prefs.app import (
    Runtime,
    load_settings,
    make_app,
    make_worker,
    make_worker_app,
    open_runtime,
)
from prefs.checkpoints import Checkpoints
from prefs.core import identity
from prefs.core.errors import PrefsError, SettingsError, Unavailable
from prefs.core.keys import Keyring
from prefs.core.propagation import Target
from prefs.core.screening import Register
from prefs.core.signals import Evidence
from prefs.core.words import Basis, Channel
from prefs.lanes import Worker
from prefs.logs import set_up_logs
from prefs.mailbox import PLACE, Mailbox
from prefs.replay import Replay
from prefs.scan import Scan
from prefs.settings import Address, Brand, Settings
from prefs.settings import address as host_and_port
from prefs.store import access, batches, marks, migrate, staff
from prefs.store.away import NO_ROOM, explained
from prefs.store.staff import Role
from prefs.verify import Place, Verified, verify_large
from prefs.web import bodies, people
from prefs.web.check import asked
from prefs.web.scrub.asking import Asking
from prefs.web.server import Server, calm_collector
from prefs.web.server import config as server_config

F = TypeVar("F", bound=Callable[..., Any])

REFUSED, TRY_LATER = 1, 75
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
NEW_FILE = click.Path(dir_okay=False, writable=True, path_type=Path)
CARRIED_WITHIN = 1800.0
"""Seconds that `sync --apply` waits for the lanes."""
NEXT_TRY_WITHIN = 150.0
"""Seconds that it waits for one more try: longer than an unclear call may live at any vendor."""

plain = partial(Console, soft_wrap=True, markup=False, emoji=False)
"""Names of lists and files stand as they are, whatever brackets they have."""
out, err = plain(), plain(stderr=True)


def say(as_json: bool, content: Any, text: str | Table | None = None) -> None:
    """One answer: JSON for programs, a line or table for people."""
    if as_json:
        click.echo(json.dumps(content))
    else:
        out.print(text if text is not None else json.dumps(content, indent=2))


def common(command: F) -> F:
    """--config and --json, on every command."""
    command = click.option("--json", "as_json", is_flag=True, help="Answer as JSON.")(command)
    return click.option(
        "--config",
        "path",
        type=click.Path(dir_okay=False, path_type=Path),
        default=None,
        help="Configuration file (default: $PREFS_CONFIG, else prefs.toml).",
    )(command)


def settings_at(path: Path | None, **other: str) -> Settings:
    """`other` goes over what is configured."""
    chosen = path or click.get_current_context().find_root().params.get("config")
    environ = {**os.environ, **{f"PREFS__{key.upper()}": text for key, text in other.items()}}
    return load_settings(Path(chosen or os.environ.get("PREFS_CONFIG", "prefs.toml")), environ)


@contextmanager
def opened(path: Path | None) -> Iterator[Runtime]:
    """For a command by hand."""
    runtime = open_runtime(settings_at(path), patient_reads=True)
    try:
        yield runtime
    finally:
        runtime.close()


class Group(click.Group):
    """Turns errors raised on purpose into one clear line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Unavailable as fault:
            _end_with(explained(fault))
        except PrefsError as fault:
            _end_with(fault)
        except OSError as fault:
            if fault.filename is None and fault.errno not in NO_ROOM:
                raise
            _end_with_file(fault)
        except KeyboardInterrupt:
            err.print("[yellow]stopped:[/yellow] give the same command again", markup=True)
            sys.exit(TRY_LATER)


def _end_with(fault: PrefsError) -> NoReturn:
    lines = fault.faults if isinstance(fault, SettingsError) else [str(fault)]
    later = isinstance(fault, Unavailable)
    what = "error" if isinstance(fault, SettingsError) else "try later" if later else "refused"
    for line in lines:
        err.print(f"[red]{what}:[/red] {escape(line)}", highlight=False, markup=True)
    sys.exit(TRY_LATER if later else REFUSED)


def _end_with_file(fault: OSError) -> NoReturn:
    """Of a file that was named, or of one beside it that is ours."""
    name = fault.filename or "a file that is written"
    line = f"{name}: {fault.strerror}; mend that, then give the same command again"
    err.print(f"[red]error:[/red] {escape(line)}", highlight=False, markup=True)
    sys.exit(TRY_LATER if fault.errno in NO_ROOM else REFUSED)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", type=click.Path(dir_okay=False), default=None, help="Configuration file.")
@click.version_option(__version__, prog_name="prefs")
def main(config: str | None) -> None:
    """Marketing preferences in one place, followed by every system, with proof."""
    set_up_logs(logging.WARNING)


# --- running -----------------------------------------------------------------------------------


@main.command()
@common
@click.option(
    "--listen", default=None, help="HOST:PORT instead of the configured one, or fd:3 (systemd)."
)
@click.option("--no-work", is_flag=True, help="Serve only; run `prefs work` beside it.")
def serve(path: Path | None, as_json: bool, listen: str | None, no_work: bool) -> None:
    """Run API, pages, webhooks, and the worker unless --no-work."""
    with _running(path) as runtime:
        where = _address(listen) if listen else runtime.settings.listen
        shown = listen or ":".join(map(str, runtime.settings.listen))
        structlog.get_logger().info("serving", listen=shown, worker=not no_work)
        _run(runtime, make_app(runtime, work=not no_work), where)


@contextmanager
def _running(path: Path | None) -> Iterator[Runtime]:
    """What `serve` and `work` begin and end with."""
    settings = settings_at(path)
    set_up_logs(form=settings.log)
    end_traces = tracing.set_up(settings.traces)
    try:
        with closing(open_runtime(settings)) as runtime:
            _warn(settings)
            yield runtime
    finally:
        end_traces()


def _run(runtime: Runtime, served: Starlette, where: Address | socket.socket) -> None:
    """Serve until a signal. A socket that was handed over stays open while we are away: who comes
    then waits for the next process and is not refused."""
    host, port = ("", 0) if isinstance(where, socket.socket) else where
    server = Server(server_config(served, host, port), served.state.leaving, runtime.settings.drain)
    with suppress(SystemExit):  # what uvicorn says of a port that it does not get
        server.run([where] if isinstance(where, socket.socket) else None)
    if not server.started:
        raise SettingsError([f"listen: {host}:{port} cannot be opened; is it in use?"])


def _address(listen: str) -> Address | socket.socket:
    """`HOST:PORT`, or `fd:3`: a listening socket that was handed over (sd_listen_fds(3))."""
    scheme, _, number = listen.partition(":")
    if scheme == "fd" and number.isdigit():
        try:
            return socket.socket(fileno=int(number))
        except OSError:
            raise click.UsageError(f"--listen {listen}: no socket was handed over there") from None
    found = host_and_port(listen)
    if found is None:
        raise click.UsageError("--listen is HOST:PORT, such as 127.0.0.1:8080, or fd:3")
    return found


def _warn(settings: Settings) -> None:
    for warning in settings.warnings:
        structlog.get_logger().warning("configuration", warning=warning)


@main.command()
@common
@click.option("--listen", default=None, help="HOST:PORT for /healthz, /readyz and /metrics.")
def work(path: Path | None, as_json: bool, listen: str | None) -> None:
    """Run a worker alone."""
    where = _address(listen) if listen else None
    with _running(path) as runtime:
        labels = [target.label for target in runtime.targets]
        structlog.get_logger().info("working", targets=labels)
        if where:
            _run(runtime, make_worker_app(runtime), where)
        else:
            asyncio.run(_work(runtime))


async def _work(runtime: Runtime) -> None:
    leaving, loop = asyncio.Event(), asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, leaving.set)
    await app.work_until(leaving, runtime)


@main.command()
@click.option("--check", "check_only", is_flag=True, help="Run the story once and exit.")
@click.option("--port", default=0, help="Port of the service (default: a free one).")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="A new folder for database, secrets and logs (default: .prefs-demo).",
)
def demo(check_only: bool, port: int, folder: Path | None) -> None:
    """Start everything with vendor twins and sample people, and tell the story."""
    from prefs.demo.run import run  # the demo needs the checkout's twins; nothing else does

    check = check_only or os.environ.get("DEMO_CHECK") == "1"
    sys.exit(run(check=check, port=port, folder=folder))


# --- care --------------------------------------------------------------------------------------


@main.command("migrate")
@common
def migrate_(path: Path | None, as_json: bool) -> None:
    """Bring the database to this version."""
    before, after = migrate.migrate(settings_at(path).database)
    text = f"already at {after}" if before == after else f"{before or 'empty'} -> {after}"
    say(as_json, {"before": before, "after": after}, text)


@main.command("move")
@common
@click.option(
    "--to",
    "told",
    required=True,
    help="As `database` is written: postgresql://USER@HOST/NAME, sqlite:///FILE, file:PATH",
)
def move_(path: Path | None, as_json: bool, told: str) -> None:
    """Carry everything over to another, empty database; the service must be stopped."""
    settings = settings_at(path)
    target = settings_at(path, database=told).database
    with err.status("looking", spinner="dots") as status:

        def tell(table: str, rows: int) -> None:
            if not as_json:
                status.update(f"{table}: {rows}")

        report = app.make_move(settings, target, tell).run()
    written = told if told.startswith(("env:", "file:")) else move.bare(target)
    say(as_json, move.content(report, written), move.shown(report, written))


@main.command("doctor")
@common
def doctor_(path: Path | None, as_json: bool) -> None:
    """Check configuration, database and keys; print each target's webhook."""
    settings = settings_at(path)
    report = doctor.examine(settings)
    say(as_json, report, doctor.shown(report))
    if report["findings"]:
        sys.exit(REFUSED)


@main.group("ledger")
def ledger_() -> None:
    """The ledger."""


@ledger_.command("verify")
@common
@click.option("--rebuild", is_flag=True, help="Write states and permission rows anew.")
def verify(path: Path | None, as_json: bool, rebuild: bool) -> None:
    """Walk the chain; exit 1 on findings, naming the first bad row."""
    with opened(path) as runtime:
        rows, unsealed, findings = _verified(runtime, quiet=as_json)
        if rebuild:
            runtime.database.write_now(runtime.intake.rebuild)
    found = [finding._asdict() for finding in findings]
    text = f"{rows} rows, no findings" if not found else "\n".join(f["what"] for f in found[:20])
    if unsealed:
        text += f"\n{unsealed} rows wait for their seal (prefs serve or prefs work gives it)"
    say(as_json, {"rows": rows, "unsealed": unsealed, "findings": found}, text)
    if found:
        sys.exit(REFUSED)


def _verified(runtime: Runtime, *, quiet: bool) -> Verified:
    with err.status("reading the ledger", spinner="dots") as status, calm():

        def tell(rows: int) -> None:
            if not quiet:
                status.update(f"{rows} rows read")

        place = Place(
            runtime.settings.database, runtime.settings.secret_keys, runtime.intake.brands
        )
        return verify_large(runtime.database, place, runtime.intake, tell, runtime.checkpoints)


# --- checkpoints -------------------------------------------------------------------------------


@main.group("checkpoint")
def checkpoint_() -> None:
    """The ledger's checkpoints outside the database."""


@contextmanager
def kept(path: Path | None) -> Iterator[tuple[Runtime, Checkpoints]]:
    with opened(path) as runtime:
        if runtime.checkpoints is None:
            raise SettingsError(['checkpoint: is not configured; write "file:FOLDER"'])
        yield runtime, runtime.checkpoints


@checkpoint_.command("verify")
@common
def verify_checkpoints(path: Path | None, as_json: bool) -> None:
    """Hold the folder's lines and signatures, and the ledger, against each other."""
    with kept(path) as (runtime, checkpoints):
        found = runtime.database.read_now(lambda conn: list(checkpoints.verify(conn)))
        files = len(checkpoints.journal.files())
    wrong = [one.what for one in found if not one.harmless]
    notes = [one.what for one in found if one.harmless]
    text = "\n".join([*wrong, *notes]) or f"{files} files, no findings"
    say(as_json, {"files": files, "findings": wrong, "notes": notes}, text)
    if wrong:
        sys.exit(REFUSED)


@checkpoint_.command("key")
@common
def checkpoint_key(path: Path | None, as_json: bool) -> None:
    """The public keys (PEM) by which an auditor checks the signatures; they open nothing."""
    keys = Keyring(settings_at(path).secret_keys)
    found = {id_.hex(): keys.public_pem(id_) for id_ in keys.key_ids}
    say(as_json, found, "\n".join(f"key {id_}\n{pem}" for id_, pem in found.items()))


def _show_lines(show: Callable[[str], object], quiet: bool, count: int) -> None:
    if not quiet:
        show(f"{count} lines read")


@checkpoint_.command("replay")
@common
@click.option("--apply", "apply_", is_flag=True, help="Bring back; without it only count.")
@click.option(
    "--accept-damage",
    is_flag=True,
    help="Open marketing although lines of the journal (or all of it) are lost for good.",
)
def replay_(path: Path | None, as_json: bool, apply_: bool, accept_damage: bool) -> None:
    """Bring back every opt-out that a restored backup lacks, then open marketing again."""
    with (
        kept(path) as (runtime, checkpoints),
        err.status("reading the journal", spinner="dots") as status,
    ):
        tell = partial(_show_lines, status.update, as_json)
        replaying = Replay(checkpoints, runtime.intake, tell)
        report = replaying.run(apply=apply_, accept_damage=accept_damage)
    say(as_json, replay.content(report), replay.shown(report))
    if not (report.opened and (report.whole or accept_damage)):
        sys.exit(REFUSED)


# --- people ------------------------------------------------------------------------------------


@main.command("check")
@common
@click.argument("to")
@click.option("--brand", required=True)
@click.option("--channel", default="email", show_default=True)
@click.option("--purpose", default="marketing", show_default=True)
@click.option("--topic", default=None)
def check_(
    path: Path | None,
    as_json: bool,
    to: str,
    brand: str,
    channel: str,
    purpose: str,
    topic: str | None,
) -> None:
    """May we send this? Exit 1 when not."""
    from prefs.web import check as asking

    with opened(path) as runtime:
        _known_brand(runtime, brand)
        body = bodies.CheckBody(brand, channel, purpose, [to], topic)
        answer = runtime.database.read_now(
            lambda conn: asking.answer_one(conn, runtime.service, body)
        )
    text = f"{'yes' if answer['allowed'] else 'no'}: {answer['reason']}"
    say(as_json, answer, text)
    if not answer["allowed"]:
        sys.exit(REFUSED)


@main.command("scrub")
@common
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--brand", required=True)
@click.option("--channel", required=True)
@click.option("--purpose", required=True)
@click.option("--topic", default=None)
@click.option("--column", default=None, help="Heading or number of the column; name of the field.")
@click.option("--out", "to", type=NEW_FILE, help="Resumable; without it to standard output.")
@click.option(
    "--format", "sort", type=click.Choice(list(scrubbing.FORMATS)), help="By FILE's name."
)
def scrub_(
    path: Path | None, as_json: bool, file: str, to: Path | None, sort: str | None, **wanted: Any
) -> None:
    """Answer every row of FILE (- is standard input): `allowed` and `reason` are added."""
    sort = sort or scrubbing.format_of(file)
    with (
        opened(path) as runtime,
        going_on(resumable=to is not None),
        click.open_file(file, "rb") as source,
    ):
        list_ = _list(runtime, sort, **wanted)
        total = Path(file).stat().st_size if file != "-" else None
        question, console = {**wanted, "format": sort}, None if as_json else err
        job = scrubbing.Job(list_, cast(BinaryIO, source), total, question, console)
        if to:
            report = scrubbing.to_file(job, to, runtime.clock().timestamp())
        else:
            report = scrubbing.to_stream(job, sys.stdout.buffer)
    conclude(as_json, report, scrubbing.shown(report), beside=to is None)


def _list(
    runtime: Runtime,
    sort: str,
    brand: str,
    channel: str,
    purpose: str,
    topic: str | None,
    column: str | None,
) -> Any:
    _known_brand(runtime, brand)
    if sort == "csv" and channel == Channel.POST:
        raise click.UsageError("a postal address is no single column: bring NDJSON")
    body = bodies.CheckBody(brand, channel, purpose, [], topic)
    ask = asyncio.run(asked(runtime.service, body))
    return scrubbing.FORMATS[sort](Asking(runtime.service, brand, ask), column)


@contextmanager
def calm() -> Iterator[None]:
    """For long work: the collector's walks take a fifth of an import."""
    before = gc.get_threshold()
    calm_collector()
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


@contextmanager
def going_on(*, resumable: bool) -> Iterator[None]:
    """Ctrl-C is no fault: what can be gone on with says so."""
    try:
        with calm():
            yield
    except KeyboardInterrupt:
        how = "the same command goes on where it stopped" if resumable else "nothing was kept"
        err.print(f"[yellow]stopped:[/yellow] {how}", markup=True)
        sys.exit(TRY_LATER)


def conclude(as_json: bool, report: dict[str, Any], text: str, *, beside: bool) -> None:
    """A report; `beside` what went to standard output, to the screen (standard error)."""
    if not beside:
        say(as_json, report, text)
    elif as_json:
        click.echo(json.dumps(report), err=True)
    else:
        err.print(text, highlight=False)


def _known_brand(runtime: Runtime, brand: str) -> None:
    if brand not in runtime.settings.brands:
        raise SettingsError(
            [f"--brand: unknown brand; known are: {', '.join(runtime.settings.brands)}"]
        )


def _one_brand(runtime: Runtime, brand: str | None) -> str:
    brands = list(runtime.settings.brands)
    chosen = brand or (brands[0] if len(brands) == 1 else None)
    if chosen is None:
        raise click.UsageError(f"give --brand, one of: {', '.join(brands)}")
    _known_brand(runtime, chosen)
    return chosen


@main.command("links")
@common
@click.option("--brand", required=True)
@click.option("--email", default=None)
@click.option("--phone", default=None)
@click.option("--ref", default=None)
@click.option("--topic", default=None)
def links(
    path: Path | None,
    as_json: bool,
    brand: str,
    email: str | None,
    phone: str | None,
    ref: str | None,
    topic: str | None,
) -> None:
    """Signed links for a message to one person."""
    if sum(text is not None for text in (email, phone, ref)) != 1:
        raise click.UsageError("give exactly one of --email, --phone, --ref")
    with opened(path) as runtime:
        _known_brand(runtime, brand)
        body = bodies.LinksBody(brand, email, phone, ref, "marketing", topic)
        made = runtime.database.write_now(
            lambda conn: people.links_for(conn, runtime.service, body)
        )
    say(as_json, made)


@main.command("import")
@common
@click.argument("file", type=FILE)
@click.option("--brand", default=None, help="Needed when the configuration has several brands.")
@click.option("--apply", "apply_", is_flag=True, help="Write; without it nothing is changed.")
def import_(path: Path | None, as_json: bool, file: Path, brand: str | None, apply_: bool) -> None:
    """Take a CSV of people and choices in; a dry run unless --apply. An import that was stopped
    goes on when the same command is given again."""
    with opened(path) as runtime, going_on(resumable=apply_):
        chosen = _one_brand(runtime, brand)
        report = importing.run(
            runtime.service, chosen, file, write=apply_, console=None if as_json else err
        )
    say(as_json, report, importing.shown(report))
    if report["rejected"]:
        sys.exit(REFUSED)


@main.command("export")
@common
@click.option("--brand", required=True)
@click.option("--channel", type=click.Choice([channel.value for channel in Channel]), required=True)
@click.option("--out", "to", type=NEW_FILE, help="Without it to standard output.")
@click.option("--format", "sort", type=click.Choice(["csv", "ndjson"]), default="csv")
@click.option("--hashed", type=click.Choice(["sha256"]), help="Hashes instead of addresses.")
@click.option("--formula-safe", is_flag=True, help="For spreadsheets: cells that begin a formula.")
def export_(
    path: Path | None,
    as_json: bool,
    brand: str,
    channel: str,
    to: Path | None,
    sort: str,
    hashed: str | None,
    formula_safe: bool,
) -> None:
    """Write who must not be contacted for marketing on a channel, by what we know ourselves."""
    if formula_safe and sort != "csv":
        raise click.UsageError("--formula-safe is for CSV")
    with opened(path) as runtime, going_on(resumable=False):
        _known_brand(runtime, brand)
        where, console = Channel(channel), None if as_json else err
        job = exporting.Job(
            runtime.service, brand, where, sort, hashed is not None, formula_safe, console
        )
        report = exporting.run(job, to or sys.stdout.buffer)
    conclude(as_json, report, exporting.shown(report), beside=to is None)


@main.command("sync")
@common
@click.argument("target", required=False)
@click.option("--inbox", is_flag=True, help="Read the messages and mails that people sent.")
@click.option(
    "--from",
    "file",
    type=FILE,
    help="What staff exported from a system without an interface, or its list of tasks.",
)
@click.option("--apply", "apply_", is_flag=True, help="Take outs in, push the rest, wait for it.")
def sync_(
    path: Path | None,
    as_json: bool,
    target: str | None,
    inbox: bool,
    file: Path | None,
    apply_: bool,
) -> None:
    """Read the vendors from end to end; print what differs. Exit 1 on differences."""
    with opened(path) as runtime:
        letters = inbox and _reads_letters(runtime, target)
        known = runtime.targets and target != PLACE
        chosen = _targets(runtime, target) if known or not letters else []
        if file and len(chosen) != 1:
            raise click.UsageError("--from needs the TARGET that the file comes from")
        with err.status("reading", spinner="dots") as status:

            def tell(name: str, count: int) -> None:
                status.update(f"{name}: {count}")

            box = Mailbox(runtime.service) if letters else None
            upload = file.read_bytes() if file else None
            reading = _Reading(tell, inbox, box, upload, apply_)
            reports = asyncio.run(_sync(runtime, chosen, reading))
    differences = [one for report in reports for one in report.differences]
    answer = {
        "applied": apply_,
        "targets": [report.summary() for report in reports],
        "differences": differences,
    }
    say(as_json, answer, sync.shown(reports))
    if any(report.error for report in reports):
        sys.exit(TRY_LATER)
    if differences and not apply_:
        sys.exit(REFUSED)


def _reads_letters(runtime: Runtime, name: str | None) -> bool:
    """Whether a mailbox is configured and meant."""
    settings = runtime.settings.mail
    return settings is not None and settings.inbox is not None and name in (None, PLACE)


def _targets(runtime: Runtime, name: str | None) -> list[Target]:
    found = [one for one in runtime.targets if name in (None, one.name, one.label)]
    if not found:
        known = ", ".join(sorted(one.label for one in runtime.targets)) or "none"
        raise click.UsageError(f"no such target; configured are: {known}")
    return found


class _Reading(NamedTuple):
    """What `prefs sync` was asked for."""

    tell: sync.Progress
    inbox: bool
    box: Mailbox | None
    upload: bytes | None
    apply: bool


async def _sync(runtime: Runtime, chosen: list[Target], reading: _Reading) -> list[sync.Report]:
    """The lanes that read also carry: what a walk taught a connector need not be asked again."""
    worker = make_worker(runtime, polls=False)
    try:
        reports = await _read([one.scan for one in worker.lanes if one.target in chosen], reading)
        if reading.apply:
            await _carried(runtime, worker, reading.tell)
    finally:
        await worker.stop()
    return reports


async def _read(scans: list[Scan], reading: _Reading) -> list[sync.Report]:
    if reading.upload is not None:
        return [await sync.upload(scans[0], reading.upload, apply=reading.apply)]
    if reading.inbox:
        heard = [await sync.inbox(scan, reading.tell) for scan in scans]
        letters = [await sync.letters(reading.box, reading.tell)] if reading.box else []
        return [report for report in heard if report] + letters
    readable = list(sync.readable(scans))
    walks = [sync.walk(scan, reading.tell, apply=reading.apply) for scan in readable]
    reports = await asyncio.gather(*walks)
    for scan, report in zip(readable, reports, strict=True):
        await sync.settle(scan, report)
    return reports


async def _carried(runtime: Runtime, worker: Worker, tell: sync.Progress) -> None:
    """Work, or wait for who works already, until nothing is due soon. Raises Unavailable where
    an out could not be carried."""
    live = [target.label for target in runtime.targets if target.live]

    def left(conn: Connection) -> int:
        until = runtime.clock().timestamp() + NEXT_TRY_WITHIN
        return marks.under_way(conn, live, until)

    app.wake_on_commit(runtime.database, worker)
    worker.start()
    try:
        async with asyncio.timeout(CARRIED_WITHIN):
            while count := await runtime.database.read(left):
                tell("left to carry", count)
                await asyncio.sleep(0.2)
    except TimeoutError:
        raise Unavailable("not all could be carried yet; prefs serve or work goes on") from None
    if late := await runtime.database.read(lambda conn: marks.outs_pending(conn, live)):
        raise Unavailable(f"opt-outs not carried yet: {late}; prefs serve or work goes on")


@main.command("onboard")
@common
@click.argument("target", required=False)
@click.option("--brand", default=None, help="Needed when the configuration has several brands.")
@click.option("--from", "file", type=FILE, help="TARGET's own export, where it has no interface.")
@click.option("--attest", "place", help="List of TARGET that a named owner answers for.")
@click.option("--owner", help="Who answers for it.")
@click.option(
    "--basis", type=click.Choice([basis.value for basis in Basis]), help="On which basis."
)
@click.option("--wording", help="The words that people agreed to.")
@click.option("--since", type=click.DateTime(["%Y-%m-%d"]), help="First day of its sign-ups.")
@click.option("--until", type=click.DateTime(["%Y-%m-%d"]), help="Last day of its sign-ups.")
@click.option("--list", "listing", type=NEW_FILE, help="Write who is to be asked in person (CSV).")
@click.option("--apply", "apply_", is_flag=True, help="Take outs and proved consents in here.")
def onboard(
    path: Path | None,
    as_json: bool,
    target: str | None,
    brand: str | None,
    file: Path | None,
    listing: Path | None,
    apply_: bool,
    **attested: Any,
) -> None:
    """Sort what stands at a brand's systems: out, proved, attested, unset. Writes to no vendor."""
    with opened(path) as runtime:
        chosen = [one for one in runtime.targets if one.brand == _one_brand(runtime, brand)]
        named = [one for one in chosen if target in (one.name, one.label)]
        if (target and not named) or ((file or attested["place"]) and not named):
            known = ", ".join(one.label for one in chosen) or "none"
            raise click.UsageError(f"name the TARGET that this is about, one of: {known}")
        attestation = _attestation(named[0].label, attested) if attested["place"] else None
        wanted = Onboarding(named[0] if named else None, file, attestation, listing, apply_)
        with err.status("reading", spinner="dots") as status:
            report = asyncio.run(
                _onboard(runtime, chosen, wanted, lambda name, n: status.update(f"{name}: {n}"))
            )
    say(as_json, report, onboarding.shown(report))
    if not as_json and not apply_:
        out.print("Nothing written; --apply takes outs and proved consents in.")
    if not as_json and report["unread"]:
        out.print(
            f"No consent is taken in on {', '.join(report['unread'])}: a system that may hold "
            "opt-outs there was not read from end to end."
        )
    if any(one["error"] for one in report["targets"]):
        sys.exit(TRY_LATER)
    if apply_ and report["unread"]:
        sys.exit(REFUSED)


def _attestation(label: str, said: dict[str, Any]) -> onboarding.Attestation:
    missing = [f"--{name}" for name, value in said.items() if not value and name != "place"]
    if missing:
        raise click.UsageError(f"an attestation needs {' '.join(missing)} too")
    basis, since, until = Basis(said["basis"]), said["since"].date(), said["until"].date()
    return onboarding.Attestation(
        label, said["place"], said["owner"], basis, said["wording"], since, until
    )


class Onboarding(NamedTuple):
    """What `prefs onboard` was asked for."""

    target: Target | None
    file: Path | None
    attestation: onboarding.Attestation | None
    listing: Path | None
    apply: bool


async def _onboard(
    runtime: Runtime, chosen: list[Target], wanted: Onboarding, tell: sync.Progress
) -> dict[str, Any]:
    worker = make_worker(runtime, polls=False)
    scans = [lane.scan for lane in worker.lanes if lane.target in chosen]
    attested = [wanted.attestation] if wanted.attestation else []
    exports = {}
    try:
        for scan in (one for one in scans if one.target == wanted.target):
            if wanted.attestation:
                onboarding.check(scan, wanted.attestation)
            if wanted.file:
                exports[scan.target.label] = sync.export_of(scan, wanted.file.read_bytes()).page
        survey = await onboarding.survey(scans, attested, tell, exports=exports, apply=wanted.apply)
    finally:
        await worker.stop()
    listed = onboarding.write_list(survey, wanted.listing) if wanted.listing else 0
    return {
        "applied": wanted.apply,
        **onboarding.summary(survey),
        "attested_for_ever": runtime.database.read_now(onboarding.attested_for_ever),
        "listed": listed,
    }


@main.command("retract")
@common
@click.argument("batch", required=False)
@click.option("--note", default="taken back by the operator", show_default=True)
def retract_(path: Path | None, as_json: bool, batch: str | None, note: str) -> None:
    """Take a batch of machine-made outs back (without BATCH: list them); a person's own out
    stays."""
    with opened(path) as runtime:
        if batch is None:
            _list_batches(runtime, as_json)
            return
        evidence = Evidence(actor="operator", note=note)
        taken = last = 0
        with err.status("taking back", spinner="dots") as status:
            while last := _retract(runtime, batch, evidence, last):
                taken += 1
                status.update(f"{taken * retract.CHUNK} people or fewer")
        kept = runtime.database.read_now(lambda conn: batches.by_label(conn, batch))
    answer = {"batch": batch, "origin": kept.origin, "outs": kept.outs, "state": kept.state}
    say(as_json, answer, f"{kept.outs} outs of {kept.origin} taken back")


def _retract(runtime: Runtime, batch: str, evidence: Evidence, after: int) -> int:
    return runtime.database.write_now(
        lambda conn: retract.retract(conn, runtime.intake, batch, evidence, after)
    )


def _list_batches(runtime: Runtime, as_json: bool) -> None:
    found = runtime.database.read_now(batches.listed)
    table = Table("batch", "brand", "from", "outs", "state")
    for one in found:
        table.add_row(one.label, one.brand, one.origin, str(one.outs), one.state)
    items = [
        {"batch": b.label, "brand": b.brand, "origin": b.origin, "outs": b.outs, "state": b.state}
        for b in found
    ]
    say(as_json, {"items": items}, table)


# --- registers ---------------------------------------------------------------------------------


REGISTER = click.Choice([register.value for register in Register])


@main.group("screen")
def screen_() -> None:
    """The telephone and mail preference registers (TPS, CTPS, MPS)."""


@screen_.command("import")
@common
@click.argument("file", type=FILE)
@click.option("--brand", default=None, help="Needed when the configuration has several brands.")
@click.option("--register", type=REGISTER, required=True)
@click.option("--screened-at", required=True, help="Day or moment of the screening.")
@click.option("--lift", is_flag=True, help="However many listings the file no longer shows: end.")
def import_screening(
    path: Path | None,
    as_json: bool,
    file: Path,
    brand: str | None,
    register: str,
    screened_at: str,
    lift: bool,
) -> None:
    """Take a register's answer in: all numbers known then were screened, FILE lists the hits."""
    with opened(path) as runtime:
        chosen = runtime.settings.brands[_one_brand(runtime, brand)]
        job = screening.Job(
            runtime.service,
            chosen,
            Register(register),
            screening.when(screened_at, chosen, runtime.clock()),
            file,
            lift,
            None if as_json else err,
        )
        report = screening.run(job)
    say(as_json, report, screening.shown(report))
    if report["stopped"]:
        sys.exit(REFUSED)


@screen_.command("export")
@common
@click.argument("file", type=NEW_FILE, required=False)
@click.option("--brand", default=None, help="Needed when the configuration has several brands.")
@click.option("--register", type=REGISTER, default=Register.TPS.value, show_default=True)
def export_screening(
    path: Path | None, as_json: bool, file: Path | None, brand: str | None, register: str
) -> None:
    """Write what is due to be screened, one number (address) a line, to FILE or to the screen."""
    with opened(path) as runtime:
        chosen = runtime.settings.brands[_one_brand(runtime, brand)]
        wanted, now = Register(register), runtime.clock()
        due = screening.is_due(runtime.service, chosen, wanted, now.timestamp())
        said = StringIO() if as_json and not file else None
        count = _written(runtime, chosen, wanted, said or file, now) if due else 0
    if as_json:
        listed = {"items": said.getvalue().splitlines()} if said else {}
        say(as_json, {"due": due, "count": count, "at": now.isoformat(), **listed})
        return
    again = f"prefs screen import --register {register} --screened-at {now.isoformat()} HITS"
    err.print(f"{count} to screen; then: {again}" if due else "nothing is due", highlight=False)


def _written(
    runtime: Runtime, brand: Brand, register: Register, to: StringIO | Path | None, now: datetime
) -> int:
    """Where neither a file nor a text is named, the screen is written to."""
    at = now.timestamp()
    if isinstance(to, Path):
        with to.open("w", encoding="utf-8", newline="") as text:
            return screening.export(runtime.service, brand, register, text, at)
    return screening.export(runtime.service, brand, register, to or sys.stdout, at)


# --- staff -------------------------------------------------------------------------------------


@main.group("staff")
def staff_() -> None:
    """People who sign in to the console."""


@staff_.command("add")
@common
@click.argument("email")
@click.option("--brand", required=True)
@click.option("--role", type=click.Choice([role.value for role in Role]), required=True)
def add_staff(path: Path | None, as_json: bool, email: str, brand: str, role: str) -> None:
    """Give somebody an account. The password is $PREFS_STAFF_PASSWORD, else asked for, else a line
    of standard input."""
    with opened(path) as runtime:
        _known_brand(runtime, brand)
        address, password = identity.email(email), staff.hashed(_password())
        now = runtime.clock().timestamp()
        id_ = runtime.database.write_now(
            lambda conn: staff.add(conn, runtime.keys, brand, address, Role(role), password, now)
        )
    say(as_json, {"id": id_, "role": role}, f"id {id_}: {role} of {brand}")


def _password() -> str:
    given = os.environ.get("PREFS_STAFF_PASSWORD")
    if given is None and sys.stdin.isatty():
        return str(click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
    return given if given is not None else sys.stdin.readline().rstrip("\n")


@staff_.command("list")
@common
@click.option("--brand", required=True)
def list_staff(path: Path | None, as_json: bool, brand: str) -> None:
    """Who signs in."""
    with opened(path) as runtime:
        _known_brand(runtime, brand)
        found = runtime.database.read_now(lambda conn: staff.listed(conn, runtime.keys, brand))
    table = Table("id", "email", "role", "second factor")
    for one in found:
        table.add_row(one.id, one.email, one.role, "yes" if one.has_totp else "")
    items = [{"id": m.id, "email": m.email, "role": m.role, "totp": m.has_totp} for m in found]
    say(as_json, {"items": items}, table)


@staff_.command("end")
@common
@click.argument("staff_id")
@click.option("--brand", required=True)
def end_staff(path: Path | None, as_json: bool, staff_id: str, brand: str) -> None:
    """End an account and its sessions at once."""
    with opened(path) as runtime:
        now = runtime.clock().timestamp()
        runtime.database.write_now(lambda conn: staff.end(conn, brand, staff_id, now))
    say(as_json, {"ended": staff_id}, "ended")


# --- keys --------------------------------------------------------------------------------------


@main.group("api-keys")
def api_keys() -> None:
    """Keys of programs."""


@api_keys.command("add")
@common
@click.option("--brand", required=True)
@click.option("--scopes", required=True, help="Comma-separated: check,write,staff,rights,admin")
def add_key(path: Path | None, as_json: bool, brand: str, scopes: str) -> None:
    """Make a key; it is printed once."""
    wanted = [scope.strip() for scope in scopes.split(",") if scope.strip()]
    unknown = sorted(set(wanted) - set(access.SCOPES))
    if unknown or not wanted:
        raise click.UsageError(f"--scopes: known are {', '.join(access.SCOPES)}")
    with opened(path) as runtime:
        _known_brand(runtime, brand)
        now = runtime.clock().timestamp()
        id_, key = runtime.database.write_now(lambda conn: access.add_key(conn, brand, wanted, now))
    say(as_json, {"id": id_, "key": key}, f"id  {id_}\nkey {key}\nIt is not shown again.")


@api_keys.command("list")
@common
def list_keys(path: Path | None, as_json: bool) -> None:
    """Keys without their secrets."""
    with opened(path) as runtime:
        rows = runtime.database.read_now(access.list_keys)
    items = [
        {"id": row.id, "brand": row.brand, "scopes": row.scopes, "revoked": bool(row.revoked_at)}
        for row in rows
    ]
    table = Table("id", "brand", "scopes", "revoked")
    for item in items:
        table.add_row(item["id"], item["brand"], item["scopes"], "yes" if item["revoked"] else "")
    say(as_json, {"items": items}, table)


@api_keys.command("revoke")
@common
@click.argument("key_id")
def revoke_key(path: Path | None, as_json: bool, key_id: str) -> None:
    """End a key; it stops working within two seconds."""
    with opened(path) as runtime:
        now = runtime.clock().timestamp()
        done = runtime.database.write_now(lambda conn: access.revoke_key(conn, key_id, now))
    say(as_json, {"revoked": done}, "revoked" if done else "no such key, or revoked before")
    if not done:
        sys.exit(REFUSED)


if __name__ == "__main__":
    main()
