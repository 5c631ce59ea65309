"""One catalogue a language: every text that people read, by its key.

A translation is one more `.po` file with the same keys. What it lacks, or marks as fuzzy, is read
in English.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from babel.messages.pofile import read_po

FOLDER = Path(__file__).parent
FALLBACK = "en"
Table = Mapping[str, str]


@cache
def catalogues() -> Mapping[str, Table]:
    """Language -> its texts."""
    return {path.stem: read(path) for path in sorted(FOLDER.glob("*.po"))}


def language_of(locale: str) -> str:
    """The catalogue to read for a locale (BCP 47): its own, its language's, or English."""
    known = catalogues()
    wanted = (locale.replace("-", "_"), locale.replace("_", "-").partition("-")[0])
    return next((name for name in wanted if name in known), FALLBACK)


def table_of(language: str) -> Table:
    """All texts of a language; what it lacks is in English."""
    known = catalogues()
    return {**known[FALLBACK], **known[language]}


def read(path: Path) -> Table:
    with path.open("rb") as file:
        found = read_po(file, locale=path.stem)
    return {
        str(one.id): str(one.string) for one in found if one.id and one.string and not one.fuzzy
    }
