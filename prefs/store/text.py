"""Names made comparable."""

from __future__ import annotations

import unicodedata


def folded(name: str | None) -> str | None:
    """Lower case without accents and double blanks, for search."""
    if name is None:
        return None
    if name.isascii():  # it has no accents
        return " ".join(name.lower().split())
    plain = unicodedata.normalize("NFKD", name.casefold())
    return " ".join("".join(c for c in plain if not unicodedata.combining(c)).split())


def escaped_like(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
