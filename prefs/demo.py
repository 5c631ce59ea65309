"""prefs demo: the service, its worker and three vendor twins on this machine, and a story in seven
steps that a person can watch and click through, or that runs by itself and checks every step.

The twins come from the checkout's `tests/twins`; nothing leaves the loopback interface.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".prefs-demo"
TWINS = ("mailchimp", "hubspot", "twilio")
STARTS_WITHIN = 20.0
FOLLOWS_WITHIN = 8.0

LIST = "a1b2c3"
MARKETING_TYPE = "101"
REMINDER_TYPE = "900"
ACCOUNT = "AC" + "0" * 32
MARKETING = ("MG" + "1" * 32, "+447700900001")
REMINDERS = ("MG" + "2" * 32, "+447700900002")

SECRETS = (
    "store",
    "mailchimp_key",
    "mailchimp_signing",
    "hubspot_token",
    "hubspot_signing",
    "twilio_token",
)

PEOPLE = [
    ("amelia@example.com", "+447700900101", "Amelia Hart", "p1"),
    ("beth@example.com", "+447700900102", "Beth Lowe", "p2"),
    ("chloe@example.com", "+447700900103", "Chloe Marsh", "p3"),
    ("dana@example.com", "+447700900104", "Dana Pike", "p4"),
    ("erin@example.com", "+447700900105", "Erin Shaw", "p5"),
]
"""Made up: numbers from Ofcom's range for drama, addresses of a reserved domain."""

CONFIG = """\
listen = "127.0.0.1:{port}"
public_url = "http://127.0.0.1:{port}"
database = "sqlite:///prefs.db"
secret_keys = ["file:secrets/store"]
[mail]
send = "file://{folder}/mail"
from = "prefs@example.co.uk"
[worker]
first_retry = "500ms"
max_retry = "2s"
poll_every = "5s"
lease = "30s"
[controllers.rt]
name = "RT Aesthetics Ltd"
address = "1 High Street, Leeds LS1 1AA"
complaints_email = "info@example.co.uk"
[brands.rt]
controller = "rt"
name = "RT Aesthetics"
region = "GB"
locale = "en-GB"
privacy_notice = "https://example.co.uk/privacy"
sms = {{ marketing = {marketing}, reminders = {reminders} }}
[brands.rt.targets.mailchimp]
system = "mailchimp"
mode = "live"
base_url = "{mailchimp}"
api_key = "file:secrets/mailchimp_key"
webhook_secret = "file:secrets/mailchimp_signing"
audiences = {{ {list} = ["treatments", "products", "offers", "competitions", "news"] }}
[brands.rt.targets.hubspot]
system = "hubspot"
mode = "live"
base_url = "{hubspot}"
token = "file:secrets/hubspot_token"
signing_secret = "file:secrets/hubspot_signing"
types = {{ 101 = "*" }}
reminder_types = ["{reminder_type}"]
[brands.rt.targets.twilio]
system = "twilio"
mode = "live"
base_url = "{twilio}"
account_sid = "{account}"
auth_token = "file:secrets/twilio_token"
consents = true
"""


class StepFailed(Exception):
    """A step of the story did not hold."""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@contextmanager
