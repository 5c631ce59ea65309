"""How far long work is, for whoever waits at a terminal: rows, their rate, and the time left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, Task, TaskProgressColumn, TextColumn
from rich.progress import ProgressColumn as Column
from rich.progress import TimeRemainingColumn as TimeLeft
from rich.text import Text

Tell = Callable[[int, int], None]
"""Takes the bytes that are done of the total, and the rows."""


class Rows(Column):
    """Rows done, and how many a second."""

    def render(self, task: Task) -> Text:
        rows, took = task.fields["rows"], task.elapsed or 0.0
        rate = f", {(rows - task.fields['before']) / took:,.0f}/s" if took > 1 else ""
        return Text(f"{rows:,} rows{rate}")


@contextmanager
def shown(console: Console | None, what: str, total: int | None, before: int = 0) -> Iterator[Tell]:
    """Nothing is shown without a console. `total` is in bytes; `before` rows were done already."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        Rows(),
        TimeLeft(),
    )
    with Progress(*columns, console=console, disable=console is None) as progress:
        job = progress.add_task(what, total=total, rows=before, before=before)

        def tell(done: int, rows: int) -> None:
            progress.update(job, completed=done, rows=rows)

        yield tell
