"""Long lists in pages."""

from __future__ import annotations

import re
from typing import NamedTuple


def whole(text: str | None) -> int | None:
    """A number of a query or form; None for anything else."""
    return int(text) if text and re.fullmatch(r"[0-9]{1,9}", text) else None


class Sheet(NamedTuple):
    """One page of a list. Pages are counted from 1; `first` is the place of its first row."""

    number: int
    pages: int
    first: int

    @classmethod
    def of(cls, number: int | None, rows: int, size: int) -> Sheet:
        """The page asked for, the nearest there is."""
        pages = max(1, -(-rows // size))
        found = min(max(1, number or 1), pages)
        return cls(found, pages, (found - 1) * size)
