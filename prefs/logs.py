"""Structured logs to standard error: one JSON object a line, never a person's data."""

from __future__ import annotations

import logging
import sys

import structlog
from structlog.tracebacks import ExceptionDictTransformer

QUIET = ("uvicorn.access", "httpx", "httpcore", "urllib3", "twilio", "hubspot")


def _to_stderr(*_: object) -> structlog.PrintLogger:
    """Standard error as it is at each line: answers on standard output stay clean."""
    return structlog.PrintLogger(sys.stderr)


def set_up_logs(level: int = logging.INFO) -> None:
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            # the default shows the values of a frame: addresses, keys, a key in a path
            structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_to_stderr,
    )
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(name)s %(message)s")
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
