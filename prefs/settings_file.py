"""Reading the configuration file and the environment: every fault noted with its key and its fix.

`PREFS__BRANDS__RT__NAME=...` overrides `brands.rt.name`; lists, tables, `true` and `false` are
written there as in TOML. A text may stand elsewhere, a secret must: `env:NAME` or `file:PATH`.
Paths are relative to the file.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any

from prefs.core.errors import SettingsError

PREFIX = "PREFS__"
_LONGEST_ID = 32
_ID = re.compile(r"[A-Za-z0-9]+(?:[-_][A-Za-z0-9]+)*")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)
_UNIT = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Secret(str):
    """A text that no repr shows."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Secret(...)"


class _Given(str):
    """A text from the environment: there a secret may stand as it is."""

    __slots__ = ()


class Report:
    """What is wrong so far, and where secrets and relative paths are looked up."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self.folder = folder
        self.environ = environ
        self.faults: list[str] = []
        self.warnings: list[str] = []

    def fault(self, at: str, text: str) -> None:
        self.faults.append(f"{at}: {text}")

    def warn(self, at: str, text: str) -> None:
        self.warnings.append(f"{at}: {text}")

    def resolved(self, at: str, text: str) -> Secret:
        """What `env:NAME` or `file:PATH` stands for."""
        scheme, _, rest = text.partition(":")
        return Secret(self._variable(at, rest) if scheme == "env" else self._file(at, rest))

    def _variable(self, at: str, name: str) -> str:
        found = self.environ.get(name, "").strip()
        if not found:
            self.fault(at, f"the environment variable {name} is not set; set it")
        return found

    def _file(self, at: str, name: str) -> str:
        try:
            found = (self.folder / name).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            found = ""
        if not found:
            self.fault(at, f"the file {name} is missing, empty or not readable; write it there")
        return found


def read(path: Path, environ: Mapping[str, str]) -> Table:
    """The whole file with the environment's values over it. Raises SettingsError where there is
    nothing to read; faults of single keys are noted in the table's report."""
    report = Report(path.parent.absolute(), environ)
    values = _toml(path)
    for name in sorted(environ):
        if name.startswith(PREFIX):
            _override(values, name, report)
    return Table("", values, report)


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        fault = f"{path}: there is no such file; write one, or name it by --config or PREFS_CONFIG"
    except OSError as error:
        fault = f"{path}: cannot be read: {error.strerror}; let this user read it"
    except ValueError as error:
        fault = f"{path}: is no TOML: {error}; correct that line"
    raise SettingsError([fault])


def _override(values: dict[str, Any], name: str, report: Report) -> None:
    *way, last = name.removeprefix(PREFIX).split("__")
    place = values
    for part in way:
        place = place.setdefault(_spelled(place, part), {})
        if not isinstance(place, dict):
            report.fault(name, f"{part.lower()} is no table; unset this variable")
            return
    try:
        place[_spelled(place, last)] = _given(_parsed(report.environ[name]))
    except tomllib.TOMLDecodeError:
        report.fault(name, 'is no TOML; write lists and tables like ["a", "b"]')


def _spelled(place: Mapping[str, Any], part: str) -> str:
    """The key as the file spells it: case and hyphens do not survive in a variable's name."""
    same = (key for key in place if key.upper().replace("-", "_") == part.upper())
    return next(same, part.lower())


def _parsed(text: str) -> Any:
    plain = text not in ("true", "false") and not text.startswith(("[", "{", '"'))
    return text if plain else tomllib.loads(f"value = {text}")["value"]


