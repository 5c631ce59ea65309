"""The page of a twin: what a person sees in the demo."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus

if TYPE_CHECKING:
    from tests.twins.kit import Call, Twin


@dataclass(frozen=True)
class Button:
    """A form on the page: posts `fields` to the act; `asks` are typed in by the person."""

    label: str
    act: str
    fields: Mapping[str, str] = field(default_factory=dict)
    asks: Sequence[str] = ()


@dataclass(frozen=True)
class Mark:
    """One thing that the vendor holds of a person, in words; `on` is None where it is neither."""

    text: str
    on: bool | None = None


@dataclass(frozen=True)
class Row:
    """One person on the page."""

    person: str
    marketing: Sequence[Mark]
    reminders: Sequence[Mark]
    detail: str = ""
    buttons: Sequence[Button] = ()


STYLE = """
:root{color-scheme:light}
body{font:16px/1.45 system-ui,sans-serif;margin:1.5rem auto;max-width:74rem;padding:0 1rem;
color:#222}
h1{font-size:1.5rem;margin-bottom:.2rem}h2{font-size:1.1rem;margin:2rem 0 .6rem}p{margin:.2rem 0}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.45rem .6rem;border-bottom:1px solid #ddd;vertical-align:top}
th{background:#f4f4f6}td{overflow-wrap:break-word}td:first-child{white-space:nowrap}
form{display:inline-block;margin:0 .4rem .35rem 0}
input{font:inherit;width:10rem;max-width:60vw}
button{font:inherit;font-size:.875rem;padding:.25rem .6rem;border:1px solid #888;
border-radius:.3rem;background:#fff;cursor:pointer}
button:hover{background:#eef}
.mark{display:inline-block;margin:0 .3rem .3rem 0;padding:.05rem .5rem;border-radius:.8rem;
background:#ececef}
.on{background:#dcf3e1;color:#0b4a1c}.off{background:#fbe0e0;color:#7a1010}
.quiet{color:#555}.alarm{background:#fde8e8;padding:.5rem .8rem;margin-top:1rem}
.calls{font-size:.875rem;table-layout:fixed}.calls td{overflow-wrap:anywhere}
.calls th:first-child{width:5rem}.calls th:last-child{width:9rem}
@media (max-width:52rem){
table,tbody,tr,td{display:block}thead{display:none}
tr{border:1px solid #ddd;border-radius:.4rem;margin-bottom:.8rem;padding:.3rem}
td{border:0;padding:.2rem .4rem}td:empty{display:none}
td[data-label]::before{content:attr(data-label);display:block;font-size:.8rem;color:#555}
td:first-child{font-weight:600}
.calls tr{border:0;border-bottom:1px solid #ddd;border-radius:0;margin:0}
.calls td{display:inline;font-weight:400}.calls td::before{display:none}
}
"""
REFRESH = '<meta http-equiv="refresh" content="5">'
STAND = 'Renewed every 5 s. <a href="/?still">Stand still, to type</a>'
RENEW = 'Standing still. <a href="/">Renew every 5 s</a>'
LAST_CALLS = 10
LONGEST_BODY = 200


def render_page(twin: Twin[Any], still: bool = False) -> str:
    """Who has which state, acts to do, the last calls; renewed every 5 s unless `still`."""
    title = html.escape(twin.title or twin.name.capitalize())
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"{'' if still else REFRESH}<title>{title} (twin)</title><style>{STYLE}</style></head>"
        f"<body><h1>{title}</h1>"
        '<p class="quiet">A twin: it plays the vendor on this machine. What is shown is its own '
        f"state.</p><p class=quiet>{RENEW if still else STAND}</p>"
        f"{_troubles(twin)}<h2>People</h2>{_people(twin)}"
        f"<h2>Do something here</h2>{_forms(twin)}"
        f"<h2>What programs sent</h2>{_calls(twin, writes=True)}"
        f"<h2>What programs read</h2>{_calls(twin, writes=False)}</body></html>"
    )


def _troubles(twin: Twin[Any]) -> str:
    waiting = ", ".join(f"{f.kind} ({f.times or 'until cleared'})" for f in twin.faults.waiting())
    return f'<p class="alarm">Faults in place: {html.escape(waiting)}</p>' if waiting else ""


COLUMNS = ("Person", "Marketing", "Reminders and service", "Detail", "Do it here")


def _people(twin: Twin[Any]) -> str:
    rows = "".join(_person(row) for row in twin.people())
    return _table(COLUMNS, rows) if rows else '<p class="quiet">Nobody yet.</p>'


def _person(row: Row) -> str:
    cells = (
        "<br>".join(map(html.escape, row.person.split(", "))),
        _marks(row.marketing),
        _marks(row.reminders),
        html.escape(row.detail),
        "".join(_form(button) for button in row.buttons),
    )
    return _row(COLUMNS, cells)


def _marks(marks: Iterable[Mark]) -> str:
    words = {True: "mark on", False: "mark off", None: "mark"}
    return "".join(
        f'<span class="{words[mark.on]}">{html.escape(mark.text)}</span>' for mark in marks
    )


def _table(columns: Sequence[str], rows: str, kind: str = "") -> str:
    head = "".join(f"<th>{name}</th>" for name in columns)
    return f'<table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'


def _row(columns: Sequence[str], cells: Sequence[str]) -> str:
    """`cells` are HTML. The first one needs no label where cells stand below each other."""
    first, rest = cells[0], zip(columns[1:], cells[1:], strict=True)
    labelled = "".join(f'<td data-label="{name}">{cell}</td>' for name, cell in rest)
    return f"<tr><td>{first}</td>{labelled}</tr>"


def _form(button: Button, action: str = "/_twin/acts/") -> str:
    hidden = "".join(
        f'<input type="hidden" name="{html.escape(k)}" value="{html.escape(v)}">'
        for k, v in button.fields.items()
    )
    asked = "".join(
        f'<label>{html.escape(a)} <input name="{html.escape(a)}" required></label> '
        for a in button.asks
    )
    return (
        f'<form method="post" action="{action}{html.escape(button.act)}">{hidden}{asked}'
        f"<button>{html.escape(button.label)}</button></form>"
    )


def _forms(twin: Twin[Any]) -> str:
    outage = Button("Go down: no call is answered", "faults", {"kind": "down", "times": ""})
    trouble = Button("Come back", "faults/clear") if twin.faults.waiting() else outage
    links = "".join(
        f'<p><a href="{html.escape(path)}">{html.escape(label)}</a></p>'
        for label, path in twin.page_links().items()
    )
    acts = "".join(_form(button) for button in twin.page_buttons())
    return acts + _form(trouble, "/_twin/") + links


def _calls(twin: Twin[Any], *, writes: bool) -> str:
    chosen = [call for call in twin.calls if _sends(call) is writes][-LAST_CALLS:]
    columns = ("Time", "Call", *(["Body"] if writes else []), "Answer")
    rows = "".join(_row(columns, _call(call)) for call in reversed(chosen))
    return _table(columns, rows, "calls") if rows else '<p class="quiet">Nothing yet.</p>'


def _call(call: Call) -> list[str]:
    answer = str(call.status) if call.status is not None else "no answer"
    answer = f"{answer} ({call.fault})" if call.fault else answer
    body = [_body(call)] if _sends(call) else []
    return [
        html.escape(text)
        for text in (f"{call.at:%H:%M:%S}", f"{call.method} {call.path}", *body, answer)
    ]


def _sends(call: Call) -> bool:
    """Whether it may change something: some vendors are read by POST."""
    return call.writes and not call.path.endswith(("/search", "/read"))


def _body(call: Call) -> str:
    """Cut short; a request for a token is not shown."""
    text = unquote_plus(call.body.decode(errors="replace"))
    if "grant_type" in text:
        return "(credentials)"
    return text if len(text) <= LONGEST_BODY else text[:LONGEST_BODY] + " ..."
