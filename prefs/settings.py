"""One frozen Settings, built once from the configuration file and the environment."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import SplitResult, parse_qsl, urlsplit
from zoneinfo import ZoneInfo

from phonenumbers import SUPPORTED_REGIONS

from prefs.core import identity
from prefs.core.errors import BadIdentifier, SettingsError
from prefs.core.keys import LEAST_SECRET
from prefs.core.propagation import Key, Limit, Target
from prefs.core.words import Channel, Purpose
from prefs.locales import FALLBACK, catalogues, language_of, misfits, table_of
from prefs.settings_file import Report, Secret, Table, read, seconds, suggestion

Systems = Mapping[str, Mapping[str, Key]]
"""The configuration keys of each known system."""
Network = IPv4Network | IPv6Network

DEFAULT_TOPICS = ("treatments", "products", "offers", "competitions", "news")
"""Their names stand in the catalogues."""
TARGET_KEYS = {
    "webhook_key": Key("secret", help="Key in the query of webhooks that the vendor cannot sign."),
    "service_containers": Key("list", help="Ids of lists that carry no marketing: never written."),
    "ignored_containers": Key("list", help="Ids of lists that nobody sends to."),
}
"""Options of every target, beside `system`, `mode`, `base_url`, `unsafe_after` and `limit`."""


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
    inbox_password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Worker:
    """Times in seconds."""

    first_retry: float = 1.0
    max_retry: float = 3600.0
    poll_every: float = 900.0
    lease: float = 30.0
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
    """The brand's mailbox for mails that unsubscribe."""

    address: str
    authserv_id: str | None
    """Whose Authentication-Results header is believed (RFC 8601 section 2.5)."""
    key: str | None


class Look(NamedTuple):
    """How a brand's pages look. `colour` is that of buttons and links, six hexadecimal digits."""

    colour: str | None
    logo: Path | None


@dataclass(frozen=True, slots=True)
class Brand:
    id: str
    controller: str
    name: str
    region: str
    locale: str
    timezone: str
    privacy_notice: str | None
    mps: bool
    topics: Mapping[str, str]
    """Id -> what people read."""
    sms: Mapping[str, tuple[str, ...]]
    """Purpose -> our numbers and sender ids."""
    mail: Inbox | None
    look: Look
    texts: Mapping[str, str]
    """Texts of the catalogue that this brand words its own way."""
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
    """In lower case."""
    trusted_proxies: tuple[Network, ...]
    """Whose X-Forwarded-For and X-Request-Id are believed; nobody's by default."""
    drain: float
    """Seconds between SIGTERM and the end of listening: not ready any more, still answering."""
    log: str
    """`json`, `text`, or `auto`: text on a terminal only."""
    traces: str | None
    """Of an OpenTelemetry collector, without a slash at its end."""
    checkpoint: Path | None
    """Folder for the ledger's checkpoints."""
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
    """Raises SettingsError that names all faults, each with its key and its fix."""
    top = read(path, environ)
    settings = _settings(top, systems)
    if top.report.faults:
        raise SettingsError(top.report.faults)
    return settings


def _settings(top: Table, systems: Systems) -> Settings:
    mail, worker, public_url = _mail(top), _worker(top), _public_url(top)
    controllers = {id_: _controller(id_, table) for id_, table in top.named("controllers")}
    brands = {
        id_: _Branding(id_, table, top.report).brand(controllers, systems, worker, public_url)
        for id_, table in top.named("brands")
    }
    if not brands:
        top.fault("brands", "there is none; add [brands.NAME]")
    if mail and mail.inbox and not any(brand.mail for brand in brands.values()):
        top.fault("mail.inbox", 'is nobody\'s; add mail = { inbox = "ADDRESS" } to a brand')
    settings = Settings(
        listen=_listen(top),
        public_url=public_url,
        database=_database(top),
        secret_keys=_secret_keys(top),
        allowed_hosts=tuple(host.lower() for host in top.texts("allowed_hosts")),
        trusted_proxies=_proxies(top),
        drain=top.seconds("drain", 1.0),
        log=top.one_of("log", LOGS, "auto"),
        traces=_traces(top),
        checkpoint=_checkpoint(top),
        mail=mail,
        alerts=_alerts(top, mail),
        worker=worker,
        controllers=MappingProxyType(controllers),
        brands=MappingProxyType(brands),
        warnings=tuple(top.report.warnings),
    )
    top.end()
    return settings


