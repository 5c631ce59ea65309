"""The story: what people, staff and vendors do, and what must then hold."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx

from prefs.demo.follow import Line, follow, kept_everywhere
from prefs.demo.people import AMELIA, BETH, CHLOE, DANA, PEOPLE, Person
from prefs.demo.stage import Stage, expect, until
from prefs.demo.system import CHANNELS
from prefs.demo.systems import SYSTEMS, hubspot, mailchimp, pabau, twilio

COMES_BACK_WITHIN = 30.0
POLLED_WITHIN = 30.0
LAST_WITHIN = 30.0
QUICK = SYSTEMS.keys() - {"activecampaign"}
"""Five calls a second are all that ActiveCampaign takes from an account. It is seen at length with
Amelia; what is then on its way there is waited for at the end."""


def tell(stage: Stage) -> None:
    """Every step with what held. Raises StepFailed at the first that does not."""
    began = time.monotonic()
    for number, (title, step) in enumerate(STEPS, 1):
        stage.say(f"[bold]{number}.[/bold] {title}")
        step_began = time.monotonic()
        held = step(stage)
        took = time.monotonic() - step_began
        stage.say(f"   [green]held[/green]  {held}  [dim]{took:.1f} s[/dim]")
    stage.say(f"\nThe story held, in {time.monotonic() - began:.0f} s.")


def _last(lines: list[Line]) -> str:
    """How many systems followed, which came last, and which do not have the person."""
    there = [line for line in lines if line.outcome != "absent"]
    last = max(there, key=lambda line: line.seconds)
    systems = len({line.system for line in there})
    absent = [line.system for line in lines if line.outcome == "absent"]
    without = f"; not in {', '.join(absent)}" if absent else ""
    return f"{systems} systems followed, {last.system} last after {last.seconds:.1f} s{without}"


# --- people ------------------------------------------------------------------------------------


def _people_come_in(stage: Stage) -> str:
    """From the clinic's CSV file; who wrote to the Page is linked by the CRM."""
    rows = ["email,phone,name,ref,channel,purpose,choice,occurred_at,basis,wording"]
    said = "marketing,in,2026-01-05T10:00:00Z,consent,Yes please: news and offers"
    rows += [
        f"{one.email},{one.phone},{one.name},{one.ref},{channel},{said}"
        for one in PEOPLE
        for channel in ("email", "sms")
    ]
    file = stage.folder / "people.csv"
    file.write_text("\n".join(rows) + "\n")
    report = stage.prefs("import", str(file), "--brand", "rt", "--apply")
    expect(f"all rows were taken: {report}", report["results"] == {"applied": 2 * len(PEOPLE)})
    wrote = [one for one in PEOPLE if one.psid]
    for person in wrote:
        _link_to_the_page(stage, person)
    expect("marketing is allowed", stage.reason(AMELIA.email, "email") == "consent")
    kept_everywhere(stage, PEOPLE)
    return f"{len(PEOPLE)} people with consent for mails and texts, {len(wrote)} for Messenger too"


def _link_to_the_page(stage: Stage, person: Person) -> None:
    body = {
        "brand": "rt",
        "subject": {"ref": person.ref, "messenger": person.messenger},
        "changes": [{"channel": "messenger", "purpose": "marketing", "choice": "in"}],
        "source": "import",
        "occurred_at": "2026-01-05T10:00:00Z",
        "basis": "consent",
        "evidence": {"wording": "Yes please: news and offers in Messenger"},
    }
    outcome = stage.ask("POST", "/v1/preferences", body)["outcomes"][0]
    expect(f"{person.name} is linked to the Page: {outcome}", outcome["result"] == "applied")


def _one_click(stage: Stage) -> str:
    """The button that a mail program shows: RFC 8058."""
    made = stage.links(AMELIA)
    expect("the link is one-click", "One-Click" in made["headers"]["List-Unsubscribe-Post"])
    acknowledged = _click(made["unsubscribe"])
    expect("check denies at once", stage.reason(AMELIA.email, "email") == "opted_out")
    lines = follow(stage, AMELIA, ["email"], acknowledged, lambda line: stage.say(str(line)))
    return f"check says no at once; {_last(lines)}"


def _click(link: str) -> float:
    """Returns when it was acknowledged, on the monotonic clock."""
    answer = httpx.post(link, data={"List-Unsubscribe": "One-Click"}, timeout=10)
    acknowledged = time.monotonic()
    expect(f"the click answered {answer.status_code}", answer.status_code == 200)
    return acknowledged


