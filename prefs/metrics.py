"""Counters and gauges for Prometheus: systems and brands, never a person.

What one process did is counted where it happens; what the database holds is read by `prefs.figures`
when somebody asks, and is the same from every process.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY = CollectorRegistry()

# --- what this process did -----------------------------------------------------------------------

RECORDED = Counter(
    "prefs_statements_total",
    "Statements taken in, by source and result",
    ["source", "result"],
    registry=REGISTRY,
)
CHECKED = Counter(
    "prefs_checks_total", "Identifiers checked, by answer", ["allowed"], registry=REGISTRY
)
UNKNOWN_EVENTS = Counter(
    "prefs_unknown_events_total",
    "Vendor events that no table knows",
    ["system"],
    registry=REGISTRY,
)
WEBHOOKS = Counter(
    "prefs_webhooks_total", "Webhooks received", ["system", "status"], registry=REGISTRY
)
MAILS = Counter(
    "prefs_mails_total", "Inbound mails, by what became of them", ["became"], registry=REGISTRY
)
REQUESTS = Histogram(
    "prefs_request_seconds",
    "Time to answer, by route",
    ["route", "status"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5),
    registry=REGISTRY,
)
PROVED = Counter(
    "prefs_outcomes_total",
    "What a look at one place of one record came to, by target",
    ["target", "outcome"],
    registry=REGISTRY,
)
GROUPS = Histogram(
    "prefs_write_group",
    "Writes that shared one commit",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
    registry=REGISTRY,
)
COMMITS = Histogram(
    "prefs_commit_seconds",
    "Time of a commit with the writes in it, until it is on disk",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5),
    registry=REGISTRY,
)
WAITING = Gauge("prefs_writes_waiting", "Writes that wait for the next commit", registry=REGISTRY)
POOL = Histogram(
    "prefs_connection_wait_seconds",
    "Time until a connection of the pool was free (PostgreSQL)",
    ["side"],
    buckets=(0.001, 0.005, 0.025, 0.1, 0.5, 1, 5),
    registry=REGISTRY,
)
LEAVING = Gauge(
    "prefs_leaving", "1 once this process was told to end and still answers", registry=REGISTRY
)

# --- what the database holds ---------------------------------------------------------------------

STORE_UP = Gauge(
    "prefs_store_up", "0 while the figures below cannot be read: they are old", registry=REGISTRY
)
FIGURES_AT = Gauge(
    "prefs_figures_timestamp_seconds", "When the figures below were read", registry=REGISTRY
)
BACKLOG = Gauge(
    "prefs_marks", "Marks that a target has not confirmed", ["target"], registry=REGISTRY
)
OLDEST = Gauge("prefs_oldest_mark_seconds", "Age of the oldest mark", ["target"], registry=REGISTRY)
REFUSED = Gauge("prefs_refused_marks", "Marks that a target refused", ["target"], registry=REGISTRY)
OVERDUE = Gauge(
    "prefs_overdue_outs", "Outs unconfirmed for over an hour", ["target"], registry=REGISTRY
)
LAG = Gauge(
    "prefs_lag_seconds",
    "From the out to its proof at the target, of the last 1000 within a day",
    ["target", "part"],
    registry=REGISTRY,
)
UNSAFE = Gauge("prefs_target_unsafe", "1 while a target is unsafe", ["target"], registry=REGISTRY)
PARKED = Gauge(
    "prefs_target_parked", "1 while a target refuses us as a whole", ["target"], registry=REGISTRY
)
HELD = Gauge("prefs_lane_held", "1 while a worker holds the lane", ["target"], registry=REGISTRY)
SCANNED = Gauge(
    "prefs_scanned_seconds", "Since a target was last read through", ["target"], registry=REGISTRY
)
WORKERS = Gauge("prefs_workers", "Worker processes that hold a lane", registry=REGISTRY)
SEALED = Gauge("prefs_ledger_sealed", "Number of the last sealed row", registry=REGISTRY)
JOURNALED = Gauge(
    "prefs_journal_sealed", "Number of the last row told to the checkpoints", registry=REGISTRY
)
PAUSED = Gauge(
    "prefs_marketing_paused",
    "1 while marketing is denied to all until the checkpoints are replayed",
    registry=REGISTRY,
)
UNSEALED = Gauge(
    "prefs_unsealed_seconds", "Age of the oldest ledger row without a seal", registry=REGISTRY
)
OUTBOX = Gauge("prefs_outbox_waiting", "Mails that wait to be sent", registry=REGISTRY)
OUTBOX_LATE = Gauge(
    "prefs_outbox_late_seconds",
    "How far the mail that waits longest is past its time",
    registry=REGISTRY,
)
INBOX = Gauge("prefs_inbox_open", "Webhooks that wait for a vendor's word", registry=REGISTRY)
TASKS = Gauge("prefs_tasks_open", "Open work for staff", ["brand", "kind"], registry=REGISTRY)
TASKS_LATE = Gauge(
    "prefs_tasks_late",
    "Open work for staff past its due time",
    ["brand", "kind"],
    registry=REGISTRY,
)