# --- the service ----------------------------------------------------------------------------------


def address(text: str) -> Address | None:
    """`HOST:PORT` or `[::1]:8080`; None for anything else. Port 0 is any free one."""
    host, _, port = text.rpartition(":")
    plain = host.removeprefix("[").removesuffix("]")
    if not plain or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        return None
    return Address(plain, int(port))


def _listen(top: Table) -> Address:
    found = address(top.text("listen", "127.0.0.1:8080"))
    if found is None:
        top.fault("listen", "is no HOST:PORT; write one like 127.0.0.1:8080")
    return found or Address("", 0)


def _public_url(top: Table) -> str:
    url = _web_address(top, "public_url", top.text("public_url"))
    split = _split(url)
    if split and split.scheme == "http" and not _loopback(split.hostname or ""):
        top.report.warn(
            "public_url", "is http: one-click unsubscribe needs https (RFC 8058 section 3.1)"
        )
    return url


def _loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _web_address(table: Table, key: str, text: str) -> str:
    split = _split(text)
    if text and not (split and _is_web(split)):
        table.fault(key, "is no web address; write one like https://prefs.example.co.uk")
    return text.rstrip("/")


def _is_web(split: SplitResult) -> bool:
    bare = not (split.query or split.fragment or split.username)
    return split.scheme in ("http", "https") and bool(split.hostname) and bare


def _split(text: str) -> SplitResult | None:
    """None where the text cannot be a URL, as with a port that is no number."""
    try:
        split = urlsplit(text)
        readable = split.port is None or split.port >= 0
    except ValueError:
        return None
    return split if readable else None


SQLITE = "sqlite:///"
SSLMODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
LOGS = ("auto", "json", "text")


def _database(top: Table) -> str:
    text = top.text("database")
    name = text.removeprefix(SQLITE)
    if text.startswith(SQLITE) and name and name != ":memory:":
        return f"{SQLITE}{top.report.folder / name}"
    split = _split(text)
    if text and not (split and split.scheme == "postgresql" and split.path.strip("/")):
        top.fault("database", "write sqlite:///FILE or postgresql://USER@HOST/NAME")
    if split and split.scheme == "postgresql":
        _check_options(top, dict(parse_qsl(split.query, keep_blank_values=True)))
    return text


def _check_options(top: Table, options: Mapping[str, str]) -> None:
    if unknown := sorted(options.keys() - {"host", "sslmode"}):
        fix = "known are host and sslmode; variables like PGSSLROOTCERT tell the others"
        top.fault("database", f"unknown options {', '.join(unknown)}; {fix}")
    if options.get("sslmode", SSLMODES[0]) not in SSLMODES:
        top.fault("database", f"sslmode is one of {', '.join(SSLMODES)}")


def _secret_keys(top: Table) -> tuple[bytes, ...]:
    keys = [key.encode() for key in top.secrets("secret_keys")]
    if not top.values.get("secret_keys"):
        top.fault("secret_keys", 'is missing; write ["env:NAME"], newest first')
    for number, key in enumerate(keys):
        if 0 < len(key) < LEAST_SECRET:
            fix = f"is shorter than {LEAST_SECRET} bytes; make one by: openssl rand -hex 32"
            top.fault(f"secret_keys[{number}]", fix)
        if key and key in keys[:number]:
            top.fault(f"secret_keys[{number}]", "is the same as one before; remove it")
    return tuple(keys)


def _proxies(top: Table) -> tuple[Network, ...]:
    found = []
    for number, text in enumerate(top.texts("trusted_proxies")):
        try:
            found.append(ip_network(text))
        except ValueError:
            fix = 'is no network; write one like "10.0.0.0/8" or "127.0.0.1"'
            top.fault(f"trusted_proxies[{number}]", fix)
    return tuple(found)


