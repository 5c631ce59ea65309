"""POST /v1/scrub: a list of any size, row for row, answered while it comes."""

from __future__ import annotations

import csv
import io
import json
import random
import re
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefs.core.errors import Unavailable
from prefs.web import server
from prefs.web.scrub import asking, rows, waiting
from prefs.web.scrub.rows import PIECE, Reading, Unreadable, delimiter_of
from tests.served import Served, eventually, listening, served

ADA, BOB, CAT = (f"{name}@example.com" for name in ("ada", "bob", "cat"))
CSV, NDJSON = "text/csv", "application/x-ndjson"
EMAIL = {"brand": "rt", "channel": "email", "purpose": "marketing"}


@pytest.fixture(scope="module")
def rt(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp(engine)) as made:
        made.consent(ADA, subject={"email": ADA, "ref": "p1"})
        made.say(BOB, "out")
        post = {"name": "Cat Smith", "lines": ["1 High Street"], "postcode": "LS1 1AA"}
        letters = [{"channel": "post", "purpose": "marketing", "choice": "out"}]
        made.say("", subject={"post": post}, changes=letters)
        calls = [{"channel": "sms", "purpose": "marketing", "choice": "in"}]
        made.consent("", subject={"phone": "+447700900101"}, changes=calls)
        yield made


def scrub(
    rt: Served, content: bytes | Iterable[bytes], sort: str = CSV, **query: str
) -> httpx.Response:
    headers = {**rt.headers, "Content-Type": sort}
    answer: httpx.Response = rt.client.post(
        "/v1/scrub", params={**EMAIL, **query}, content=content, headers=headers
    )
    return answer


def whole(rt: Served, content: bytes, sort: str = CSV, **query: str) -> bytes:
    answer = scrub(rt, content, sort, **query)
    assert answer.status_code == 200, answer.text
    return bytes(answer.content)


# --- CSV ---------------------------------------------------------------------------------------


def test_every_row_comes_back_with_its_answer(rt: Served) -> None:
    content = b"name,email\nAda,ada@example.com\nBob,bob@example.com\n,cat@example.com\nx,none\n"
    found = whole(rt, content)
    assert found == (
        b"name,email,allowed,reason\n"
        b"Ada,ada@example.com,true,consent\n"
        b"Bob,bob@example.com,false,opted_out\n"
        b",cat@example.com,false,no_basis\n"
        b"x,none,false,invalid_identifier\n"
    )


def test_a_list_comes_back_as_what_it_was_sent_as(rt: Served) -> None:
    for sort in ("text/csv; charset=windows-1252", NDJSON):
        answer = scrub(rt, b'"ada@example.com"\n', sort)
        assert answer.headers["content-type"] == sort
        assert "content-length" not in answer.headers


@pytest.mark.parametrize("column", ["email", "EMAIL", "3"])
def test_a_column_is_named_or_numbered(rt: Served, column: str) -> None:
    content = b"other,n,E-mail,Email\nbob@example.com,1,x,ada@example.com\n"
    answer = whole(rt, content, column="4" if column == "3" else column)
    assert answer.endswith(b",true,consent\n")
    assert whole(rt, content).endswith(b",false,opted_out\n"), "guessed: the first with addresses"


def test_a_numbered_column_of_a_list_without_headings(rt: Served) -> None:
    content = b"x,ada@example.com\ny,bob@example.com\n"
    found = b"x,ada@example.com,true,consent\ny,bob@example.com,false,opted_out\n"
    assert whole(rt, content, column="2") == found
    assert whole(rt, content) == found


def test_numbers_are_read_as_the_brands_own(rt: Served) -> None:
    content = b"name;mobile\nAda;07700 900101\nBob;07700 900102\n"
    found = whole(rt, content, channel="sms")
    assert found.endswith(b"Ada;07700 900101;true;consent\nBob;07700 900102;false;no_basis\n")


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0\ufeff"), max_size=8)
EMAILS = st.sampled_from([ADA, BOB, CAT, "none", ""])


@st.composite
def tables(draw: st.DrawFn) -> tuple[bytes, list[list[str]]]:
    """A CSV as a spreadsheet writes it, and its cells."""
    found = draw(st.lists(st.lists(CELLS, min_size=2, max_size=2), max_size=8))
    cells = [["a", "email", "b"], *([a, draw(EMAILS), b] for a, b in found)]
    text = io.StringIO()
    ends = draw(st.sampled_from(["\n", "\r\n"]))
    delimiter = draw(st.sampled_from(",;\t"))
    returns = any("\r" in cell for row in found for cell in row)
    quoting: Literal[0, 1] = csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL
    made = csv.writer(text, lineterminator=ends, delimiter=delimiter, quoting=quoting)
    made.writerows(cells)
    return text.getvalue().encode(), cells


