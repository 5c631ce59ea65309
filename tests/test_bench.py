"""The bench measures what it says: all figures by name, and rows of one shape."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from bench.__main__ import JOBS, main
from tests import postgres

FIGURES = {
    *("check_one", "check_one_pg", "check_batch", "scrub_million", "record_one", "record_many"),
    *("record_many_pg", "one_click", "deny_after_ack", "to_vendor", "to_vendor_pg"),
    *("drain_mailchimp", "drain_hubspot", "drain_scale", "import_million", "verify_million"),
    *("growth", "footprint"),
}
"""Those that are promised. Some take further rows."""
ROW = {"name", "value", "unit", "bar", "op", "holds", "n"}


def test_every_figure_is_measured() -> None:
    assert set(JOBS) == FIGURES


def test_rows_have_one_shape_and_a_part_is_put_to_what_there_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "on_disk", postgres.on_disk)  # the tests' own server stays so

    def run(*names: str) -> dict[str, dict[str, object]]:
        given = ["--quick", "--people", "300", "--out", str(tmp_path), "--only", *names]
        main(given)
        found = json.loads((tmp_path / "results.json").read_text())
        assert set(found) == {"machine", "figures"}
        assert all(set(row) == ROW for row in found["figures"])
        return {row["name"]: row for row in found["figures"]}

    first = run("check_one")
    assert first["check_one"]["bar"] == 0.5
    assert first["check_one"]["n"] == 300
    both = run("record_one")
    assert list(both) == ["check_one", "record_one"]
    assert both["check_one"] == first["check_one"]
    for row in both.values():
        value, bar = row["value"], row["bar"]
        assert isinstance(value, float)
        assert isinstance(bar, int | float)
        assert value > 0
        assert row["holds"] == (value >= bar if row["op"] == ">=" else value <= bar)
    ET.parse(tmp_path / "results.svg")


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "check_two"])
    assert "check_two" in capsys.readouterr().err