def _stop_all(stage: Stage) -> str:
    acknowledged = _click(stage.links(AMELIA)["unsubscribe"] + "/all")
    for to, channel in ((AMELIA.email, "email"), (AMELIA.phone, "sms"), (AMELIA.phone, "phone")):
        reason = stage.reason(to, channel)
        expect(f"check denies {channel} at once, not {reason}", reason == "objected")
    lines = follow(stage, AMELIA, CHANNELS, acknowledged, lambda line: stage.say(str(line)))
    kept_everywhere(stage, [AMELIA])
    return f"{_last(lines)}; her reminders stay on at every one"


def _staff_do_timely(stage: Stage) -> str:
    """Timely has no interface: staff do the list, and Timely's own export proves it."""
    timely = stage.vendors["timely"]
    done = timely.act("staff_do_the_list", text=stage.tasks_of_staff())
    expect(f"staff had three things to do, not {done}", done == 3)
    file = stage.folder / "timely-export.csv"
    file.write_bytes(httpx.get(f"{timely.url}/export.csv", timeout=10).content)
    # It waits for all that is on its way to other vendors, too: the story does not.
    stage.begin("sync", "timely", "--from", str(file), "--apply")
    until("Timely's proof", lambda: _proved_at_timely(stage))
    expect("Timely shows Amelia as off", _is_off(stage, "timely"))
    until("an empty list", lambda: len(stage.tasks_of_staff().splitlines()) == 1)
    kept_everywhere(stage, [AMELIA])
    return "staff did the list of 3, Timely's export came back by `prefs sync`: confirmed"


def _proved_at_timely(stage: Stage) -> bool:
    stands = stage.outcomes(AMELIA)
    return {stands["timely", channel] for channel in ("email", "sms")} == {("off", "confirmed")}


def _text_stop(stage: Stage) -> str:
    stage.vendors["twilio"].act("text", sender=BETH.phone, to=twilio.MARKETING_NUMBER, body="STOP")
    until("the STOP", lambda: stage.reason(BETH.phone, "sms") == "opted_out")
    lines = follow(stage, BETH, ["sms"], time.monotonic(), only=QUICK)
    expect("reminders by text stay on", stage.reason(BETH.phone, "sms", "reminders") == "service")
    expect("her mails go on", stage.reason(BETH.email, "email") == "consent")
    return f"reminders by text go on, mails too; {_last(lines)}"


def _messenger_stop(stage: Stage) -> str:
    stage.vendors["messenger"].act("types", psid=CHLOE.psid, text="Stop")
    until("the STOP", lambda: stage.reason(CHLOE.messenger, "messenger") == "opted_out")
    lines = follow(stage, CHLOE, ["messenger"], time.monotonic(), only=QUICK)
    expect("her mails go on", stage.reason(CHLOE.email, "email") == "consent")
    return f"the Page shows the label, only our check guards; {_last(lines)}"


def _inside_mailchimp(stage: Stage) -> str:
    stage.vendors["mailchimp"].act(
        "person_unsubscribes", list_id=mailchimp.NEWSLETTER, email=CHLOE.email
    )
    until("Mailchimp's word", lambda: stage.reason(CHLOE.email, "email") == "opted_out")
    return _last(follow(stage, CHLOE, ["email"], time.monotonic(), only=QUICK))


def _label_at_google(stage: Stage) -> str:
    """Only the poll can find it; the story goes on meanwhile."""
    stage.vendors["google"].act("staff_labels", email=BETH.email, label="No marketing - email")
    return "Google Contacts has no webhooks: the poll has to find it"


def _poll_of_google(stage: Stage) -> str:
    until("the poll", lambda: stage.reason(BETH.email, "email") == "opted_out", POLLED_WITHIN)
    return _last(follow(stage, BETH, ["email"], time.monotonic(), only=QUICK))


def _turned_on_again(stage: Stage) -> str:
    """Pabau's form sets all flags of the client; staff in HubSpot mean well."""
    vendor = stage.vendors["pabau"]
    vendor.act("booking", id=pabau.client(vendor.state(), AMELIA)["id"])
    at_pabau = until("Pabau's push-back", lambda: _is_off(stage, "pabau"))
    on = {"type_id": hubspot.MARKETING, "state": "SUBSCRIBED"}
    stage.vendors["hubspot"].act("admin_sets", email=AMELIA.email, **on)
    at_hubspot = until("HubSpot's push-back", lambda: _is_off(stage, "hubspot"))
    expect("nobody took it for consent", stage.reason(AMELIA.email, "email") == "objected")
    kept_everywhere(stage, [AMELIA])
    return f"off again at Pabau after {at_pabau:.1f} s, at HubSpot after {at_hubspot:.1f} s"


