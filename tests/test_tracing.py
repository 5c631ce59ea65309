"""Traces: nothing at all unless asked for, and then names and counts, never a person."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from connectors import http
from prefs import tracing
from prefs.core import spans
from prefs.core.errors import SettingsError
from tests.served import eventually, listening
from tests.twins.kit import running
from tests.twins.mailchimp import MailchimpTwin
from tests.twins.pabau import PabauTwin

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

pytest.importorskip("opentelemetry.sdk", reason="an extra: make setup installs it for tests")

AMY = "amy@example.com"
MAILCHIMP = """
[brands.rt.targets.mailchimp]
system = "mailchimp"
mode = "live"
base_url = "{url}"
api_key = "env:KEY"
audiences = {{ a1 = ["treatments"] }}
"""
PABAU = """
[brands.rt.targets.pabau]
system = "pabau"
mode = "live"
base_url = "{url}"
api_key = "env:KEY"
"""


@pytest.fixture
def traced() -> Iterator[InMemorySpanExporter]:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    spans.use(tracing.opener(provider.get_tracer("test")))
    yield exporter
    spans.use(None)


def named(exporter: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [one for one in exporter.get_finished_spans() if one.name == name]


def told(span: ReadableSpan) -> dict[str, object]:
    return {key.removeprefix("prefs."): value for key, value in (span.attributes or {}).items()}


def urgent(exporter: InMemorySpanExporter) -> list[ReadableSpan]:
    """Rounds that ended."""
    return [one for one in named(exporter, "lane.round") if told(one)["urgent"]]


def test_an_opt_out_can_be_followed_from_the_request_to_the_vendor(
    traced: InMemorySpanExporter, tmp_path: Path
) -> None:
    with running(MailchimpTwin()) as (twin, url):
        twin.new_audience("a1")
        twin.new_member("a1", AMY)
        extra = MAILCHIMP.format(url=url)
        with listening(tmp_path, extra, environ={"KEY": twin.api_key}) as service:
            service.say(AMY)
            service.reason(AMY)
            eventually(lambda: named(traced, "lane.read_back"))
            eventually(lambda: twin.member("a1", AMY).status == "unsubscribed")
            eventually(lambda: urgent(traced))
    (asked,) = named(traced, "POST /v1/preferences")
    assert told(asked) == {"status": 200}
    assert told(named(traced, "decision.batch")[0]) == {}
    assert told(named(traced, "intake.record")[0]) == {}
    assert any(told(one)["jobs"] for one in named(traced, "store.commit"))
    rounds = urgent(traced)
    assert told(rounds[0]) == {"target": "rt/mailchimp", "marks": 1, "urgent": True}
    applied = named(traced, "lane.apply")[0]
    assert applied.parent
    assert applied.parent.span_id == rounds[0].context.span_id
    written = [
        one for one in named(traced, "vendor.call") if told(one)["method"] not in ("GET", "HEAD")
    ]
    assert written
    assert written[0].parent
    assert written[0].parent.span_id == applied.context.span_id
    assert "@" not in everything(traced)
    assert twin.api_key not in everything(traced)


def test_a_key_in_a_vendors_path_is_in_no_span(
    traced: InMemorySpanExporter, tmp_path: Path
) -> None:
    with running(PabauTwin()) as (twin, url):
        twin.new_client(AMY)
        with listening(tmp_path, PABAU.format(url=url), environ={"KEY": twin.api_key}) as service:
            service.say(AMY)
            eventually(lambda: named(traced, "lane.read_back"))
    templates = {told(one)["template"] for one in named(traced, "vendor.call")}
    assert "/*/clients/*/update" in templates
    assert twin.api_key not in everything(traced)
    assert AMY not in everything(traced)


def everything(exporter: InMemorySpanExporter) -> str:
    return "".join(one.to_json() for one in exporter.get_finished_spans())


def test_a_failure_is_told_by_its_kind(traced: InMemorySpanExporter) -> None:
    with pytest.raises(RuntimeError), spans.span("work", count=1):
        raise RuntimeError(AMY)
    (one,) = traced.get_finished_spans()
    assert told(one) == {"count": 1, "fault": "RuntimeError"}
    assert not one.status.is_ok
    assert AMY not in everything(traced)


@pytest.mark.parametrize(
    ("path", "template"),
    [
        ("/3.0/lists/a1b2/members/0123456789abcdef0123456789abcdef", "/*/lists/*/members/*"),
        ("/lists/members", "/lists/members"),
        ("/lists/amy@example.com?email=amy", "/lists/*"),
        ("/f/32", "/*/*"),
        ("", ""),
    ],
)
def test_of_a_path_only_the_vendors_own_words_are_told(path: str, template: str) -> None:
    words = http.words_of([r"/lists/[^/]+/members/[0-9a-f]{32}"])
    assert http.template_of(path, words) == template


def test_without_the_key_nothing_is_even_imported() -> None:
    code = (
        "import sys; import prefs.cli; from prefs import tracing; tracing.set_up(None)();"
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert spans.span("anything", count=1) is spans.NOTHING


def test_with_the_key_but_without_the_packages_the_fix_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(SettingsError, match=r"requirements-otel\.txt"):
        tracing.set_up("http://127.0.0.1:9")


class Collector(BaseHTTPRequestHandler):
    paths: list[str]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        type(self).paths.append(self.path)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


def test_spans_reach_a_collector_at_the_latest_when_the_process_ends() -> None:
    Collector.paths = []
    with HTTPServer(("127.0.0.1", 0), Collector) as collector:
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        end = tracing.set_up(f"http://127.0.0.1:{collector.server_port}")
        with spans.span("work"):
            pass
        end()
        collector.shutdown()
        thread.join()
    assert Collector.paths == ["/v1/traces"]
    assert spans.span("after") is spans.NOTHING
