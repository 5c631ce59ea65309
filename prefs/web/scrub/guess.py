"""What a list looks like: which column holds the addresses, and whether it has headings."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import BinaryIO, NamedTuple

from prefs.core import identity
from prefs.core.errors import BadIdentifier, BadInput
from prefs.core.words import Channel
from prefs.web.scrub.rows import Unreadable, check_start, delimiter_of, rows, texts_of

Texts = Sequence[Sequence[str]]

SAMPLE = 20
"""Rows looked at to guess what stands where."""
GUESSED = (Channel.EMAIL, Channel.SMS)
"""Channels whose addresses can be told from other text, the likelier first."""


class Shape(NamedTuple):
    """How a list is to be read."""

    delimiter: str
    column: int
    """Of the address or number, from 0."""
    headed: bool
    """The first row holds headings and no person."""


class Guess(NamedTuple):
    shape: Shape
    channel: Channel
    headings: list[str]
    sample: list[list[str]]
    """The first rows under the headings, as text."""


def guess(file: BinaryIO, region: str) -> Guess:
    """What a list looks like, channel included. Raises Unreadable for what is none."""
    start = file.read(4096)
    file.seek(0)
    check_start(start)
    delimiter = delimiter_of(start)
    first = list(islice((row for row in rows(file, delimiter) if row.cells), SAMPLE + 1))
    if not first:
        raise Unreadable("empty")
    texts = texts_of(first)
    channel, column = _likeliest(texts, GUESSED, region)
    named = not _is_address(texts[0][column : column + 1], channel, region)
    plain = [""] * len(texts[0])
    return Guess(
        Shape(delimiter, column, named),
        channel,
        texts[0] if named else plain,
        texts[1:] if named else texts,
    )


def shape_of(
    texts: Texts,
    delimiter: str,
    column: str | None,
    channel: Channel,
    region: str,
) -> Shape:
    """The shape for one channel from the first rows. `column` is a heading, or a number from 1;
    None leaves it to what stands there. Raises BadInput."""
    if column is None:
        place, named = _guessed(texts, channel, region), False
    else:
        place, named = _named(texts[0], column)
    headed = named or not _is_address(texts[0][place : place + 1], channel, region)
    return Shape(delimiter, place, headed)


def _guessed(texts: Texts, channel: Channel, region: str) -> int:
    _, place = _likeliest(texts, (channel,), region)
    if max(map(len, texts)) > 1 and not _count_in((channel, place), texts, region):
        raise BadInput("no column of the list holds addresses; name it", field="column")
    return place


def _named(headings: Sequence[str], column: str) -> tuple[int, bool]:
    """Its place, and whether it was found by its heading. What stands in the first row may be a
    person: it is not repeated."""
    folded = [heading.strip().casefold() for heading in headings]
    if column.strip().casefold() in folded:
        return folded.index(column.strip().casefold()), True
    if column.isascii() and column.isdigit() and 1 <= int(column) <= len(folded):
        return int(column) - 1, False
    width = len(folded)
    raise BadInput(
        f"the list has no such column: give the heading as its first row spells it, or a number "
        f"from 1 to {width}",
        field="column",
    )


def _likeliest(texts: Texts, channels: Sequence[Channel], region: str) -> tuple[Channel, int]:
    """Where the most addresses or numbers stand."""
    width = max(len(row) for row in texts)
    places = [(channel, column) for channel in channels for column in range(width)]
    return max(places, key=lambda place: _count_in(place, texts, region))


def _count_in(place: tuple[Channel, int], texts: Texts, region: str) -> int:
    channel, column = place
    return sum(_is_address(row[column : column + 1], channel, region) for row in texts)


def _is_address(cells: Sequence[str], channel: Channel, region: str) -> bool:
    try:
        return bool([identity.guess(cell, channel, region) for cell in cells])
    except BadIdentifier:
        return False
