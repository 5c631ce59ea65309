"""The configuration: every fault at once, each with its key and its fix, and no secret shown."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest

from prefs.core.errors import SettingsError
from prefs.core.propagation import Key, Limit
from prefs.settings import DEFAULT_TOPICS, Address, Settings, Worker, address, load
from prefs.settings_file import seconds

SYSTEMS = {
    "mailchimp": {
        "api_key": Key("secret", required=True, help="An API key of the account."),
        "audiences": Key("table"),
        "interests": Key("table"),
        "webhook_secret": Key("secret_or_table"),
    },
    "hubspot": {
        "token": Key("secret"),
        "client_id": Key("text"),
        "client_secret": Key("secret"),
        "refresh_token": Key("secret"),
        "types": Key("table"),
        "reminder_types": Key("list"),
        "properties": Key("table"),
    },
    "twilio": {
        "account_sid": Key("text", required=True),
        "api_key": Key("text"),
        "api_secret": Key("secret"),
        "shared_keys": Key("table"),
        "consents": Key("flag"),
    },
}
NEWEST, OLDER, API_KEY = "newest-" + "n" * 32, "older-" + "o" * 32, "sekret-0001-us1"
ENVIRON = {"KEY_NEW": NEWEST, "KEY_OLD": OLDER, "MC": API_KEY, "HOOK": "sekret-0002"}

SMALL = """
public_url = "https://prefs.example.co.uk"
database = "sqlite:///prefs.db"
secret_keys = ["env:KEY_NEW", "env:KEY_OLD"]
[controllers.rt]
name = "RT Aesthetics Ltd"
[brands.rt]
controller = "rt"
name = "RT Aesthetics"
privacy_notice = "https://example.co.uk/privacy"
"""
WHOLE = """
listen = "127.0.0.1:8080"
public_url = "https://prefs.example.co.uk/"
database = "postgresql://prefs:sekret-0003@db/prefs"
secret_keys = ["env:KEY_NEW", "env:KEY_OLD"]
checkpoint = "file:checkpoints"
allowed_hosts = ["Prefs.Internal"]
[mail]
send = "smtp://user:sekret-0004@host:587"
from = "prefs@example.co.uk"
inbox = "imaps://user:sekret-0005@host/INBOX"
[alerts]
to = ["mail:owner@example.co.uk"]
[worker]
first_retry = "500ms"
max_retry = "2h"
poll_every = "15m"
lease = "45s"
call_alive = "3s"
[controllers.rt]
name = "RT Aesthetics Ltd"
address = "1 High Street, Leeds LS1 4AP"
complaints_email = "info@example.co.uk"
[brands.rt]
controller = "rt"
name = "RT Aesthetics"
region = "IE"
locale = "en-IE"
privacy_notice = "https://example.co.uk/privacy"
mps = "off"
topics = { offers = "Special offers", news = "News and advice" }
sms = { marketing = ["MG1", "+44 7700 900001"], reminders = ["MG2"] }
mail = { inbox = "unsubscribe@example.co.uk", authserv_id = "mx.example.co.uk", key = "env:HOOK" }
[brands.rt.targets.mailchimp]
system = "mailchimp"
mode = "live"
base_url = "http://127.0.0.1:9001/"
api_key = "env:MC"
audiences = { a1b2c3 = ["offers", "news"], 77 = [] }
interests = { i1 = "offers" }
webhook_secret = { a1b2c3 = "env:HOOK" }
webhook_key = "env:HOOK"
unsafe_after = "12h"
limit = "100/10s"
service_containers = ["s1", 42]
[brands.rt.targets.texts]
system = "twilio"
account_sid = "AC1"
consents = true
limit = "8 at once"
shared_keys = { one = "env:HOOK" }
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "prefs.toml"
    path.write_text(text, encoding="utf-8")
    return path


def loaded(folder: Path, text: str, environ: Mapping[str, str] = ENVIRON) -> Settings:
    return load(write(folder, text), environ, SYSTEMS)


