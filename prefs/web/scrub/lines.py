"""A list of JSON lines (application/x-ndjson) answered: the two answers become fields of each."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection

from prefs.core.decision import Decision, Reason
from prefs.core.words import Channel
from prefs.web.bodies import RefItem
from prefs.web.scrub.asking import Answered, Asking, Item
from prefs.web.scrub.rows import LONGEST_ROW, Unreadable

FIELD = {
    Channel.EMAIL: "email",
    Channel.SMS: "phone",
    Channel.PHONE: "phone",
    Channel.POST: "post",
    Channel.MESSENGER: "messenger",
}
"""Where the address of a channel stands in an object, as in a subject of `POST /v1/preferences`."""
_ITEM = {field.name for field in msgspec.structs.fields(RefItem)}
_ADDED = re.compile(rb',?"allowed":(true|false),"reason":"([a-z_]+)"}')


class Line(NamedTuple):
    raw: bytes
    """With its line end."""
    value: Any


@dataclass
class Lines:
    """Implements prefs.web.scrub.asking.List."""

    asking: Asking
    column: str | None = None
    media_type: str = "application/x-ndjson"
    tells_faults: bool = True
    _waiting: bytes = b""
    _count: int = 0

    def take(self, piece: bytes) -> list[Line]:
        *whole, self._waiting = (self._waiting + piece).split(b"\n")
        if len(self._waiting) > LONGEST_ROW:
            raise Unreadable("long", self._count + len(whole) + 1)
        return [self._line(raw + b"\n") for raw in whole]

    def end(self) -> list[Line]:
        return [self._line(self._waiting)] if self._waiting else []

    def _line(self, raw: bytes) -> Line:
        self._count += 1
        if not raw.strip():
            return Line(raw, None)
        try:
            return Line(raw, msgspec.json.decode(raw))
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise Unreadable("json", self._count) from None

    def answer(self, conn: Connection, rows: Sequence[Line]) -> list[Answered]:
        asked = [item_of(row.value, self.column, self.asking.channel) for row in rows if _says(row)]
        decisions = iter(self.asking.decide(conn, asked))
        return [self._out(row, next(decisions) if _says(row) else None) for row in rows]

    def _out(self, row: Line, decision: Decision | None) -> Answered:
        lead, end = self.lead(row)
        if decision is None:
            return Answered(lead, b"", end)
        comma = "," if row.value != {} else ""
        allowed, reason = str(decision.allowed).lower(), decision.reason.value
        added = f'{comma}"allowed":{allowed},"reason":"{reason}"}}'
        return Answered(lead, added.encode(), end)

    def lead(self, row: Line) -> tuple[bytes, bytes]:
        """An object without its last brace; anything else becomes the field `to` of one."""
        body = row.raw.rstrip()
        end = row.raw[len(body) :] or b"\n"
        if not body:
            return b"", end
        return (body[:-1] if isinstance(row.value, dict) else b'{"to":' + body), end

    def reread(self, added: bytes) -> bool:
        found = _ADDED.fullmatch(added)
        if found and found[2].decode() in set(Reason):
            self.asking.note(Reason(found[2].decode()), allowed=found[1] == b"true")
            return True
        return not added

    def last(self) -> bytes:
        return msgspec.json.encode({"done": self.asking.count}) + b"\n"

    def fault(self, status: int, detail: str) -> bytes:
        problem = {
            "type": "about:blank",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": detail,
        }
        return msgspec.json.encode({"error": problem}) + b"\n"


def _says(line: Line) -> bool:
    """Whether it is a row at all, and no blank line."""
    return bool(line.raw.strip())


def item_of(value: Any, column: str | None, channel: Channel) -> Item:
    """What a line asks about: a text itself; of an object the field `column`, else the channel's
    own field, else `to`; else the object is an item of `POST /v1/check`."""
    if not isinstance(value, dict) or column is not None:
        return _item(value.get(column) if isinstance(value, dict) else value)
    found = next((name for name in (FIELD[channel], "to") if name in value), None)
    return _item(value if found is None else value[found])


def _item(value: Any) -> Item:
    if isinstance(value, str):
        return value
    return _ref_item(value) if isinstance(value, dict) else None


def _ref_item(value: Mapping[str, Any]) -> RefItem | None:
    """None for what is no item. A NUL, which PostgreSQL refuses, stands in no `ref` of ours."""
    try:
        item = msgspec.convert({k: v for k, v in value.items() if k in _ITEM}, RefItem)
    except msgspec.ValidationError:
        return None
    return None if item.ref and "\0" in item.ref else item
