"""Taking over a running clinic: what stands at its systems, sorted by what it is worth.

Each person who counts as subscribed somewhere on a channel is in one group: *out* somewhere on it
(wins over any list), *proved* by a vendor's own record of this person's opt-in, *attested* by a
named owner for a named list, or *unset*: left at the vendors as they are, never consent here, to be
asked in person. Nothing is written to any vendor; without `apply` nothing is written here either.
"""

from __future__ import annotations

import asyncio
import csv
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table
from sqlalchemy import Connection

from prefs.assisted import safe_cell
from prefs.core.errors import BadInput, PropagationError, Temporary, Unusable
from prefs.core.propagation import (
    Observed,
    Page,
    Proves,
    Readback,
    Ref,
    Seen,
    Slot,
    Target,
    Value,
    Verdict,
    Wish,
)
from prefs.core.signals import Evidence, Identifier, Signal, SoftOptIn, Statement
from prefs.core.words import KIND_OF, Basis, Channel, Choice, Source
from prefs.push.shown import scopes_of
from prefs.scan import UPLOAD, Finding, Scan
from prefs.store import containers, ledger, marks

Progress = Callable[[str, int], None]
AT_ONCE = 200
"""People recorded in one transaction."""
ATTESTED = "attested"


class Group(StrEnum):
    """What somebody's "subscribed" is worth, the first that holds."""

    OUT = "out"
    KNOWN = "known"
    """Stands here as `in` already."""
    PROVED = "proved"
    ATTESTED = "attested"
    UNKNOWN = "unknown"
    """A list that nobody has attested."""
    DEFAULT = "default"
    """The vendor filled it by itself: no list of it can be attested."""


ORDER = list(Group)
UNSET = (Group.UNKNOWN, Group.DEFAULT)


@dataclass(frozen=True, slots=True)
class Attestation:
    """A named owner answers for one list: on which basis people stand there, which words they
    agreed to, and when they were collected."""

    target: str
    place: str
    owner: str
    basis: Basis
    wording: str
    since: date
    until: date

    @property
    def label(self) -> str:
        """Stands in the ledger row itself, so that these stay countable for ever."""
        return f"{ATTESTED} {self.target} {self.place}"


Key = tuple[bytes, Channel]
"""The address or number that a channel goes to, by its hash."""


class Subscribed(NamedTuple):
    """Somebody who may get marketing in one slot of one target."""

    target: Target
    slot: Slot
    shown: tuple[Identifier, ...]
    keys: tuple[Key, ...]
    group: Group
    proof: Mapping[str, str] | None


@dataclass
class Walked:
    """What the walk through one target found."""

    target: str
    system: str
    live: bool
    records: int = 0
    complete: bool = False
    error: str | None = None
    note: str | None = None
    """Why there was nothing to read."""
    unclassified: tuple[str, ...] = ()


@dataclass
class Survey:
    """All walks taken together."""

    walks: list[Walked] = field(default_factory=list)
    subscribed: list[Subscribed] = field(default_factory=list)
    outs: set[Key] = field(default_factory=set)
    again: dict[str, list[Ref]] = field(default_factory=dict)
    """By target, whoever was read too early to tell: before their newest word here."""
    unread: set[Channel] = field(default_factory=set)
    """Channels of systems that were not read from end to end: somebody may be out there whom we
    did not see, so that no consent is taken in on them."""

    def group_of(self, one: Subscribed) -> Group:
        return Group.OUT if any(key in self.outs for key in one.keys) else one.group


# --- reading -----------------------------------------------------------------------------------


async def survey(
    scans: Sequence[Scan],
    attested: Sequence[Attestation],
    tell: Progress,
    *,
    exports: Mapping[str, Page],
    apply: bool,
) -> Survey:
    """Read every target, the ones in `exports` (by label) from there; with `apply`, take in what
    counts."""
    found = Survey()
    walks = [
        walk(scan, found, attested, tell, export=exports.get(scan.target.label), apply=apply)
        for scan in scans
    ]
    await asyncio.gather(*walks)
    for scan in scans if apply else ():
        await read_again(scan, found)
    if apply and scans:
        await record(scans[0], found, attested, tell)
    return found


