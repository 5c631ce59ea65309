"""The tables. Times are seconds since 1970 UTC, hashes are keyed, addresses are encrypted.

One schema for SQLite and PostgreSQL. STRICT tables on SQLite: a wrong type is an error there too.

What it shards by: the controller. No statement joins rows of two controllers; a row belongs to one
by its own column, by its brand, by its target (`brand/target`), or by its subject or identifier,
which never change hands. Within a controller the tables that grow are partitioned on PostgreSQL, by
what they are looked up by (`PARTITIONED`). docs/scale.md says how far which of both goes.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    REAL,
    BigInteger,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.types import TypeEngine

metadata = MetaData()

PARTITIONED = {"ledger": "subject_id", "payloads": "id", "receipts": "hash"}
"""Table -> the column whose hash says in which partition a row lies."""

Big: TypeEngine[int] = BigInteger().with_variant(Integer(), "sqlite")
Time: TypeEngine[float] = Double().with_variant(REAL(), "sqlite")


def table(name: str, *columns: Column[Any] | UniqueConstraint | Index, rowid: bool = True) -> Table:
    return Table(name, metadata, *columns, sqlite_strict=True, sqlite_with_rowid=rowid)


Kind = TypeEngine[Any] | type[TypeEngine[Any]]


def key(name: str, kind: Kind = Text) -> Column[Any]:
    return Column(name, kind, primary_key=True)


def need(name: str, kind: Kind = Text) -> Column[Any]:
    return Column(name, kind, nullable=False)


def may(name: str, kind: Kind = Text) -> Column[Any]:
    return Column(name, kind, nullable=True)


counters = table("counters", key("name"), need("value", Big))
"""Number sequences of our own: marks, events. A number is never used twice."""

catalogue = table(
    "catalogue",
    key("kind"),
    key("owner"),
    key("name"),
    need("number", Integer),
    UniqueConstraint("kind", "owner", "number"),
)
"""Topics and targets get a permanent number at first sight; removing one keeps its choices."""

key_ids = table("key_ids", key("id", LargeBinary), need("since", Time))
"""Every key that something was hashed or encrypted under; all must be present at start."""

subjects = table(
    "subjects",
    key("id", Big),
    need("controller"),
    may("ref"),
    may("name"),
    may("name_folded"),
    need("revision", Integer),
    need("state", LargeBinary),
    need("created_at", Time),
    may("last_row_at", Time),
    may("resume_at", Time),
    UniqueConstraint("controller", "ref"),
)
"""`resume_at` is when the first pause of the state ends."""
Index("subjects_name", subjects.c.controller, subjects.c.name_folded)
Index(
    "subjects_resume",
    subjects.c.resume_at,
    sqlite_where=text("resume_at IS NOT NULL"),
    postgresql_where=text("resume_at IS NOT NULL"),
)

identifiers = table(
    "identifiers",
    key("id", Big),
    need("controller"),
    need("kind"),
    need("hash", LargeBinary),
    need("key_id", LargeBinary),
    may("spelling", LargeBinary),
    need("created_at", Time),
    UniqueConstraint("controller", "hash", "kind"),
)

links = table(
    "links", key("subject_id", Big), key("identifier_id", Big), need("since", Time), rowid=False
)
Index("links_identifier", links.c.identifier_id)

ledger = table(
    "ledger",
    key("id", Big),
    need("subject_id", Big),
    need("revision", Integer),
    need("kind"),
    may("brand"),
    may("channel"),
    may("purpose"),
    may("topic"),
    may("choice"),
    may("source"),
    may("occurred_at", Time),
    need("received_at", Time),
    need("at", Time),
    may("identifier", LargeBinary),
    may("basis"),
    may("token", LargeBinary),
    need("stop_all", Integer),
    need("result"),
    need("why"),
    may("origin"),
    may("batch"),
    need("payload_id", Big),
    need("payload_hash", LargeBinary),
    may("until", Time),
    may("n", Big),
    may("hash", LargeBinary),
    UniqueConstraint("subject_id", "revision"),
    UniqueConstraint("n"),
)
Index(
    "ledger_batch",
    ledger.c.batch,
    ledger.c.subject_id,
    sqlite_where=text("batch IS NOT NULL"),
    postgresql_where=text("batch IS NOT NULL"),
)
Index(
    "ledger_unsealed",
    ledger.c.id,
    sqlite_where=text("n IS NULL"),
    postgresql_where=text("n IS NULL"),
)

payloads = table("payloads", key("id", Big), need("salt", LargeBinary), need("body", LargeBinary))
"""Addresses, IP, wording, notes: salted, encrypted, deletable without breaking the chain."""

permissions = table(
    "permissions", key("brand"), key("hash", LargeBinary), need("value", LargeBinary), rowid=False
)

delivery_facts = table(
    "delivery_facts",
    key("hash", LargeBinary),
    key("brand"),
    key("channel"),
    key("purpose"),
    key("origin"),
    need("fact"),
    need("since", Time),
    rowid=False,
)

screenings = table(
    "screenings",
    key("hash", LargeBinary),
    key("brand"),
    key("register"),
    need("screened_at", Time),
    may("listed_from", Time),
    rowid=False,
)
"""What each register said last of a number or an address; `listed_from` is when a listing binds."""
Index(
    "screenings_listed",
    screenings.c.brand,
    screenings.c.register,
    sqlite_where=text("listed_from IS NOT NULL"),
    postgresql_where=text("listed_from IS NOT NULL"),
)

screening_runs = table(
    "screening_runs",
    key("id", Big),
    need("brand"),
    need("register"),
    need("file", LargeBinary),
    need("screened_at", Time),
    need("known_until", Time),
    need("state"),
    need("lines", Integer),
    need("hits", Integer),
    need("unreadable", Integer),
    need("walked_to", LargeBinary),
    need("screened", Integer),
    need("lifted", Integer),
    need("started_at", Time),
)
"""Imports of a register's answer: `open` until all numbers known then are told apart, or `done`."""

