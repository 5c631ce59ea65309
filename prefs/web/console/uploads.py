"""A form with a file (RFC 7578), read in pieces; nothing of it counts before its token is right."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from prefs.core.errors import BadInput
from prefs.web.console.session import CSRF, MOST_FIELDS, Visit, check_token, is_multipart

MOST_BYTES = 8 * 1024 * 1024
"""Of a form that is held in memory: a list of people that is gone after a day."""


class Upload(NamedTuple):
    fields: Mapping[str, str]
    file: bytes
    """Empty where none was chosen."""


async def read(request: Request, visit: Visit) -> Upload:
    """The fields and the one file; a form that brings none was read and checked before. Raises
    BadInput."""
    if not is_multipart(request):
        return Upload(visit.form, b"")
    async with brought(request, visit, MOST_BYTES, "staff.upload.large") as (fields, file):
        return Upload(fields, await file.read() if file else b"")


@asynccontextmanager
async def brought(
    request: Request, visit: Visit, largest: int, too_large: str
) -> AsyncIterator[tuple[Mapping[str, str], UploadFile | None]]:
    """The fields, and the file, on disk past its first megabyte; None where none was chosen. Raises
    BadInput; `too_large` is its text for more bytes than `largest`."""
    form = await _parsed(request, largest, too_large)
    try:
        fields = {name: text for name, text in form.items() if isinstance(text, str)}
        check_token(fields.get(CSRF, ""), visit.session)
        files = (one for _, one in form.items() if isinstance(one, UploadFile) and one.filename)
        yield fields, next(files, None)
    finally:
        await form.close()


async def _parsed(request: Request, largest: int, too_large: str) -> FormData:
    if not is_multipart(request):
        raise BadInput("staff.form.damaged", status=415)
    parser = MultiPartParser(
        request.headers,
        _limited(request, largest, too_large),  # type: ignore[arg-type]  # it iterates and no more
        max_files=1,
        max_fields=MOST_FIELDS,
        max_part_size=MOST_BYTES,
    )
    try:
        return await parser.parse()
    except MultiPartException:
        raise BadInput("staff.form.damaged", status=400) from None


async def _limited(request: Request, largest: int, too_large: str) -> AsyncIterator[bytes]:
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > largest:
            raise BadInput(too_large, status=413)
        yield part


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
