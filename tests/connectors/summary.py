"""What the contract suite covered, told at the end of a run: for each system how many cases there
were and how many ran, and every exemption with its reason.

It counts what the reports say, so that it holds with pytest-xdist, too: the workers mark their
cases, and the marks come along with the reports. It is a plugin, registered by tests/conftest.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pytest

from tests.connectors.contract import EXEMPT, ConnectorContract

MARK = "contract"
"""Name of the property that a case bears; its value is the system."""
FEW = 6
"""So many cases are told by name."""


@dataclass
class Case:
    """What the reports of one case said. `skipped` are reasons by phase."""

    system: str
    called: bool = False
    failed: bool = False
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def ran(self) -> bool:
        return self.called and "call" not in self.skipped


class Summary:
    """Printed only where a case of the suite was collected."""

    def __init__(self) -> None:
        self.cases: dict[str, Case] = {}

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        kind, name = getattr(item, "cls", None), getattr(item, "originalname", "")
        if kind and issubclass(kind, ConnectorContract) and hasattr(ConnectorContract, name):
            item.user_properties.append((MARK, kind.system))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        system = dict(report.user_properties).get(MARK)
        if system is None:
            return
        case = self.cases.setdefault(report.nodeid, Case(str(system)))
        case.called |= report.when == "call"
        case.failed |= report.failed
        if report.skipped:
            case.skipped[str(report.when)] = _reason(report)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.cases:
            terminalreporter.section("connector contract")
            for line in lines(self.cases):
                terminalreporter.write_line(line)


def lines(cases: Mapping[str, Case]) -> Iterator[str]:
    """The table, then under each system what did not run and why."""
    by_system: defaultdict[str, dict[str, Case]] = defaultdict(dict)
    for node, case in cases.items():
        by_system[case.system][node] = case
    for system, own in sorted(by_system.items()):
        ran = sum(case.ran for case in own.values())
        failed = sum(case.failed for case in own.values())
        told = f"{system:<15} {len(own):>4} cases {ran:>4} ran"
        yield told + (f" {failed:>4} failed" if failed else "")
        for reason, names in sorted(_not_run(own).items()):
            kind = "exempt" if reason.startswith(EXEMPT) else "skipped"
            which = ", ".join(names) if len(names) <= FEW else f"{len(names)} kinds of cases"
            yield f"    {kind}: {reason.removeprefix(EXEMPT)} ({which})"


def _not_run(cases: Mapping[str, Case]) -> dict[str, list[str]]:
    """Reason -> names of cases; a case of several parameters or classes once."""
    found: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for node, case in cases.items():
        name = node.rpartition("::")[2].partition("[")[0].removeprefix("test_")
        for reason in case.skipped.values():
            found[reason][name.replace("_", " ")] = None
    return {reason: list(names) for reason, names in found.items()}


def _reason(report: pytest.TestReport) -> str:
    """Of a skipped report: file, line and text."""
    found = report.longrepr
    text = found[2] if isinstance(found, tuple) else str(found)
    return text.removeprefix("Skipped: ")