def _traces(top: Table) -> str | None:
    text = top.optional("traces")
    return _web_address(top, "traces", text) if text else None


def _checkpoint(top: Table) -> Path | None:
    value = top.raw("checkpoint")
    if value is None:
        return None
    scheme, _, folder = str(value).partition(":")
    if scheme != "file" or not folder:
        top.fault("checkpoint", "write file:FOLDER; no other place is known yet")
    return top.report.folder / folder.removeprefix("//")


def _worker(top: Table) -> Worker:
    table = top.table("worker")
    if table is None:
        return Worker()
    usual = Worker()
    worker = Worker(
        first_retry=table.seconds("first_retry", usual.first_retry),
        max_retry=table.seconds("max_retry", usual.max_retry),
        poll_every=table.seconds("poll_every", usual.poll_every),
        lease=table.seconds("lease", usual.lease),
        call_alive=table.seconds("call_alive", 0.0) or None,
    )
    if worker.first_retry > worker.max_retry:
        table.fault("first_retry", "is longer than max_retry; make it shorter")
    table.end()
    return worker


# --- mail and alerts ------------------------------------------------------------------------------


def _mail(top: Table) -> Mail | None:
    table = top.table("mail")
    if table is None:
        return None
    mail = Mail(
        _transport(table),
        _email(table, "from"),
        table.optional("inbox"),
        table.secret("inbox_password"),
    )
    _check_inbox(table, mail)
    table.end()
    return mail


def _check_inbox(table: Table, mail: Mail) -> None:
    if not mail.inbox:
        return
    split = _split(mail.inbox)
    known = split and split.scheme in ("imaps", "imap") and split.hostname and split.username
    if not split or not known:
        table.fault("inbox", "write imaps://USER@HOST/FOLDER")
        return
    if split.scheme == "imap" and not _loopback(split.hostname or ""):
        table.fault("inbox", "is imap: the password would travel in clear; write imaps://")
    if not (mail.inbox_password or split.password):
        table.fault("inbox_password", "is missing; write env:NAME or file:PATH")


def _transport(table: Table) -> str:
    # `file:///` is a folder for mails here, and no secret that stands in a file.
    value = table.raw("send")
    folder = isinstance(value, str) and value.startswith("file:///")
    send = str(value) if folder else table.text("send")
    if send and not folder and not send.startswith(("smtp://", "smtps://")):
        table.fault("send", "write smtp://USER@HOST:PORT, smtps://... or file:///FOLDER")
    return send


def _email(table: Table, key: str) -> str:
    return _checked_email(table, key, table.text(key))


def _checked_email(table: Table, key: str, text: str) -> str:
    try:
        return identity.email(text).spelling if text else ""
    except BadIdentifier:
        table.fault(key, "is no email address; write one like info@example.co.uk")
        return ""


def _alerts(top: Table, mail: Mail | None) -> tuple[str, ...]:
    table = top.table("alerts")
    if table is None:
        return ()
    found = []
    for number, text in enumerate(table.texts("to")):
        scheme, _, place = text.partition(":")
        if text and scheme != "mail":
            table.fault(f"to[{number}]", "write mail:ADDRESS")
        found.append(_checked_email(table, f"to[{number}]", place))
    if found and mail is None:
        table.fault("to", "alarms by mail need a way to send; add [mail]")
    table.end()
    return tuple(found)


# --- controllers and brands -----------------------------------------------------------------------

_LOCALE = re.compile(r"[a-z]{2,3}(-[A-Z][a-z]{3})?(-[A-Z]{2})?")


def _controller(id_: str, table: Table) -> Controller:
    complaints = table.optional("complaints_email")
    controller = Controller(
        id=id_,
        name=table.text("name"),
        address=table.optional("address"),
        complaints_email=complaints and _checked_email(table, "complaints_email", complaints),
    )
    table.end()
    return controller


