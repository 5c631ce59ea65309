"""Logs: what a person or a vendor's key is known by never stands in them, whatever fails."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from prefs.logs import set_up_logs
from tests.served import eventually, listening
from tests.twins.faults import Kind
from tests.twins.kit import running
from tests.twins.pabau import PabauTwin

AMY = "amy@example.com"
PABAU = """
[brands.rt.targets.pabau]
system = "pabau"
mode = "live"
base_url = "{url}"
api_key = "env:PABAU"
"""


@contextmanager
def logs_set_up(form: str = "auto") -> Iterator[None]:
    """As the commands do it, and back again."""
    before, root = structlog.get_config(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    set_up_logs(form=form)
    try:
        yield
    finally:
        structlog.configure(**before)
        root.handlers[:], root.level = handlers, level


def test_an_exception_is_logged_without_the_values_at_hand(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A frame holds addresses, keys and paths; its place and its kind are what is needed."""

    def work(address: str, path: str) -> None:
        raise RuntimeError(f"{len(address) + len(path)} characters")

    with logs_set_up():
        try:
            work(AMY, "/twin-pabau-key/clients")
        except RuntimeError:
            structlog.get_logger().exception("lane_failed")
    line = capsys.readouterr().err
    assert all(word in line for word in ("lane_failed", "RuntimeError", "test_logs.py"))
    assert AMY not in line
    assert "twin-pabau-key" not in line


def fail_with(address: str) -> None:
    try:
        raise RuntimeError("5 characters")
    except RuntimeError:
        structlog.get_logger().exception("lane_failed", target="rt/list")
        logging.getLogger("uvicorn.error").exception("Exception in ASGI application")


def test_what_is_no_terminal_gets_json_of_libraries_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with logs_set_up():
        fail_with(AMY)
    ours, theirs = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (ours["event"], ours["target"], ours["level"]) == ("lane_failed", "rt/list", "error")
    assert theirs["logger"] == "uvicorn.error"
    for line in (ours, theirs):
        assert line["timestamp"].endswith("Z")
        assert line["exception"][0]["exc_type"] == "RuntimeError"
        assert AMY not in json.dumps(line)


def test_text_when_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with logs_set_up("text"):
        fail_with(AMY)
    text = capsys.readouterr().err
    assert "lane_failed" in text
    assert "RuntimeError: 5 characters" in text
    assert AMY not in text
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(text.splitlines()[0])


@pytest.mark.parametrize(
    ("fault", "fields", "event"),
    [
        ("status", {"status": 500}, "scan_failed"),
        ("down", {}, "scan_failed"),
        ("html", {}, "scan_failed"),
        ("status", {"status": 401}, "target_unusable"),
    ],
)
def test_a_vendors_key_in_the_path_is_in_no_log(
    fault: Kind,
    fields: dict[str, Any],
    event: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Pabau's key is part of every path: the whole service runs against a Pabau that fails."""
    caplog.set_level(logging.DEBUG)
    with running(PabauTwin()) as (twin, url), capture_logs() as entries:
        twin.new_client(AMY)
        twin.faults.add(fault, times=None, **fields)
        environ = {"PABAU": twin.api_key}
        with listening(tmp_path, PABAU.format(url=url), environ=environ) as service:
            answer = service.say(AMY)
            eventually(lambda: [one for one in entries if one["event"] == event])
            shown = service.get(f"/v1/subjects/{answer['subject_id']}/targets").text
            shown += service.client.get("/metrics").text
    # The twin's own server stands in this process too, and writes the paths it is asked for.
    records = [one.getMessage() for one in caplog.records if one.name != "uvicorn.access"]
    texts = [*records, *map(str, entries), shown]
    assert not [text for text in texts if twin.api_key in text or AMY in text]
