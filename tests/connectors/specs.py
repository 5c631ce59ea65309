"""Every request that a connector sends, held against the vendor's machine-readable interface.

The interface files stand beside the checkout, in `../shared/specs`; where they are not, the check
says that it was skipped (and fails where PREFS_NO_SKIP is set). Objects are closed: a field or
parameter that the vendor does not know is a finding.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlencode, urlsplit

import pytest
from jsonschema import Draft4Validator

from tests.twins.kit import Call

BESIDE = {
    # The paging of all collections, and sideloading, stand beside the single calls:
    # https://developers.activecampaign.com/reference/pagination
    "activecampaign": frozenset({"limit", "offset", "include"}),
}
"""Query parameters that a vendor describes apart from its calls."""
FOLDER = Path(__file__).resolve().parents[3] / "shared" / "specs"
FILES = {
    "activecampaign": ("activecampaign-v3.interface.json",),
    "mailchimp": ("mailchimp_marketing.trimmed.json",),
    "hubspot": (
        "hubspot_communication_preferences_v4.interface.json",
        "hubspot_communication_preferences_v3.interface.json",
        "hubspot_contacts_v3.interface.json",
        "hubspot_oauth_v1.interface.json",
    ),
    "twilio": (
        "twilio_accounts_v1.json",
        "twilio_api_v2010.trimmed.json",
        "twilio_messaging_v1.trimmed.json",
    ),
    "messenger": ("meta_graph_page_messaging.subset.json",),
    "keap": ("keap-rest-v2.trimmed.json", "keap-rest-v1-hooks.subset.json"),
    "pipedrive": ("pipedrive-v2.interface.json", "pipedrive-v1.interface.json"),
    "pabau": ("pabau-unofficial.openapi.json",),
    "google": ("google-people-v1.discovery.json",),
    "xero": ("xero-accounting.trimmed.json",),
}
NONE = {"timely": "it has no interface: no call may be made at all"}
"""Systems without an interface file, and why."""
BODY_IN_QUERY = frozenset({"pabau"})
"""Vendors whose pages may mean that the fields of a body stand in the query."""
FORM = "application/x-www-form-urlencoded"
TOKENS = {"google": "/token", "xero": "/connect/token"}
"""Where a vendor gives OAuth tokens and no interface file of its own says so."""
Document = dict[str, Any]
GRAPH_VERSION = "v25.0"
GRAPH_COMMON = ("fields", "limit", "after", "appsecret_proof")
"""What Meta's Graph API takes on every edge: https://developers.facebook.com/docs/graph-api/overview"""


def require() -> None:
    """Skip, with the reason, where the interface files are not."""
    if FOLDER.is_dir():
        return
    reason = "the vendors' interface files (../shared/specs) are not beside this checkout"
    if os.environ.get("PREFS_NO_SKIP"):
        pytest.fail(reason)
    pytest.skip(reason)


def findings(system: str, calls: Iterable[Call]) -> list[str]:
    """What in these calls the vendor's interface does not know; one line each."""
    return [found for call in calls for found in _check(system, call)]


def _check(system: str, call: Call) -> Iterator[str]:
    place = f"{call.method} {call.path}"
    if system in NONE:
        yield f"{place}: {NONE[system]}"
        return
    if system in BODY_IN_QUERY and call.writes and not call.body:
        call = _query_as_form(call)
    for document in documents(system):
        operation, path_parameters = _operation(document, call)
        if operation is None:
            continue
        parameters = [_resolved(document, p) for p in operation.get("parameters", [])]
        parameters += [_resolved(document, p) for p in path_parameters]
        beside = BESIDE.get(system, frozenset())
        yield from (f"{place}: {one}" for one in _query(document, parameters, call, beside))
        yield from (f"{place}: {one}" for one in _headers(parameters, call))
        yield from (f"{place}: {one}" for one in _body(document, operation, parameters, call))
        return
    if not any(call.path in _token_paths(document) for document in documents(system)):
        yield f"{place}: the vendor has no such call"


def with_parameter(call: Call) -> Call:
    """The same call with a parameter that no vendor knows."""
    return dataclasses.replace(call, query=(*call.query, ("surprise", "1")))


def with_field(call: Call) -> Call:
    """The same call with a field in its body that no vendor knows."""
    if call.body.startswith(b"{"):
        body = json.dumps({**json.loads(call.body), "surprise": 1}).encode()
    else:
        body = call.body + b"&surprise=1"
    return dataclasses.replace(call, body=body)