def _given(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _given(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_given(one) for one in value]
    return _Given(value) if isinstance(value, str) else value


def seconds(text: str) -> float | None:
    """`500ms`, `1s`, `15m`, `24h`, `7d` in seconds; None for anything else and for nothing."""
    found = _DURATION.fullmatch(text)
    return (float(found[1]) * _UNIT[found[2]] or None) if found else None


class Table:
    """One table. A reader that meets a fault notes it and answers something harmless, because
    with a fault noted no Settings comes out."""

    def __init__(self, at: str, values: Mapping[str, Any], report: Report) -> None:
        self.at = at
        self.values = values
        self.report = report
        self._asked: list[str] = []

    def path(self, key: str) -> str:
        return f"{self.at}.{key}" if self.at else key

    def fault(self, key: str, text: str) -> None:
        self.report.fault(self.path(key), text)

    def raw(self, key: str) -> Any:
        self._asked.append(key)
        return self.values.get(key)

    def end(self) -> None:
        """Note what nobody asked for."""
        for key in self.values:
            if key not in self._asked:
                self.fault(key, f"unknown key; {suggestion(key, self._asked)}")

    def optional(self, key: str) -> str | None:
        value = self.raw(key)
        return None if value is None else self._text(key, value)

    def text(self, key: str, default: str | None = None) -> str:
        """Required where there is no default."""
        found = self.optional(key)
        if found is None and default is None:
            self.fault(key, "is missing; add it")
        return found or default or ""

    def file(self, key: str) -> Path | None:
        """A file that is there; relative to the configuration's folder."""
        text = self.optional(key)
        if text is None:
            return None
        path = self.report.folder / text.removeprefix("file:")
        if not path.is_file():
            self.fault(key, f"there is no file {text}")
        return path

    def secret(self, key: str) -> Secret | None:
        value = self.raw(key)
        return None if value is None else self._secret(key, value)

    def texts(self, key: str) -> tuple[str, ...]:
        return tuple(self._text(f"{key}[{n}]", one) for n, one in enumerate(self._list(key)))

    def secrets(self, key: str) -> tuple[Secret, ...]:
        return tuple(self._secret(f"{key}[{n}]", one) for n, one in enumerate(self._list(key)))

    def flag(self, key: str) -> bool:
        value = self.raw(key)
        if not isinstance(value, bool):
            self.fault(key, "is no flag; write true or false")
        return value is True

    def one_of(self, key: str, words: Collection[str], default: str) -> str:
        found = self.text(key, default)
        if found not in words:
            self.fault(key, f"is none of {', '.join(words)}; write one of these")
        return found

    def seconds(self, key: str, default: float) -> float:
        text = self.optional(key)
        found = default if text is None else seconds(text)
        if found is None:
            self.fault(key, "is no duration; write one like 1s, 15m or 24h")
        return found or 0.0

    def table(self, key: str) -> Table | None:
        value = self.raw(key)
        if value is None or isinstance(value, dict):
            return None if value is None else Table(self.path(key), value, self.report)
        self.fault(key, "is no table; write { key = value }")
        return None

    def named(self, key: str) -> Iterator[tuple[str, Table]]:
        """The tables inside of one, by id."""
        outer = self.table(key)
        if outer is None:
            return
        for id_ in outer.values:
            outer.check_id(id_)
            inner = outer.table(id_)
            if inner is not None:
                yield id_, inner

    def check_id(self, id_: str) -> None:
        if not _ID.fullmatch(id_) or len(id_) > _LONGEST_ID:
            self.fault(id_, f"is no id; use up to {_LONGEST_ID} letters, digits, - and _")

    def free(self, key: str) -> Mapping[str, str | tuple[str, ...]]:
        """A table whose keys are the operator's: to each a text or a list of texts."""
        inner = self.table(key)
        if inner is None:
            return MappingProxyType({})
        return MappingProxyType(
            {
                one: inner.texts(one) if isinstance(value, list) else inner.text(one)
                for one, value in inner.values.items()
            }
        )

    def secret_or_free(self, key: str) -> Secret | Mapping[str, Secret] | None:
        """One secret, or a table of secrets."""
        if not isinstance(self.values.get(key), dict):
            return self.secret(key)
        inner = self.table(key)
        values = inner.values if inner else {}
        return MappingProxyType({one: self._secret(f"{key}.{one}", values[one]) for one in values})

    def _list(self, key: str) -> list[Any]:
        value = self.raw(key)
        if value is None or isinstance(value, list):
            return value or []
        self.fault(key, 'is no list; write ["a", "b"]')
        return []

    def _text(self, key: str, value: Any) -> str:
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str) or not value.strip() or "\0" in value:
            self.fault(key, "is no text, or an empty one; write it in quotes")
            return ""
        return self.report.resolved(self.path(key), value) if _elsewhere(value) else str(value)

    def _secret(self, key: str, value: Any) -> Secret:
        if isinstance(value, str) and _elsewhere(value):
            return self.report.resolved(self.path(key), value)
        if isinstance(value, _Given) and value:
            return Secret(value)
        self.fault(key, "a secret stays out of the file; write env:NAME or file:PATH")
        return Secret()


def _elsewhere(text: str) -> bool:
    return text.startswith(("env:", "file:"))


def suggestion(word: str, known: Collection[str]) -> str:
    close = get_close_matches(word, known, n=1)
    if close:
        return f"did you mean {close[0]}?"
    return f"known are: {', '.join(sorted(known))}" if known else "none is known here"