@given(table=tables(), cut=st.integers(1, 40))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_come_back_byte_for_byte(
    rt: Served, table: tuple[bytes, list[list[str]]], cut: int
) -> None:
    """However the pieces are cut: taking the two cells off again gives the list back."""
    content, cells = table
    pieces = (content[at : at + cut] for at in range(0, len(content), cut))
    answer = scrub(rt, pieces, column="email")
    assert answer.status_code == 200
    delimiter = delimiter_of(content)
    left = bytes(answer.content)
    want, added = iter(cells[1:]), []
    for raw, _ in split(content, delimiter):
        body = raw.rstrip(b"\r\n")
        assert left.startswith(body)
        tail, _, left = left[len(body) :].partition(raw[len(body) :])
        added.append(tail.decode().split(delimiter)[1:])
    assert left == b""
    assert added[0] == ["allowed", "reason"]
    expected = {ADA: ["true", "consent"], BOB: ["false", "opted_out"], CAT: ["false", "no_basis"]}
    bad = ["false", "invalid_identifier"]
    assert added[1:] == [expected.get(row[1], bad) for row in want]


def split(content: bytes, delimiter: str) -> list[tuple[bytes, list[str]]]:
    reading = Reading(delimiter)
    return [(row.raw, row.cells) for row in [*reading.take(content), *reading.end()]]


@given(table=tables(), cut=st.integers(1, 30))
def test_pieces_make_the_same_rows_as_the_whole(
    table: tuple[bytes, list[list[str]]], cut: int
) -> None:
    content, cells = table
    delimiter = delimiter_of(content)
    reading = Reading(delimiter)
    found = [
        row for at in range(0, len(content), cut) for row in reading.take(content[at : at + cut])
    ]
    found += reading.end()
    assert found == split(content, delimiter)
    assert b"".join(row.raw for row in found) == content
    assert [[rows.text_of(cell) for cell in row.cells] for row in found] == cells


BAD = [
    (b"", "the list is empty"),
    (b"PK\x03\x04 and so on", "an Excel workbook"),
    ("email\n".encode("utf-16"), "no list of text"),
    (b"x" * 300_000, "row 1 is longer than"),
    (b'email\n"ada@example.com\n', "in row 2 a quotation mark is opened"),
    (b"email\rada@example.com\r", "row 1 cannot be read"),
    (b"name,note\nAda,x\n", "no column of the list holds addresses"),
]


@pytest.mark.parametrize(("content", "says"), BAD)
def test_what_is_no_list_is_told_before_anything_is_answered(
    rt: Served, content: bytes, says: str
) -> None:
    answer = scrub(rt, content)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert says in answer.json()["detail"]


# --- NDJSON ------------------------------------------------------------------------------------


def test_objects_keep_their_bytes_and_get_two_fields(rt: Served) -> None:
    content = (
        b'{"id": 7, "email": "ada@example.com"}\n'
        b'{ "email":"bob@example.com", "x":[1.50, null] }\r\n'
        b"\n"
        b'{"name":"nobody"}\n'
        b"{}\n"
        b'"ada@example.com"\n'
        b"17"
    )
    assert whole(rt, content, NDJSON) == (
        b'{"id": 7, "email": "ada@example.com","allowed":true,"reason":"consent"}\n'
        b'{ "email":"bob@example.com", "x":[1.50, null] ,"allowed":false,"reason":"opted_out"}\r\n'
        b"\n"
        b'{"name":"nobody","allowed":false,"reason":"invalid_identifier"}\n'
        b'{"allowed":false,"reason":"invalid_identifier"}\n'
        b'{"to":"ada@example.com","allowed":true,"reason":"consent"}\n'
        b'{"to":17,"allowed":false,"reason":"invalid_identifier"}\n'
        b'{"done":6}\n'
    )


def reasons(answer: bytes) -> list[str]:
    return [one["reason"] for one in map(json.loads, answer.splitlines()) if "reason" in one]


def lines(*values: Any) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def test_people_are_named_by_ref_and_by_postal_address_as_in_check(rt: Served) -> None:
    cat = {"name": "Cat Smith", "lines": ["1 High Street"], "postcode": "LS1 1AA"}
    content = lines(cat, {"to": cat}, {"post": {**cat, "note": "x"}}, {"name": "Cat Smith"})
    expected = ["objected", "objected", "objected", "invalid_identifier"]
    assert reasons(whole(rt, content, NDJSON, channel="post")) == expected
    content = lines({"ref": "p1", "n": 1}, {"ref": "nobody"}, {"ref": ""}, {"ref": "p\0"})
    expected = ["consent", "no_basis", "invalid_identifier", "invalid_identifier"]
    assert reasons(whole(rt, content, NDJSON)) == expected


