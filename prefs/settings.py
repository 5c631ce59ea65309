"""One frozen Settings, built once from a TOML file and the environment.

`PREFS__BRANDS__RT__NAME=...` overrides `brands.rt.name`; lists, tables, `true` and `false` are
written there as in TOML. Secrets are `env:NAME` or `file:PATH`. Paths are relative to the file.
Every fault is found in one go, and each names its key and its fix.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import SplitResult, urlsplit

from phonenumbers import SUPPORTED_REGIONS

from prefs.core import identity
from prefs.core.errors import BadIdentifier, SettingsError
from prefs.core.keys import LEAST_SECRET
from prefs.core.propagation import Key, Limit, Target
from prefs.core.words import Channel, Purpose

Systems = Mapping[str, Mapping[str, Key]]
"""Configuration keys of each known system."""

DEFAULT_TOPICS = {
    "treatments": "Treatment news",
    "products": "Products",
    "offers": "Special offers",
    "competitions": "Competitions",
    "news": "News and advice",
}
TARGET_KEYS = {
    "webhook_key": Key("secret", help="Key in the query of webhooks that the vendor cannot sign."),
    "service_containers": Key("list", help="Ids of lists that carry no marketing: never written."),
    "ignored_containers": Key("list", help="Ids of lists that nobody sends to."),
}
"""Keys of every target, beside `system`, `mode`, `base_url`, `unsafe_after` and `limit`."""


class Secret(str):
    """A text that no repr shows."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Secret(...)"


class Address(NamedTuple):
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Mail:
    send: str = field(repr=False)
    """`smtp://user@host:587`, `smtps://...`, or `file:///dir`: one .eml a message."""
    sender: str
    inbox: str | None = field(default=None, repr=False)
    """`imaps://user@host/FOLDER`."""


@dataclass(frozen=True, slots=True)
class Worker:
    """Seconds."""

    first_retry: float
    max_retry: float
    poll_every: float
    lease: float
    call_alive: float | None = None
    """For every target, in place of the systems' documented figures."""


@dataclass(frozen=True, slots=True)
class Controller:
    id: str
    name: str
    address: str | None
    complaints_email: str | None


@dataclass(frozen=True, slots=True)
class Inbox:
    """The brand's unsubscribe mailbox."""

    address: str
    authserv_id: str | None
    """Whose Authentication-Results header (RFC 8601) is believed."""
    key: str | None


@dataclass(frozen=True, slots=True)
class Brand:
    id: str
    controller: str
    name: str
    region: str
    locale: str
    privacy_notice: str | None
    mps: bool
    topics: Mapping[str, str]
    """Id -> what people read."""
    sms: Mapping[str, tuple[str, ...]]
    """Purpose -> our numbers and sender ids."""
    mail: Inbox | None
    targets: Mapping[str, Target]


@dataclass(frozen=True, slots=True)
class Settings:
    listen: Address
    public_url: str
    """Without a slash at its end."""
    database: str = field(repr=False)
    """`sqlite:////absolute/path` or `postgresql://...`."""
    secret_keys: tuple[bytes, ...] = field(repr=False)
    """Newest first."""
    allowed_hosts: tuple[str, ...]
    checkpoint: Path | None
    mail: Mail | None
    alerts: tuple[str, ...]
    """Addresses that alarms are mailed to."""
    worker: Worker
    controllers: Mapping[str, Controller]
    brands: Mapping[str, Brand]
    warnings: tuple[str, ...] = ()

    @property
    def targets(self) -> dict[str, Target]:
        """Every target of every brand by its label."""
        return {
            target.label: target
            for brand in self.brands.values()
            for target in brand.targets.values()
        }

    def brands_of(self, controller: str) -> list[Brand]:
        return [brand for brand in self.brands.values() if brand.controller == controller]


def load(path: Path, environ: Mapping[str, str], systems: Systems) -> Settings:
    """Raises SettingsError with all faults."""
    report = _Report(path.parent.absolute(), environ)
    values = _read(path)
    _override(values, report)
    settings = _settings(_Table("", values, report), systems)
    if report.faults:
        raise SettingsError(report.faults)
    return settings


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        fault = f"{path}: there is no such file; write one, or name it by --config or PREFS_CONFIG"
    except OSError as error:
        fault = f"{path}: cannot be read ({error.strerror})"
    except ValueError as error:
        fault = f"{path}: is no TOML: {error}"
    raise SettingsError([fault])