def _query_as_form(call: Call) -> Call:
    headers = {**call.headers, "content-type": FORM}
    return dataclasses.replace(call, query=(), headers=headers, body=urlencode(call.query).encode())


@cache
def documents(system: str) -> tuple[Document, ...]:
    found = [_read(FOLDER / name) for name in FILES[system]]
    tokens = [_token_call(TOKENS[system])] if system in TOKENS else []
    return tuple(_closed(document) for document in (*found, *tokens))


def _token_call(path: str) -> Document:
    """The grants that we use: RFC 6749 sections 4.4.2 and 6."""
    names = ("client_id", "client_secret", "refresh_token", "scope")
    properties = {name: {"type": "string"} for name in names}
    grants = {"type": "string", "enum": ["client_credentials", "refresh_token"]}
    schema = {
        "type": "object",
        "properties": {**properties, "grant_type": grants},
        "required": ["grant_type"],
    }
    form = {"application/x-www-form-urlencoded": {"schema": schema}}
    return {"paths": {path: {"post": {"requestBody": {"content": form}}}}}


def _discovered(document: Document) -> Document:
    """A discovery document (https://developers.google.com/discovery/v1/reference/apis) in the
    words of OpenAPI; any other stands as it is."""
    if "discoveryVersion" not in document:
        return document
    paths: Document = {}
    for method in _methods(document):
        parameters = document["parameters"] | method.get("parameters", {})
        described = [_parameter(name, one) for name, one in parameters.items()]
        if "request" in method:
            described.append({"in": "body", "name": "body", "schema": _pointed(method["request"])})
        operations = paths.setdefault("/" + method["flatPath"], {})
        operations[method["httpMethod"].lower()] = {"parameters": described}
    return {"paths": paths, "schemas": _pointed(document["schemas"])}


def _methods(part: Document) -> Iterator[Document]:
    yield from part.get("methods", {}).values()
    for resource in part.get("resources", {}).values():
        yield from _methods(resource)


def _parameter(name: str, one: Document) -> Document:
    schema: Document = {key: one[key] for key in ("type", "enum") if key in one}
    schema = {"type": "array", "items": schema} if one.get("repeated") else schema
    required = one.get("required", False)
    return {"name": name, "in": one["location"], "required": required, "schema": schema}


def _pointed(part: Any) -> Any:
    """References by bare name become pointers; a schema's `id` would be its base address."""
    if isinstance(part, list):
        return [_pointed(one) for one in part]
    if not isinstance(part, dict):
        return part
    if isinstance(part.get("$ref"), str):
        return {"$ref": f"#/schemas/{part['$ref']}"}
    named = isinstance(part.get("id"), str)
    return {key: _pointed(one) for key, one in part.items() if not (named and key == "id")}


def _read(path: Path) -> Document:
    document: Document = json.loads(path.read_text())
    return _from_graph(document) if "nodes" in document else _discovered(document)


def _from_graph(document: Document) -> Document:
    """Meta's own form: edges of nodes, their parameters in the query or in a form."""
    paths: Document = {}
    for node in document["nodes"].values():
        for edge in node["apis"]:
            if "endpoint" not in edge:
                continue
            named = [{**one, "in": "query", "type": "string"} for one in edge["params"]]
            common = [{"name": name, "in": "query", "type": "string"} for name in GRAPH_COMMON]
            methods = paths.setdefault(f"/{GRAPH_VERSION}/{{id}}/{edge['endpoint']}", {})
            methods[edge["method"].lower()] = {"parameters": [*named, *common]}
    return {"paths": paths}


def _closed(document: Document) -> Document:
    """Objects with named fields take no others; `nullable` becomes a type of its own."""
    document = copy.deepcopy(document)
    for schema in _schemas(document):
        if "properties" in schema and "allOf" not in schema:
            schema.setdefault("additionalProperties", False)
        if schema.pop("nullable", False) and isinstance(schema.get("type"), str):
            schema["type"] = [schema["type"], "null"]
    return document


def _schemas(part: Any) -> Iterator[dict[str, Any]]:
    if isinstance(part, dict):
        if "type" in part or "properties" in part:
            yield part
        for child in part.values():
            yield from _schemas(child)
    elif isinstance(part, list):
        for child in part:
            yield from _schemas(child)


def _operation(document: Document, call: Call) -> tuple[dict[str, Any] | None, list[Any]]:
    path = call.target.partition("?")[0].removeprefix(_prefix(document))
    templates = sorted(document["paths"].items(), key=lambda item: item[0].count("{"))
    for template, methods in templates:
        pattern = re.sub(r"\\{[^}]+\\}", "[^/]+", re.escape(template))
        if re.fullmatch(pattern, path) and call.method.lower() in methods:
            return methods[call.method.lower()], methods.get("parameters", [])
    return None, []