def faults(folder: Path, text: str, environ: Mapping[str, str] = ENVIRON) -> list[str]:
    with pytest.raises(SettingsError) as raised:
        loaded(folder, text, environ)
    return raised.value.faults


def test_the_least_that_is_needed(tmp_path: Path) -> None:
    settings = loaded(tmp_path, SMALL)
    brand = settings.brands["rt"]
    assert settings.listen == Address("127.0.0.1", 8080)
    assert settings.worker == Worker(1.0, 3600.0, 900.0, 30.0, None)
    assert (settings.mail, settings.alerts, settings.checkpoint) == (None, (), None)
    assert (brand.region, brand.locale, brand.mps) == ("GB", "en-GB", True)
    assert tuple(brand.topics) == DEFAULT_TOPICS
    assert brand.topics["offers"] == "Special offers"
    assert (brand.sms, brand.mail, brand.targets) == ({}, None, {})
    assert settings.warnings == ()


def test_the_service(tmp_path: Path) -> None:
    settings = loaded(tmp_path, WHOLE)
    assert settings.public_url == "https://prefs.example.co.uk"
    assert settings.database == "postgresql://prefs:sekret-0003@db/prefs"
    assert settings.secret_keys == (NEWEST.encode(), OLDER.encode())
    assert settings.checkpoint == tmp_path / "checkpoints"
    assert settings.allowed_hosts == ("prefs.internal",)
    assert settings.worker == Worker(0.5, 7200.0, 900.0, 45.0, 3.0)
    assert settings.alerts == ("owner@example.co.uk",)


def test_how_it_runs_by_itself(tmp_path: Path) -> None:
    settings = loaded(tmp_path, SMALL)
    assert (settings.trusted_proxies, settings.drain) == ((), 1.0)
    assert (settings.log, settings.traces) == ("auto", None)


def test_how_it_runs_as_it_is_told(tmp_path: Path) -> None:
    more = """
trusted_proxies = ["127.0.0.1", "10.0.0.0/8", "2001:db8::/32"]
drain = "5s"
log = "text"
traces = "http://127.0.0.1:4318/"
"""
    settings = loaded(tmp_path, more + SMALL, {**ENVIRON, "PREFS__LOG": "json"})
    networks = [str(one) for one in settings.trusted_proxies]
    assert networks == ["127.0.0.1/32", "10.0.0.0/8", "2001:db8::/32"]
    assert (settings.drain, settings.log) == (5.0, "json")
    assert settings.traces == "http://127.0.0.1:4318"


def test_what_cannot_be_meant_of_how_it_runs(tmp_path: Path) -> None:
    """A network with bits of a host in it is a slip of the pen."""
    more = """
trusted_proxies = ["10.0.0.1/8", "proxy.internal"]
drain = "soon"
log = "xml"
traces = "collector:4318"
"""
    at = [one.partition(":")[0] for one in faults(tmp_path, more + SMALL)]
    assert at == ["trusted_proxies[0]", "trusted_proxies[1]", "drain", "log", "traces"]


def test_mail(tmp_path: Path) -> None:
    mail = loaded(tmp_path, WHOLE).mail
    assert mail is not None
    assert mail.send == "smtp://user:sekret-0004@host:587"
    assert mail.inbox == "imaps://user:sekret-0005@host/INBOX"
    assert mail.sender == "prefs@example.co.uk"


def test_the_mailboxs_password_stands_elsewhere(tmp_path: Path) -> None:
    url, file = '"imaps://user:sekret-0005@host/INBOX"', '"imap://user@127.0.0.1:1143/x"'
    text = WHOLE.replace(url, f'{file}\ninbox_password = "env:HOOK"')
    mail = loaded(tmp_path, text).mail
    assert mail is not None
    assert mail.inbox_password == "sekret-0002"
    assert "sekret-0002" not in repr(mail)


