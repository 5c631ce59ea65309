"""Why the database cannot be used, for whoever gives a command: in words of ours, each with its
fix. The driver's own text may hold values of a row, and stays inside."""

from __future__ import annotations

import errno
import socket
import ssl

from sqlalchemy.exc import DBAPIError

from prefs.core.errors import PrefsError, SettingsError, Unavailable

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
LASTING = {
    "28": "the server refuses this user, password or machine; correct them, or the server's "
    "pg_hba.conf",
    "3D": "the server has no such database; make it (createdb), owned by this user",
    "42501": "the server does not let this user do that; make the user the database's owner",
}
"""By how the server's code begins (https://www.postgresql.org/docs/current/errcodes-appendix.html):
what stays so until somebody changes it."""
PASSING = {
    "08": "the connection to the server broke",
    "53300": "the server has no connection left; stop a process, or raise max_connections",
    "53": "the server lacks disk or memory; its log says which",
    "57": "the server starts, stops, or ended the connection",
    "55P03": "somebody holds a lock; see pg_stat_activity",
    "": "the server answers {state}; its log says why",
}
BY_KIND = {
    ConnectionRefusedError: "nothing listens at that host and port; start the server, or correct "
    "`database`",
    socket.gaierror: "the host's name is not known here; correct `database`",
    ssl.SSLError: "TLS fails; name the server's root certificate by PGSSLROOTCERT",
    TimeoutError: "there is no answer in time; is the server up, and the way to it open?",
    OSError: "the connection breaks, or is refused for its TLS (sslmode)",
}
SQLITE = {
    5: "another process holds its lock",
    8: "this user may not write the file; let it",
    13: "the disk is full; make room",
    14: "the file cannot be opened; is its folder there, and may this user write in it?",
    26: "the file is no SQLite database; name another one",
}
"""By result code: https://www.sqlite.org/rescode.html"""


def explained(fault: Unavailable) -> PrefsError:
    """The same with its reason, where one is known: SettingsError where only a change helps."""
    cause = fault.__cause__
    told = cause.orig if isinstance(cause, DBAPIError) else cause
    state = getattr(told, "sqlstate", None)
    if state and (reason := _by_code(LASTING, state)):
        return SettingsError([f"database: {reason}"])
    found = _by_code(PASSING, state) if state else _by_kind(told)
    return Unavailable(f"{fault}: {found}") if found else fault


def _by_code(reasons: dict[str, str], state: str) -> str | None:
    found = next((text for start, text in reasons.items() if state.startswith(start)), None)
    return found and found.format(state=state)


def _by_kind(told: BaseException | None) -> str | None:
    code = getattr(told, "sqlite_errorcode", None)
    if code is not None:
        return SQLITE.get(code & 0xFF)
    if getattr(told, "errno", None) in NO_ROOM:  # of a list that is written as it is read
        return "a disk of this machine is full; make room"
    return next((text for kind, text in BY_KIND.items() if isinstance(told, kind)), None)
