"""FILE.rejected.csv: rows that an import did not take, each with its reason."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

REASON = "reason"
"""Its last column; a file that comes back mended has it, and it is not read."""


class Rejects:
    """Grows as rows are met. Nothing is made where nothing is rejected."""

    def __init__(self, file: Path, columns: Sequence[str]) -> None:
        self.path = file.with_name(f"{file.name}.rejected.csv")
        self._columns = list(columns)
        self._waiting: list[list[str]] = []
        self._size = 0

    def go_on(self, size: int) -> bool:
        """Cut off what belongs to rows that are not done. False where the file does not hold what
        it held: it is begun anew."""
        have = self.path.stat().st_size if self.path.exists() else 0
        self._size = size if have >= size else 0
        if have and self._size:
            os.truncate(self.path, self._size)
        elif have:
            self.path.unlink()
        return have >= size

    def add(self, row: list[str], reason: str) -> None:
        """The row as it came; a reason that it came with is replaced."""
        cells = [*row, *[""] * (len(self._columns) - len(row))]
        if REASON in self._columns:
            cells[self._columns.index(REASON)] = reason
        else:
            cells.insert(len(self._columns), reason)
        self._waiting.append(cells)

    def keep(self) -> tuple[int, int]:
        """Bring to disk what was added; returns the size of the file, and how many rows it was."""
        if self._waiting:
            self._append(self._waiting if self._size else [self._heading, *self._waiting])
        count, self._waiting = len(self._waiting), []
        return self._size, count

    @property
    def _heading(self) -> list[str]:
        return self._columns if REASON in self._columns else [*self._columns, REASON]

    def _append(self, rows: Sequence[Sequence[str]]) -> None:
        text = io.StringIO()
        csv.writer(text).writerows(rows)
        written = text.getvalue().encode()
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(file, "ab") as to:
            to.write(written)
            to.flush()
            os.fdatasync(to.fileno())
        self._size += len(written)