lanes = table(
    "lanes",
    key("target"),
    may("holder"),
    need("epoch", Big),
    need("lease_until", Time),
    may("cursor"),
    may("inbound_cursor"),
    may("scanned_at", Time),
    may("parked_until", Time),
    may("parked_reason"),
    may("unsafe_since", Time),
    may("walked_at", Time),
    may("places", Text),
    may("live_since", Time),
    may("by_hand_at", Time),
)
"""One row a target. `places` are the slots that its standing outs were marked for, `live_since` is
when it was first read while we write there, `by_hand_at` when a person said that what is overdue
was removed there by hand."""

containers = table(
    "containers",
    key("target"),
    key("id"),
    need("name"),
    need("class"),
    need("first_seen", Time),
    need("seen_at", Time),
    rowid=False,
)
"""Lists, types and senders as the last reading of a target found them."""

waves = table(
    "waves",
    key("id", Big),
    need("target"),
    need("state"),
    need("opened_at", Time),
    need("most", Integer),
    may("decided_at", Time),
)
"""Opt-ins on their way to one target in one run: `open`, `waiting` for a person, `released` or
`stopped`."""
Index("waves_target", waves.c.target, waves.c.opened_at)

wave_ons = table("wave_ons", key("wave", Big), key("hash", LargeBinary), rowid=False)
Index("wave_ons_hash", wave_ons.c.hash)

marks = table(
    "marks",
    key("target"),
    key("subject_id", Big),
    key("vendor_id"),
    need("number", Big),
    need("urgent", Integer),
    need("due_at", Time),
    need("since", Time),
    need("attempts", Integer),
    may("claimed_epoch", Big),
    may("claimed_at", Time),
    may("unsettled_until", Time),
    may("outcome"),
    may("reason"),
    rowid=False,
)
"""Target T has not confirmed subject S since mark number N. A mark of a vendor record that no
subject is known for yet has subject_id 0 and its vendor_id; every other mark's is empty."""
Index("marks_due", marks.c.target, marks.c.urgent, marks.c.due_at)
Index("marks_subject", marks.c.subject_id)

records = table(
    "records",
    key("target"),
    key("vendor_id"),
    need("seen_at", Time),
    may("gone_at", Time),
    rowid=False,
)
record_identifiers = table(
    "record_identifiers",
    key("target"),
    key("hash", LargeBinary),
    key("vendor_id"),
    rowid=False,
)

receipts = table(
    "receipts",
    key("target"),
    key("hash", LargeBinary),
    key("place"),
    need("channel"),
    may("wish"),
    may("seen"),
    may("seen_began", Time),
    may("written", Text),
    may("written_ended", Time),
    need("ever_on", Integer),
    may("outcome"),
    may("reason"),
    may("due_at", Time),
    may("opened_at", Time),
    may("settled_at", Time),
    rowid=False,
)
"""What is known of one record (by the hash of what the vendor keys on) and one of its slots."""
HONOURED = text("wish = 'off' AND outcome IN ('confirmed', 'accepted', 'recorded')")
"""Outs that a target has followed: queries say it in these words, so that the index serves, and
alone."""
Index(
    "receipts_honoured",
    receipts.c.target,
    receipts.c.settled_at,
    receipts.c.opened_at,
    receipts.c.wish,
    receipts.c.outcome,
    sqlite_where=HONOURED,
    postgresql_where=HONOURED,
)

batches = table(
    "batches",
    key("id", Big),
    need("brand"),
    need("origin"),
    need("state"),
    need("opened_at", Time),
    need("last_at", Time),
    need("outs", Integer),
    may("most", Integer),
    may("due_at", Time),
)
"""Outs that no person said, taken in one run: `open`, `waiting` for a person, `released` or
`retracted`."""
Index("batches_origin", batches.c.brand, batches.c.origin, batches.c.last_at)

vault = table(
    "vault", key("target"), key("name"), need("value", LargeBinary), need("written_at", Time)
)
"""What a target must remember between processes: refresh tokens that the vendor replaced."""

pushbacks = table(
    "pushbacks", key("target"), key("hash", LargeBinary), key("at", Time), rowid=False
)