def test_a_field_is_named(rt: Served) -> None:
    content = lines({"email": BOB, "mail": ADA}, {"email": BOB})
    assert reasons(whole(rt, content, NDJSON, column="mail")) == ["consent", "invalid_identifier"]


def test_a_nul_reaches_no_database(rt: Served) -> None:
    assert reasons(whole(rt, b'{"email":"a\\u0000@example.com"}\n', NDJSON)) == [
        "invalid_identifier"
    ]
    content = b"email\nada@example.com\n" + b"a\0b@example.com\n" * 2
    assert scrub(rt, content).status_code == 422
    late = b"email\n" + b"ada@example.com\n" * 1000 + b"a\0b@example.com\n"
    assert whole(rt, late, column="1").endswith(b"a\0b@example.com,false,invalid_identifier\n")


def test_a_list_that_breaks_says_so_in_its_last_line(rt: Served) -> None:
    content = lines(*[{"email": ADA}] * 2000) + b'{"email": \n' + lines({"email": BOB})
    answer = whole(rt, content, NDJSON).splitlines()
    assert json.loads(answer[0])["reason"] == "consent"
    assert json.loads(answer[-1]) == {
        "error": {
            "type": "about:blank",
            "title": "Unprocessable Content",
            "status": 422,
            "detail": "row 2001 is no JSON; every line is one JSON object, or one text",
        }
    } or json.loads(answer[-1])["error"]["detail"].startswith("row 2001 is no JSON")


# --- the question ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "status", "field"),
    [
        ({"brand": "second"}, 403, ""),
        ({"brand": ""}, 422, "brand"),
        ({"channel": "pigeon"}, 422, "channel"),
        ({"purpose": "fun"}, 422, "purpose"),
        ({"topic": "weather"}, 422, "topic"),
        ({"colum": "email"}, 422, "colum"),
        ({"column": "mobile"}, 422, "column"),
        ({"column": "2"}, 422, "column"),
        ({"channel": "post"}, 422, "channel"),
    ],
)
def test_a_bad_question_is_refused(
    rt: Served, query: dict[str, str], status: int, field: str
) -> None:
    answer = scrub(rt, b"email\nada@example.com\n", **query)
    assert (answer.status_code, answer.json().get("field", "")) == (status, field)


def test_other_formats_are_refused(rt: Served) -> None:
    assert scrub(rt, b"{}", "application/json").status_code == 415
    packed = {**rt.headers, "Content-Type": CSV, "Content-Encoding": "gzip"}
    assert rt.client.post("/v1/scrub", params=EMAIL, headers=packed).status_code == 415
    twice = "/v1/scrub?brand=rt&brand=rt&channel=email&purpose=marketing"
    assert rt.client.post(twice, headers=rt.headers).json()["detail"] == "given twice"


def test_answers_are_those_of_check(rt: Served) -> None:
    news = [{"channel": "email", "purpose": "marketing", "topic": "news", "choice": "out"}]
    rt.say("dan@example.com", changes=news)
    people = [ADA, BOB, CAT, "dan@example.com", "nobody"]
    for more in ({}, {"topic": "news"}, {"purpose": "reminders"}, {"purpose": "service"}):
        asked = {**EMAIL, **more, "to": people}
        wanted = [one["reason"] for one in rt.post("/v1/check", asked).json()["results"]]
        assert reasons(whole(rt, lines(*people), NDJSON, **more)) == wanted


def test_the_store_away_is_503_before_the_first_answer(
    rt: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> None:
        raise Unavailable("gone")

    monkeypatch.setattr(asking, "decide_all", away)
    answer = scrub(rt, b"email\nada@example.com\n")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


# --- while it still comes ----------------------------------------------------------------------


@pytest.fixture
def port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setattr(server, "BODY_PIECE_WITHIN", 1.0)
    monkeypatch.setattr(server, "TAKEN_WITHIN", 1.0)
    with listening(tmp_path) as made:
        made.say(BOB, "out")
        yield made


def dialled(port: Served, sort: str = CSV, framing: str = "Transfer-Encoding: chunked") -> Any:
    url = port.client.base_url
    made = socket.create_connection((url.host, url.port), timeout=10)
    head = (
        "POST /v1/scrub?brand=rt&channel=email&purpose=marketing&column=email HTTP/1.1",
        "Host: localhost",
        f"Content-Type: {sort}",
        f"Authorization: Bearer {port.key}",
        framing,
        "",
        "",
    )
    made.sendall("\r\n".join(head).encode())
    return made


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(content), content)


