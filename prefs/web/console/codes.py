"""Codes of the second factor (RFC 6238)."""

from __future__ import annotations

import hmac
from datetime import datetime

import pyotp

WINDOW = (0, -1, 1)
"""Steps of 30 s by which an authenticator's clock may be wrong."""


def step_of(secret: str, given: str, now: datetime) -> int | None:
    """The step whose code was given, blanks ignored; None where it is none of the present ones.

    A step lets in once (RFC 6238 section 5.2): `store.staff.use_step` holds that.
    """
    totp, code = pyotp.TOTP(secret), given.replace(" ", "").encode()
    right = [
        n for n in WINDOW if hmac.compare_digest(totp.at(now, counter_offset=n).encode(), code)
    ]
    return totp.timecode(now) + right[0] if right else None
