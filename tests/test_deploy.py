"""The files that people run it by say what the program does: its commands, keys, routes, limits and
figures."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from connectors.http import CALL_LIMIT
from prefs.app import load_settings
from prefs.cli import main
from prefs.metrics import REGISTRY
from prefs.settings import Settings
from prefs.web import bodies, hooks, pages, server, status
from prefs.web.console import campaign
from tests import nginx

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
OURS = {name: one for name, one in COMPOSE["services"].items() if one.get("image") == "prefs"}
SECRETS = {
    "prefs_key": "k" * 64,
    "database_url": "postgresql://prefs:p@db/prefs",
    "smtp_url": "smtp://prefs:p@mail.example.co.uk:587",
}
DUTY = server.SHUTDOWN_WITHIN + CALL_LIMIT
"""Seconds that a process may need beside its drain."""


def program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None and os.environ.get("PREFS_NO_SKIP"):
        pytest.fail(f"no {name} found")
    if found is None:
        pytest.skip(f"no {name} found")
    return found


def parse(arguments: Iterable[str]) -> click.Context:
    """As the command line reads them. Raises UsageError for what it does not know."""
    words = list(arguments)
    command = main.commands[words[0]]
    return command.make_context(words[0], words[1:])


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    for name, text in SECRETS.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def loaded(secrets: Path, environ: Mapping[str, str]) -> Settings:
    """The example, with the secrets where a test may write them."""
    example = (DEPLOY / "prefs.toml").read_text()
    config = secrets / "prefs.toml"
    config.write_text(example.replace("/run/secrets", str(secrets)))
    return load_settings(config, environ)


# --- the image and compose -----------------------------------------------------------------------


def test_the_image_is_built_of_what_is_there_and_runs_as_nobody_much() -> None:
    text = (DEPLOY / "Containerfile").read_text()
    let_in = set((ROOT / ".dockerignore").read_text().splitlines())
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        assert all((ROOT / name).exists() for name in source.split())
        assert {f"!{name}" for name in source.split()} <= let_in
    assert "--require-hashes" in text
    assert re.search(r"^USER [1-9]\d+:[1-9]\d+$", text, re.MULTILINE)
    assert re.search(r"^ARG PYTHON=\S+:\d\.\d+-slim\S*$", text, re.MULTILINE)
    (path,) = re.findall(r"http://127\.0\.0\.1:8080(/\w+)", text)
    assert path in {route.path for route in status.health}
    (entry,) = re.findall(r"^ENTRYPOINT (.+)$", text, re.MULTILINE)
    assert json.loads(entry) == ["python", "-m", "prefs.cli"]


def test_the_example_is_a_configuration(secrets: Path) -> None:
    settings = loaded(secrets, {})
    assert settings.listen == ("0.0.0.0", 8080)
    assert settings.database == SECRETS["database_url"]
    assert settings.mail is not None
    assert settings.mail.send == SECRETS["smtp_url"]
    assert settings.warnings == ()


def test_compose_runs_two_of_each_after_one_migration() -> None:
    commands = [str(parse(one["command"]).command.name) for one in OURS.values()]
    assert sorted(commands) == ["migrate", "serve", "serve", "work", "work"]
    for name, one in OURS.items():
        after = one["depends_on"]
        assert after["db"] == {"condition": "service_healthy"}
        if name != "migrate":
            assert after["migrate"] == {"condition": "service_completed_successfully"}
    assert all(parse(OURS[name]["command"]).params["no_work"] for name in ("api1", "api2"))


def test_compose_leaves_time_to_end_and_no_secret_in_the_environment(secrets: Path) -> None:
    drain = loaded(secrets, {}).drain
    for one in OURS.values():
        assert int(one["stop_grace_period"].removesuffix("s")) > drain + DUTY
        assert one["read_only"]
        assert set(one["secrets"]) == set(SECRETS)
    for one in COMPOSE["services"].values():
        assert one["image"] == "prefs" or re.fullmatch(r"[\w./-]+:\d\S*", one["image"])
        given = one.get("environment", {})
        assert not [name for name in given if "PASSWORD" in name and not name.endswith("_FILE")]


def test_every_process_tells_opt_outs_to_a_folder_that_is_not_the_database(secrets: Path) -> None:
    folder = loaded(secrets, {}).checkpoint
    assert folder is not None
    for name, one in OURS.items():
        assert f"./checkpoints:{folder}" in one["volumes"], name
    for name in ("prefs-api@.service", "prefs-worker@.service"):
        (kept,) = said(DEPLOY / "systemd" / name, "StateDirectory")
        assert str(folder) in {f"/var/lib/{one}" for one in kept.split()}


def test_compose_leaves_the_database_durable() -> None:
    said = " ".join(COMPOSE["services"]["db"]["command"])
    assert not re.search(r"fsync|synchronous_commit|full_page_writes", said)
    assert "pg_isready" in " ".join(COMPOSE["services"]["db"]["healthcheck"]["test"])


def test_the_proxy_of_compose_knows_both_and_is_the_one_that_is_trusted(secrets: Path) -> None:
    addresses = {
        name: one["networks"]["default"]["ipv4_address"]
        for name, one in COMPOSE["services"].items()
        if "networks" in one
    }
    upstreams = (DEPLOY / "nginx" / "upstreams.compose.conf").read_text()
    served = re.findall(r"^server ([\d.]+):8080 max_fails=0;$", upstreams, re.MULTILINE)
    assert served == [addresses["api1"], addresses["api2"]]
    trusted = [str(one.network_address) for one in loaded(secrets, {}).trusted_proxies]
    assert trusted == [addresses["proxy"]]


# --- systemd -------------------------------------------------------------------------------------


def said(unit: Path, key: str) -> list[str]:
    return re.findall(rf"^{key}=(.+)$", unit.read_text(), re.MULTILINE)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_runs_a_command_that_there_is(unit: Path) -> None:
    (line,) = said(unit, "ExecStart")
    words = shlex.split(line.replace("%i", "9101"))
    assert parse(words[1:]).command is main.commands[words[1]]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_sets_keys_that_there_are(unit: Path, secrets: Path) -> None:
    """By the secrets that it loads, and by no other."""
    kept = dict(one.split(":", 1) for one in said(unit, "LoadCredential"))
    assert set(kept) == set(SECRETS)
    texts = [one.strip("'").replace("%d", str(secrets)) for one in said(unit, "Environment")]
    environ = dict(one.split("=", 1) for one in texts)
    settings = loaded(secrets, environ)
    assert settings.secret_keys == (SECRETS["prefs_key"].encode(),)
    assert settings.database == SECRETS["database_url"]
    assert settings.log == "json"


@pytest.mark.parametrize("name", ["prefs-api@.service", "prefs-worker@.service"])
def test_a_unit_comes_again_and_leaves_time_to_end(name: str, secrets: Path) -> None:
    unit = DEPLOY / "systemd" / name
    assert said(unit, "Restart") == ["always"]
    (time,) = said(unit, "TimeoutStopSec")
    assert int(time) > loaded(secrets, {}).drain + DUTY


def test_by_hand_the_secrets_are_those_of_a_unit(secrets: Path) -> None:
    page = (ROOT / "docs" / "running.md").read_text()
    (block,) = re.findall(r"```\n(cd /var/lib/prefs .+?)```", page, re.DOTALL)
    script = block.replace("/etc/prefs/secrets", str(secrets)).replace("/var/lib/prefs", "/")
    script = script.replace("runuser -u prefs -- /opt/prefs/bin/prefs doctor", "env -0")
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    environ = dict(one.split("=", 1) for one in done.stdout.split("\0") if one)
    settings = load_settings(DEPLOY / "prefs.toml", environ)
    assert settings.secret_keys == (SECRETS["prefs_key"].encode(),)
    assert settings.database == SECRETS["database_url"]
    assert settings.mail is not None
    assert settings.mail.send == SECRETS["smtp_url"]


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    verify = program("systemd-analyze")
    for file in (DEPLOY / "systemd").iterdir():
        text = file.read_text().replace("/opt/prefs/bin/prefs", sys.executable)
        (tmp_path / file.name).write_text(text)
    for name in ("prefs-api@8081.service", "prefs-worker@9101.service", "prefs-migrate.service"):
        done = subprocess.run(
            [verify, "verify", str(tmp_path / name)], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")


# --- proxies -------------------------------------------------------------------------------------

NGINX = nginx.CONFIG.read_text()


def location(name: str) -> str:
    """What it says in a location of nginx, over what it says for all."""
    (own,) = re.findall(rf"location (?:= )?{re.escape(name)} {{(.*?)\n        }}", NGINX, re.DOTALL)
    return str(own)


def value(key: str, text: str = NGINX) -> str:
    return str(re.findall(rf"^ +{key} +(.+?);", text, re.MULTILINE)[0])


def in_bytes(text: str) -> float:
    size = int(text.rstrip("kmg")) * {"k": 1 << 10, "m": 1 << 20}.get(text[-1], 1)
    return size or float("inf")


def in_seconds(text: str) -> int:
    return int(text.removesuffix("s"))


def test_nginx_takes_the_file(tmp_path: Path) -> None:
    made = nginx.configured(tmp_path, [1, 2], 3)
    done = subprocess.run(
        [nginx.program(), "-t", "-p", str(tmp_path), "-c", str(made)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr


def test_nginx_waits_longer_than_we_do() -> None:
    assert in_seconds(value("client_header_timeout")) > server.HEADERS_WITHIN
    assert in_seconds(value("client_body_timeout")) > server.BODY_PIECE_WITHIN
    assert in_seconds(value("proxy_read_timeout")) > CALL_LIMIT
    assert in_seconds(value("proxy_read_timeout", location("/u/"))) > pages.WRITE_WITHIN
    (upstream,) = re.findall(r"upstream prefs {(.*?)\n    }", NGINX, re.DOTALL)
    assert in_seconds(value("keepalive_timeout", upstream)) < server.IDLE_WITHIN


@pytest.mark.parametrize(
    ("path", "most"),
    [
        ("/v1/check", bodies.BATCH_LIMIT),
        ("/v1/scrub", float("inf")),
        ("/u/", float("inf")),
        ("/webhooks/", hooks.HOOK_LIMIT),
        ("/staff/", campaign.LARGEST),
    ],
)
def test_nginx_takes_bodies_as_large_as_we_do(path: str, most: float) -> None:
    assert in_bytes(value("client_max_body_size", location(path))) >= most
    assert in_bytes(value("client_max_body_size")) >= bodies.BODY_LIMIT


def test_only_what_may_come_twice_is_sent_twice() -> None:
    twice = re.findall(r"location (?:= )?(\S+) {[^}]*non_idempotent[^}]*}", NGINX)
    assert twice == ["/u/", "/v1/check"]
    assert NGINX.count("non_idempotent;") == 2
    caddy = (DEPLOY / "caddy" / "Caddyfile").read_text()
    assert re.findall(r"lb_retry_match {\s+path (.+)\n", caddy) == ["/u/* /v1/check"]


def test_a_list_goes_through_without_waiting() -> None:
    for key in ("proxy_request_buffering", "proxy_buffering"):
        assert value(key, location("/v1/scrub")) == "off"
    assert "flush_interval -1" in (DEPLOY / "caddy" / "Caddyfile").read_text()


@pytest.mark.parametrize("path", ["/metrics", "/readyz", "/healthz"])
def test_what_is_for_the_inside_stays_inside(path: str) -> None:
    assert path in {route.path for route in status.health}
    assert re.search(rf"location = {path} +{{ return 404; }}", NGINX)
    caddy = (DEPLOY / "caddy" / "Caddyfile").read_text()
    assert path in re.findall(r"@inside path (.+)", caddy)[0].split()


def test_caddy_takes_the_file(tmp_path: Path) -> None:
    caddy = program("caddy")
    text = (DEPLOY / "caddy" / "Caddyfile").read_text()
    if re.match(r"v?2\.[0-6]\.", subprocess.check_output([caddy, "version"], text=True)):
        # Debian's knows the same by an older name
        text = text.replace("request_buffers 4MiB", "buffer_requests")
    (tmp_path / "Caddyfile").write_text(text)
    environ = {"PREFS_HOST": "prefs.example.co.uk", "PREFS_UPSTREAMS": "api1:8080 api2:8080"}
    done = subprocess.run(
        [caddy, "validate", "--adapter", "caddyfile", "--config", str(tmp_path / "Caddyfile")],
        env={**os.environ, **environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


# --- figures -------------------------------------------------------------------------------------

ALERTS = [
    rule
    for group in yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
PANELS = json.loads((DEPLOY / "grafana" / "prefs.json").read_text())["panels"]
QUERIES = [one["expr"] for panel in PANELS for one in panel.get("targets", ())]
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}


@cache
def figures() -> dict[str, set[str]]:
    """The names under which Prometheus knows what we count, with their labels."""
    found = {}
    for collector in REGISTRY._collector_to_names:
        labels = set(getattr(collector, "_labelnames", ()))
        for metric in collector.describe():  # type: ignore[attr-defined]  # all of ours have it
            for suffix in SUFFIXES[metric.type]:
                found[metric.name + suffix] = labels | ({"le"} if suffix == "_bucket" else set())
    return found


def unknown(query: str) -> list[str]:
    """What a query names and nobody counts: figures, and labels of its first figure."""
    named = re.findall(r"\bprefs_\w+", query)
    labels = set(re.findall(r"(\w+)=~?!?\"|(\w+)!=\"", query))
    wanted = {one or other for one, other in labels}
    wanted |= {
        label.strip() for some in re.findall(r"by \(([^)]*)\)", query) for label in some.split(",")
    }
    known = {"instance", "job"}.union(*(figures().get(one, set()) for one in named))
    return [one for one in named if one not in figures()] + sorted(wanted - known)


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: str(rule["alert"]))
def test_an_alert_watches_what_is_counted_and_leads_to_what_to_do(rule: Any) -> None:
    assert unknown(rule["expr"]) == []
    assert rule["annotations"]["summary"]
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    headings = re.findall(r"^### (.+)$", (ROOT / page).read_text(), re.MULTILINE)
    assert anchor in headings


def test_every_paragraph_on_alerts_belongs_to_one() -> None:
    page = (ROOT / "docs" / "running.md").read_text().partition("\n## Alerts\n")[2]
    anchors = {rule["annotations"]["runbook"].partition("#")[2] for rule in ALERTS}
    assert set(re.findall(r"^### (.+)$", page, re.MULTILINE)) == anchors


@pytest.mark.parametrize("query", QUERIES)
def test_the_dashboard_shows_what_is_counted(query: str) -> None:
    assert unknown(query) == []
    assert "prefs_" in query


def test_everything_that_is_counted_is_shown_or_watched() -> None:
    """But what tells about the figures themselves."""
    said = " ".join(QUERIES + [rule["expr"] for rule in ALERTS])
    unseen = {name for name in figures() if not re.search(rf"\b{name}\b", said)}
    quiet = {"prefs_leaving", "prefs_figures_timestamp_seconds"}
    assert {name for name in unseen if not name.endswith(("_bucket", "_sum", "_count"))} == quiet


def test_the_figures_that_a_test_knows_are_those_that_there_are() -> None:
    assert unknown("sum(prefs_nothing_total)") == ["prefs_nothing_total"]
    assert unknown('max by (person) (prefs_marks{target="a"})') == ["person"]


# --- keys ----------------------------------------------------------------------------------------


def test_every_key_of_running_it_is_described() -> None:
    page = (ROOT / "docs" / "running.md").read_text()
    own = ("trusted_proxies", "drain", "log", "traces")
    assert all(f"`{key}" in page for key in own)
    example = tomllib.loads((DEPLOY / "prefs.toml").read_text())
    assert {"trusted_proxies", "drain", "log"} <= set(example)