def heard(connection: socket.socket, until: bytes = b"") -> bytes:
    """What comes until these bytes, or until the other side closes."""
    found = b""
    while not until or until not in found:
        part = connection.recv(65536)
        if not part:
            break
        found += part
    return found


def test_rows_are_answered_before_the_next_ones_are_sent(port: Served) -> None:
    with dialled(port) as client:
        client.sendall(chunk(b"email,n\nbob@exam"))
        assert b"email,n,allowed,reason\n" in heard(client, b"reason\n")
        client.sendall(chunk(b"ple.com,1\n"))
        assert b"bob@example.com,1,false,opted_out\n" in heard(client, b"opted_out\n")
        client.sendall(chunk(b"bob@example.com,2") + b"0\r\n\r\n")
        assert heard(client, b"0\r\n\r\n").endswith(b",2,false,opted_out\r\n0\r\n\r\n")


ROW = b"bob@example.com," + b"x" * 2000 + b"\n"
PEOPLE = 6000
"""More bytes of such rows than the sockets between two programs hold."""
LONG = b"email,n\n" + ROW * PEOPLE


def test_a_csv_that_breaks_ends_without_an_end(port: Served) -> None:
    """Its reader is told by the connection: the chunked answer has no last chunk."""
    content = b"email\n" + b"bob@example.com\n" * 2000 + b'"never closed\n'
    with pytest.raises(httpx.RemoteProtocolError):
        scrub(port, content, column="email")
    with dialled(port, framing=f"Content-Length: {len(content)}") as client:
        client.sendall(content)
        found = heard(client)
    assert found.startswith(b"HTTP/1.1 200")
    assert found.count(b"opted_out\n") == 2000
    assert not found.endswith(b"0\r\n\r\n")


def test_a_list_that_stalls_breaks_off(port: Served) -> None:
    with dialled(port) as client:
        client.sendall(chunk(b"email\nbob@example.com\n"))
        found = heard(client)
    assert found.count(b"opted_out\n") == 1
    assert not found.endswith(b"0\r\n\r\n")
    with dialled(port, NDJSON) as client:
        client.sendall(chunk(b'{"email":"bob@example.com"}\n'))
        found = heard(client)
    assert b'"status":408' in found
    assert b"done" not in found


def test_a_client_that_sends_all_before_it_reads_gets_all(port: Served) -> None:
    """More than sockets hold: neither side may wait for the other."""
    with dialled(port, framing=f"Content-Length: {len(LONG)}") as client:
        client.sendall(LONG)
        found = joined(heard(client, b"\r\n0\r\n\r\n"))
    assert found.count(b"opted_out\n") == PEOPLE


def joined(answer: bytes) -> bytes:
    """The content of a chunked answer."""
    left, found = answer.partition(b"\r\n\r\n")[2], b""
    while left:
        size, _, left = left.partition(b"\r\n")
        found, left = found + left[: int(size, 16)], left[int(size, 16) + 2 :]
    return found


def test_who_takes_no_answer_is_closed_and_keeps_nobody_waiting(port: Served) -> None:
    with dialled(port, framing=f"Content-Length: {len(LONG)}") as deaf:
        before = ended(port)
        deaf.sendall(LONG)
        assert port.reason(BOB) == "opted_out"
        eventually(lambda: ended(port) > before)
        found = heard(deaf)
    assert 0 < found.count(b"opted_out\n") < PEOPLE
    assert not found.endswith(b"0\r\n\r\n")


def ended(port: Served) -> int:
    """Scrubs that came to an end, of whatever kind."""
    text = port.client.get("/metrics").text
    return int(sum(map(float, re.findall(r'count{route="/v1/scrub",.*} (.*)', text))))


def test_answers_wait_in_order_whatever_the_reader_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "IN_MEMORY", 100)
    monkeypatch.setattr(waiting, "PIECE", 64)
    dice, made = random.Random(7), waiting.Waiting()
    put = taken = b""
    for number in range(2000):
        part = f"{number};".encode() * dice.randint(0, 20)
        made.put(part)
        put += part
        while dice.random() < 0.5 and (part := made._next()):
            taken += part
    while part := made._next():
        taken += part
    assert taken == put
    made.close()


def test_a_row_that_never_ends_is_not_gathered() -> None:
    reading = Reading(",")
    reading.take(b'"')
    pieces = (reading.take(b"x\n" * (PIECE // 2)) for _ in range(100))
    with pytest.raises(Unreadable, match="row 1 "):
        list(pieces)
