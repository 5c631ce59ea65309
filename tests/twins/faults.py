"""Misbehaviour of a twin, installed by tests and by hand on its page."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Kind = Literal[
    "status",
    "timeout_after_work",
    "timeout_before_work",
    "late_work",
    "lie",
    "bad_item",
    "omit_item",
    "html",
    "cut_json",
    "delay",
    "down",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
ITEM_KINDS = ("bad_item", "omit_item")
HANGS = 30.0
"""How long a hanging call hangs when the fault names no seconds."""


@dataclass
class Fault:
    """One misbehaviour, for calls that match `method` and `path`.

    kind      status               answer `status` with `headers` and `body`; no work is done
              timeout_after_work   do the work, hang `seconds`, close without a reply
              timeout_before_work  hang `seconds`, close without a reply; no work is done
              late_work            hang `seconds`, then do the work, close without a reply
              lie                  the answer of success, nothing changed, no webhook sent
              bad_item             bulk: the item whose key matches `key` fails
              omit_item            bulk: that item is named neither as done nor as failed
              html                 200 with an HTML page; no work is done
              cut_json             do the work, send half of the reply
              delay                do the work, answer `seconds` later
              down                 close the connection without a reply; no work is done
    method    None: any
    path      regular expression, matched from the start of the decoded path
    times     how many calls (items) it strikes; None: until cleared
    skip      so many matching calls (items) pass first
    body      of `status`: None is the vendor's own error shape, "" an empty body
    key       of item kinds: regular expression, searched in the item's key
    work      `status`, `html`: do the work all the same; `omit_item`: apply the item
    """

    kind: Kind
    method: str | None = None
    path: str = ""
    times: int | None = 1
    skip: int = 0
    status: int = 503
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str | None = None
    seconds: float = HANGS
    key: str = ""
    work: bool = False

    def strikes(self, method: str, path: str) -> bool:
        return self.method in (None, method) and re.match(self.path, path) is not None


class Faults:
    """The queue of faults; the first that matches strikes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[Fault] = []

    def add(self, kind: Kind, **fields: Any) -> Fault:
        """Install a fault; `fields` as in `Fault`. Raises ValueError: unknown kind or field."""
        if kind not in KINDS:
            raise ValueError(f"no such fault: {kind}")
        if kind == "delay" and "seconds" not in fields:
            raise ValueError("delay needs seconds")
        try:
            fault = Fault(kind, **fields)
        except TypeError as error:
            raise ValueError(str(error)) from error
        with self._lock:
            self._waiting.append(fault)
        return fault

    def clear(self) -> None:
        with self._lock:
            self._waiting.clear()

    def waiting(self) -> list[Fault]:
        with self._lock:
            return list(self._waiting)

    def take(self, method: str, path: str) -> Fault | None:
        """The fault that strikes this call, used up by one."""
        return self._take(lambda f: f.kind not in ITEM_KINDS and f.strikes(method, path))

    def take_item(self, method: str, path: str, key: str) -> Fault | None:
        """The `bad_item` or `omit_item` that strikes this item of a bulk call."""
        return self._take(
            lambda f: (
                f.kind in ITEM_KINDS
                and f.strikes(method, path)
                and re.search(f.key, key) is not None
            )
        )

    def _take(self, matches: Callable[[Fault], bool]) -> Fault | None:
        with self._lock:
            fault = next((f for f in self._waiting if matches(f)), None)
            if fault is None:
                return None
            if fault.skip:
                fault.skip -= 1
                return None
            if fault.times is not None:
                fault.times -= 1
                if fault.times <= 0:
                    self._waiting.remove(fault)
            return fault
