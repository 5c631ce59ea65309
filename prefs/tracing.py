"""Traces by OpenTelemetry, an extra (requirements-otel.txt): off, and not even imported, unless the
configuration names a collector.

Exceptions are told by their kind: their texts and frames may hold what a person is known by. The
SDK's own variables (OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER, OTEL_EXPORTER_OTLP_HEADERS and others)
hold as its documentation says: https://opentelemetry.io/docs/languages/sdk-configuration/
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from prefs.core import spans
from prefs.core.errors import SettingsError
from prefs.core.spans import Plain, Span

if TYPE_CHECKING:
    from opentelemetry.trace import Span as Traced
    from opentelemetry.trace import Tracer

PREFIX = "prefs."
MISSING = (
    "traces: OpenTelemetry is not installed; run pip install --require-hashes "
    "-r requirements-otel.txt, or remove the key"
)


class _Open:
    def __init__(self, traced: Traced) -> None:
        self._traced = traced

    def call(self, name: str) -> None:
        self._traced.update_name(name)

    def note(self, key: str, value: Plain) -> None:
        self._traced.set_attribute(PREFIX + key, value)


def opener(tracer: Tracer) -> spans.Opener:
    """Spans of this tracer, for prefs.core.spans."""
    from opentelemetry.trace import StatusCode

    @contextmanager
    def opened(name: str, about: Mapping[str, Plain]) -> Iterator[Span]:
        told = {PREFIX + key: value for key, value in about.items()}
        with tracer.start_as_current_span(
            name, attributes=told, record_exception=False, set_status_on_exception=False
        ) as traced:
            try:
                yield _Open(traced)
            except BaseException as fault:
                traced.set_attribute(f"{PREFIX}fault", type(fault).__name__)
                traced.set_status(StatusCode.ERROR)
                raise

    def started(name: str, about: Mapping[str, Plain]) -> AbstractContextManager[Span]:
        return opened(name, about)

    return started


def set_up(collector: str | None) -> Callable[[], None]:
    """Send spans to a collector (OTLP over HTTP, the URL without /v1/traces); returns what sends
    the last ones and ends it. Raises SettingsError where the packages are missing."""
    if collector is None:
        return _nothing
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise SettingsError([MISSING]) from None
    provider = TracerProvider(resource=Resource.create({"service.name": "prefs"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{collector}/v1/traces")))
    spans.use(opener(provider.get_tracer("prefs")))

    def end() -> None:
        spans.use(None)
        provider.shutdown()

    return end


def _nothing() -> None:
    """There is nothing to end."""
