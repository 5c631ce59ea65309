"""Messenger's webhooks: words that people type, buttons, and stops of marketing messages.

Meta handles no keyword: "STOP" is plain text and ours to honour. Signed over the raw bytes with
the app secret; the handshake is a GET.

https://developers.facebook.com/docs/messenger-platform/webhooks
https://developers.facebook.com/docs/messenger-platform/reference/webhook-events
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from prefs.core import identity
from prefs.core.errors import BadIdentifier, Forbidden, Unverified
from prefs.core.propagation import Target, proof_of
from prefs.core.signals import (
    Delivery,
    Evidence,
    Found,
    Identifier,
    Recheck,
    Reply,
    Signal,
    Statement,
    Unknown,
    Work,
)
from prefs.core.sms import Meaning, meaning
from prefs.core.words import Basis, Channel, Choice, Purpose, Scope, Source
from webhooks import signing

HEADER = "x-hub-signature-256"
MARKETING = Scope(Channel.MESSENGER, Purpose.MARKETING)
BUTTONS = frozenset({"stop", "unsubscribe", "optout", "opt out", "stop marketing"})
"""Payloads of a button that mean stop, in any case, `_` and `-` read as blanks."""
STOPPED, RESUMED = "STOP NOTIFICATIONS", "RESUME NOTIFICATIONS"
OUTS = frozenset({Meaning.MARKETING_OUT, Meaning.ALL_SMS_OUT, Meaning.REMINDERS_AND_MARKETING_OUT})


def verify(request: Delivery, target: Target) -> bool:
    """True when signed by Meta, else raises Unverified. The handshake must repeat our verify token,
    else raises Forbidden: Meta wants a 403 then."""
    if request.method == "GET":
        asked = dict(request.query)
        expected = target.text("verify_token") or ""
        right = expected and signing.same(asked.get("hub.verify_token", ""), expected)
        if asked.get("hub.mode") != "subscribe" or not right:
            raise Forbidden("the handshake's verify token is missing or wrong")
        return False
    secret = target.text("app_secret") or ""
    given = request.headers.get(HEADER, "").removeprefix("sha256=")
    if not secret or not signing.same(given, signing.hmac_hex(secret, request.body)):
        raise Unverified("Meta's signature is missing or does not match")
    return True


def reply(request: Delivery, target: Target) -> Reply:
    """The handshake wants its challenge back, bare."""
    if request.method == "GET":
        return Reply(body=dict(request.query).get("hub.challenge", "").encode())
    return Reply()


def normalise(request: Delivery, target: Target, *, signed: bool) -> list[Found]:
    if request.method == "GET":
        return []
    try:
        body = json.loads(request.body)
    except ValueError:
        return [Unknown("a body that is not JSON")]
    if not isinstance(body, Mapping) or body.get("object") != "page":
        return [Unknown("a body that is not about a Page")]
    return [found for event, page in _events(body) for found in _found(event, page, target)]


def _events(body: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Also what another app was talking about (`standby`): a stop there counts as well."""
    for entry in _mappings(body.get("entry")):
        for name in ("messaging", "standby"):
            for event in _mappings(entry.get(name)):
                yield event, str(entry.get("id", ""))
        for change in _mappings(entry.get("changes")):
            yield {"change": change}, str(entry.get("id", ""))


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def _found(event: Mapping[str, Any], page: str, target: Target) -> list[Found]:
    if page != target.text("page"):
        return [Unknown("an event of another Page")]
    if "change" in event:
        return [Unknown(f"a change of {event['change'].get('field')}")]
    if policy := _mapping(event, "policy_enforcement") or _mapping(event, "policy-enforcement"):
        return [_policy(policy, event.get("timestamp"))]
    try:
        person = identity.messenger(str(_mapping(event, "sender").get("id", "")), page)
    except BadIdentifier:
        return [Unknown("an event without a readable sender")]
    at = _moment(event.get("timestamp"))
    for name, read in _KINDS.items():
        if isinstance(event.get(name), Mapping):
            return read(event[name], person, at, target)
    return [Unknown("messaging " + ",".join(sorted(set(event) - {"sender", "recipient"})))]


