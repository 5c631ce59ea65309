"""GET /openapi.json: the API of programs, made from the types that parse it."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from prefs import __version__
from prefs.web import bodies
from prefs.web.context import service

_POSTS: tuple[tuple[str, type[bodies.Body], str], ...] = (
    ("/v1/preferences", bodies.PreferencesBody, "Record the wishes of one person"),
    ("/v1/check", bodies.CheckBody, "May we send this?"),
    ("/v1/subjects/search", bodies.SearchBody, "People by address, number, ref or name"),
    ("/v1/links", bodies.LinksBody, "Signed links for a message to one person"),
    ("/v1/tasks/{id}", bodies.TaskBody, "Settle a task"),
)
_GETS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("/v1/subjects/{id}", "One person's choices", ()),
    ("/v1/subjects/{id}/history", "Every row of one person's ledger", ()),
    ("/v1/subjects/{id}/targets", "What each system holds of one person", ()),
    ("/v1/changes", "Sealed changes after a number", ("after", "limit")),
    ("/v1/targets", "How far behind and how safe each system is", ()),
    ("/v1/tasks", "Work that waits for a person", ("state", "kind")),
)
_SCRUB = "/v1/scrub"
_LIST = {
    "text/csv": {"schema": {"type": "string"}},
    "application/x-ndjson": {"schema": {"type": "string"}},
}
"""A list in, and the same list out."""
_SCRUB_QUERY = {
    "brand": "The key's own",
    "channel": "email, sms, phone, post or messenger",
    "purpose": "marketing, reminders or service",
    "topic": "A topic of the brand, for marketing",
    "column": "Heading of the column (CSV: or its number, from 1) or name of the field",
}
_ERRORS = {
    "400": "The body is not valid JSON",
    "401": "The key is missing, unknown or revoked",
    "403": "The key lacks a scope, or belongs to another brand",
    "413": "The body or list is too large",
    "422": "A field is missing or wrong; `field` says which",
    "503": "The store does not answer; nothing was recorded",
}
_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "field": {"type": "string"},
    },
}


def document(public_url: str) -> dict[str, Any]:
    types = [body for _, body, _ in _POSTS]
    _, components = msgspec.json.schema_components(
        types, ref_template="#/components/schemas/{name}"
    )
    paths: dict[str, Any] = {}
    for path, body, summary in _POSTS:
        paths.setdefault(path, {})["post"] = _operation(path, summary, body=body.__name__)
    paths[_SCRUB] = {"post": _scrub()}
    for path, summary, query in _GETS:
        paths.setdefault(path, {})["get"] = _operation(path, summary, query=query)
    return {
        "openapi": "3.1.0",
        "info": {"title": "prefs", "version": __version__},
        "servers": [{"url": public_url}],
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "schemas": {**components, "Problem": _PROBLEM},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(
    path: str, summary: str, *, body: str | None = None, query: tuple[str, ...] = ()
) -> dict[str, Any]:
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    responses: dict[str, Any] = {
        "200": {
            "description": summary,
            "content": {"application/json": {"schema": {"type": "object"}}},
        }
    }
    errors = _ERRORS if body else {k: v for k, v in _ERRORS.items() if k not in ("400", "413")}
    if "{id}" in path:
        errors = {**errors, "404": "There is no such thing at the key's brand"}
    if path == "/v1/tasks/{id}":
        errors = {**errors, "409": "The task is closed already"}
    if path == "/v1/links":
        errors = {**errors, "404": "Nobody has this ref"}
    responses |= {code: {"description": why, "content": problem} for code, why in errors.items()}
    parameters = [_parameter(name, "query") for name in query]
    if "{id}" in path:
        parameters.append(_parameter("id", "path"))
    if path == "/v1/preferences":
        parameters.append(_parameter("Idempotency-Key", "header"))
    operation: dict[str, Any] = {
        "summary": summary,
        "operationId": path.strip("/").replace("/", "_").replace("{", "").replace("}", ""),
        "parameters": parameters,
        "responses": responses,
    }
    if body:
        schema = {"$ref": f"#/components/schemas/{body}"}
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        }
    return operation


def _scrub() -> dict[str, Any]:
    operation = _operation(_SCRUB, "May we send to each of this list?", body="CheckBody")
    operation["requestBody"] = {"required": True, "content": _LIST}
    operation["responses"]["200"]["content"] = _LIST
    operation["responses"]["415"] = {
        **operation["responses"]["422"],
        "description": "The list is neither CSV nor NDJSON, or it is compressed",
    }
    operation["parameters"] = [
        {
            "name": name,
            "in": "query",
            "description": what,
            "required": name in ("brand", "channel", "purpose"),
            "schema": {"type": "string"},
        }
        for name, what in _SCRUB_QUERY.items()
    ]
    return operation


def _parameter(name: str, where: str) -> dict[str, Any]:
    numeric = name in ("after", "limit")
    schema = {"type": "integer", "minimum": 0} if numeric else {"type": "string"}
    return {"name": name, "in": where, "required": where == "path", "schema": schema}


async def openapi(request: Request) -> Response:
    """OpenAPI 3.1."""
    content = msgspec.json.encode(document(service(request).settings.public_url))
    return Response(content, media_type="application/json")


routes = [Route("/openapi.json", openapi, methods=["GET"])]
