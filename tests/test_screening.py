"""prefs screen: a register's answer taken in, ended by a later one, and asked for when due."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from click.testing import CliRunner, Result

from prefs import screening
from prefs.cli import main
from prefs.core.screening import Register
from tests.served import Served, served

ENVIRON = {"PREFS_TEST_KEY": "a secret of thirty-two bytes or more"}
ADA, BOB, CAT, NEW = "+447700900101", "+447700900102", "+447700900103", "+447700900104"
KNOWN = (ADA, BOB, CAT)
CALLED = "legitimate_interest"
JANE = {"name": "Jane Smith", "lines": ["1 High Street", "Leeds"], "postcode": "LS1 1AA"}
MARY = {"name": "Mary Jones", "lines": ["Rose Cottage"], "postcode": "LS2 2BB"}


def know(rt: Served, **subject: Any) -> str:
    """Somebody becomes known by a wish that says nothing of calls or post."""
    change = {"channel": "messenger", "purpose": "marketing", "choice": "out"}
    body = {"brand": "rt", "subject": subject, "changes": [change], "source": "api"}
    answer = rt.post("/v1/preferences", body)
    assert answer.status_code == 200, answer.text
    found: str = answer.json()["subject_id"]
    return found


@pytest.fixture
def rt(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as made:
        for number, ref in zip(KNOWN, ("a", "b", "c"), strict=True):
            know(made, phone=number, ref=ref)
        yield made


def screen(rt: Served, *arguments: str, code: int = 0) -> Result:
    environ = {**ENVIRON, "PREFS_CONFIG": str(rt.folder / "prefs.toml")}
    done = CliRunner().invoke(main, ["screen", *arguments], env=environ)
    assert done.exit_code == code, done.output
    return done


def day(rt: Served, before: int = 0) -> str:
    here = rt.runtime.clock().astimezone(ZoneInfo("Europe/London"))
    return (here.date() - timedelta(days=before)).isoformat()


def bring(
    rt: Served,
    folder: Path,
    lines: str,
    *more: str,
    at: str | None = None,
    register: str = "tps",
    code: int = 0,
) -> dict[str, Any]:
    file = folder / "hits.csv"
    file.write_text(lines, encoding="utf-8")
    options = ["--brand", "rt", "--register", register, "--screened-at", at or day(rt), "--json"]
    done = screen(rt, "import", *options, *more, str(file), code=code)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def calls(rt: Served, *numbers: str) -> list[str]:
    return [rt.reason(number, channel="phone") for number in numbers]


# --- what an import says -----------------------------------------------------------------------


def test_all_known_ones_were_screened_and_the_file_lists_the_hits(
    rt: Served, tmp_path: Path
) -> None:
    assert calls(rt, *KNOWN) == ["screening_stale"] * 3
    report = bring(rt, tmp_path, "number\n07700 900102\n\n")
    assert (report["listed"], report["screened"], report["done"]) == (1, 3, True)
    assert calls(rt, ADA, BOB, CAT, NEW) == [CALLED, "tps", CALLED, "screening_stale"]
    assert rt.reason(BOB, channel="sms") == "no_basis"
    assert rt.reason(BOB, channel="phone", purpose="service") == "service"


def test_the_corporate_register_denies_alike_and_screens_nobody(rt: Served, tmp_path: Path) -> None:
    bring(rt, tmp_path, f"{BOB}\n", register="ctps")
    assert calls(rt, ADA, BOB) == ["screening_stale", "tps"]
    bring(rt, tmp_path, "")
    assert calls(rt, ADA, BOB) == [CALLED, "tps"]


def test_a_listing_binds_after_28_days(rt: Served, tmp_path: Path) -> None:
    lines = f"{ADA},{day(rt, 27)}\n{BOB},{day(rt, 28)}\n{CAT},{day(rt)}\n"
    bring(rt, tmp_path, lines)
    assert calls(rt, *KNOWN) == [CALLED, "tps", CALLED]


@pytest.mark.parametrize(("before", "reason"), [(27, CALLED), (29, "screening_stale")])
def test_a_screening_of_long_ago_is_stale(
    rt: Served, tmp_path: Path, before: int, reason: str
) -> None:
    """Also for those who became known since: they were not among them."""
    lines = f"{BOB}\n"
    backdate(rt, before + 1)
    bring(rt, tmp_path, lines, at=day(rt, before))
    know(rt, phone=NEW)
    assert calls(rt, ADA, BOB, NEW) == [reason, "tps", "screening_stale"]


def backdate(rt: Served, days: int) -> None:
    """As if everybody had been known for so long."""
    rt.runtime.database.write_now(
        lambda conn: conn.exec_driver_sql(
            f"UPDATE identifiers SET created_at = created_at - {days * 86400}"
        )
    )


def test_who_became_known_after_the_moment_was_not_screened(rt: Served, tmp_path: Path) -> None:
    moment = rt.runtime.clock().isoformat()
    know(rt, phone=NEW)
    bring(rt, tmp_path, "", at=moment)
    assert calls(rt, ADA, NEW) == [CALLED, "screening_stale"]


def test_a_listed_number_that_nobody_has_yet_is_denied_from_its_first_day(
    rt: Served, tmp_path: Path
) -> None:
    bring(rt, tmp_path, f"{NEW}\n")
    assert calls(rt, NEW) == ["tps"]
    know(rt, phone=NEW)
    assert calls(rt, NEW) == ["tps"]


def test_consent_to_calls_beats_the_register(rt: Served, tmp_path: Path) -> None:
    change = [{"channel": "phone", "purpose": "marketing", "choice": "in"}]
    rt.consent("", subject={"phone": BOB, "ref": "b"}, changes=change)
    bring(rt, tmp_path, f"{BOB}\n")
    assert calls(rt, BOB) == ["consent"]


def test_another_brand_has_its_own_screenings(rt: Served, tmp_path: Path) -> None:
    bring(rt, tmp_path, f"{BOB}\n")
    key = rt.key_for("check", "second")
    body = {"brand": "second", "channel": "phone", "purpose": "marketing", "to": [ADA, BOB]}
    headers = {"Authorization": f"Bearer {key}"}
    answer = rt.client.post("/v1/check", json=body, headers=headers).json()
    assert [one["reason"] for one in answer["results"]] == ["screening_stale"] * 2


# --- the next one ------------------------------------------------------------------------------


def test_a_later_screening_that_lists_a_number_no_more_ends_the_listing(
    rt: Served, tmp_path: Path
) -> None:
    backdate(rt, 20)
    bring(rt, tmp_path, f"{BOB}\n{NEW}\n", at=day(rt, 10))
    report = bring(rt, tmp_path, f"{CAT}\n")
    assert report["lifted"] == 1
    assert calls(rt, ADA, BOB, CAT, NEW) == [CALLED, CALLED, "tps", "tps"]


def test_an_older_answer_that_arrives_late_changes_nothing(rt: Served, tmp_path: Path) -> None:
    backdate(rt, 40)
    bring(rt, tmp_path, f"{BOB}\n")
    bring(rt, tmp_path, f"{CAT}\n", at=day(rt, 30))
    assert calls(rt, ADA, BOB, CAT) == [CALLED, "tps", CALLED]


def test_two_files_of_one_day_add_up(rt: Served, tmp_path: Path) -> None:
    bring(rt, tmp_path, f"{BOB}\n")
    bring(rt, tmp_path, f"{CAT}\n")
    assert calls(rt, ADA, BOB, CAT) == [CALLED, "tps", "tps"]


def test_many_listings_that_vanish_at_once_wait_for_a_person(rt: Served, tmp_path: Path) -> None:
    many = [f"+4477009{number:05d}" for number in range(11)]
    for number in many:
        know(rt, phone=number)
    backdate(rt, 20)
    bring(rt, tmp_path, "\n".join(many), at=day(rt, 10))
    report = bring(rt, tmp_path, f"{ADA}\n", code=1)
    assert report["stopped"] == {"why": "many_lifted", "about": 11}
    assert calls(rt, ADA, many[0], BOB) == ["tps", "tps", CALLED]
    assert "--lift" in screening.shown(report)
    report = bring(rt, tmp_path, f"{ADA}\n", "--lift")
    assert report["lifted"] == 11
    assert calls(rt, ADA, many[0], BOB) == ["tps", CALLED, CALLED]


# --- files -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line", ["no number", "07700 900101 x", f"{ADA},yesterday", f"{ADA},2999-01-01", "12"]
)
def test_a_line_that_cannot_be_read_may_be_anybodys(rt: Served, tmp_path: Path, line: str) -> None:
    """The hits count; nobody is declared free of the register until the file is whole."""
    report = bring(rt, tmp_path, f"{BOB}\n{line}\n", code=1)
    assert report["stopped"] == {"why": "unreadable", "about": 1}
    assert calls(rt, ADA, BOB) == ["screening_stale", "tps"]
    rejected = (tmp_path / "hits.csv.rejected.csv").read_text()
    assert rejected.startswith(line)
    assert rejected.strip() != line
    assert bring(rt, tmp_path, f"{BOB}\n")["done"]
    assert calls(rt, ADA, BOB) == [CALLED, "tps"]
    assert not (tmp_path / "hits.csv.rejected.csv").exists()


class _Cut(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("writes", range(1, 9))
def test_an_interrupted_import_goes_on_and_never_calls_a_listed_number_clean(
    rt: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    monkeypatch.setattr(screening, "CHUNK", 1)
    file = tmp_path / "hits.csv"
    file.write_text(f"number\n{CAT}\n{BOB}\n")
    brand = rt.runtime.settings.brands["rt"]
    when = screening.when(day(rt), brand, rt.runtime.clock())
    job = screening.Job(rt.runtime.service, brand, Register.TPS, when, file, False, None)
    left = writes
    write = screening.Job.write

    def until_cut(self: screening.Job, work: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise _Cut
        return write(self, work)

    with monkeypatch.context() as cut:
        cut.setattr(screening.Job, "write", until_cut)
        with pytest.raises(_Cut):
            screening.run(job)
    assert not {CALLED} & set(calls(rt, BOB, CAT))
    report = screening.run(job)
    assert (report["lines"], report["listed"], report["screened"]) == (3, 2, 3)
    assert calls(rt, *KNOWN) == [CALLED, "tps", "tps"]


@pytest.mark.parametrize(
    ("at", "says"), [("2999-01-01", "future"), ("tomorrow", "such as"), ("0000-00-00", "such as")]
)
def test_a_time_that_is_none_is_refused(rt: Served, tmp_path: Path, at: str, says: str) -> None:
    file = tmp_path / "hits.csv"
    file.write_text("")
    options = ["--brand", "rt", "--register", "tps", "--screened-at", at]
    assert says in screen(rt, "import", *options, str(file), code=1).output
    assert calls(rt, ADA) == ["screening_stale"]


# --- it stays ----------------------------------------------------------------------------------


def test_what_is_recorded_later_leaves_the_screening_alone(rt: Served, tmp_path: Path) -> None:
    bring(rt, tmp_path, f"{BOB}\n")
    for ref, number in (("a", ADA), ("b", BOB)):
        rt.say("", subject={"phone": number, "ref": ref, "email": f"{ref}@example.com"})
    assert calls(rt, ADA, BOB) == [CALLED, "tps"]
    runtime = rt.runtime
    assert runtime.database.read_now(lambda conn: list(runtime.intake.verify(conn))) == []
    runtime.database.write_now(runtime.intake.rebuild)
    assert calls(rt, ADA, BOB, CAT) == [CALLED, "tps", CALLED]


def test_by_ref_all_numbers_count(rt: Served, tmp_path: Path) -> None:
    know(rt, phone=NEW, ref="a")
    bring(rt, tmp_path, "")
    assert rt.reason({"ref": "a"}, channel="phone") == CALLED
    bring(rt, tmp_path, f"{NEW}\n")
    assert rt.reason({"ref": "a"}, channel="phone") == "tps"
    assert rt.reason({"ref": "b"}, channel="phone") == CALLED


def test_of_a_past_moment_only_what_was_screened_then(rt: Served, tmp_path: Path) -> None:
    before = (rt.runtime.clock() - timedelta(minutes=1)).isoformat()
    bring(rt, tmp_path, f"{BOB}\n", at=rt.runtime.clock().isoformat())
    after = rt.runtime.clock().isoformat()
    found = [[rt.reason(n, channel="phone", at=at) for n in (ADA, BOB)] for at in (before, after)]
    assert found == [["screening_stale"] * 2, [CALLED, "tps"]]


# --- post --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "Jane Smith | 1 High Street | Leeds | LS1 1AA",
        '"Ms Jane Smith, 1 High Street, Leeds, ls11aa, GB"',
        "Jane Smith,1 High Street,Leeds,LS1 1AA",
        '"Jane Smith\n1 High Street\nLS1 1AA"',
        "Jane Smith | 1 High Street | LS1 1AA,2020-02-29",
    ],
)
def test_addresses_are_screened_against_the_mail_register(
    rt: Served, tmp_path: Path, line: str
) -> None:
    for address in (JANE, MARY):
        know(rt, post=address)
    assert rt.reason(JANE, channel="post") == "screening_stale"
    bring(rt, tmp_path, f"{line}\n", register="mps")
    assert rt.reason(JANE, channel="post") == "mps"
    assert rt.reason(MARY, channel="post") == CALLED
    assert calls(rt, ADA) == ["screening_stale"]


# --- export ------------------------------------------------------------------------------------


def exported(rt: Served, *more: str) -> dict[str, Any]:
    done = screen(rt, "export", "--brand", "rt", "--json", *more)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_export_asks_about_everybody_as_soon_as_one_is_due(rt: Served, tmp_path: Path) -> None:
    first = exported(rt)
    assert sorted(first["items"]) == sorted(KNOWN)
    bring(rt, tmp_path, "", at=first["at"])
    nothing = exported(rt)
    assert (nothing["due"], nothing["items"]) == (False, [])
    know(rt, phone=NEW)
    assert sorted(exported(rt)["items"]) == sorted((*KNOWN, NEW))


def test_a_screening_that_soon_runs_out_is_due(rt: Served, tmp_path: Path) -> None:
    backdate(rt, 40)
    bring(rt, tmp_path, "", at=day(rt, 19))
    assert not exported(rt)["due"]
    bring(rt, tmp_path, "")
    rewind(rt, 22)
    assert exported(rt)["due"]


def rewind(rt: Served, days: int) -> None:
    rt.runtime.database.write_now(
        lambda conn: conn.exec_driver_sql(
            f"UPDATE screenings SET screened_at = screened_at - {days * 86400}"
        )
    )


def test_what_was_exported_is_what_an_import_reads(rt: Served, tmp_path: Path) -> None:
    know(rt, post=JANE)
    file = tmp_path / "due.csv"
    screen(rt, "export", "--brand", "rt", "--register", "mps", str(file))
    assert file.read_text() == "Jane Smith | 1 High Street | Leeds | LS1 1AA | GB\n"
    bring(rt, tmp_path, file.read_text(), register="mps")
    assert rt.reason(JANE, channel="post") == "mps"
    numbers = screen(rt, "export", "--brand", "rt").stdout
    bring(rt, tmp_path, numbers)
    assert calls(rt, *KNOWN) == ["tps"] * 3


def test_an_erased_spelling_is_neither_asked_about_nor_screened(rt: Served, tmp_path: Path) -> None:
    rt.runtime.database.write_now(
        lambda conn: conn.exec_driver_sql("UPDATE identifiers SET spelling = NULL WHERE id = 1")
    )
    assert len(exported(rt)["items"]) == 2
    assert bring(rt, tmp_path, "")["screened"] == 2