class _Branding:
    """Reads one `[brands.*]` table."""

    def __init__(self, id_: str, table: Table, report: Report) -> None:
        self.id = id_
        self.table = table
        self.report = report

    def brand(
        self,
        controllers: Mapping[str, Controller],
        systems: Systems,
        worker: Worker,
        public_url: str,
    ) -> Brand:
        region, locale, sms = self._region(), self._locale(), self._sms()
        topics = self._topics(locale)
        targets = {
            name: _target(
                table,
                systems,
                _Common(self.id, name, tuple(topics), region, sms, worker.call_alive, public_url),
            )
            for name, table in self.table.named("targets")
        }
        brand = Brand(
            id=self.id,
            controller=self._controller(controllers),
            name=self.table.text("name"),
            region=region,
            locale=locale,
            timezone=self._timezone(),
            privacy_notice=self._privacy_notice(),
            mps=self.table.one_of("mps", ("on", "off"), "on") == "on",
            topics=MappingProxyType(topics),
            sms=MappingProxyType(sms),
            mail=self._inbox(),
            look=self._look(),
            texts=self._texts(),
            targets=MappingProxyType(targets),
        )
        self.table.end()
        return brand

    def _controller(self, controllers: Mapping[str, Controller]) -> str:
        name = self.table.text("controller")
        if name and name not in controllers:
            fix = f"add [controllers.{name}]; {suggestion(name, controllers)}"
            self.table.fault("controller", f"there is no such controller; {fix}")
        return name

    def _region(self) -> str:
        region = self.table.text("region", "GB")
        if region not in SUPPORTED_REGIONS:
            self.table.fault("region", "is no region; write two capital letters (ISO 3166)")
        return region

    def _locale(self) -> str:
        locale = self.table.text("locale", "en-GB")
        if not _LOCALE.fullmatch(locale):
            self.table.fault("locale", "is no locale; write one like en-GB")
        return locale

    def _timezone(self) -> str:
        name = self.table.text("timezone", "Europe/London")
        try:
            return ZoneInfo(name).key
        except (KeyError, ValueError, OSError):  # unknown, out of bounds, a folder of several
            self.table.fault("timezone", "is no time zone; write one like Europe/London")
            return "Europe/London"

    def _look(self) -> Look:
        table = self.table.table("look")
        if table is None:
            return Look(None, None)
        look = Look(_colour(table), table.file("logo"))
        if look.logo and look.logo.suffix not in LOGOS:
            table.fault("logo", f"is no picture for the web; give one of {', '.join(LOGOS)}")
        table.end()
        return look

    def _texts(self) -> Mapping[str, str]:
        table = self.table.table("texts")
        texts = {key: table.text(key) for key in table.values} if table else {}
        for key, text in texts.items():
            self._check_text(key, text)
        return MappingProxyType(texts)

    def _check_text(self, key: str, text: str) -> None:
        known = catalogues()[FALLBACK]
        if key not in known:
            self.table.fault(f"texts.{key}", f"there is no such text; {suggestion(key, known)}")
        elif wrong := misfits(key, text):
            fix = f"write it as in: {known[key]}"
            self.table.fault(f"texts.{key}", f"{', '.join(sorted(wrong))} has no value here; {fix}")

    def _privacy_notice(self) -> str | None:
        text = self.table.optional("privacy_notice")
        if text is None:
            self.report.warn(
                self.table.path("privacy_notice"), "is missing: the pages link to none"
            )
        elif text and not text.startswith(("https://", "http://")):
            self.table.fault("privacy_notice", "is no web address; write one like https://...")
        return text

    def _topics(self, locale: str) -> dict[str, str]:
        table = self.table.table("topics")
        if table is None:
            names = table_of(language_of(locale))
            return {id_: names[f"topics.{id_}"] for id_ in DEFAULT_TOPICS}
        for id_ in table.values:
            table.check_id(id_)
        return {id_: table.text(id_) for id_ in table.values}

    def _sms(self) -> dict[str, tuple[str, ...]]:
        table = self.table.table("sms")
        if table is None:
            return {}
        senders = {
            purpose.value: tuple(map(_sender, table.texts(purpose)))
            for purpose in Purpose
            if table.raw(purpose) is not None
        }
        self._warn_of_shared(table, senders)
        table.end()
        return senders

    def _warn_of_shared(self, table: Table, senders: Mapping[str, tuple[str, ...]]) -> None:
        marketing = set(senders.get(Purpose.MARKETING, ()))
        for sender in sorted(marketing.intersection(senders.get(Purpose.REMINDERS, ()))):
            self.report.warn(
                table.at,
                f"{sender} sends both marketing and reminders: STOP to it is marketing out, and "
                "reminders by SMS become undeliverable; give reminders a sender of their own",
            )

    def _inbox(self) -> Inbox | None:
        table = self.table.table("mail")
        if table is None:
            return None
        inbox = Inbox(_email(table, "inbox"), table.optional("authserv_id"), table.secret("key"))
        table.end()
        return inbox


