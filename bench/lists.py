"""Files of many rows: a list to scrub, a list to import."""

from __future__ import annotations

import csv
import random
from datetime import UTC, datetime
from pathlib import Path

from bench import population

IMPORTED = (
    "email",
    "phone",
    "name",
    "ref",
    "channel",
    "purpose",
    "choice",
    "occurred_at",
    "basis",
    "wording",
)
STRANGERS = 10
"""One in so many of a list is not known here."""


def to_scrub(path: Path, people: int) -> Path:
    """As a mailing program writes it, in no order of ours."""
    numbers = random.sample(range(people + people // STRANGERS), people)
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(("email", "first name", "last name", "city"))
        for number in numbers:
            out.writerow((population.address(number), "Person", f"No. {number}", "Leeds"))
    return path


def to_import(path: Path, people: int) -> Path:
    """One row a person: two in three consented, the others are out."""
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(IMPORTED)
        for number in range(people):
            out.writerow(_imported(number))
    return path


def _imported(number: int) -> tuple[str, ...]:
    said = datetime.fromtimestamp(population.FIRST + number, UTC).isoformat()
    phone = population.mobile(number) if number % 5 < 2 else ""
    who = (population.address(number), phone, population.name(number), f"crm-{number}")
    what = ("email", "marketing", "out" if population.is_out(number) else "in")
    return (*who, *what, said, "consent", "Yes please, send me news")
