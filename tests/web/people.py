"""For tests of the people's pages: links as they are mailed, forms as a browser sends them."""

from __future__ import annotations

import email
import re
from email import policy
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from prefs.mailer import Mailer
from tests.served import PUBLIC, Served

ADA = "ada@example.com"


def post_mail(rt: Served) -> None:
    """Let the outbox be worked through twice: a request, then the mails that it asked for."""

    async def work() -> None:
        mailer = Mailer(rt.runtime.service)
        await mailer.run()
        await mailer.run()

    rt.client.portal.call(work)


def mails(rt: Served) -> list[Any]:
    folder = Path(str(rt.runtime.settings.mail and rt.runtime.settings.mail.send)[len("file://") :])
    found = sorted(folder.glob("*.eml"), key=lambda file: file.stat().st_mtime)
    return [email.message_from_bytes(f.read_bytes(), policy=policy.default) for f in found]


def fresh(rt: Served, address: str = ADA) -> str:
    """The path of a link that was mailed on request."""
    before = len(mails(rt))
    rt.client.post("/p?brand=rt", data={"email": address})
    post_mail(rt)
    (message,) = mails(rt)[before:]
    text = message.get_body(("plain",)).get_content()
    found = re.search(re.escape(PUBLIC) + r"(/p/\S+)", text)
    assert found
    return found.group(1)


def footer(rt: Served, address: str = ADA) -> str:
    made: str = rt.post("/v1/links", {"brand": "rt", "email": address}).json()["preferences"]
    return made.removeprefix(PUBLIC)


def shown(rt: Served, path: str) -> dict[str, str]:
    """The form as a browser would send it: ticked boxes and the hidden field."""
    page = rt.client.get(path)
    assert page.status_code == 200
    boxes = re.findall(r'<input type="checkbox" name="([^"]+)" value="in"( checked)?>', page.text)
    (hidden,) = re.findall(r'name="shown" value="([^"]*)"', page.text)
    return {"shown": hidden, **{name: "in" for name, checked in boxes if checked}}


def unsubscribe(rt: Served, address: str = ADA, **more: Any) -> str:
    """The path of an unsubscribe link as it stands in a message."""
    body = {"brand": "rt", "email": address, **more}
    made: str = rt.post("/v1/links", body).json()["unsubscribe"]
    return made.removeprefix(PUBLIC)


class _Forms(HTMLParser):
    """Every form of a page: its action and what a browser would send of it untouched."""

    def __init__(self) -> None:
        super().__init__()
        self.forms: list[tuple[str, dict[str, str]]] = []
        self._open = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.forms.append((found.get("action", ""), {}))
            self._open = True
        if not self._open or tag not in ("input", "textarea") or "name" not in found:
            return
        if found.get("type") != "checkbox" or "checked" in found:
            self.forms[-1][1][found["name"]] = found.get("value", "")

    def handle_endtag(self, tag: str) -> None:
        self._open = self._open and tag != "form"


def forms(page: str) -> list[tuple[str, dict[str, str]]]:
    parser = _Forms()
    parser.feed(page)
    return parser.forms


def form(page: str, holds: str) -> tuple[str, dict[str, str]]:
    """The one form whose action ends so, or which has a field of that name."""
    (found,) = [
        (action, fields)
        for action, fields in forms(page)
        if action.endswith(holds) or holds in fields
    ]
    return found


def visible(page: str) -> str:
    """The text of a page on one line."""
    body = page.split("<main", 1)[-1]
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())
