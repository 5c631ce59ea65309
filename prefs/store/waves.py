"""Opt-ins on their way to a target, counted by run: a wave of them waits for a person."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, delete, func, insert, or_, select, update

from prefs.core.errors import NotFound
from prefs.store import dialect, marks
from prefs.store.counters import next_numbers
from prefs.store.schema import wave_ons, waves

RUN = 600.0
"""Seconds: the opt-ins that set out within them are one run."""
KEEP = 30 * 86400.0
"""Seconds that a released wave is known: what has not set out by then joins a run anew."""
FEW = 10
SHARE = 0.05
OPEN, WAITING, RELEASED, STOPPED = "open", "waiting", "released", "stopped"


class Wave(NamedTuple):
    id: int
    target: str
    state: str
    opened_at: float
    most: int
    decided_at: float | None


class Admitted(NamedTuple):
    """State of the wave that each person's opt-in belongs to, by hash. `turned` is the wave that
    came past its limit just now."""

    states: dict[bytes, str]
    turned: Wave | None


def admit(conn: Connection, target: str, said: Mapping[bytes, float], now: float) -> Admitted:
    """Whether opt-ins may set out. `said` is when the last word of each was heard: a person who
    decided on a wave meant what had been said by then, however often it is looked at afterwards;
    the others join the run that goes on."""
    states = {
        hash_: state
        for hash_, state, decided_at in _decided(conn, target, said)
        if said[hash_] <= decided_at
    }
    rest = said.keys() - states.keys()
    if not rest:
        return Admitted(states, None)
    before = _newest(conn, target)
    wave = _join(conn, target, before, rest, now)
    turned = wave.state == WAITING and (before is None or before.state != WAITING)
    return Admitted(states | dict.fromkeys(rest, wave.state), wave if turned else None)


def _decided(
    conn: Connection, target: str, hashes: Collection[bytes]
) -> list[tuple[bytes, str, float]]:
    """What persons decided about these people's opt-ins, the newest last."""
    rows = conn.execute(
        select(wave_ons.c.hash, waves.c.state, waves.c.decided_at)
        .join(waves, waves.c.id == wave_ons.c.wave)
        .where(
            waves.c.target == target,
            waves.c.decided_at.is_not(None),
            wave_ons.c.hash.in_(sorted(hashes)),
        )
        .order_by(waves.c.decided_at)
    )
    return [(row.hash, row.state, row.decided_at) for row in rows]


def _newest(conn: Connection, target: str) -> Wave | None:
    """The run that goes on, or waits."""
    wanted = select(waves).where(waves.c.target == target, waves.c.state.in_([OPEN, WAITING]))
    row = conn.execute(wanted.order_by(waves.c.id.desc()).limit(1)).first()
    return Wave(*row) if row else None


def allow(conn: Connection, target: str, hashes: Collection[bytes], now: float) -> None:
    """Opt-ins that a person has just asked for: no wave to wait for."""
    wave = _open(conn, target, now)
    _add(conn, wave, hashes)
    decide(conn, wave, RELEASED, now)


def by_id(conn: Connection, id_: int) -> Wave:
    """Raises NotFound."""
    row = conn.execute(select(waves).where(waves.c.id == id_)).first()
    if row is None:
        raise NotFound("there is no such wave")
    return Wave(*row)


def _join(
    conn: Connection, target: str, wave: Wave | None, hashes: Collection[bytes], now: float
) -> Wave:
    """Count these people into the run that goes on, or a new one; past its limit it waits."""
    if wave is None or (wave.state == OPEN and wave.opened_at < now - RUN):
        wave = _open(conn, target, now)
    _add(conn, wave, hashes)
    if wave.state == WAITING or count(conn, wave) <= wave.most:
        return wave
    conn.execute(update(waves).where(waves.c.id == wave.id).values(state=WAITING))
    return wave._replace(state=WAITING)


def _add(conn: Connection, wave: Wave, hashes: Collection[bytes]) -> None:
    conn.execute(
        dialect.insert(wave_ons).on_conflict_do_nothing(),
        [{"wave": wave.id, "hash": hash_} for hash_ in hashes],
    )


def _open(conn: Connection, target: str, now: float) -> Wave:
    (id_,) = next_numbers(conn, "wave", 1)
    most = max(FEW, int(marks.count_records(conn, target) * SHARE))
    wave = Wave(id_, target, OPEN, now, most, None)
    conn.execute(insert(waves), wave._asdict())
    return wave


def count(conn: Connection, wave: Wave) -> int:
    wanted = select(func.count()).where(wave_ons.c.wave == wave.id)
    return int(conn.execute(wanted).scalar_one())


def decide(conn: Connection, wave: Wave, state: str, now: float) -> None:
    """A person lets the wave through or stops it; what was said until now is meant."""
    values: dict[str, Any] = {"state": state, "decided_at": now}
    conn.execute(update(waves).where(waves.c.id == wave.id).values(**values))
    marks.hurry(conn, wave.target, now)


def purge(conn: Connection, now: float) -> None:
    """Forget the runs that are over and the waves let through long ago. A stop is kept."""
    over = and_(waves.c.state == OPEN, waves.c.opened_at < now - RUN)
    gone = or_(over, and_(waves.c.state == RELEASED, waves.c.decided_at < now - KEEP))
    conn.execute(delete(wave_ons).where(wave_ons.c.wave.in_(select(waves.c.id).where(gone))))
    conn.execute(delete(waves).where(gone))