def test_a_folder_for_mails_is_no_secret(tmp_path: Path) -> None:
    text = SMALL + '[mail]\nsend = "file:///var/mails"\nfrom = "prefs@example.co.uk"\n'
    mail = loaded(tmp_path, text).mail
    assert mail is not None
    assert mail.send == "file:///var/mails"


def test_a_brand_and_its_controller(tmp_path: Path) -> None:
    settings = loaded(tmp_path, WHOLE)
    brand, controller = settings.brands["rt"], settings.controllers["rt"]
    assert (brand.id, brand.controller, brand.name) == ("rt", "rt", "RT Aesthetics")
    assert (brand.region, brand.locale, brand.mps) == ("IE", "en-IE", False)
    assert brand.topics == {"offers": "Special offers", "news": "News and advice"}
    assert brand.sms == {"marketing": ("MG1", "+447700900001"), "reminders": ("MG2",)}
    assert brand.mail is not None
    assert (brand.mail.address, brand.mail.key) == ("unsubscribe@example.co.uk", "sekret-0002")
    assert controller.complaints_email == "info@example.co.uk"
    assert settings.brands_of("rt") == [brand]
    assert settings.brands_of("other") == []


def test_a_target(tmp_path: Path) -> None:
    target = loaded(tmp_path, WHOLE).targets["rt/mailchimp"]
    assert (target.name, target.brand, target.system) == ("mailchimp", "rt", "mailchimp")
    assert (target.live, target.base_url) == (True, "http://127.0.0.1:9001")
    assert (target.limit, target.unsafe_after) == (Limit(100, 10.0), 43200.0)
    assert (target.topics, target.region) == (("offers", "news"), "IE")
    assert target.senders == {"marketing": ("MG1", "+447700900001"), "reminders": ("MG2",)}
    assert target.call_alive == 3.0
    assert target.text("api_key") == API_KEY
    assert target.text("webhook_key") == "sekret-0002"
    assert target.table("audiences") == {"a1b2c3": ("offers", "news"), "77": ()}
    assert target.table("interests") == {"i1": "offers"}
    assert target.table("webhook_secret") == {"a1b2c3": "sekret-0002"}
    assert target.options["service_containers"] == ("s1", "42")


def test_a_target_knows_its_webhook(tmp_path: Path) -> None:
    target = loaded(tmp_path, WHOLE).targets["rt/mailchimp"]
    place = "https://prefs.example.co.uk/webhooks/mailchimp/rt/mailchimp"
    assert target.webhook_url == f"{place}?key=sekret-0002"
    assert target.webhook_url_shown == f"{place}?key=<webhook_key>"
    odd = dataclasses.replace(target, options={"webhook_key": "a b&c=+/é"})
    assert dict(parse_qsl(urlsplit(odd.webhook_url).query)) == {"key": "a b&c=+/é"}
    bare = dataclasses.replace(target, options={})
    assert bare.webhook_url == bare.webhook_url_shown == place


def test_a_new_target_only_looks(tmp_path: Path) -> None:
    target = loaded(tmp_path, WHOLE).brands["rt"].targets["texts"]
    assert target.live is False
    assert target.limit == Limit(8, 0.0)
    assert target.unsafe_after == 86400.0
    assert target.options["consents"] is True
    assert target.table("shared_keys") == {"one": "sekret-0002"}
    assert "api_key" not in target.options


def test_a_relative_database_stands_beside_the_file(tmp_path: Path) -> None:
    assert loaded(tmp_path, SMALL).database == f"sqlite:///{tmp_path}/prefs.db"
    absolute = SMALL.replace("sqlite:///prefs.db", "sqlite:////var/lib/prefs.db")
    assert loaded(tmp_path, absolute).database == "sqlite:////var/lib/prefs.db"


def test_a_secret_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{NEWEST}\n", encoding="utf-8")
    settings = loaded(tmp_path, SMALL.replace("env:KEY_NEW", "file:key"))
    assert settings.secret_keys[0] == NEWEST.encode()


