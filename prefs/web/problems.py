"""Errors in one shape: RFC 9457 problem details."""

from __future__ import annotations

from http import HTTPStatus

import msgspec
import structlog
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from prefs.core.errors import BadInput, Busy, Forbidden, NotFound, Unavailable, Unverified
from prefs.logs import REQUEST

log = structlog.get_logger()

RETRY_AFTER = "5"
CLIENT_GONE = 499
"""nginx's word for a caller who went away before the answer."""
MORE_HEADERS = {401: {"WWW-Authenticate": "Bearer"}, 408: {"Connection": "close"}}


class Unauthorized(BadInput):
    """No key, or one that is unknown or revoked."""

    def __init__(self) -> None:
        super().__init__("send a valid key as: Authorization: Bearer <key>", status=401)


class Stalled(BadInput):
    """A body stopped arriving (RFC 9110 section 15.5.9)."""

    def __init__(self) -> None:
        super().__init__("the body did not arrive in time: send it again", status=408)


def problem(
    status: int, detail: str, *, field: str = "", headers: dict[str, str] | None = None
) -> Response:
    body = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    if field:
        body["field"] = field
    return Response(
        msgspec.json.encode(body),
        status,
        headers={"Cache-Control": "no-store", **(headers or {})},
        media_type="application/problem+json",
    )


def on_bad_input(request: Request, fault: Exception) -> Response:
    assert isinstance(fault, BadInput)  # noqa: S101  # how handlers are registered
    headers = MORE_HEADERS.get(fault.status)
    return problem(fault.status, str(fault), field=fault.field, headers=headers)


def on_forbidden(request: Request, fault: Exception) -> Response:
    return problem(403, str(fault))


def on_not_found(request: Request, fault: Exception) -> Response:
    return problem(404, str(fault) or "there is nothing here")


def on_unverified(request: Request, fault: Exception) -> Response:
    """Without a body, which Xero asks of every answer to a webhook:
    https://developer.xero.com/documentation/guides/webhooks/configuring-your-server/"""
    return Response(status_code=401)


def on_busy(request: Request, fault: Exception) -> Response:
    assert isinstance(fault, Busy)  # noqa: S101  # how handlers are registered
    wait = {"Retry-After": str(fault.retry_after)}
    return problem(503, f"{fault}; nothing was recorded, send it again later", headers=wait)


def on_unavailable(request: Request, fault: Exception) -> Response:
    return problem(
        503, "the store does not answer; nothing was recorded", headers={"Retry-After": RETRY_AFTER}
    )


def on_gone(request: Request, fault: Exception) -> Response:
    """Nobody gets it; counted so, it is no fault of ours."""
    return Response(status_code=CLIENT_GONE)


def on_http(request: Request, fault: Exception) -> Response:
    assert isinstance(fault, HTTPException)  # noqa: S101  # how handlers are registered
    return problem(fault.status_code, fault.detail, headers=dict(fault.headers or {}))


def on_fault(request: Request, fault: Exception) -> Response:
    log.error("request_failed", fault=type(fault).__name__)
    headers = {"X-Request-Id": REQUEST.get()}  # nobody around it sees this answer
    return problem(500, "a fault on our side; nothing was recorded", headers=headers)


HANDLERS = {
    BadInput: on_bad_input,
    Forbidden: on_forbidden,
    NotFound: on_not_found,
    Unverified: on_unverified,
    Busy: on_busy,
    Unavailable: on_unavailable,
    ClientDisconnect: on_gone,
    HTTPException: on_http,
    Exception: on_fault,
}
