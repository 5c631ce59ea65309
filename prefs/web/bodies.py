"""What programs send: the types from which parsing, validation and OpenAPI come."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct
from starlette.requests import ClientDisconnect, Request

from prefs.core import identity
from prefs.core.errors import BadIdentifier, BadInput
from prefs.core.signals import Evidence, Identifier, SoftOptIn
from prefs.core.words import Basis

T = TypeVar("T")

BODY_LIMIT = 64 * 1024
BATCH_LIMIT = 4 * 1024 * 1024
ITEMS = 10_000

Text = Annotated[str, Meta(max_length=2000)]
Short = Annotated[str, Meta(min_length=1, max_length=200)]
Moment = Annotated[datetime, Meta(tz=True)]


class Body(Struct, forbid_unknown_fields=True):
    """Every request body: a field we do not know is an error, so that a typing mistake shows."""


class PostalBody(Body):
    name: Short
    postcode: Short
    lines: Annotated[list[Short], Meta(max_length=10)] = []
    country: Short = "GB"


class SubjectBody(Body):
    email: Text | None = None
    phone: Text | None = None
    messenger: Text | None = None
    post: PostalBody | None = None
    ref: Short | None = None
    name: Short | None = None


class ChangeBody(Body):
    channel: str
    purpose: str
    choice: Annotated[Literal["in", "out"], Meta(extra_json_schema={"type": "string"})]
    topic: str | None = None


class SoftOptInBody(Body):
    kind: Annotated[Literal["soft_opt_in"], Meta(extra_json_schema={"type": "string"})]
    sale: bool = False
    own_similar: bool = False
    refusal_offered: bool = False
    refusal_in_each: bool = False
    not_refused: bool = False


class EvidenceBody(Body):
    notice: Short | None = None
    wording: Text | None = None
    page: Text | None = None
    ip: Short | None = None
    user_agent: Text | None = None
    actor: Short | None = None
    note: Text | None = None


class PreferencesBody(Body):
    brand: str
    subject: SubjectBody
    changes: Annotated[list[ChangeBody], Meta(min_length=1, max_length=100)]
    source: str
    occurred_at: Moment | None = None
    basis: str | SoftOptInBody | None = None
    evidence: EvidenceBody | None = None


class RefItem(Body):
    """A person or an address to check: by `ref`, or by name, lines and postcode."""

    ref: Short | None = None
    name: Short | None = None
    lines: list[Short] = []
    postcode: Short | None = None
    country: Short = "GB"


class CheckBody(Body):
    brand: str
    channel: str
    purpose: str
    to: list[str | RefItem]
    topic: str | None = None
    via: str | None = None
    at: Moment | None = None


class SearchBody(Body):
    brand: str
    email: Text | None = None
    phone: Text | None = None
    ref: Short | None = None
    name: Short | None = None


class LinksBody(Body):
    brand: str
    email: Text | None = None
    phone: Text | None = None
    ref: Short | None = None
    purpose: str = "marketing"
    topic: str | None = None


class TaskBody(Body):
    state: Annotated[
        Literal["done", "not_found", "out", "release", "stop"],
        Meta(extra_json_schema={"type": "string"}),
    ]
    note: Short


async def read_body(request: Request, limit: int) -> bytes:
    """The raw body. Raises BadInput 413 past the limit, without reading on."""
    parts, size, more = [], 0, True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise BadInput(f"the body is larger than {limit} bytes", status=413)
        more = message.get("more_body", False)
    return b"".join(parts)


def parse(decoder: msgspec.json.Decoder[T], raw: bytes) -> T:
    """Raises BadInput: 400 for what is no JSON, 422 for JSON of another shape."""
    if b"\\u0000" in raw:
        raise BadInput("the text holds a NUL character, which cannot be stored")
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as fault:
        message, _, path = str(fault).partition(" - at `")
        raise BadInput(message, field=path.rstrip("`")) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise BadInput("the body is not valid JSON", status=400) from None


def identifiers_of(subject: SubjectBody, region: str) -> tuple[Identifier, ...]:
    """Raises BadIdentifier naming the field."""
    found = []
    if subject.email is not None:
        found.append(_named("$.subject.email", identity.email, subject.email))
    if subject.phone is not None:
        found.append(
            _named("$.subject.phone", lambda text: identity.phone(text, region), subject.phone)
        )
    if subject.messenger is not None:
        found.append(
            _named("$.subject.messenger", lambda t: identity.messenger(t, None), subject.messenger)
        )
    if subject.post is not None:
        post = subject.post
        found.append(
            _named(
                "$.subject.post",
                lambda _: identity.post(post.name, post.lines, post.postcode, post.country),
                "",
            )
        )
    return tuple(found)


def _named(field: str, make: object, text: str) -> Identifier:
    try:
        found: Identifier = make(text)  # type: ignore[operator]  # one of identity's functions
    except BadIdentifier as fault:
        raise BadIdentifier(str(fault), field=field) from None
    return found


def basis_of(body: str | SoftOptInBody | None) -> tuple[Basis | None, SoftOptIn | None]:
    if body is None:
        return None, None
    if isinstance(body, SoftOptInBody):
        soft = SoftOptIn(
            body.sale,
            body.own_similar,
            body.refusal_offered,
            body.refusal_in_each,
            body.not_refused,
        )
        return Basis.SOFT_OPT_IN, soft
    if body not in (Basis.CONSENT, Basis.LEGITIMATE_INTEREST):
        raise BadInput(
            'basis is "consent", "legitimate_interest", or an object of kind "soft_opt_in"',
            field="$.basis",
        )
    return Basis(body), None


def evidence_of(body: EvidenceBody | None) -> Evidence:
    if body is None:
        return Evidence()
    return Evidence(
        notice=body.notice,
        wording=body.wording,
        page=body.page,
        ip=body.ip,
        user_agent=body.user_agent,
        actor=body.actor,
        note=body.note,
    )