async def walk(
    scan: Scan,
    survey: Survey,
    attested: Sequence[Attestation],
    tell: Progress,
    *,
    export: Page | None = None,
    apply: bool,
) -> None:
    """Read one target from end to end; with `apply`, outs found there count at once. A page that
    cannot be read ends the walk, and the report says so. An `export` that is not complete has rows
    that nobody could read."""
    report = Walked(scan.target.label, scan.target.system, scan.target.live)
    survey.walks.append(report)
    report.note = None if export else _unreadable(scan)
    try:
        async for listed in _pages(scan, export):
            page = await _with_proofs(scan, listed)
            await _page(scan, page, survey, attested, apply=apply)
            report.records += len(page.records)
            report.complete = page.complete
            tell(report.target, report.records)
    except PropagationError as fault:
        report.error = str(fault)
    if apply and export and export.complete:
        await scan.upload(
            Page((), complete=True)
        )  # its records were taken above: now everybody there is known
    names = await scan.database.read(lambda conn: containers.unclassified(conn, report.target))
    report.unclassified = tuple(sorted(names.values()))
    if not report.complete and await _may_hold_outs(scan, export):
        survey.unread |= {slot.channel for slot in scan.connector.slots}


async def _pages(scan: Scan, export: Page | None) -> AsyncIterator[Page]:
    if export is not None:
        for start in range(0, max(1, len(export.records)), UPLOAD):
            part = export.records[start : start + UPLOAD]
            last = start + UPLOAD >= len(export.records)
            yield Page(part, complete=last and export.complete)
    elif not _unreadable(scan):
        async for page in scan.connector.scan(None):
            yield page


async def _may_hold_outs(scan: Scan, export: Page | None) -> bool:
    """Of a target that was not read: whether a read could show outs that are not known here. An
    export that was brought before showed them."""
    if export or not scan.connector.facts.assisted:
        return bool(export) or not _unreadable(scan)
    row = await scan.database.read(lambda conn: marks.lane(conn, scan.target.label))
    return row is None or row.walked_at is None


async def _with_proofs(scan: Scan, page: Page) -> Page:
    """Where only a read of the record shows what the vendor proves, whoever is on is read. Raises
    what the connector raises: a proof that could not be read is not a proof that is missing."""
    facts = scan.connector.facts
    if facts.proves is not Proves.READ:
        return page
    wanted = [ref for ref, read in page.records if Value.ON in map(_value, read.values.values())]
    found: dict[Ref, Observed] = {}
    for start in range(0, len(wanted), facts.read_batch):
        answers = await scan.connector.observe(wanted[start : start + facts.read_batch])
        for ref, answer in answers.items():
            if isinstance(answer, Temporary | Unusable):
                raise answer
            if isinstance(answer, Observed):
                found[ref] = answer
    records = tuple((ref, found.get(ref, read)) for ref, read in page.records)
    return replace(page, records=records)


def _value(seen: Seen) -> Value:
    return seen.value


def _unreadable(scan: Scan) -> str | None:
    facts = scan.connector.facts
    if facts.assisted:
        return f"shown only by its own export: prefs onboard {scan.target.name} --from FILE"
    if facts.readback is Readback.NONE:
        return "cannot be read: it does not say who is subscribed"
    return None


async def _page(
    scan: Scan, page: Page, survey: Survey, attested: Sequence[Attestation], *, apply: bool
) -> None:
    def look(conn: Connection) -> None:
        found = scan.compare(conn, page)
        for one in found:
            _sort(scan, one, survey, attested)
        if apply:
            scan.act(conn, found)

    await (scan.database.write(look) if apply else scan.database.read(look))


def _sort(scan: Scan, one: Finding, survey: Survey, attested: Sequence[Attestation]) -> None:
    keys = tuple(_keys(one))
    if one.seen.value is Value.OFF or one.wished is Wish.OFF:
        survey.outs.update(keys)
    if one.seen.value is Value.OFF and one.verdict is Verdict.READ_AGAIN:
        survey.again.setdefault(scan.target.label, []).append(one.row.ref)
    if one.seen.value is Value.ON:
        group = _worth(scan, one, attested)
        shown, proof = tuple(one.row.shown), one.seen.proof
        survey.subscribed.append(Subscribed(scan.target, one.slot, shown, keys, group, proof))


def _keys(one: Finding) -> Iterator[Key]:
    """By the address or number of its channel; else by what the vendor keys the record on."""
    kind = KIND_OF[one.slot.channel]
    own = [h for i, h in zip(one.row.shown, one.row.hashes, strict=True) if i.kind is kind]
    for hash_ in own or one.row.keyed:
        yield hash_, one.slot.channel