def _message(
    message: Mapping[str, Any], person: Identifier, at: datetime | None, target: Target
) -> list[Found]:
    if message.get("is_echo"):
        return []
    button = _mapping(message, "quick_reply").get("payload")
    text = str(message.get("text") or "")
    key = signing.event_key("message", message.get("mid") or (person.key, at, text))
    if button is not None and _is_stop(button):
        return [_out(person, at, target, key, str(button))]
    return _said(text, person, at, target, key)


def _said(
    text: str, person: Identifier, at: datetime | None, target: Target, key: str
) -> list[Found]:
    said = meaning(text, Purpose.MARKETING, None)
    if said in OUTS:
        return [_out(person, at, target, key, text)]
    return [_out(person, at, target, key, text, hold=True)] if said is Meaning.HOLD else []


def _postback(
    postback: Mapping[str, Any], person: Identifier, at: datetime | None, target: Target
) -> list[Found]:
    """By its payload, else by the words on it. A button that says "Cancel" is about an
    appointment."""
    title = str(postback.get("title") or "")
    key = signing.event_key("postback", postback.get("mid"), person.key, at)
    if _is_stop(postback.get("payload")):
        return [_out(person, at, target, key, title or str(postback["payload"]))]
    if meaning(title, Purpose.REMINDERS, None) is Meaning.APPOINTMENT_REPLY:
        return []
    return _said(title, person, at, target, key)


def _optin(
    optin: Mapping[str, Any], person: Identifier, at: datetime | None, target: Target
) -> list[Found]:
    """A stop looks almost like an opt-in: its status field is looked at first."""
    status = str(optin.get("notification_messages_status") or "").replace("_", " ").upper()
    token = optin.get("notification_messages_token")
    key = signing.event_key("optin", person.key, at, status, token)
    if status == STOPPED:
        return [_out(person, at, target, key, "stopped marketing messages", Source.VENDOR_PERSON)]
    if optin.get("type") != "notification_messages" or not token or status not in ("", RESUMED):
        return [Unknown(f"optin {optin.get('type')} {status}".strip(), key)]
    title, payload = (str(optin.get(name) or "") for name in ("title", "payload"))
    proof = proof_of(at, "opt-in to marketing messages", form=title, payload=payload)
    return [
        Signal(
            brand=target.brand,
            source=Source.VENDOR_PERSON,
            statements=(Statement(MARKETING, Choice.IN),),
            identifiers=(person,),
            occurred_at=at,
            basis=Basis.CONSENT,
            evidence=Evidence(wording=title or None, proof=proof),
            origin=target.label,
            event_key=key,
        )
    ]


def _policy(policy: Mapping[str, Any], stamp: Any) -> Work:
    """About the Page and nobody in particular: a warning, a block of its messages, or its end."""
    said = [str(policy.get(name) or "")[:300] for name in ("action", "reason")]
    text = f"Meta's policy enforcement says: {': '.join(filter(None, said))}"
    return Work("vendor_warning", text, event_key=signing.event_key("policy", stamp, *said))


def _label(
    event: Mapping[str, Any], person: Identifier, at: datetime | None, target: Target
) -> list[Found]:
    """Staff changed a label; what it holds is unconfirmed: the lane puts ours right."""
    return [Recheck(identifier=person, event_key=signing.event_key("label", person.key, at))]


_KINDS = {
    "message": _message,
    "postback": _postback,
    "optin": _optin,
    "inbox_labels": _label,
}


def _out(
    person: Identifier,
    at: datetime | None,
    target: Target,
    key: str,
    words: str,
    source: Source = Source.MESSENGER,
    *,
    hold: bool = False,
) -> Signal:
    return Signal(
        brand=target.brand,
        source=source,
        statements=(Statement(MARKETING, Choice.OUT),),
        identifiers=(person,),
        occurred_at=at,
        evidence=Evidence(wording=words[:1600]),
        hold=hold,
        origin=target.label,
        event_key=key,
    )


def _is_stop(payload: Any) -> bool:
    return str(payload).replace("_", " ").replace("-", " ").strip().lower() in BUTTONS


def _mapping(event: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = event.get(name)
    return found if isinstance(found, Mapping) else {}


def _moment(milliseconds: Any) -> datetime | None:
    try:
        return datetime.fromtimestamp(int(milliseconds) / 1000, UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return None