LOGOS = (".svg", ".png", ".jpg", ".webp")
CONTRAST = 4.5
"""White letters on the brand's colour must be readable (WCAG 2.2, criterion 1.4.3)."""


def _colour(table: Table) -> str | None:
    text = table.optional("colour")
    if text is None:
        return None
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        table.fault("colour", "is no colour; write one like #7a3e9d")
    elif (found := contrast_with_white(text)) < CONTRAST:
        fix = "take a darker one"
        table.fault(
            "colour", f"white letters on it have a contrast of {found:.1f}, under 4.5; {fix}"
        )
    return text.lower()


def contrast_with_white(colour: str) -> float:
    """WCAG 2.2, relative luminance and contrast ratio."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 1.05 / (0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05)


def _sender(text: str) -> str:
    """A number as a gateway writes it; names and service ids stay."""
    return "".join(text.split()) if text.startswith("+") else text


# --- targets --------------------------------------------------------------------------------------

# Tables of `KEYS` whose values are topics ("*" is the whole channel), and those keyed by channel.
TOPIC_TABLES = ("audiences", "interests", "types", "marketing_lists")
CHANNEL_TABLES = ("properties", "tags", "fields", "groups")
SERVICE_LISTS = ("service_containers", "service_lists", "reminder_types")
_TOGETHER = (
    ("client_id", "client_secret", "refresh_token"),
    ("api_key", "api_secret"),
    ("webhook_user", "webhook_password"),
)
_LIMIT = re.compile(r"(\d+)(?:/(\S+)| at once)", re.ASCII)


class _Common(NamedTuple):
    """What a target takes from its brand and the service."""

    brand: str
    name: str
    topics: tuple[str, ...]
    region: str
    senders: Mapping[str, tuple[str, ...]]
    call_alive: float | None
    public_url: str


def _target(table: Table, systems: Systems, common: _Common) -> Target:
    system = table.text("system")
    mode = table.one_of("mode", ("observe", "live"), "observe")
    base_url = table.optional("base_url")
    unsafe_after = table.seconds("unsafe_after", 86400.0)
    limit = _limit(table)
    options: dict[str, Any] = {}
    if system in systems:
        options = _options(table, {**TARGET_KEYS, **systems[system]})
        _check(table, options, systems[system], common.topics)
        table.end()
    elif system:
        table.fault("system", f"there is no such system; {_known(system, systems)}")
    return Target(
        name=common.name,
        brand=common.brand,
        system=system,
        live=mode == "live",
        base_url=base_url and _host(table, base_url),
        options=MappingProxyType(options),
        topics=common.topics,
        region=common.region,
        senders=MappingProxyType(dict(common.senders)),
        limit=limit,
        unsafe_after=unsafe_after,
        call_alive=common.call_alive,
        public_url=common.public_url,
    )


def _known(system: str, systems: Systems) -> str:
    listed = f"known are: {', '.join(sorted(systems))}"
    close = suggestion(system, systems)
    return listed if close == listed else f"{close} {listed}"


def _host(table: Table, text: str) -> str:
    """The vendor's paths stay, so it has none of its own."""
    url = _web_address(table, "base_url", text)
    split = _split(url)
    if split and split.path:
        table.fault("base_url", "has a path; write scheme and host only")
    return url