def started(args: list[str], env: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A child process that ends with the demo; its output goes to the log."""
    with log.open("ab") as output:
        child = subprocess.Popen(  # noqa: S603  # our own modules, no shell
            args, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=output
        )
        try:
            yield child
        finally:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(15)
            except subprocess.TimeoutExpired:
                child.kill()


def until(what: str, holds: Callable[[], Any], seconds: float = FOLLOWS_WITHIN) -> float:
    """Wait until something holds; returns the seconds it took. Raises StepFailed."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        if holds():
            return time.monotonic() - began
        time.sleep(0.05)
    raise StepFailed(f"{what} did not happen within {seconds:.0f} s")


def expect(what: str, holds: bool) -> None:
    if not holds:
        raise StepFailed(what)


@dataclass
class Story:
    """One run: where everything listens, and what was seen."""

    console: Console
    port: int
    env: dict[str, str]
    urls: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    key: str = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    # --- setting up ----------------------------------------------------------------------------

    def make_secrets(self) -> None:
        """In files, so that every command works on the demo's configuration as it stands."""
        folder = FOLDER / "secrets"
        folder.mkdir(mode=0o700)
        for name in SECRETS:
            self.secrets[name] = secrets.token_hex(16) + ("-us6" if name == "mailchimp_key" else "")
            (folder / name).write_text(self.secrets[name])

    def configure(self) -> None:
        self.env["PREFS_CONFIG"] = str(FOLDER / "prefs.toml")
        text = CONFIG.format(
            port=self.port,
            folder=FOLDER,
            marketing=json.dumps(MARKETING),
            reminders=json.dumps(REMINDERS),
            list=LIST,
            reminder_type=REMINDER_TYPE,
            account=ACCOUNT,
            **self.urls,
        )
        (FOLDER / "prefs.toml").write_text(text)

    def prefs(self, *args: str) -> Any:
        """Run a command of ours; its JSON answer."""
        done = subprocess.run(  # noqa: S603  # our own module, no shell
            [sys.executable, "-m", "prefs.cli", *args, "--json"],
            env=self.env,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode not in (0, 1):
            raise StepFailed(f"prefs {args[0]} failed: {done.stderr.strip()[-400:]}")
        return json.loads(done.stdout)

    # --- speaking to the parts -----------------------------------------------------------------

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        answer = httpx.request(
            method,
            self.url + path,
            json=body,
            headers={"Authorization": f"Bearer {self.key}"},
            timeout=10,
        )
        expect(f"{method} {path} answered {answer.status_code}", answer.status_code == 200)
        return answer.json()

    def twin(self, system: str, path: str, body: Any = None) -> Any:
        method = "GET" if body is None else "POST"
        answer = httpx.request(method, f"{self.urls[system]}/_twin/{path}", json=body, timeout=10)
        if answer.is_error:
            raise StepFailed(f"the {system} twin refused {path}: {answer.text[:200]}")
        return answer.json() if answer.content else None

    def act(self, system: str, act: str, **said: Any) -> Any:
        return self.twin(system, f"acts/{act}", said)

    def reason(self, to: str, channel: str, purpose: str = "marketing") -> str:
        body = {"brand": "rt", "channel": channel, "purpose": purpose, "to": [to]}
        found: str = self.ask("POST", "/v1/check", body)["results"][0]["reason"]
        return found

    def subject(self, email: str) -> str:
        items = self.ask("POST", "/v1/subjects/search", {"brand": "rt", "email": email})["items"]
        expect(f"{email} is one person, not {len(items)}", len(items) == 1)
        found: str = items[0]["subject_id"]
        return found

    def outcomes(self, email: str) -> dict[str, str]:
        """target/channel -> outcome."""
        items = self.ask("GET", f"/v1/subjects/{self.subject(email)}/targets")["items"]
        return {f"{one['target']}/{one['channel']}": one["outcome"] for one in items}


def run(*, check: bool, port: int, keep: bool) -> int:
    """Returns the exit code."""
    console = Console(soft_wrap=True)
    signal.signal(signal.SIGTERM, _interrupted)
    if not (ROOT / "tests" / "twins").is_dir():
        console.print("prefs demo needs a checkout: its vendor twins live in tests/twins")
        return 1
    if FOLDER.exists() and not keep:
        shutil.rmtree(FOLDER)
    FOLDER.mkdir(exist_ok=True)
    story = Story(console, port or free_port(), dict(os.environ))
    try:
        with ExitStack() as stack:
            _start(story, stack)
            _tell(story)
            if not check:
                _wait(story)
    except StepFailed as fault:
        console.print(f"[red]failed:[/red] {fault} (logs in {FOLDER.name}/)", highlight=False)
        return 1
    except KeyboardInterrupt:
        return 0
    return 0


def _interrupted(number: int, frame: object) -> None:
    """SIGTERM ends the demo as Ctrl-C does, its children with it."""
    raise KeyboardInterrupt


def _start(story: Story, stack: ExitStack) -> None:
    story.make_secrets()
    twins = stack.enter_context(
        started(
            [sys.executable, "-m", "tests.twins", *(f"{name}=0" for name in TWINS)],
            story.env,
            FOLDER / "twins.log",
        )
    )
    assert twins.stdout is not None  # noqa: S101  # asked for above
    line = twins.stdout.readline()
    expect("the twins did not start", line.startswith(b"{"))
    story.urls = json.loads(line)
    story.configure()
    _furnish(story)
    story.key = story.prefs(
        "api-keys", "add", "--brand", "rt", "--scopes", "check,write,staff,rights,admin"
    )["key"]
    stack.enter_context(
        started([sys.executable, "-m", "prefs.cli", "serve"], story.env, FOLDER / "serve.log")
    )
    until("the service's start", lambda: _ready(story), STARTS_WITHIN)


def _ready(story: Story) -> bool:
    try:
        return httpx.get(f"{story.url}/readyz", timeout=1).status_code == 200
    except httpx.HTTPError:
        return False


def _furnish(story: Story) -> None:
    """Each vendor as a clinic has it: an audience, subscription types, senders, and the people."""
    hooks = {name: f"{story.url}/webhooks/{name}/rt/{name}" for name in TWINS}
    story.twin("mailchimp", "configure", {"api_key": story.secrets["mailchimp_key"]})
    story.act("mailchimp", "new_audience", list_id=LIST, name="Newsletter")
    story.act(
        "mailchimp",
        "old_webhook",
        list_id=LIST,
        url=hooks["mailchimp"],
        sources=["user", "admin"],
        secret=story.secrets["mailchimp_signing"],
    )
    hubspot = {
        "token": story.secrets["hubspot_token"],
        "signing_secret": story.secrets["hubspot_signing"],
        "webhook_url": hooks["hubspot"],
    }
    story.twin("hubspot", "configure", hubspot)
    story.act("hubspot", "new_type", id=MARKETING_TYPE, name="Treatments and offers")
    story.act(
        "hubspot", "new_type", id=REMINDER_TYPE, name="Appointment reminders", purpose="reminders"
    )
    twilio = {
        "account_sid": ACCOUNT,
        "auth_token": story.secrets["twilio_token"],
        "webhook_url": hooks["twilio"],
    }
    story.twin("twilio", "configure", twilio)
    for purpose, (service, number) in (("marketing", MARKETING), ("reminders", REMINDERS)):
        story.act("twilio", "new_service", sid=service, numbers=[number], purpose=purpose)
    for email, phone, _, _ in PEOPLE:
        story.act("mailchimp", "new_member", list_id=LIST, email=email)
        subscribed = {MARKETING_TYPE: "SUBSCRIBED", REMINDER_TYPE: "SUBSCRIBED"}
        story.act("hubspot", "new_contact", email=email, statuses=subscribed)
        story.act("twilio", "new_person", number=phone)


# --- the story -------------------------------------------------------------------------------


def _tell(story: Story) -> None:
    _heading(story)
    for number, (title, step) in enumerate(STEPS, 1):
        story.console.print(f"[bold]{number}.[/bold] {title}", highlight=False)
        began = time.monotonic()
        told = step(story)
        took = time.monotonic() - began
        story.console.print(
            f"   [green]held[/green]  {told}  [dim]{took:.1f} s[/dim]", highlight=False
        )


def _heading(story: Story) -> None:
    story.console.print(f"\nprefs     {story.url}/p?brand=rt", highlight=False)
    for name in TWINS:
        story.console.print(f"{name:<9} {story.urls[name]}/", highlight=False)
    story.console.print()


def _people_come_in(story: Story) -> str:
    """Five people with consent for mail and texts, from a CSV file."""
    rows = ["email,phone,name,ref,channel,purpose,choice,occurred_at,basis,wording"]
    for email, phone, name, ref in PEOPLE:
        for channel in ("email", "sms"):
            said = "in,2026-01-05T10:00:00Z,consent,Yes please: news and offers"
            rows.append(f"{email},{phone},{name},{ref},{channel},marketing,{said}")
    file = FOLDER / "people.csv"
    file.write_text("\n".join(rows) + "\n")
    report = story.prefs("import", str(file), "--brand", "rt", "--apply")
    expect(f"all rows were taken: {report}", report["results"] == {"applied": 2 * len(PEOPLE)})
    until("a calm start", lambda: _calm(story))
    expect("marketing is allowed", story.reason(PEOPLE[0][0], "email") == "consent")
    return f"{len(PEOPLE)} people, each with consent for e-mail and texts"


def _calm(story: Story) -> bool:
    return not any(one["backlog"] for one in story.ask("GET", "/v1/targets")["items"])


def _one_click(story: Story) -> str:
    """The button that a mail program shows: RFC 8058."""
    made = story.ask("POST", "/v1/links", {"brand": "rt", "email": PEOPLE[0][0]})
    expect("the link is one-click", "One-Click" in made["headers"]["List-Unsubscribe-Post"])
    answer = httpx.post(made["unsubscribe"], data={"List-Unsubscribe": "One-Click"}, timeout=10)
    expect(f"the click answered {answer.status_code}", answer.status_code == 200)
    expect("check denies at once", story.reason(PEOPLE[0][0], "email") == "opted_out")
    return "Amelia clicked unsubscribe; check says no at once"


def _all_follow(story: Story) -> str:
    email, phone, _, _ = PEOPLE[0]
    wanted = {"mailchimp/email": "confirmed", "hubspot/email": "confirmed"}
    until("both mail systems' proof", lambda: wanted.items() <= story.outcomes(email).items())
    made = story.ask("POST", "/v1/links", {"brand": "rt", "email": email})
    answer = httpx.post(made["unsubscribe"] + "/all", timeout=10)
    expect(f"stop all answered {answer.status_code}", answer.status_code == 200)
    wanted["twilio/sms"] = "accepted"
    until("all three systems' proof", lambda: wanted.items() <= story.outcomes(email).items())
    until("the twins' own state", lambda: _off_everywhere(story, email, phone))
    return "Mailchimp confirmed, HubSpot confirmed, Twilio accepted; each twin says so itself"


def _off_everywhere(story: Story, email: str, phone: str) -> bool:
    return (
        _mailchimp_status(story, email) == "unsubscribed"
        and _hubspot_status(story, email, MARKETING_TYPE) == "UNSUBSCRIBED"
        and [phone, MARKETING[0]] in story.twin("twilio", "state")["blocked"]
    )


def _mailchimp_status(story: Story, email: str) -> str:
    members = story.twin("mailchimp", "state")["audiences"][LIST]["members"].values()
    found: str = next(one["status"] for one in members if one["email"] == email)
    return found


def _hubspot_status(story: Story, email: str, type_id: str) -> str:
    answer = httpx.get(
        f"{story.urls['hubspot']}/communication-preferences/v4/statuses/{email}",
        params={"channel": "EMAIL"},
        headers={"Authorization": f"Bearer {story.secrets['hubspot_token']}"},
        timeout=10,
    )
    found = {str(one["subscriptionId"]): one["status"] for one in answer.json()["results"]}
    return str(found.get(type_id))


def _text_stop(story: Story) -> str:
    phone = PEOPLE[1][1]
    story.act("twilio", "text", sender=phone, to=MARKETING[1], body="STOP")
    until("the STOP", lambda: story.reason(phone, "sms") == "opted_out")
    expect("reminders by text stay on", story.reason(phone, "sms", "reminders") == "service")
    return "Beth texted STOP to the marketing number; her reminders by text go on"


def _inside_mailchimp(story: Story) -> str:
    email = PEOPLE[2][0]
    story.act("mailchimp", "person_unsubscribes", list_id=LIST, email=email)
    until("Mailchimp's word", lambda: story.reason(email, "email") == "opted_out")
    until(
        "HubSpot's following",
        lambda: _hubspot_status(story, email, MARKETING_TYPE) == "UNSUBSCRIBED",
    )
    return "Chloe unsubscribed inside Mailchimp; HubSpot followed"


def _check(story: Story) -> str:
    for email, phone, name, _ in PEOPLE[:3]:
        for to, channel in ((email, "email"), (phone, "sms")):
            reason = story.reason(to, channel, "reminders")
            expect(f"{name}'s reminders by {channel} are {reason}", reason == "service")
    email, phone, _, _ = PEOPLE[0]
    expect("Amelia is denied", story.reason(email, "email") == "objected")
    expect("Amelia is denied by text", story.reason(phone, "sms") == "objected")
    expect("Dana is allowed", story.reason(PEOPLE[3][0], "email") == "consent")
    for one in PEOPLE:
        status = _hubspot_status(story, one[0], REMINDER_TYPE)
        expect("no system's reminders were touched", status == "SUBSCRIBED")
    return "marketing denied where somebody said no, reminders allowed for all"


def _vendor_down(story: Story) -> str:
    email = PEOPLE[3][0]
    story.twin("mailchimp", "faults", {"kind": "down", "path": "/3.0/", "times": None})
    made = story.ask("POST", "/v1/links", {"brand": "rt", "email": email})
    answer = httpx.post(made["unsubscribe"], timeout=10)
    expect(f"the click answered {answer.status_code}", answer.status_code == 200)
    until("the wait", lambda: story.outcomes(email).get("mailchimp/email") == "pending")
    expect("Mailchimp does not know yet", _mailchimp_status(story, email) == "subscribed")
    expect("check denies meanwhile", story.reason(email, "email") == "opted_out")
    story.twin("mailchimp", "faults/clear", {})
    until("the opt-out's landing", lambda: _mailchimp_status(story, email) == "unsubscribed", 15)
    until("its proof", lambda: story.outcomes(email).get("mailchimp/email") == "confirmed", 15)
    findings = story.prefs("ledger", "verify")
    expect(f"the ledger verifies: {findings}", findings["findings"] == [])
    return "Mailchimp was down, Dana opted out, Mailchimp came back: the opt-out landed"


STEPS: tuple[tuple[str, Callable[[Story], str]], ...] = (
    ("People come in with their consent", _people_come_in),
    ("Amelia clicks unsubscribe in a mail", _one_click),
    ("All three systems follow, each proved", _all_follow),
    ("Beth texts STOP", _text_stop),
    ("Chloe unsubscribes inside Mailchimp", _inside_mailchimp),
    ("May we send this?", _check),
    ("A vendor is down while Dana opts out", _vendor_down),
)


def _wait(story: Story) -> None:
    """Leave everything running for a person to click through."""
    made = story.ask("POST", "/v1/links", {"brand": "rt", "email": PEOPLE[4][0]})
    say = story.console.print
    say("\nThe story held. Everything stays up; try it yourself, as Erin:")
    say(f"  unsubscribe page   {made['unsubscribe']}", highlight=False)
    say(f"  preference centre  {made['preferences']}", highlight=False)
    say(f"  ask for a link     {story.url}/p?brand=rt  (mails land in {FOLDER.name}/mail)")
    for name in TWINS:
        say(f"  {name:<18} {story.urls[name]}/", highlight=False)
    say("\nAsk from another terminal:", highlight=False)
    body = '{"brand":"rt","channel":"email","purpose":"marketing","to":["amelia@example.com"]}'
    say(
        f"  curl -s {story.url}/v1/check -H 'Authorization: Bearer {story.key}' -d '{body}'",
        highlight=False,
    )
    say("\nOr look into the store (the database stays when the demo ends):", highlight=False)
    command = f".venv/bin/prefs --config {FOLDER.name}/prefs.toml"
    say(f"  {command} ledger verify", highlight=False)
    say(f"  {command} doctor", highlight=False)
    say("\nCtrl-C ends it.", highlight=False)
    while True:
        signal.pause()