def _is_off(stage: Stage, name: str) -> bool:
    """What the vendor itself holds of Amelia, on each of its channels."""
    state, system = stage.vendors[name].state(), SYSTEMS[name]
    return all(system.off(state, AMELIA, channel) for channel in system.ends)


def _vendor_down(stage: Stage) -> str:
    vendor = stage.vendors["mailchimp"]
    vendor.post("faults", {"kind": "down", "path": "/3.0/", "times": None})
    _click(stage.links(DANA)["unsubscribe"])
    until("a call without an answer", lambda: any(one["fault"] for one in vendor.calls()))
    _, outcome = stage.outcomes(DANA)["mailchimp", "email"]
    expect(f"Mailchimp's outcome is {outcome}", outcome == "pending")
    known = mailchimp.status(vendor.state(), DANA)
    expect(f"Mailchimp does not know yet: {known}", known == "subscribed")
    expect("check denies meanwhile", stage.reason(DANA.email, "email") == "opted_out")
    vendor.post("faults/clear", {})
    back = time.monotonic()
    follow(stage, DANA, ["email"], back, only=QUICK, seconds=COMES_BACK_WITHIN)
    return f"the opt-out landed {time.monotonic() - back:.1f} s after Mailchimp came back"


# --- at the end --------------------------------------------------------------------------------

MAY_WE = (
    (AMELIA, "email", "objected"),
    (AMELIA, "sms", "objected"),
    (AMELIA, "messenger", "objected"),
    (BETH, "email", "opted_out"),
    (BETH, "sms", "opted_out"),
    (CHLOE, "email", "opted_out"),
    (CHLOE, "sms", "consent"),
    (CHLOE, "messenger", "opted_out"),
    (DANA, "email", "opted_out"),
    (DANA, "sms", "consent"),
)


def _check(stage: Stage) -> str:
    for person, channel, reason in MAY_WE:
        found = stage.reason(_address(person, channel), channel)
        expect(
            f"marketing to {person.first} by {channel} is {found}, not {reason}", found == reason
        )
    for person in PEOPLE:
        for channel in ("email", "sms"):
            found = stage.reason(_address(person, channel), channel, "reminders")
            expect(f"{person.first}'s reminders by {channel} are {found}", found == "service")
    for person in (AMELIA, BETH, CHLOE, DANA):
        _rest_followed(stage, person)
    kept_everywhere(stage, PEOPLE)
    return "marketing denied where somebody said no; every reminder on, here and at eleven vendors"


def _rest_followed(stage: Stage, person: Person) -> None:
    outs = [channel for one, channel, reason in MAY_WE if one is person and reason != "consent"]
    follow(stage, person, outs, time.monotonic(), only=SYSTEMS.keys() - QUICK, seconds=LAST_WITHIN)


def _address(person: Person, channel: str) -> str:
    return {"email": person.email, "messenger": person.messenger}.get(channel, person.phone)


def _in_order(stage: Stage) -> str:
    gone = stage.ask("GET", "/v1/tasks?kind=webhook_gone&state=open")["items"]
    expect(f"every webhook is there: {gone}", not gone)
    findings = stage.prefs("ledger", "verify")
    expect(f"the ledger verifies: {findings}", findings["findings"] == [])
    calls = {name: vendor.calls() for name, vendor in stage.vendors.items()}
    over = [name for name, made in calls.items() if any(one["fault"] == "limit" for one in made)]
    expect(f"no vendor's limit was met, but {', '.join(over)}", not over)
    total = sum(map(len, calls.values()))
    return f"ledger and webhooks are well; {total} calls to eleven vendors, none over a limit"


STEPS: tuple[tuple[str, Callable[[Stage], str]], ...] = (
    ("People come in with their consent", _people_come_in),
    ("Amelia clicks unsubscribe in a mail", _one_click),
    ("Amelia stops all marketing", _stop_all),
    ("Beth texts STOP", _text_stop),
    ("Staff do what Timely needs", _staff_do_timely),
    ("Staff put a label on Beth in Google Contacts", _label_at_google),
    ("Chloe types Stop in Messenger", _messenger_stop),
    ("Chloe unsubscribes inside Mailchimp", _inside_mailchimp),
    ("Pabau's booking form and staff in HubSpot turn Amelia on again", _turned_on_again),
    ("Mailchimp is down while Dana opts out", _vendor_down),
    ("The poll of Google Contacts finds Beth's label", _poll_of_google),
    ("May we send this?", _check),
    ("Is all in order?", _in_order),
)
