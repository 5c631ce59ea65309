"""The databases of many people that the figures of one run share, each made at its first use."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path

from bench import population
from bench.kit import KEYS, Plan
from prefs.store import migrate
from tests import postgres

Tell = Callable[[str], None]


class Data:
    """`wanted` are the names of the engines that any figure of this run asks for: a million people
    are made once, for both."""

    def __init__(self, folder: Path, plan: Plan, wanted: set[str], tell: Tell) -> None:
        self.folder, self.plan, self.tell = folder, plan, tell
        self._wanted = wanted
        self._made: dict[tuple[str, int], str] = {}
        self._numbers = count(1)

    def sqlite(self, people: int) -> str:
        return self._of("sqlite", people)

    def postgres(self, people: int) -> str:
        return self._of("postgresql", people)

    def place(self) -> Path:
        """A new, empty folder."""
        made = self.folder / str(next(self._numbers))
        made.mkdir()
        return made

    def empty_sqlite(self) -> str:
        url = f"sqlite:///{self.place()}/prefs.db"
        migrate.ensure(url)
        return url

    def copy(self, url: str) -> str:
        """For a figure that writes much. All of it is on disk before that begins."""
        if not url.startswith("sqlite"):
            return postgres.copy(url)
        made = self.place() / "prefs.db"
        old = path_of(url)
        for end in ("", "-wal"):
            with suppress(FileNotFoundError):
                shutil.copyfile(f"{old}{end}", f"{made}{end}")
        os.sync()
        return f"sqlite:///{made}"

    def drop(self, url: str) -> None:
        """A copy that is done with."""
        if url.startswith("sqlite"):
            shutil.rmtree(path_of(url).parent)
        else:
            postgres.drop(url)

    def _of(self, engine: str, people: int) -> str:
        if (engine, people) not in self._made:
            self._make({engine} | self._wanted, people)
        return self._made[engine, people]

    def _make(self, engines: set[str], people: int) -> None:
        urls = {engine: self._new(engine) for engine in sorted(engines)}
        self.tell(f"making {people:,} people in {', '.join(urls)}")
        population.fill_all(list(urls.values()), KEYS, people, lambda done: None)
        self._made |= {(engine, people): url for engine, url in urls.items()}

    def _new(self, engine: str) -> str:
        return self.empty_sqlite() if engine == "sqlite" else postgres.database()


def path_of(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))
