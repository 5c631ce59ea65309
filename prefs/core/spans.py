"""A place for traces: spans around what takes time. Until somebody calls `use`, a span costs one
look at an attribute.

What a span says is a name, a count or an outcome of ours: never what a person or a vendor's key is
known by.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from functools import wraps
from typing import ParamSpec, Protocol, Self, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

Plain = str | int | float | bool


class Span(Protocol):
    def call(self, name: str) -> None:
        """Give it the name that is known only now."""

    def note(self, key: str, value: Plain) -> None: ...


class Nothing:
    """The span of whoever traces nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def call(self, name: str) -> None: ...

    def note(self, key: str, value: Plain) -> None: ...


Opener = Callable[[str, Mapping[str, Plain]], AbstractContextManager[Span]]
NOTHING = Nothing()


class _Used:
    opener: Opener | None = None


def use(opener: Opener | None) -> None:
    """Every span from now on is opened by `opener`; None ends that."""
    _Used.opener = opener


def span(name: str, **about: Plain) -> AbstractContextManager[Span]:
    return NOTHING if _Used.opener is None else _Used.opener(name, about)


def spanned(name: str) -> Callable[[Callable[P, Awaitable[T]]], Callable[P, Awaitable[T]]]:
    """A span around each call."""

    def spanning(work: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
        @wraps(work)
        async def worked(*args: P.args, **kwargs: P.kwargs) -> T:
            with span(name):
                return await work(*args, **kwargs)

        return worked

    return spanning