def test_settings_cannot_be_changed(tmp_path: Path) -> None:
    settings = loaded(tmp_path, WHOLE)
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.public_url = ""  # type: ignore[misc]  # the point of the test
    for table in (settings.brands, settings.brands["rt"].topics, settings.brands["rt"].targets):
        with pytest.raises(TypeError):
            table["x"] = None  # type: ignore[index]  # the point of the test


def test_no_secret_is_shown(tmp_path: Path) -> None:
    settings = loaded(tmp_path, WHOLE)
    target = settings.targets["rt/mailchimp"]
    shown = f"{settings} {settings!r} {target} {target.options} {settings.brands['rt'].mail}"
    for secret in ("sekret", NEWEST, OLDER, "nnnn"):
        assert secret not in shown


# --- environment ------------------------------------------------------------------------------


def test_the_environment_goes_over_the_file(tmp_path: Path) -> None:
    given = {
        "PREFS__PUBLIC_URL": "http://127.0.0.1:8080",
        "PREFS__BRANDS__RT__NAME": "Ärzte & Co",
        "PREFS__BRANDS__RT__TOPICS__OFFERS": "Deals",
        "PREFS__BRANDS__RT__TARGETS__MAILCHIMP__AUDIENCES__A1B2C3": '["news"]',
        "PREFS__BRANDS__RT__TARGETS__TEXTS__CONSENTS": "false",
        "PREFS__BRANDS__RT__TARGETS__HS__SYSTEM": "hubspot",
        "PREFS__BRANDS__RT__TARGETS__HS__TOKEN": "sekret-0006",
        "PREFS__BRANDS__RT__TARGETS__HS__TYPES": '{ 7 = "offers" }',
        "PREFS__WORKER__LEASE": "30s",
    }
    settings = loaded(tmp_path, WHOLE, {**ENVIRON, **given})
    brand = settings.brands["rt"]
    assert settings.public_url == "http://127.0.0.1:8080"
    assert (brand.name, brand.topics["offers"]) == ("Ärzte & Co", "Deals")
    assert brand.targets["mailchimp"].table("audiences")["a1b2c3"] == ("news",)
    assert brand.targets["texts"].options["consents"] is False
    assert brand.targets["hs"].text("token") == "sekret-0006"
    assert brand.targets["hs"].table("types") == {"7": "offers"}
    assert "sekret-0006" not in repr(settings)
    assert settings.worker.lease == 30.0


def test_a_name_with_hyphens_is_found_from_a_variable(tmp_path: Path) -> None:
    text = SMALL.replace("[brands.rt]", "[brands.rt-leeds]")
    settings = loaded(tmp_path, text, {**ENVIRON, "PREFS__BRANDS__RT_LEEDS__NAME": "Leeds"})
    assert settings.brands["rt-leeds"].name == "Leeds"


def test_other_variables_are_none_of_ours(tmp_path: Path) -> None:
    others = {"PREFS_CONFIG": "x", "PREFS_STAFF_PASSWORD": "y", "PREFSX__Y": "z"}
    assert loaded(tmp_path, SMALL, {**ENVIRON, **others}).warnings == ()


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("PREFS__BRANDS__RT__NAM", "x", "brands.rt.nam: unknown key; did you mean name?"),
        ("PREFS__PUBLIC_URL__X", "x", "PREFS__PUBLIC_URL__X: public_url is no table"),
        ("PREFS__SECRET_KEYS", '["a', "PREFS__SECRET_KEYS: is no TOML"),
        ("PREFS__SECRET_KEYS", "a,b", "secret_keys: is no list"),
    ],
)
def test_a_faulty_variable(tmp_path: Path, name: str, value: str, fault: str) -> None:
    assert any(fault in one for one in faults(tmp_path, SMALL, {**ENVIRON, name: value}))