# --- environment -----------------------------------------------------------------------------------

PREFIX = "PREFS__"


class _Given(str):
    """A text from the environment: there a secret may stand as it is."""

    __slots__ = ()


def _override(values: dict[str, Any], report: _Report) -> None:
    for name in sorted(report.environ):
        if name.startswith(PREFIX):
            _put(values, name, report)


def _put(values: dict[str, Any], name: str, report: _Report) -> None:
    *way, last = name.removeprefix(PREFIX).split("__")
    place = values
    for part in way:
        place = place.setdefault(_spelled(place, part), {})
        if not isinstance(place, dict):
            return report.fault(name, f"{part.lower()} is no table that could be overridden")
    try:
        place[_spelled(place, last)] = _given(_parsed(report.environ[name]))
    except tomllib.TOMLDecodeError:
        report.fault(name, 'write lists and tables as in TOML, like ["a", "b"]')


def _spelled(place: Mapping[str, Any], part: str) -> str:
    """The key as the file spells it; case and hyphens do not survive in a variable's name."""
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


# --- reading one table -----------------------------------------------------------------------------


class _Report:
    """What is wrong, and where secrets and relative paths are looked up."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self.folder = folder
        self.environ = environ
        self.faults: list[str] = []
        self.warnings: list[str] = []

    def fault(self, at: str, text: str) -> None:
        self.faults.append(f"{at}: {text}")

    def warn(self, at: str, text: str) -> None:
        self.warnings.append(f"{at}: {text}")

    def resolved(self, at: str, text: str) -> str:
        """What `env:NAME` or `file:PATH` stands for; any other text stands for itself."""
        scheme, colon, rest = text.partition(":")
        if not colon or scheme not in ("env", "file"):
            return text
        found = self._variable(at, rest) if scheme == "env" else self._file(at, rest)
        return Secret(found)

    def _variable(self, at: str, name: str) -> str:
        found = self.environ.get(name, "")
        if not found:
            self.fault(at, f"the environment variable {name} is not set; set it")
        return found

    def _file(self, at: str, name: str) -> str:
        try:
            found = (self.folder / name).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            found = ""
        if not found:
            self.fault(at, f"the file {name} is missing, empty or not readable; write the secret")
        return found


_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNIT = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_ID = re.compile(r"[A-Za-z0-9]+(?:[-_][A-Za-z0-9]+)*")
_LONGEST_ID = 32


def seconds(text: str) -> float | None:
    """`1s`, `15m`, `24h` in seconds; None for anything else and for nothing."""
    found = _DURATION.fullmatch(text)
    return (float(found[1]) * _UNIT[found[2]] or None) if found else None


class _Table:
    """One table of the file. A reader that meets a fault reports it and answers something
    harmless: with a fault no Settings comes out."""

    def __init__(self, at: str, values: Mapping[str, Any], report: _Report) -> None:
        self.at = at
        self.values = values
        self.report = report
        self.known: list[str] = []

    def path(self, key: str) -> str:
        return f"{self.at}.{key}" if self.at else key

    def fault(self, key: str, text: str) -> None:
        self.report.fault(self.path(key), text)

    def get(self, key: str) -> Any:
        self.known.append(key)
        return self.values.get(key)

    def end(self) -> None:
        """Report what nobody asked for."""
        for key in self.values:
            if key not in self.known:
                self.fault(key, f"unknown key; {_suggest(key, self.known)}")

    def text(self, key: str, default: str = "") -> str:
        """Required, where there is no default."""
        found = self.optional(key) if key in self.values else default
        self.known.append(key)
        if not found and not default and key not in self.values:
            self.fault(key, "is missing; add it")
        return found or ""

    def optional(self, key: str) -> str | None:
        value = self.get(key)
        return None if value is None else self._text(self.path(key), value)

    def secret(self, key: str) -> Secret | None:
        value = self.get(key)
        return None if value is None else self._secret(self.path(key), value)

    def secrets(self, key: str) -> list[Secret]:
        values = self._list(key)
        return [self._secret(self.path(f"{key}[{n}]"), one) for n, one in enumerate(values)]

    def texts(self, key: str) -> tuple[str, ...]:
        values = self._list(key)
        return tuple(self._text(self.path(f"{key}[{n}]"), one) for n, one in enumerate(values))

    def flag(self, key: str) -> bool:
        value = self.get(key)
        if not isinstance(value, bool):
            self.fault(key, "write true or false")
        return value is True

    def one_of(self, key: str, words: Collection[str], default: str) -> str:
        found = self.text(key, default)
        if found and found not in words:
            self.fault(key, f"{found!r} is none of {', '.join(words)}; {_suggest(found, words)}")
        return found

    def seconds(self, key: str, default: str) -> float:
        found = seconds(self.text(key, default))
        if found is None:
            self.fault(key, "is no duration; write one like 1s, 15m or 24h")
        return found or 0.0

    def table(self, key: str) -> _Table | None:
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            self.fault(key, "is no table; write { key = value }")
            value = {}
        return _Table(self.path(key), value, self.report)

    def tables(self, key: str) -> Iterator[tuple[str, _Table]]:
        """Each table inside of one, by its id."""
        outer = self.table(key)
        for id_ in outer.values if outer else ():
            assert outer is not None
            if not _ID.fullmatch(id_) or len(id_) > _LONGEST_ID:
                outer.fault(id_, "is no id; use up to 32 letters, digits, - and _")
            inner = outer.table(id_)
            if inner:
                yield id_, inner

    def free(self, key: str) -> Mapping[str, str | tuple[str, ...]]:
        """A table whose keys the operator chooses: text or list of texts each."""
        inner = self.table(key)
        if inner is None:
            return MappingProxyType({})
        return MappingProxyType(
            {
                one: inner.texts(one) if isinstance(value, list) else inner.text(one)
                for one, value in inner.values.items()
            }
        )

    def _list(self, key: str) -> list[Any]:
        value = self.get(key)
        if value is None or isinstance(value, list):
            return value or []
        self.fault(key, 'is no list; write ["a", "b"]')
        return []

    def _text(self, at: str, value: Any) -> str:
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str) or not value.strip() or "\0" in value:
            self.report.fault(at, "is no text, or an empty one; write a text in quotes")
            return ""
        return self.report.resolved(at, str(value))

    def _secret(self, at: str, value: Any) -> Secret:
        if isinstance(value, str) and value.startswith(("env:", "file:")):
            return Secret(self.report.resolved(at, str(value)))
        if isinstance(value, _Given) and value:
            return Secret(value)
        self.report.fault(at, "is a secret: keep it out of the file, write env:NAME or file:PATH")
        return Secret()


def _suggest(word: str, known: Collection[str]) -> str:
    close = get_close_matches(word, known, n=1)
    if close:
        return f"did you mean {close[0]}?"
    return f"known are: {', '.join(sorted(known))}" if known else "none is known here"


# --- the whole -------------------------------------------------------------------------------------


def _settings(top: _Table, systems: Systems) -> Settings:
    report = top.report
    worker = _worker(top)
    controllers = {id_: _controller(id_, table) for id_, table in top.tables("controllers")}
    brands = {
        id_: _brand(id_, table, controllers, systems, worker) for id_, table in top.tables("brands")
    }
    if not brands:
        top.fault("brands", "there is no brand; add [brands.NAME]")
    mail = _mail(top)
    settings = Settings(
        listen=_listen(top),
        public_url=_public_url(top),
        database=_database(top),
        secret_keys=_secret_keys(top),
        allowed_hosts=tuple(host.lower() for host in top.texts("allowed_hosts")),
        checkpoint=_checkpoint(top),
        mail=mail,
        alerts=_alerts(top, mail),
        worker=worker,
        controllers=MappingProxyType(controllers),
        brands=MappingProxyType(brands),
        warnings=tuple(report.warnings),
    )
    top.end()
    return settings


def address(text: str) -> Address | None:
    """`HOST:PORT`, `[::1]:8080`; None for anything else. Port 0 is any free one."""
    host, _, port = text.rpartition(":")
    plain = host.removeprefix("[").removesuffix("]")
    if not plain or not port.isascii() or not port.isdigit() or int(port) > 65535:
        return None
    return Address(plain, int(port))


def _listen(top: _Table) -> Address:
    found = address(top.text("listen", "127.0.0.1:8080"))
    if found is None:
        top.fault("listen", "is no HOST:PORT; write one like 127.0.0.1:8080")
    return found or Address("", 0)


def _public_url(top: _Table) -> str:
    url = _url(top, "public_url", top.text("public_url"))
    split = urlsplit(url)
    if split.scheme == "http" and split.hostname not in ("localhost", "127.0.0.1", "::1"):
        top.report.warn(
            "public_url", "is http: one-click unsubscribe needs https (RFC 8058 section 3.1)"
        )
    return url


def _url(table: _Table, key: str, text: str, *, bare: bool = False) -> str:
    """An http(s) URL without a slash at its end; `bare`: scheme and host only."""
    split = _split(text)
    web = split is not None and split.scheme in ("http", "https") and bool(split.hostname)
    if text and not (web and split and not (split.query or split.fragment or split.username)):
        table.fault(key, "is no web address; write one like https://prefs.example.co.uk")
    elif text and bare and split and split.path.strip("/"):
        table.fault(key, "has a path; write scheme and host only: the vendor's paths stay")
    return text.rstrip("/")


def _split(text: str) -> SplitResult | None:
    try:
        split = urlsplit(text)
        _ = split.port
    except ValueError:
        return None
    return split


SQLITE = "sqlite:///"


def _database(top: _Table) -> str:
    text = top.text("database")
    name = text.removeprefix(SQLITE)
    if text.startswith(SQLITE) and name and name != ":memory:":
        return f"{SQLITE}{top.report.folder / name}"
    if text and not (text.startswith("postgresql://") and _split(text)):
        top.fault("database", "write sqlite:///FILE or postgresql://USER@HOST/NAME")
    return text


def _secret_keys(top: _Table) -> tuple[bytes, ...]:
    keys = [key.encode() for key in top.secrets("secret_keys")]
    if not keys:
        top.fault("secret_keys", 'is missing; write ["env:NAME"], newest first')
    for number, key in enumerate(keys):
        if 0 < len(key) < LEAST_SECRET:
            top.fault(
                f"secret_keys[{number}]",
                f"is shorter than {LEAST_SECRET} bytes; make one by: openssl rand -hex 32",
            )
        if key and key in keys[:number]:
            top.fault(f"secret_keys[{number}]", "stands twice; remove one")
    return tuple(keys)


def _checkpoint(top: _Table) -> Path | None:
    value = top.get("checkpoint")
    if value is None:
        return None
    if not isinstance(value, str) or not value.startswith("file:") or value == "file:":
        top.fault("checkpoint", "write file:FOLDER")
        return None
    return top.report.folder / value.removeprefix("file:").removeprefix("//")


def _worker(top: _Table) -> Worker:
    table = top.table("worker") or _Table("worker", {}, top.report)
    worker = Worker(
        first_retry=table.seconds("first_retry", "1s"),
        max_retry=table.seconds("max_retry", "1h"),
        poll_every=table.seconds("poll_every", "15m"),
        lease=table.seconds("lease", "30s"),
        call_alive=table.seconds("call_alive", "1s") if "call_alive" in table.values else None,
    )
    if worker.first_retry > worker.max_retry:
        table.fault("first_retry", "is longer than max_retry; make it shorter")
    table.known.append("call_alive")
    table.end()
    return worker


# --- mail and alerts -------------------------------------------------------------------------------


def _mail(top: _Table) -> Mail | None:
    table = top.table("mail")
    if table is None:
        return None
    mail = Mail(table.text("send"), _email(table, "from") or "", table.optional("inbox"))
    if not table.text("from"):
        pass
    if mail.send and not mail.send.startswith(("smtp://", "smtps://", "file:///")):
        table.fault("send", "write smtp://USER@HOST:PORT, smtps://... or file:///FOLDER")
    if mail.inbox and not mail.inbox.startswith(("imaps://", "imap://")):
        table.fault("inbox", "write imaps://USER@HOST/FOLDER")
    table.end()
    return mail
