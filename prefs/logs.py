"""Structured logs to standard error: one JSON object a line, or text on a terminal. Never a
person's data.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from contextvars import ContextVar

import structlog
from structlog.dev import ConsoleRenderer, plain_traceback
from structlog.stdlib import ProcessorFormatter
from structlog.tracebacks import ExceptionDictTransformer
from structlog.types import EventDict, Processor

REQUEST: ContextVar[str] = ContextVar("request", default="")
"""What the request under way is called."""
QUIET = ("uvicorn.access", "httpx", "httpcore", "urllib3", "twilio", "hubspot")


def _to_stderr(*_: object) -> structlog.PrintLogger:
    """Standard error as it is at each line: answers on standard output stay clean."""
    return structlog.PrintLogger(sys.stderr)


class _Stderr(logging.StreamHandler):  # type: ignore[type-arg]  # generic in its stubs alone
    """The same for what libraries log."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def set_up_logs(level: int = logging.INFO, form: str = "auto") -> None:
    """`form` is `json`, `text`, or `auto`: text on a terminal only."""
    structlog.configure(
        processors=[*COMMON, *_ending(form)],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_to_stderr,
    )
    handler = _Stderr()
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *COMMON],
            processors=[ProcessorFormatter.remove_processors_meta, *_ending(form)],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def _name_request(_logger: object, _method: str, event: EventDict) -> EventDict:
    called = REQUEST.get()
    return {**event, "request": called} if called else event


COMMON: Sequence[Processor] = (
    _name_request,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
)


def _ending(form: str) -> Sequence[Processor]:
    """What an exception and a line look like. The defaults of both show the values of a frame:
    addresses, keys, a key in a path."""
    if form == "text" or (form == "auto" and sys.stderr.isatty()):
        return [ConsoleRenderer(exception_formatter=plain_traceback)]
    told = ExceptionDictTransformer(show_locals=False)
    return [structlog.processors.ExceptionRenderer(told), structlog.processors.JSONRenderer()]