# --- faults -----------------------------------------------------------------------------------


def test_all_faults_at_once(tmp_path: Path) -> None:
    text = WHOLE.replace('lease = "45s"', 'leese = "45s"').replace('"live"', '"alive"')
    found = faults(tmp_path, text.replace('"IE"', '"Ireland"'), {"KEY_NEW": "short"})
    assert sorted(one.partition(":")[0] for one in found) == [
        "brands.rt.mail.key",
        "brands.rt.region",
        "brands.rt.targets.mailchimp.api_key",
        "brands.rt.targets.mailchimp.mode",
        "brands.rt.targets.mailchimp.webhook_key",
        "brands.rt.targets.mailchimp.webhook_secret.a1b2c3",
        "brands.rt.targets.texts.shared_keys.one",
        "secret_keys[0]",
        "secret_keys[1]",
        "worker.leese",
    ]


def test_each_fault_names_key_and_fix_and_no_secret(tmp_path: Path) -> None:
    text = WHOLE.replace('"env:MC"', '"sekret-0007"').replace("postgresql:", "mysql:")
    found = faults(tmp_path, text, {**ENVIRON, "KEY_NEW": "sekret-0008"})
    assert found == [
        (
            "brands.rt.targets.mailchimp.api_key: a secret stays out of the file; "
            "write env:NAME or file:PATH"
        ),
        "database: write sqlite:///FILE or postgresql://USER@HOST/NAME",
        "secret_keys[0]: is shorter than 32 bytes; make one by: openssl rand -hex 32",
    ]


FAULTS = [
    ('listen = "127.0.0.1:8080"', 'listen = "8080"', "listen: is no HOST:PORT"),
    ('"https://prefs.example.co.uk/"', '"prefs.example.co.uk"', "public_url: is no web address"),
    ('"https://prefs.example.co.uk/"', '"https://a.uk/?x=1"', "public_url: is no web address"),
    ('"https://prefs.example.co.uk/"', '"https://a.uk:x"', "public_url: is no web address"),
    ('"env:KEY_OLD"', '"env:KEY_NEW"', "secret_keys[1]: is the same"),
    ('["env:KEY_NEW", "env:KEY_OLD"]', "[]", "secret_keys: is missing"),
    ('"env:KEY_OLD"', '"file:nowhere"', "secret_keys[1]: the file nowhere is missing"),
    ('"file:checkpoints"', '"s3:checkpoints"', "checkpoint: write file:FOLDER"),
    ('"smtp://user:sekret-0004@host:587"', '"host:587"', "mail.send: write smtp://"),
    ('"imaps://user:sekret-0005@host/INBOX"', '"pop3://host"', "mail.inbox: write imaps://"),
    ('"imaps://user:sekret-0005@host/INBOX"', '"imaps://host/INBOX"', "mail.inbox: write imaps://"),
    ('"imaps://user:sekret-0005@host/INBOX"', '"imap://u:p@host"', "mail.inbox: is imap: the"),
    ('"imaps://user:sekret-0005@host/INBOX"', '"imaps://user@host"', "mail.inbox_password: is"),
    ('mail = { inbox = "unsubscribe@', 'x = { inbox = "unsubscribe@', "mail.inbox: is nobody's"),
    ('from = "prefs@example.co.uk"', "", "mail.from: is missing"),
    ('"prefs@example.co.uk"', '"prefs"', "mail.from: is no email address"),
    ('"mail:owner@example.co.uk"', '"sms:+447700900001"', "alerts.to[0]: write mail:ADDRESS"),
    ('first_retry = "500ms"', 'first_retry = "3h"', "worker.first_retry: is longer"),
    ('lease = "45s"', 'lease = "45"', "worker.lease: is no duration"),
    ('lease = "45s"', 'lease = "0s"', "worker.lease: is no duration"),
    ("[worker]", "[wroker]", "wroker: unknown key; did you mean worker?"),
    ('controller = "rt"', 'controller = "tr"', "brands.rt.controller: there is no such"),
    ('controller = "rt"', "", "brands.rt.controller: is missing"),
    ("[brands.rt]", '[brands."r t"]', "brands.r t: is no id"),
    ('"en-IE"', '"English"', "brands.rt.locale: is no locale"),
    ('mps = "off"', "mps = false", "brands.rt.mps: is no text"),
    ('mps = "off"', 'mps = "none"', "brands.rt.mps: is none of on, off"),
    ("{ offers =", '{ "of fers" = "x", offers =', "brands.rt.topics.of fers: is no id"),
    ("reminders = [", "reminder = [", "brands.rt.sms.reminder: unknown key; did you mean rem"),
    ('system = "mailchimp"', 'system = "mailchump"', "no such system; did you mean mailchimp? k"),
    ('system = "mailchimp"', "", "brands.rt.targets.mailchimp.system: is missing"),
    ('"http://127.0.0.1:9001/"', '"http://127.0.0.1/3.0"', "mailchimp.base_url: has a path"),
    ('api_key = "env:MC"', "", "mailchimp.api_key: is missing; add it: An API key of the account"),
    ('"100/10s"', '"100"', 'mailchimp.limit: is no limit; write "100/10s" or "8 at once"'),
    ('"100/10s"', '"0 at once"', "mailchimp.limit: is no limit"),
    ('"100/10s"', '"100/0s"', "mailchimp.limit: is no limit"),
    ('["offers", "news"]', '["ofers"]', "audiences.a1b2c3: ofers is no topic of this brand; did"),
    ('i1 = "offers"', 'i1 = "gossip"', "interests.i1: gossip is no topic of this brand"),
    ('"s1", 42', '"a1b2c3"', "mailchimp.a1b2c3: is marketing, service or ignored"),
    ("audiences = {", 'audience = { x = "*" }\naudiences = {', "audience: unknown key; did you"),
    ("consents = true", 'consents = "yes"', "texts.consents: is no flag; write true or false"),
    ("consents = true", 'api_key = "SK1"', "texts.api_key: does not work alone; add api_secret"),
    ('account_sid = "AC1"', "", "texts.account_sid: is missing"),
]