def _prefix(document: Document) -> str:
    """The path of the vendor's base URL, which stands before every path of the document."""
    servers = document.get("servers")
    if isinstance(servers, list) and servers:
        return str(urlsplit(servers[0]["url"]).path).rstrip("/")
    return str(document.get("basePath", ""))


def _token_paths(document: Document) -> set[str]:
    """Where OAuth's flows get their tokens: RFC 6749 describes these calls, not the document."""
    schemes = document.get("components", {}).get("securitySchemes", {}).values()
    flows = (flow for scheme in schemes for flow in scheme.get("flows", {}).values())
    return {urlsplit(flow["tokenUrl"]).path for flow in flows if "tokenUrl" in flow}


def _resolved(document: Document, part: Mapping[str, Any]) -> Mapping[str, Any]:
    while "$ref" in part:
        found: Any = document
        for step in part["$ref"].removeprefix("#/").split("/"):
            found = found[unquote(step).replace("~1", "/").replace("~0", "~")]
        part = found
    return part


def _query(
    document: Document,
    parameters: Iterable[Mapping[str, Any]],
    call: Call,
    beside: frozenset[str],
) -> Iterator[str]:
    known = {p["name"]: p for p in parameters if p.get("in") == "query"}
    sent = {name for name, _ in call.query}
    for name in sent - set(known) - beside:
        yield f"unknown parameter {name}"
    for name, parameter in known.items():
        if parameter.get("required") and name not in sent:
            yield f"parameter {name} is missing"
    for name, value in call.query:
        if name in known:
            yield from _value(document, known[name], name, value)


def _headers(parameters: Iterable[Mapping[str, Any]], call: Call) -> Iterator[str]:
    for parameter in parameters:
        needed = parameter.get("in") == "header" and parameter.get("required")
        if needed and parameter["name"].lower() not in call.headers:
            yield f"header {parameter['name']} is missing"


def _value(
    document: Document, parameter: Mapping[str, Any], name: str, value: str
) -> Iterator[str]:
    schema = _resolved(document, parameter.get("schema", parameter))
    if schema.get("type") == "array":
        schema = _resolved(document, schema.get("items", {}))
    if schema.get("type") == "integer" and not re.fullmatch(r"-?[0-9]+", value):
        yield f"parameter {name} is no whole number"
    if schema.get("type") == "boolean" and value not in ("true", "false"):
        yield f"parameter {name} is neither true nor false"
    if "enum" in schema and not set(value.split(",")) <= set(map(str, schema["enum"])):
        yield f"parameter {name} is none of {schema['enum']}"


def _body(
    document: Document,
    operation: Mapping[str, Any],
    parameters: Iterable[Mapping[str, Any]],
    call: Call,
) -> Iterator[str]:
    schema, form = _body_schema(document, operation, parameters, call)
    if not call.body or call.method == "GET":
        return
    if schema is None:
        yield "takes no body"
        return
    content = _form(call, _resolved(document, schema)) if form else json.loads(call.body)
    validator = Draft4Validator({**document, "allOf": [schema]})
    for error in validator.iter_errors(content):
        yield f"{'/'.join(map(str, error.path)) or 'body'}: {error.message}"


def _body_schema(
    document: Document,
    operation: Mapping[str, Any],
    parameters: Iterable[Mapping[str, Any]],
    call: Call,
) -> tuple[Mapping[str, Any] | None, bool]:
    """The schema of the body, and whether it is a form; of several, that of the call's kind."""
    body = next((p for p in parameters if p.get("in") == "body"), None)
    if body:
        return body["schema"], False
    content = _resolved(document, operation.get("requestBody", {})).get("content", {})
    given = call.headers.get("content-type", "").partition(";")[0]
    media = given if given in content else next(iter(content), None)
    return (content[media]["schema"], "form" in media) if media else (None, False)


def _form(call: Call, schema: Mapping[str, Any]) -> dict[str, Any]:
    """A form's fields with the types that the schema says, repeated ones as lists."""
    found: dict[str, Any] = {}
    properties = schema.get("properties", {})
    for name, text in call.form():
        described = properties.get(name, {})
        if described.get("type") == "array":
            item = json.loads(text) if text[:1] in "{[" else text
            found.setdefault(name, []).append(item)
        elif described.get("type") == "integer":
            found[name] = int(text)
        elif described.get("type") == "boolean":
            found[name] = text == "true"
        else:
            found[name] = text
    return found
