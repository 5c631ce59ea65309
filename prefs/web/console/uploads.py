"""A form with a file (RFC 7578), read whole once its token is right.

Files here are lists of people: a few megabytes at most, gone after a day.
"""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import Iterator, Mapping
from email.message import Message
from email.parser import BytesParser
from email.policy import HTTP
from typing import NamedTuple

from starlette.requests import Request

from prefs.core.errors import BadInput
from prefs.web.bodies import read_body
from prefs.web.console.session import CSRF, Visit, check_token, is_multipart

MOST_BYTES = 8 * 1024 * 1024
FORM = b"Content-Type: "


class Upload(NamedTuple):
    fields: Mapping[str, str]
    file: bytes
    """Empty where none was chosen."""


async def read(request: Request, visit: Visit) -> Upload:
    """The fields and the one file; a form that brings none was read and checked before. Raises
    BadInput: before anything else for a wrong token."""
    kind = request.headers.get("content-type", "")
    if not is_multipart(request):
        return Upload(visit.form, b"")
    try:
        raw = await read_body(request, MOST_BYTES)
    except BadInput as fault:
        raise BadInput("staff.upload.large", status=fault.status) from None
    found = await asyncio.to_thread(_parsed, kind, raw)
    check_token(found.fields.get(CSRF, ""), visit.session)
    return found


def _parsed(kind: str, raw: bytes) -> Upload:
    head = FORM + kind.encode("latin-1", "replace").replace(b"\r", b"").replace(b"\n", b"")
    message = BytesParser(policy=HTTP).parsebytes(head + b"\r\n\r\n" + raw)
    fields, file = {}, b""
    for part in message.walk() if message.is_multipart() else ():
        name, content = _part(part)
        if part.get_filename() is not None:
            file = content
        elif name:
            fields[name] = content.decode("utf-8", "replace")
    return Upload(fields, file)


def _part(part: Message) -> tuple[str, bytes]:
    name = part.get_param("name", header="content-disposition")
    content = part.get_payload(decode=True)
    return (
        name if isinstance(name, str) else "",
        content if isinstance(content, bytes) else b"",
    )


def text_of(data: bytes) -> str:
    """UTF-8 with or without a byte-order mark, UTF-16 with one, else what a Windows spreadsheet
    writes."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def rows_of(text: str) -> Iterator[list[str]]:
    """Lines as cells, whatever stands between them. Raises BadInput for what is no text."""
    if "\0" in text:
        raise BadInput("staff.upload.no_text")
    first = text.split("\n", 1)[0]
    between = max("\t;,", key=first.count)
    reader = csv.reader(io.StringIO(text), delimiter=between)
    while True:
        try:
            row = next(reader, None)
        except csv.Error:
            raise BadInput("staff.upload.no_text") from None
        if row is None:
            return
        if any(cells := [cell.strip() for cell in row]):
            yield cells