def _worth(scan: Scan, one: Finding, attested: Sequence[Attestation]) -> Group:
    if one.wished is Wish.ON:
        return Group.KNOWN
    if one.seen.proof:
        return Group.PROVED
    if one.slot.channel in scan.connector.facts.on_by_default:
        return Group.DEFAULT
    return Group.ATTESTED if _attestation(attested, scan.target, one.slot) else Group.UNKNOWN


def _attestation(attested: Iterable[Attestation], target: Target, slot: Slot) -> Attestation | None:
    wanted = (target.label, slot.place)
    return next((one for one in attested if (one.target, one.place) == wanted), None)


def check(scan: Scan, one: Attestation) -> None:
    """Raises BadInput for an attestation that cannot hold."""
    slots = {slot.place: slot for slot in scan.connector.slots}
    if one.place not in slots:
        raise BadInput(f"{one.target} has no list {one.place}; it has: {', '.join(sorted(slots))}")
    channel = slots[one.place].channel
    if channel in scan.connector.facts.on_by_default:
        raise BadInput(
            f"{one.target} switches {channel} on by itself: nobody's consent can be attested there"
        )
    by_voice = channel in (Channel.PHONE, Channel.POST)
    if (one.basis is Basis.LEGITIMATE_INTEREST) is not by_voice and one.basis is not Basis.CONSENT:
        raise BadInput(f"{one.basis} is no basis for {channel}")
    if one.until < one.since:
        raise BadInput("the period ends before it begins")


# --- recording ---------------------------------------------------------------------------------


async def read_again(scan: Scan, survey: Survey) -> None:
    """Outs of people of whom another system told us something meanwhile."""
    try:
        await _read_again(scan, survey)
    except PropagationError as fault:
        for report in survey.walks:
            if report.target == scan.target.label:
                report.error = report.error or str(fault)


async def _read_again(scan: Scan, survey: Survey) -> None:
    refs = list(dict.fromkeys(survey.again.get(scan.target.label, ())))
    size = scan.connector.facts.read_batch
    for start in range(0, len(refs), size):
        found = await scan.connector.observe(refs[start : start + size])
        for answer in found.values():
            if isinstance(answer, Temporary | Unusable):
                raise answer
        rows = tuple((ref, one) for ref, one in found.items() if isinstance(one, Observed))
        await scan.database.write(partial(_take, scan=scan, page=Page(rows)))


def _take(conn: Connection, scan: Scan, page: Page) -> None:
    scan.act(conn, scan.compare(conn, page))


async def record(
    scan: Scan, survey: Survey, attested: Sequence[Attestation], tell: Progress
) -> int:
    """Take in what is proved or attested, on channels that were read at every system; returns how
    many consents. What became an out since stays one: the fold refuses these."""
    wanted = [
        one
        for one in survey.subscribed
        if survey.group_of(one) in (Group.PROVED, Group.ATTESTED)
        and one.slot.channel not in survey.unread
    ]
    for start in range(0, len(wanted), AT_ONCE):
        part = wanted[start : start + AT_ONCE]
        signals = [_signal(one, _attestation(attested, one.target, one.slot)) for one in part]
        await scan.database.write(partial(_record, scan=scan, signals=signals))
        tell("recorded", start + len(part))
    return len(wanted)


def _record(conn: Connection, scan: Scan, signals: Sequence[Signal]) -> None:
    scan.intake.record_many(conn, signals)


def _signal(one: Subscribed, attestation: Attestation | None) -> Signal:
    scopes = scopes_of(one.slot, one.target.topics)
    proved = one.proof is not None
    basis = Basis.CONSENT if proved or not attestation else attestation.basis
    return Signal(
        brand=one.target.brand,
        source=Source.IMPORT,
        statements=tuple(Statement(scope, Choice.IN) for scope in scopes),
        identifiers=one.shown,
        occurred_at=_moment(one.proof["at"]) if one.proof else _began(attestation),
        basis=basis,
        soft_opt_in=SoftOptIn(*[True] * 5) if basis is Basis.SOFT_OPT_IN else None,
        evidence=_evidence(one, attestation),
        batch=None if proved or not attestation else attestation.label,
    )


def _evidence(one: Subscribed, attestation: Attestation | None) -> Evidence:
    if one.proof is not None:
        return Evidence(kind="vendor_record", proof=one.proof, note=f"record of {one.target.label}")
    assert attestation is not None  # noqa: S101  # nothing else is recorded
    period = f"collected {attestation.since} to {attestation.until}"
    note = f"list {attestation.place} of {attestation.target}, {period}"
    return Evidence(kind=ATTESTED, actor=attestation.owner, wording=attestation.wording, note=note)


