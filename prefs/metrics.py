"""Counters and gauges for Prometheus: systems and brands, never a person."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY = CollectorRegistry()

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
BACKLOG = Gauge(
    "prefs_marks", "Marks that a target has not confirmed", ["target"], registry=REGISTRY
)
OLDEST = Gauge("prefs_oldest_mark_seconds", "Age of the oldest mark", ["target"], registry=REGISTRY)
OVERDUE = Gauge(
    "prefs_overdue_outs", "Outs unconfirmed for over an hour", ["target"], registry=REGISTRY
)
UNSAFE = Gauge("prefs_target_unsafe", "1 while a target is unsafe", ["target"], registry=REGISTRY)
SEALED = Gauge("prefs_ledger_sealed", "Number of the last sealed row", registry=REGISTRY)
JOURNALED = Gauge(
    "prefs_journal_sealed", "Number of the last row told to the checkpoints", registry=REGISTRY
)
PAUSED = Gauge(
    "prefs_marketing_paused",
    "1 while marketing is denied to all until the checkpoints are replayed",
    registry=REGISTRY,
)
