"""Ids are text outside: a subject is `s_` and 16 hexadecimal digits."""

from __future__ import annotations

from prefs.core.errors import NotFound

PREFIX = "s_"
DIGITS = 16


def subject_text(id_: int) -> str:
    return f"{PREFIX}{id_:0{DIGITS}x}"


def subject_number(text: str) -> int:
    """Raises NotFound for a text that is no subject's id."""
    digits = text.removeprefix(PREFIX)
    if not text.startswith(PREFIX) or len(digits) != DIGITS:
        raise NotFound("there is no such subject")
    try:
        return int(digits, 16)
    except ValueError:
        raise NotFound("there is no such subject") from None