def _moment(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _began(attestation: Attestation | None) -> datetime | None:
    """The earliest that such a consent can be: it is never made to look younger."""
    if attestation is None:
        return None
    return datetime.combine(attestation.since, datetime.min.time(), UTC)


# --- telling -----------------------------------------------------------------------------------


def summary(survey: Survey) -> dict[str, Any]:
    """Counts of people by channel, and of subscriptions by target; nobody is named."""
    return {
        "channels": {
            channel.value: {"people": _ordered(best), "shown": _ordered(worth)}
            for channel, (best, worth) in _by_channel(survey).items()
        },
        "targets": [_target(survey, one) for one in survey.walks],
        "unread": sorted(channel.value for channel in survey.unread),
    }


def _ordered(groups: Counter[Group]) -> dict[str, int]:
    return {group.value: groups[group] for group in ORDER}


def people(survey: Survey) -> dict[Key, Group]:
    """Each address with its best group, whatever number of systems shows it."""
    return _best(survey, survey.group_of)


def _best(survey: Survey, group_of: Callable[[Subscribed], Group]) -> dict[Key, Group]:
    found: dict[Key, Group] = {}
    for one in survey.subscribed:
        group = group_of(one)
        for key in one.keys:
            found[key] = min(found.get(key, group), group, key=ORDER.index)
    return found


def _by_channel(survey: Survey) -> dict[Channel, tuple[Counter[Group], Counter[Group]]]:
    """People by group, and by what the vendors show of them while no out is looked at."""
    counts: dict[Channel, tuple[Counter[Group], Counter[Group]]] = {}
    both = (people(survey), _best(survey, lambda one: one.group))
    for part, found in enumerate(both):
        for (_, channel), group in found.items():
            counts.setdefault(channel, (Counter(), Counter()))[part][group] += 1
    return dict(sorted(counts.items()))


def _target(survey: Survey, walked: Walked) -> dict[str, Any]:
    own = [one for one in survey.subscribed if one.target.label == walked.target]
    groups = Counter(survey.group_of(one) for one in own)
    return {
        "target": walked.target,
        "system": walked.system,
        "mode": "live" if walked.live else "observe",
        "records": walked.records,
        "complete": walked.complete,
        "error": walked.error,
        "note": walked.note,
        "unclassified": list(walked.unclassified),
        "subscribed": _ordered(groups),
    }


def attested_for_ever(conn: Connection, brand: str | None = None) -> int:
    """Consents in the ledger that stand on an attestation alone."""
    return ledger.count_applied(conn, ATTESTED, brand)


def write_list(survey: Survey, path: Path) -> int:
    """Who is to be asked in person, as CSV for the clinic's staff; returns how many rows."""
    best = people(survey)
    asked: dict[Key, tuple[Identifier, Channel, set[str]]] = {}
    for one in survey.subscribed:
        for key in one.keys:
            if best[key] in UNSET:
                row = asked.setdefault(key, (_reached_by(one), one.slot.channel, set()))
                row[2].add(one.target.label)
    with path.open("w", newline="", encoding="utf-8") as text:
        writer = csv.writer(text)
        writer.writerow(["channel", "address", "stands_at"])
        for identifier, channel, targets in asked.values():
            address = safe_cell(identifier.spelling)
            writer.writerow([channel.value, address, " ".join(sorted(targets))])
    return len(asked)


def _reached_by(one: Subscribed) -> Identifier:
    kind = KIND_OF[one.slot.channel]
    return next((each for each in one.shown if each.kind is kind), one.shown[0])


def shown(report: Mapping[str, Any]) -> Table:
    """The groups by channel, then by target."""
    table = Table("", *(group.value for group in ORDER), "")
    for channel, found in report["channels"].items():
        table.add_row(f"{channel}: people", *map(str, found["people"].values()), "")
        table.add_row(f"{channel}: shown", *map(str, found["shown"].values()), "before outs win")
    for one in report["targets"]:
        said = one["error"] or one["note"] or ("" if one["complete"] else "incomplete")
        if one["unclassified"]:
            said += f" not classified: {', '.join(one['unclassified'])}"
        cells = map(str, one["subscribed"].values())
        table.add_row(f"{one['target']} ({one['mode']})", *cells, said.strip())
    return table
