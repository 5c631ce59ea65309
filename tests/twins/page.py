"""The page of a twin: what a person sees in the demo."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

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
class Row:
    """One person on the page. `marketing` and `reminders` are words for a reader."""

    person: str
    marketing: str
    reminders: str
    detail: str = ""
    buttons: Sequence[Button] = ()


STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#222}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.35rem .6rem;border-bottom:1px solid #ddd;vertical-align:top}
th{background:#f4f4f6}form{display:inline-block;margin:0 .4rem .3rem 0}code{font-size:.9em}
.quiet{color:#666}.alarm{background:#fde8e8;padding:.5rem .8rem}
"""
REFRESH = '<meta http-equiv="refresh" content="5">'
STAND = '<p class="quiet">Renewed every 5 s. <a href="/?still">Stand still, to type</a></p>'
RENEW = '<p class="quiet"><a href="/">Renew every 5 s</a></p>'
LAST_CALLS = 20


def render_page(twin: Twin[Any], still: bool = False) -> str:
    """Who has which state, acts to do, the last calls; renewed every 5 s unless `still`."""
    title = html.escape(f"{twin.name.capitalize()} (twin)")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"{'' if still else REFRESH}<title>{title}</title>"
        f"<style>{STYLE}</style></head><body><h1>{title}</h1>{STAND if not still else RENEW}"
        f"{_troubles(twin)}<h2>People</h2>{_people(twin)}"
        f"<h2>Do something here</h2>{_forms(twin)}<h2>Last calls</h2>{_last_calls(twin)}"
        "</body></html>"
    )


def _troubles(twin: Twin[Any]) -> str:
    waiting = ", ".join(f"{f.kind} ({f.times or 'until cleared'})" for f in twin.faults.waiting())
    return f'<p class="alarm">Faults in place: {html.escape(waiting)}</p>' if waiting else ""


def _people(twin: Twin[Any]) -> str:
    rows = "".join(
        f"<tr>{_cells(row.person, row.marketing, row.reminders, row.detail)}"
        f"<td>{''.join(_form(button) for button in row.buttons)}</td></tr>"
        for row in twin.people()
    )
    head = "<tr><th>Person<th>Marketing<th>Reminders, service<th>Detail<th>In the vendor</tr>"
    return f"<table>{head}{rows}</table>"


def _cells(*texts: str) -> str:
    return "".join(f"<td>{html.escape(text)}</td>" for text in texts)


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
    outage = Button("Go down", "faults", {"kind": "down", "times": ""})
    return (
        "".join(_form(button) for button in twin.page_buttons())
        + _form(outage, "/_twin/")
        + _form(Button("Come back", "faults/clear"), "/_twin/")
    )


def _last_calls(twin: Twin[Any]) -> str:
    rows = "".join(
        f"<tr>{_cells(f'{call.at:%H:%M:%S}', call.method, call.path, _outcome(call))}</tr>"
        for call in reversed(twin.calls[-LAST_CALLS:])
    )
    return f"<table><tr><th>Time<th>Method<th>Path<th>Answer</tr>{rows}</table>"


def _outcome(call: Call) -> str:
    answer = str(call.status) if call.status is not None else "no answer"
    return f"{answer} ({call.fault})" if call.fault else answer
