"""Everything that we raise on purpose, typed by who must act.

`str(error)` is safe to show and to log: it never holds personal data or a secret.
"""

from __future__ import annotations


class PrefsError(Exception):
    """Root of all errors raised on purpose."""


class BadInput(PrefsError):
    """The caller must change what was sent. `field` names where, as a JSON path."""

    def __init__(self, message: str, *, field: str = "", status: int = 422) -> None:
        super().__init__(message)
        self.field = field
        self.status = status


class BadIdentifier(BadInput):
    """The text is no address, number, PSID or postal address."""


class NotFound(PrefsError):
    """The thing asked for does not exist."""


class Forbidden(PrefsError):
    """The caller's key or role does not allow this."""


class Unavailable(PrefsError):
    """The store is away or locked: the same call may go through later."""


class Busy(Unavailable):
    """More waits than is done soon: programs come back after `retry_after` seconds."""

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class SettingsError(PrefsError):
    """The operator must change the configuration. `faults` lists each fault with its fix."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class Unverified(PrefsError):
    """A webhook without a valid signature: nothing of it may be parsed or kept."""


class PropagationError(PrefsError):
    """A call to a target did not do what was asked."""


class Temporary(PropagationError):
    """Wait and try again, not before `retry_after` seconds.

    `unclear` is set where the call may still be working at the vendor (a time-out, a broken
    connection after sending): the next equal read then proves nothing yet.
    """

    def __init__(
        self, reason: str, *, retry_after: float | None = None, unclear: bool = False
    ) -> None:
        super().__init__(reason)
        self.retry_after = retry_after
        self.unclear = unclear


class Refused(PropagationError):
    """The vendor refuses this record; staff see the reason."""


class Unusable(PropagationError):
    """The whole target refuses us (key revoked, account closed): park it and tell a person."""