def _limit(table: Table) -> Limit | None:
    text = table.optional("limit")
    if text is None:
        return None
    found = _LIMIT.fullmatch(text)
    period = seconds(found[2]) if found and found[2] else 0.0
    if not found or period is None or int(found[1]) < 1:
        table.fault("limit", 'is no limit; write "100/10s" or "8 at once"')
        return None
    return Limit(int(found[1]), period)


def _options(table: Table, keys: Mapping[str, Key]) -> dict[str, Any]:
    options = {}
    for name, key in keys.items():
        if name in table.values:
            options[name] = _option(table, name, key.kind)
        elif key.required:
            table.fault(name, f"is missing; add it{f': {key.help}' if key.help else ''}")
        table.raw(name)
    return options


def _option(table: Table, name: str, kind: str) -> Any:
    match kind:
        case "text":
            return table.text(name)
        case "secret":
            return table.secret(name)
        case "flag":
            return table.flag(name)
        case "list":
            return table.texts(name)
        case "table":
            return table.free(name)
        case "secret_or_table":
            return table.secret_or_free(name)
    raise ValueError(f"a key of kind {kind}")


def _check(
    table: Table, options: Mapping[str, Any], keys: Mapping[str, Key], topics: Collection[str]
) -> None:
    """Contradictions between the options of one target."""
    for name in TOPIC_TABLES:
        _check_topics(table, name, options.get(name), topics)
    for name in CHANNEL_TABLES:
        _check_channels(table, name, options.get(name))
    for group in _TOGETHER:
        _check_together(table, group, options, keys)
    _check_login(table, options, keys)
    _check_containers(table, options)


def _check_topics(table: Table, name: str, given: object, topics: Collection[str]) -> None:
    for key, value in given.items() if isinstance(given, Mapping) else ():
        for topic in (value,) if isinstance(value, str) else value:
            if topic not in topics and topic not in ("", "*"):
                fix = suggestion(topic, topics)
                table.fault(f"{name}.{key}", f"{topic} is no topic of this brand; {fix}")


def _check_channels(table: Table, name: str, given: object) -> None:
    channels = [channel.value for channel in Channel]
    for key in given if isinstance(given, Mapping) else ():
        if key not in channels:
            table.fault(f"{name}.{key}", f"is no channel; {suggestion(key, channels)}")


def _check_together(
    table: Table, group: tuple[str, ...], options: Mapping[str, Any], keys: Mapping[str, Key]
) -> None:
    """Keys of which one needs the others, unless the key alone is required."""
    own = [name for name in group if name in keys]
    if len(own) < len(group) or any(keys[name].required for name in own):
        return
    missing = [name for name in own if name not in options]
    if missing and len(missing) < len(own):
        given = next(name for name in own if name in options)
        table.fault(given, f"does not work alone; add {' and '.join(missing)}")


def _check_login(table: Table, options: Mapping[str, Any], keys: Mapping[str, Key]) -> None:
    """Where a system takes a token or a refreshed one: one of the two."""
    if "token" not in keys or "refresh_token" not in keys:
        return
    if "token" in options and "refresh_token" in options:
        table.fault("token", "stands beside refresh_token; remove one of the two")
    if "token" not in options and "refresh_token" not in options:
        table.fault("token", "is missing; add it, or client_id, client_secret and refresh_token")


def _check_containers(table: Table, options: Mapping[str, Any]) -> None:
    """A container is one thing. A reminder list that counts as marketing would be written."""
    counted = Counter(
        id_
        for names in (TOPIC_TABLES, SERVICE_LISTS, ("ignored_containers",))
        for id_ in {id_ for name in names for id_ in options.get(name, ())}
    )
    for id_ in sorted(id_ for id_, times in counted.items() if times > 1):
        table.fault(id_, "is marketing, service or ignored; leave it in one of these")


__all__ = [
    "DEFAULT_TOPICS",
    "TARGET_KEYS",
    "Address",
    "Brand",
    "Controller",
    "Inbox",
    "Mail",
    "Network",
    "Secret",
    "Settings",
    "Systems",
    "Worker",
    "address",
    "load",
]