@pytest.mark.parametrize(("old", "new", "fault"), FAULTS)
def test_a_fault(tmp_path: Path, old: str, new: str, fault: str) -> None:
    assert old in WHOLE
    found = faults(tmp_path, WHOLE.replace(old, new, 1))
    assert any(fault in one for one in found), found


HUBSPOT = SMALL + '[brands.rt.targets.hs]\nsystem = "hubspot"\n'


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        ("", "token: is missing; add it, or client_id, client_secret and refresh_token"),
        ('token = "env:MC"\nrefresh_token = "env:MC"', "token: stands beside refresh_token"),
        ('refresh_token = "env:MC"', "refresh_token: does not work alone; add client_id and"),
        ('token = "env:MC"\nproperties = { mail = "x" }', "properties.mail: is no channel; did"),
        (
            'token = "env:MC"\ntypes = { 7 = "news" }\nreminder_types = [7]',
            "7: is marketing, service or ignored; leave it in one of these",
        ),
    ],
)
def test_a_contradiction(tmp_path: Path, more: str, fault: str) -> None:
    found = faults(tmp_path, HUBSPOT + more)
    assert any(f"brands.rt.targets.hs.{fault}" in one for one in found), found


def test_either_way_to_log_in(tmp_path: Path) -> None:
    refreshed = 'client_id = "1"\nclient_secret = "env:MC"\nrefresh_token = "env:MC"'
    for more in ('token = "env:MC"', refreshed, 'token = "env:MC"\ntypes = { 7 = "*" }'):
        assert loaded(tmp_path, HUBSPOT + more).targets["rt/hs"].system == "hubspot"


