"""One catalogue a language: every text that people read, by its key.

A translation is one more `.po` file with the same keys. What it lacks, or marks as fuzzy, is read
in English.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from string import Formatter

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


@cache
def table_of(language: str) -> Table:
    """All texts of a language; what it lacks, or asks for values that the text does not get, is
    in English."""
    english, own = catalogues()[FALLBACK], catalogues()[language]
    fitting = {key: text for key, text in own.items() if not misfits(key, text)}
    return {**english, **fitting}


def misfits(key: str, text: str) -> set[str]:
    """What this text asks for in braces and the English one does not, and so never gets."""
    try:
        return _values(text) - _values(catalogues()[FALLBACK].get(key, ""))
    except ValueError:
        return {text}


def _values(text: str) -> set[str]:
    """The names in braces. Raises ValueError for a brace without its other."""
    return {name for _, name, _, _ in Formatter().parse(text) if name is not None}


def read(path: Path) -> Table:
    with path.open("rb") as file:
        found = read_po(file, locale=path.stem)
    return {
        str(one.id): str(one.string) for one in found if one.id and one.string and not one.fuzzy
    }
