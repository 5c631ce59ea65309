"""results.svg: what a check, a record and a person cost as people grow more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

WIDE, HIGH, LEFT, TOP, GAP = 280, 200, 70, 60, 70
FONT = 'font-family="sans-serif" font-size="13"'
SIZES = ("small", "middle", "large")


class Curve(NamedTuple):
    """A panel. `name` is that of its figures, before the size."""

    name: str
    title: str
    unit: str


CURVES = (
    Curve("check_cost", "A check", "µs CPU"),
    Curve("record_cost", "A record", "µs CPU"),
    Curve("bytes", "A person", "bytes"),
)


def draw(figures: Sequence[Mapping[str, Any]]) -> str:
    """Of the figures that there are; a panel without any says so."""
    by_name = {one["name"]: one for one in figures}
    width = LEFT + len(CURVES) * (WIDE + GAP)
    height, title = TOP + HIGH + 60, "What one costs, by how many people there are (SQLite)"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {FONT}>',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="{LEFT}" y="24" font-size="16">{title}</text>',
    ]
    for number, curve in enumerate(CURVES):
        found = [
            by_name[f"{curve.name}_{size}"] for size in SIZES if f"{curve.name}_{size}" in by_name
        ]
        parts += _panel(curve, found, LEFT + number * (WIDE + GAP))
    return "\n".join([*parts, "</svg>", ""])


def _panel(curve: Curve, found: Sequence[Mapping[str, Any]], left: float) -> Iterator[str]:
    bottom = TOP + HIGH
    yield f'<text x="{left}" y="{TOP - 12}" font-weight="bold">{curve.title}, {curve.unit}</text>'
    if not found:
        yield f'<text x="{left}" y="{TOP + HIGH / 2}" fill="#777">not measured</text>'
        return
    top = _above(max(one["value"] for one in found))
    for share in (0, 0.5, 1):
        at, said = bottom - share * HIGH, f"{top * share:g}"
        yield f'<line x1="{left}" x2="{left + WIDE}" y1="{at}" y2="{at}" stroke="#ddd"/>'
        yield f'<text x="{left - 6}" y="{at + 4}" text-anchor="end" fill="#555">{said}</text>'
    step = WIDE / max(1, len(SIZES))
    points = [
        (left + step * (number + 0.5), bottom - HIGH * one["value"] / top, one)
        for number, one in enumerate(found)
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)
    yield f'<polyline points="{line}" fill="none" stroke="#0b6" stroke-width="2"/>'
    for x, y, one in points:
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#0b6"/>'
        yield f'<text x="{x:.1f}" y="{y - 10:.1f}" text-anchor="middle">{one["value"]:g}</text>'
        yield f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{one["n"]:,}</text>'
    yield f'<text x="{left + WIDE / 2}" y="{bottom + 38}" text-anchor="middle">people</text>'


def _above(value: float) -> float:
    """A round number not below it."""
    size = 1.0
    while True:
        for step in (1, 2, 5):
            if size * step >= value:
                return size * step
        size *= 10
