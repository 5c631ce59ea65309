"""Lists that staff brought: in a private folder of the temporary ones, and gone after an hour."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import stat
import tempfile
from pathlib import Path
from typing import BinaryIO, NamedTuple

from prefs.core.errors import NotFound, PrefsError
from prefs.settings import Settings

KEPT = 3600.0
SWEEP_EVERY = 60.0
MOST = 20
"""Lists of one brand at a time."""

_ID = re.compile(r"[0-9a-f]{32}")
_LONGEST_NAME = 120


class NotPrivate(PrefsError):
    """The temporary folder of ours belongs to somebody else."""


class List(NamedTuple):
    id: str
    folder: Path

    @property
    def source(self) -> Path:
        return self.folder / "list.csv"

    @property
    def checked(self) -> Path:
        return self.folder / "checked.csv"

    @property
    def name(self) -> str:
        """Of the file as it was brought."""
        return (self.folder / "name").read_text(encoding="utf-8")

    @property
    def goes_at(self) -> float:
        return self.source.stat().st_mtime + KEPT


class Lists:
    """The lists of one service, for all of its processes on this machine."""

    def __init__(self, settings: Settings) -> None:
        name = hashlib.sha256(settings.database.encode()).hexdigest()[:12]
        self._folder = Path(tempfile.gettempdir()) / f"prefs-{os.getuid()}-{name}"

    def keep(self, brand: str, name: str, content: BinaryIO) -> List:
        made = List(secrets.token_hex(16), self._of(brand))
        made = made._replace(folder=made.folder / made.id)
        made.folder.mkdir(mode=0o700)
        (made.folder / "name").write_text(name[:_LONGEST_NAME], encoding="utf-8")
        with made.source.open("wb") as file:
            shutil.copyfileobj(content, file, 1024 * 1024)
        return made

    def _of(self, brand: str) -> Path:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        found = self._folder.lstat()
        others = stat.S_IMODE(found.st_mode) & 0o077
        if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode) or others:
            raise NotPrivate(f"{self._folder} is not ours alone: remove it, or set TMPDIR")
        folder = self._folder / brand
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    def one(self, brand: str, id_: str) -> List:
        """Raises NotFound, also for another brand's."""
        found = List(id_, self._of(brand) / id_)
        if not _ID.fullmatch(id_) or not found.source.exists():
            raise NotFound("there is no such list, or it was deleted after an hour")
        return found

    def of_brand(self, brand: str) -> list[List]:
        """The newest first."""
        found = [List(path.name, path) for path in self._of(brand).iterdir()]
        whole = [one for one in found if one.source.exists()]
        return sorted(whole, key=lambda one: one.goes_at, reverse=True)

    def drop(self, one: List) -> None:
        shutil.rmtree(one.folder, ignore_errors=True)

    def sweep(self, now: float) -> None:
        """Delete what is older than an hour."""
        for folder in self._folder.glob("*/*"):
            came = next(folder.glob("list.csv"), folder)
            if now - came.stat().st_mtime >= KEPT:
                shutil.rmtree(folder, ignore_errors=True)