def test_alarms_need_a_way_to_send(tmp_path: Path) -> None:
    found = faults(tmp_path, SMALL + '[alerts]\nto = ["mail:owner@example.co.uk"]\n')
    assert found == ["alerts.to: alarms by mail need a way to send; add [mail]"]


def test_nothing_at_all_is_missing_everything(tmp_path: Path) -> None:
    missing = [one.partition(":")[0] for one in faults(tmp_path, "")]
    assert sorted(missing) == ["brands", "database", "public_url", "secret_keys"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("sslmode=verify-full&host=/run/postgresql", None),
        ("ssl=1&search_path=x", "unknown options search_path, ssl; known are host and sslmode"),
        ("sslmode=on", "sslmode is one of disable, allow,"),
    ],
)
def test_options_of_the_database(tmp_path: Path, options: str, told: str | None) -> None:
    url = f"postgresql://prefs@db/prefs?{options}"
    text = SMALL.replace("sqlite:///prefs.db", url)
    if told is None:
        assert loaded(tmp_path, text).database == url
    else:
        (found,) = faults(tmp_path, text)
        assert told in found


@pytest.mark.parametrize("database", ["sqlite:///", "sqlite:///:memory:", "postgresql://host", "x"])
def test_no_database(tmp_path: Path, database: str) -> None:
    found = faults(tmp_path, SMALL.replace("sqlite:///prefs.db", database))
    assert found == ["database: write sqlite:///FILE or postgresql://USER@HOST/NAME"]


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no such file.*--config or PREFS_CONFIG"):
        load(tmp_path / "none.toml", {}, SYSTEMS)
    with pytest.raises(SettingsError, match="cannot be read"):
        load(tmp_path, {}, SYSTEMS)
    assert "is no TOML" in faults(tmp_path, "listen = ")[0]


# --- warnings and small forms -----------------------------------------------------------------


def test_one_sender_for_both_purposes_is_a_warning(tmp_path: Path) -> None:
    text = SMALL + 'sms = { marketing = ["+44 7700 900001"], reminders = ["+447700900001"] }\n'
    (warning,) = loaded(tmp_path, text).warnings
    assert warning.startswith("brands.rt.sms: +447700900001 sends both marketing and reminders")
    assert "give reminders a sender of their own" in warning


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("http://prefs.example.co.uk", True),
        ("https://prefs.example.co.uk", False),
        ("http://127.0.0.1:8080", False),
        ("http://localhost:8080", False),
    ],
)
def test_http_is_a_warning_away_from_loopback(tmp_path: Path, url: str, warned: bool) -> None:
    warnings = loaded(tmp_path, SMALL.replace("https://prefs.example.co.uk", url)).warnings
    assert any("RFC 8058" in warning for warning in warnings) is warned


def test_a_missing_privacy_notice_is_a_warning(tmp_path: Path) -> None:
    text = SMALL.replace('privacy_notice = "https://example.co.uk/privacy"', "")
    assert loaded(tmp_path, text).warnings == (
        "brands.rt.privacy_notice: is missing: the pages link to none",
    )


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("127.0.0.1:8080", Address("127.0.0.1", 8080)),
        ("0.0.0.0:0", Address("0.0.0.0", 0)),
        ("[::1]:8080", Address("::1", 8080)),
        ("prefs:80", Address("prefs", 80)),
        ("8080", None),
        (":8080", None),
        ("host:", None),
        ("host:http", None),
        ("host:70000", None),
    ],
)
def test_an_address_to_listen_at(text: str, found: Address | None) -> None:
    assert address(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("500ms", 0.5),
        ("1s", 1.0),
        ("1.5s", 1.5),
        ("15m", 900.0),
        ("24h", 86400.0),
        ("7d", 604800.0),
        ("0s", None),
        ("1", None),
        ("1 s", None),
        ("-1s", None),
        ("1w", None),
        ("", None),
    ],
)
def test_a_duration(text: str, found: float | None) -> None:
    assert seconds(text) == found