events = table("events", key("target"), key("event_key"), need("received_at", Time), rowid=False)
"""De-duplication of vendor events."""

inbox = table(
    "inbox",
    key("id", Big),
    need("target"),
    need("received_at", Time),
    need("body", LargeBinary),
    need("state"),
    need("attempts", Integer),
    need("due_at", Time),
    may("message_id"),
)
"""Webhooks as they arrived, encrypted; `open` ones wait for an answer of the vendor."""
Index("inbox_open", inbox.c.state, inbox.c.due_at)

outbox = table(
    "outbox",
    key("id", Big),
    need("kind"),
    may("brand"),
    may("hash", LargeBinary),
    need("body", LargeBinary),
    need("state"),
    need("attempts", Integer),
    need("due_at", Time),
    need("created_at", Time),
    may("reason"),
)
Index("outbox_due", outbox.c.state, outbox.c.due_at)
Index("outbox_limits", outbox.c.hash, outbox.c.created_at)

api_keys = table(
    "api_keys",
    key("id"),
    need("hash", LargeBinary),
    need("brand"),
    need("scopes"),
    need("created_at", Time),
    may("revoked_at", Time),
)

idempotency = table(
    "idempotency",
    key("api_key"),
    key("key"),
    need("body_hash", LargeBinary),
    need("answer", LargeBinary),
    need("created_at", Time),
    rowid=False,
)
Index("idempotency_age", idempotency.c.created_at)

tasks = table(
    "tasks",
    key("id", Big),
    need("brand"),
    need("kind"),
    may("subject_id", Big),
    need("state"),
    need("body", LargeBinary),
    need("created_at", Time),
    need("due_at", Time),
    may("closed_at", Time),
)
Index("tasks_open", tasks.c.brand, tasks.c.state, tasks.c.due_at)
Index("tasks_subject", tasks.c.subject_id, tasks.c.kind)
OPEN = text("state = 'open'")
"""Tasks that wait: a query over all brands says it in these words, so that the index serves."""
Index("tasks_opened", tasks.c.created_at, sqlite_where=OPEN, postgresql_where=OPEN)

notices = table("notices", key("brand"), key("name"), need("wording"), need("created_at", Time))
"""Consent notices known to a brand; an `in` may name one instead of repeating its wording."""

staff = table(
    "staff",
    key("id"),
    need("brand"),
    need("hash", LargeBinary),
    need("email", LargeBinary),
    need("role"),
    need("password"),
    may("totp", LargeBinary),
    may("totp_step", Big),
    need("created_at", Time),
    may("ended_at", Time),
    UniqueConstraint("brand", "hash"),
)
"""People of a brand who sign in: their address encrypted and hashed, their password by argon2.
`totp_step` is the step (RFC 6238) of the last code that let them in: no code counts twice."""

sessions = table(
    "sessions",
    key("hash", LargeBinary),
    need("staff_id"),
    need("csrf"),
    need("created_at", Time),
    may("pending_totp", LargeBinary),
    rowid=False,
)
"""`pending_totp` is a second factor that its first code has not confirmed yet."""
Index("sessions_staff", sessions.c.staff_id)

attempts = table("attempts", key("n", Big), need("who", LargeBinary), need("at", Time))
"""Tries to sign in, by address and by network address, shared between processes."""
Index("attempts_who", attempts.c.who)

papers = table(
    "papers",
    key("id"),
    need("brand"),
    need("kind"),
    need("by"),
    need("made_at", Time),
    need("rows", Integer),
    need("body", LargeBinary),
)
"""Lists and files of a day's work at the console, encrypted."""
Index("papers_made", papers.c.brand, papers.c.kind, papers.c.made_at)
jobs = table(
    "jobs",
    key("id"),
    need("brand"),
    need("kind"),
    need("about"),
    need("state"),
    need("done", Big),
    need("step"),
    may("result", LargeBinary),
    may("reason"),
    need("started_at", Time),
    need("beat_at", Time),
    may("ended_at", Time),
)
"""Long work that somebody of a brand started: from the console, with results that are encrypted, or
an import, whose step says how far it came."""
Index("jobs_newest", jobs.c.brand, jobs.c.kind, jobs.c.about, jobs.c.started_at)

tallies = table(
    "tallies",
    key("brand"),
    key("week", Integer),
    key("channel"),
    key("choice"),
    key("source"),
    key("origin"),
    need("count", Big),
    rowid=False,
)
"""Marketing choices by week (its number since 1970, from Monday, UTC), counted at sealing."""

journals = table(
    "journals",
    key("place"),
    need("name"),
    need("n", Big),
    need("noted_at", Time),
    may("paused_at", Time),
    may("reason"),
)
"""Folders with checkpoints, and how far each is written. While one has a `paused_at`, marketing is
denied: the folder knows of opt-outs that this database may not hold."""

relinks = table("relinks", key("n", Big), need("subject_id", Big))
"""Subjects that were linked to an identifier without a row of the ledger: the journal tells it."""

brought_back = table("brought_back", key("digest", LargeBinary), need("at", Time), rowid=False)
"""Rows of a journal that a replay took in, by event and payload: a second replay leaves them."""
