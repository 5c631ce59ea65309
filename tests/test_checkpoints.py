"""Checkpoints outside the database: what is acknowledged gets there, every fault of the folder is
named, and a database restored from an older backup is brought up to date by them."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, func, select

from prefs import checkpoints as rules
from prefs.checkpoints import FORKED, MISSING, OLDER, UNSETTLED, Checkpoints
from prefs.core import identity
from prefs.core.decision import Word
from prefs.core.journal import Said, is_signed, read_seal
from prefs.core.keys import Keyring
from prefs.core.signals import Evidence, Signal, Statement, TokenUse
from prefs.core.words import Basis, Channel, Choice, Purpose, Scope, Source
from prefs.journal import CHECKPOINTS, Damage, Found, Journal
from prefs.replay import Replay, Report
from prefs.store import batches, journals, ledger, permissions, subjects
from prefs.store.schema import ledger as ledger_table
from prefs.store.schema import outbox
from prefs.store.schema import permissions as permission_rows
from tests import restore
from tests.kit import EMAIL, SMS, Clinic, clinic

ALERT = ("mail:owner@example.co.uk",)
OUTS = [Scope(channel, Purpose.MARKETING) for channel in Channel]


@pytest.fixture
def rt(tmp_path: Path) -> Iterator[Clinic]:
    made = clinic(tmp_path)
    yield made
    made.database.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


def at(
    rt: Clinic, folder: Path, keys: Keyring | None = None, largest: int = 1 << 26
) -> Checkpoints:
    keys = keys or rt.keys
    journal = Journal(folder, keys, largest)
    return Checkpoints(journal, rt.database, keys, rt.clock, ALERT)


def keep(rt: Clinic, folder: Path) -> None:
    """Seal and tell, as the worker does."""
    while rt.database.write_now(ledger.seal):
        pass
    at(rt, folder).keep()


def start(rt: Clinic, folder: Path) -> str | None:
    """What a start finds."""
    return at(rt, folder).compare()


def replay(rt: Clinic, folder: Path, *, apply: bool = True, accept: bool = False) -> Report:
    return Replay(at(rt, folder), rt.intake).run(apply=apply, accept_damage=accept)


def said(rt: Clinic, folder: Path) -> list[Said]:
    found = at(rt, folder).journal.scan()
    return [one.line for one in found if isinstance(one, Found) and isinstance(one.line, Said)]


def wrong(rt: Clinic, folder: Path) -> list[str]:
    found = rt.database.read_now(lambda conn: list(at(rt, folder).verify(conn)))
    return [one.what for one in found if not one.harmless]


def paused(rt: Clinic) -> str | None:
    found = rt.database.read_now(journals.paused)
    return found.reason if found else None


def word(rt: Clinic, address: str, scope: Scope = EMAIL, brand: str = "rt") -> Word | None:
    held = rt.database.read_now(lambda conn: permissions.read(conn, brand, [rt.hash(address)]))
    view = held[rt.hash(address)].views.get(scope) if held else None
    return view.word if view else None


def click(rt: Clinic, address: str, **more: object) -> None:
    rt.say(address, Source.ONE_CLICK, **more)  # type: ignore[arg-type]  # fields of Signal


# --- what is kept ------------------------------------------------------------------------------


def test_an_out_reaches_the_folder_with_the_seal_and_names_nobody(rt: Clinic, folder: Path) -> None:
    rt.consent("ann@example.com", ref="crm-7")
    click(rt, "ann@example.com")
    keep(rt, folder)
    (one,) = said(rt, folder)
    assert (one.source, one.choice, one.channel, one.n) == ("one_click", "out", "email", 2)
    assert [known.hash for known in one.known] == [rt.hash("ann@example.com")]
    text = b"".join(path.read_bytes() for path in folder.iterdir())
    assert b"ann@" not in text
    assert b"crm-7" not in text
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert wrong(rt, folder) == []


def test_every_seal_is_signed_and_one_a_day_is_kept_apart(rt: Clinic, folder: Path) -> None:
    click(rt, "ann@example.com")
    keep(rt, folder)
    click(rt, "bob@example.com")
    keep(rt, folder)
    rt.clock.forward(86400)
    click(rt, "cas@example.com")
    keep(rt, folder)
    kept = [read_seal(raw) for raw in (folder / CHECKPOINTS).read_bytes().splitlines()]
    assert [one.n for one in kept] == [1, 3]
    assert all(is_signed(rt.keys, one) for one in kept)
    head = rt.database.read_now(ledger.head)
    assert (kept[-1].n, kept[-1].hash) == (head[0], head[1].hex())


def test_a_kill_between_seal_and_journal_loses_nothing(rt: Clinic, folder: Path) -> None:
    click(rt, "ann@example.com")
    keep(rt, folder)
    click(rt, "bob@example.com")
    rt.database.write_now(ledger.seal)  # killed here; another process starts
    assert len(said(rt, folder)) == 1
    keep(rt, folder)
    assert [one.n for one in said(rt, folder)] == [1, 2]


@pytest.mark.parametrize("kept", [None, 20])
def test_a_kill_before_the_first_seal_is_no_damage(
    rt: Clinic, folder: Path, kept: int | None
) -> None:
    """The first file has its head, or some of it, and nothing was ever told there."""
    journal = Journal(folder, rt.keys)
    with journal.writing() as writer:
        assert writer
        writer._begin(rt.clock())
    (first,) = journal.files()
    first.write_bytes(first.read_bytes()[:kept])
    assert start(rt, folder) is None
    click(rt, "ann@example.com")
    keep(rt, folder)
    assert [one.choice for one in said(rt, folder)] == ["out"]
    assert wrong(rt, folder) == []
    assert start(rt, folder) is None


def test_a_first_file_that_lost_its_seals_is_damage(rt: Clinic, folder: Path) -> None:
    click(rt, "ann@example.com")
    keep(rt, folder)
    (first,) = Journal(folder, rt.keys).files()
    first.write_bytes(first.read_bytes().splitlines(keepends=True)[0])
    assert start(rt, folder)


def test_a_torn_tail_is_left_named_and_written_again(rt: Clinic, folder: Path) -> None:
    for name in ("ann", "bob"):
        click(rt, f"{name}@example.com")
        keep(rt, folder)
    (path,) = folder.glob("journal-*")
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(whole[:-3]) + whole[-3][:60])  # in the middle of bob's out
    keep(rt, folder)
    found = list(at(rt, folder).journal.scan())
    assert [one.harmless for one in found if isinstance(one, Damage)] == [True]
    assert {one.n for one in said(rt, folder)} == {1, 2}
    assert wrong(rt, folder) == []
    assert start(rt, folder) is None


def test_a_new_file_begins_with_a_month_and_a_size(rt: Clinic, folder: Path) -> None:
    for _ in range(3):
        click(rt, "ann@example.com", brand="second")
        rt.database.write_now(ledger.seal)
        at(rt, folder, largest=200).keep()
    rt.clock.forward(40 * 86400)
    click(rt, "bob@example.com")
    keep(rt, folder)
    names = [path.name for path in at(rt, folder).journal.files()]
    assert names == [
        "journal-2026-03-000001.jsonl",
        "journal-2026-03-000002.jsonl",
        "journal-2026-03-000003.jsonl",
        "journal-2026-03-000004.jsonl",
        "journal-2026-04-000005.jsonl",
    ]
    assert wrong(rt, folder) == []
    assert len(said(rt, folder)) == 4


def test_only_one_process_writes_at_a_time(rt: Clinic, folder: Path) -> None:
    click(rt, "ann@example.com")
    rt.database.write_now(ledger.seal)
    with at(rt, folder).journal.writing() as first:
        assert first is not None
        at(rt, folder).keep()
        assert said(rt, folder) == []
    at(rt, folder).keep()
    assert len(said(rt, folder)) == 1


def test_a_folder_that_cannot_be_written_is_told_once_an_hour(
    rt: Clinic, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    click(rt, "ann@example.com")
    rt.database.write_now(ledger.seal)
    monkeypatch.setattr(os, "fsync", full)
    for _ in range(2):
        at(rt, folder).keep()
    assert rt.database.read_now(alerts) == 1
    monkeypatch.undo()
    keep(rt, folder)
    assert {one.n for one in said(rt, folder)} == {1}


def alerts(conn: Connection) -> int:
    wanted = select(func.count()).select_from(outbox).where(outbox.c.kind == "alert")
    return int(conn.execute(wanted).scalar_one())


# --- faults of the folder ----------------------------------------------------------------------


def lines_of(folder: Path) -> tuple[Path, list[bytes]]:
    (path,) = folder.glob("journal-*")
    return path, path.read_bytes().splitlines(keepends=True)


def three(rt: Clinic, folder: Path) -> None:
    for name in ("ann", "bob", "cas"):
        click(rt, f"{name}@example.com")
        keep(rt, folder)


def test_a_changed_line_is_named(rt: Clinic, folder: Path) -> None:
    three(rt, folder)
    path, raw = lines_of(folder)
    raw[4] = raw[4].replace(b'"email"', b'"sms"', 1)
    path.write_bytes(b"".join(raw))
    assert any("line 5: the line was changed" in what for what in wrong(rt, folder))


def test_a_line_left_out_is_named(rt: Clinic, folder: Path) -> None:
    three(rt, folder)
    path, raw = lines_of(folder)
    path.write_bytes(b"".join(raw[:4] + raw[5:]))
    assert any("line 5" in what for what in wrong(rt, folder))


def test_lines_missing_at_the_end_are_named(rt: Clinic, folder: Path) -> None:
    three(rt, folder)
    path, raw = lines_of(folder)
    path.write_bytes(b"".join(raw[:-2]))
    assert any("lines at its end are missing" in what for what in wrong(rt, folder))


def test_a_missing_file_is_named(rt: Clinic, folder: Path) -> None:
    for _ in range(3):
        click(rt, "ann@example.com")
        rt.database.write_now(ledger.seal)
        at(rt, folder, largest=200).keep()
    at(rt, folder).journal.files()[1].unlink()
    assert any("the file before it is missing" in what for what in wrong(rt, folder))


def test_a_forged_checkpoint_is_named(rt: Clinic, folder: Path) -> None:
    three(rt, folder)
    path = folder / CHECKPOINTS
    one = json.loads(path.read_bytes().splitlines()[0])
    path.write_text(json.dumps({**one, "n": 3}) + "\n")
    assert any("signature is not ours" in what for what in wrong(rt, folder))


def test_another_key_pauses_and_says_which_is_missing(rt: Clinic, folder: Path) -> None:
    three(rt, folder)
    other = Keyring([b"another secret of thirty-two bytes"])
    reason = at(rt, folder, other).compare()
    assert reason is not None
    assert "add the old secret" in reason
    both = Keyring([b"another secret of thirty-two bytes", b"a secret of thirty-two bytes or more"])
    checkpoints = at(rt, folder, both)
    assert checkpoints.lacks() == []
    assert Replay(checkpoints, rt.intake).run(apply=True).opened


def test_a_folder_that_is_gone_pauses_until_it_is_given_up(rt: Clinic, folder: Path) -> None:
    three(rt, folder)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    assert start(rt, folder) is None  # another process may have its own folder and be at work
    rt.clock.forward(journals.ALIVE_FOR + 1)
    assert start(rt, folder) == MISSING
    keep(rt, folder)  # what comes from now on is kept all the same, the old rows too
    report = replay(rt, folder)
    assert not report.opened
    assert any(MISSING in note for note in report.notes)
    assert replay(rt, folder, accept=True).opened
    assert paused(rt) is None


def test_a_fresh_installation_starts_open(rt: Clinic, folder: Path) -> None:
    assert start(rt, folder) is None
    keep(rt, folder)
    assert start(rt, folder) is None


# --- an older database -------------------------------------------------------------------------


def test_an_older_database_is_paused_and_tells_the_owner_once(rt: Clinic, folder: Path) -> None:
    three(rt, folder)
    backup = restore.take(rt.database)
    click(rt, "dan@example.com")
    keep(rt, folder)
    restore.put_back(rt.database, backup)
    assert start(rt, folder) == OLDER
    assert start(rt, folder) == OLDER
    assert paused(rt) == OLDER
    assert rt.database.read_now(alerts) == 1
    assert wrong(rt, folder) == ["row 4 is missing, of which there is a checkpoint"]


def test_a_truncated_ledger_is_paused(rt: Clinic, folder: Path) -> None:
    three(rt, folder)
    cut = "DELETE FROM ledger WHERE n = 3"
    rt.database.write_now(lambda conn: conn.exec_driver_sql(cut))
    assert start(rt, folder) == OLDER


def test_another_history_is_paused(rt: Clinic, folder: Path) -> None:
    three(rt, folder)
    backup = restore.take(rt.database)
    click(rt, "dan@example.com")
    keep(rt, folder)
    restore.put_back(rt.database, backup)
    click(rt, "eve@example.com")
    rt.database.write_now(ledger.seal)
    assert start(rt, folder) == FORKED


def test_a_replay_brings_back_what_was_said_as_it_was_said(rt: Clinic, folder: Path) -> None:
    rt.consent("ann@example.com")
    keep(rt, folder)
    backup = restore.take(rt.database)
    click(rt, "ann@example.com")
    rt.say("new@example.com", Source.SMS, scope=SMS, ref="crm-9")
    id_ = subject_of(rt, "new@example.com")
    was = rt.database.read_now(lambda conn: ledger.history(conn, id_))
    keep(rt, folder)
    restore.put_back(rt.database, backup)
    rt.clock.forward(3600)
    assert start(rt, folder) == OLDER
    assert word(rt, "ann@example.com") is Word.IN
    assert replay(rt, folder, apply=False).missing == 2
    assert paused(rt) == OLDER
    report = replay(rt, folder)
    assert (report.brought, report.opened, report.whole) == (2, True, True)
    assert word(rt, "ann@example.com") is Word.OPTED_OUT
    assert word(rt, "new@example.com", SMS) is Word.OPTED_OUT
    now = rt.database.read_now(lambda conn: ledger.history(conn, id_))
    assert [(r.subject_id, r.source, r.at, r.received_at) for r in now] == [
        (r.subject_id, r.source, r.at, r.received_at) for r in was
    ]
    ref = rt.database.read_now(lambda conn: subjects.by_ref(conn, "rt", "crm-9"))
    assert ref is not None
    assert ref.id == id_
    assert sound(rt)


def subject_of(rt: Clinic, address: str) -> int:
    hashes = [rt.hash(address)]
    (found,) = rt.database.read_now(lambda conn: subjects.owners(conn, "rt", hashes))
    return found


def sound(rt: Clinic) -> bool:
    found = rt.database.read_now(lambda conn: list(ledger.verify(conn, rt.keys)))
    answers = rt.database.read_now(lambda conn: list(rt.intake.verify(conn)))
    return not answers and not [one for one in found if isinstance(one, ledger.Finding)]


def test_a_replay_marks_the_systems_once(rt: Clinic, folder: Path) -> None:
    backup = restore.take(rt.database)
    click(rt, "ann@example.com")
    keep(rt, folder)
    restore.put_back(rt.database, backup)
    replay(rt, folder)
    count = "SELECT count(*) FROM marks WHERE target = 'rt/list' AND urgent = 1"
    found = rt.database.read_now(lambda conn: conn.exec_driver_sql(count).scalar_one())
    assert found == 1


def test_a_replay_may_be_repeated_and_broken_off(
    rt: Clinic, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup = restore.take(rt.database)
    for number in range(5):
        click(rt, f"p{number}@example.com")
    keep(rt, folder)
    restore.put_back(rt.database, backup)
    monkeypatch.setattr("prefs.replay.AT_ONCE", 2)

    class Broken(Exception):
        pass

    def tell(count: int) -> None:
        if count >= 4:
            raise Broken

    with pytest.raises(Broken):
        Replay(at(rt, folder), rt.intake, tell).run(apply=True)
    assert at(rt, folder).lacks()[0].reason == UNSETTLED
    assert replay(rt, folder).brought == 1
    assert rows(rt) == 5
    assert (replay(rt, folder).brought, rows(rt)) == (0, 5)


def rows(rt: Clinic) -> int:
    wanted = select(func.count()).select_from(ledger_table)
    return rt.database.read_now(lambda conn: int(conn.execute(wanted).scalar_one()))


@pytest.mark.parametrize("at_once", [2, 200])
def test_what_the_journal_says_twice_is_brought_back_once(
    rt: Clinic, folder: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """Its writer was killed between the rows and their seal: they are written again."""
    click(rt, "ann@example.com")
    keep(rt, folder)
    backup = restore.take(rt.database)
    click(rt, "bob@example.com")
    click(rt, "cas@example.com")
    keep(rt, folder)
    path, _ = lines_of(folder)
    os.truncate(path, path.stat().st_size - 1)
    keep(rt, folder)
    assert [one.n for one in said(rt, folder)] == [1, 2, 3, 2, 3]
    restore.put_back(rt.database, backup)
    monkeypatch.setattr("prefs.replay.AT_ONCE", at_once)
    assert replay(rt, folder, apply=False).missing == 2
    report = replay(rt, folder)
    assert (report.missing, report.brought, report.opened, rows(rt)) == (2, 2, True, 3)


def test_the_same_backup_restored_once_more_is_noticed_again(rt: Clinic, folder: Path) -> None:
    three(rt, folder)
    backup = restore.take(rt.database)
    click(rt, "dan@example.com")
    keep(rt, folder)
    restore.put_back(rt.database, backup)
    start(rt, folder)
    keep(rt, folder)  # the folder goes on from row 3; then the disk fails before any replay
    restore.put_back(rt.database, backup)
    assert start(rt, folder) == UNSETTLED
    assert replay(rt, folder).brought == 1
    keep(rt, folder)
    restore.put_back(rt.database, backup)  # and once more after it
    assert start(rt, folder) == OLDER
    assert replay(rt, folder).opened
    assert word(rt, "dan@example.com") is Word.OPTED_OUT
    assert wrong(rt, folder) == []


def test_numbers_of_the_lost_history_are_not_given_out_again(rt: Clinic, folder: Path) -> None:
    three(rt, folder)
    backup = restore.take(rt.database)
    click(rt, "dan@example.com")
    keep(rt, folder)
    restore.put_back(rt.database, backup)
    start(rt, folder)
    keep(rt, folder)
    click(rt, "eve@example.com")  # comes in while all waits for the replay
    keep(rt, folder)
    assert replay(rt, folder).brought == 1
    assert word(rt, "dan@example.com") is Word.OPTED_OUT
    events = [one.event for one in said(rt, folder)]
    assert len(events) == len(set(events)) == 5


def test_an_earlier_start_lifts_nothing_that_was_brought_back(rt: Clinic, folder: Path) -> None:
    number = identity.phone("+447700900123", "GB")
    rt.consent("ann@example.com", SMS, hashes=((number.kind, rt.keys.hash(number)),))
    keep(rt, folder)
    backup = restore.take(rt.database)
    before = rt.clock()
    rt.clock.forward(60)
    stop: dict[str, Any] = {"hashes": ((number.kind, rt.keys.hash(number)),)}
    rt.say("ann@example.com", Source.SMS, scope=SMS, **stop)
    keep(rt, folder)
    restore.put_back(rt.database, backup)
    rt.clock.forward(86400)
    replay(rt, folder)
    rt.say("ann@example.com", Source.SMS, Choice.IN, SMS, occurred_at=before, **stop)
    assert word(rt, "ann@example.com", SMS) is Word.OPTED_OUT
    rt.say("ann@example.com", Source.SMS, Choice.IN, SMS, occurred_at=rt.clock(), **stop)
    assert word(rt, "ann@example.com", SMS) is Word.IN


def test_a_choice_made_since_is_not_overridden_by_an_older_out(rt: Clinic, folder: Path) -> None:
    rt.consent("ann@example.com")
    keep(rt, folder)
    backup = restore.take(rt.database)
    click(rt, "ann@example.com")
    keep(rt, folder)
    restore.put_back(rt.database, backup)
    rt.clock.forward(3600)
    start(rt, folder)
    token = TokenUse(b"12345678", rt.clock(), rt.hash("ann@example.com"))
    rt.say("ann@example.com", Source.CENTRE, Choice.IN, basis=Basis.CONSENT, token=token)
    replay(rt, folder)
    assert word(rt, "ann@example.com") is Word.IN


def test_whom_only_a_later_link_denies_stays_denied(rt: Clinic, folder: Path) -> None:
    """A number that came to somebody who was out already."""
    click(rt, "ann@example.com", ref="crm-7")
    keep(rt, folder)
    backup = restore.take(rt.database)
    rt.consent("second@example.com", ref="crm-7")
    keep(rt, folder)
    restore.put_back(rt.database, backup)
    assert word(rt, "second@example.com") is None
    assert replay(rt, folder).linked == 1
    assert word(rt, "second@example.com") is Word.OPTED_OUT


def test_a_machines_run_that_was_brought_back_can_be_taken_back(rt: Clinic, folder: Path) -> None:
    backup = restore.take(rt.database)
    for number in range(3):
        rt.say(f"p{number}@example.com", Source.IMPORT, batch="run")
    label = said_batch(rt, keep_and_read(rt, folder))
    restore.put_back(rt.database, backup)
    replay(rt, folder)
    kept = rt.database.read_now(lambda conn: batches.by_label(conn, label))
    assert (kept.outs, kept.state) == (3, batches.RELEASED)
    found = rt.database.read_now(lambda conn: batches.rows_of(conn, kept, 0, 10))
    assert len(found) == 3


def keep_and_read(rt: Clinic, folder: Path) -> list[Said]:
    keep(rt, folder)
    return said(rt, folder)


def said_batch(rt: Clinic, told: list[Said]) -> str:
    (label,) = {one.batch for one in told}
    assert label is not None
    return label


def test_a_damaged_line_keeps_marketing_paused_until_that_is_accepted(
    rt: Clinic, folder: Path
) -> None:
    backup = restore.take(rt.database)
    three(rt, folder)
    path, raw = lines_of(folder)
    raw[1] = raw[1].replace(b'"email"', b'"sms"', 1)
    path.write_bytes(b"".join(raw))
    restore.put_back(rt.database, backup)
    assert start(rt, folder) == OLDER
    report = replay(rt, folder)
    assert (report.brought, report.opened, len(report.damage)) == (2, False, 1)
    assert paused(rt) == OLDER
    assert replay(rt, folder, accept=True).opened


def test_two_folders_wait_each_for_its_own_replay(rt: Clinic, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    backup = restore.take(rt.database)
    click(rt, "ann@example.com")
    for folder in (one, other):
        keep(rt, folder)
    restore.put_back(rt.database, backup)
    for folder in (one, other):
        assert start(rt, folder) == OLDER
        keep(rt, folder)
    assert not replay(rt, one).opened
    assert replay(rt, other).opened
    assert rows(rt) == 1


# --- any prefix --------------------------------------------------------------------------------

NAMES = ("ann@example.com", "bob@example.com", "cas@example.com")
ACTS = st.lists(
    st.tuples(
        st.sampled_from(("click", "all", "staff", "import", "text", "consent", "tick", "hold")),
        st.sampled_from(NAMES),
        st.sampled_from([None, "crm-1", "crm-2"]),
        st.sampled_from([EMAIL, SMS, Scope(Channel.EMAIL, Purpose.MARKETING, "news")]),
    ),
    max_size=8,
)
LIFTING = ("consent", "tick")


def act(rt: Clinic, what: str, address: str, ref: str | None, scope: Scope) -> None:
    rt.clock.forward(1)
    if what == "consent":
        rt.consent(address, scope, ref=ref)
    elif what == "tick":
        token = TokenUse(b"12345678", rt.clock(), rt.hash(address))
        rt.say(address, Source.CENTRE, Choice.IN, scope, ref=ref, basis=Basis.CONSENT, token=token)
    elif what == "hold":
        rt.say(address, Source.MAIL, scope=scope, ref=ref, hold=True)
    elif what == "all":
        stop_all(rt, address, ref)
    else:
        source = {
            "click": Source.ONE_CLICK,
            "staff": Source.STAFF,
            "import": Source.IMPORT,
            "text": Source.SMS,
        }[what]
        note = Evidence(actor="may", note="by phone")
        rt.say(address, source, scope=scope, ref=ref, evidence=note)


def stop_all(rt: Clinic, address: str, ref: str | None) -> None:
    outs = tuple(Statement(scope, Choice.OUT) for scope in OUTS)
    who = {"identifiers": (identity.email(address),), "ref": ref}
    signal = Signal("rt", Source.LINK, outs, every_brand=True, **who)  # type: ignore[arg-type]  # fields of Signal, by name
    rt.database.write_now(lambda conn: rt.intake.record(conn, signal))


Denials = dict[tuple[str, bytes], dict[Scope, Word]]


def denials(rt: Clinic) -> Denials:
    """(brand, hash) -> every scope that is denied there."""

    def look(conn: Connection) -> Denials:
        keys = conn.execute(select(permission_rows.c.brand, permission_rows.c.hash)).all()
        found = {
            (brand, hash_): permissions.read(conn, brand, [hash_])[hash_].views
            for brand, hash_ in keys
        }
        return {
            key: {s: v.word for s, v in views.items() if v.word not in (Word.IN, Word.UNCONFIRMED)}
            for key, views in found.items()
        }

    return {key: views for key, views in rt.database.read_now(look).items() if views}


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(acts=ACTS, cut=st.integers(0, 8), late=st.booleans())
def test_any_prefix_and_the_whole_journal_deny_what_the_whole_database_denies(
    rt: Clinic, tmp_path: Path, acts: list[tuple[str, str, str | None, Scope]], cut: int, late: bool
) -> None:
    """Where something was lifted after the backup, more may be denied, never less."""
    empty = restore.take(rt.database)
    folder = tmp_path / os.urandom(4).hex()
    try:
        backup = empty
        for number, one in enumerate(acts):
            if number == cut:
                backup = restore.take(rt.database)
            act(rt, *one)
            if not late:
                keep(rt, folder)
        if cut >= len(acts):
            backup = restore.take(rt.database)
        keep(rt, folder)
        whole = denials(rt)
        restore.put_back(rt.database, backup)
        rt.clock.forward(60)
        start(rt, folder)
        assert replay(rt, folder).opened
        found = denials(rt)
        lifted = any(what in LIFTING for what, *_ in acts[cut:])
        missing = {
            (key, scope)
            for key, scopes in whole.items()
            for scope in scopes
            if scope not in found.get(key, {})
        }
        assert missing == set()
        assert lifted or found == whole
        assert sound(rt)
    finally:
        restore.put_back(rt.database, empty)


def test_the_reasons_name_their_remedy() -> None:
    assert "prefs checkpoint replay" in rules.REMEDY
