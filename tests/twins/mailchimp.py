"""A twin of the Mailchimp Marketing API 3.0: https://mailchimp.com/developer/marketing/api/

One record per audience and address. It refuses as Mailchimp does (compliance state, forgotten
addresses, more than 10 calls at once), answers bulk calls with 200 and `errors[]`, runs batches,
registers and signs webhooks, and remembers who changed a member::

    with running(MailchimpTwin()) as (twin, url):       # API at url + "/3.0"
        twin.new_audience(list_id="a1", interests={"i1": "Treatments"})
        twin.new_member(list_id="a1", email="amy@example.com")
        twin.person_unsubscribes(list_id="a1", email="amy@example.com")
        assert twin.member("a1", "amy@example.com").left_by == "person"

Password of the Basic auth, or bearer token: `twin.api_key`.
"""

from __future__ import annotations

import base64
import io
import json
import secrets
import tarfile
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from tests.twins import mailchimp_checks as checks
from tests.twins.kit import (
    Button,
    Mark,
    Refusal,
    Row,
)
from tests.twins.mailchimp_account import (
    STAGES,
    Audience,
    Batch,
    Member,
    Operation,
    Webhook,
    audience_view,
    batch_view,
    bulk_member_view,
    category_view,
    derived,
    interest_views,
    member_view,
    select,
    subscriber_hash,
    tag_id,
    webhook_view,
)
from tests.twins.mailchimp_acts import Acts
from tests.twins.mailchimp_rules import Item, RefusedError

MOST_BATCHES = 500
ERRORS = "https://mailchimp.com/developer/marketing/docs/errors/"

PROBLEMS = {
    400: ("Bad Request", "Your request could not be processed."),
    401: (
        "API Key Invalid",
        "Your API key may be invalid, or you've attempted to access the wrong datacenter.",
    ),
    403: ("Forbidden", "You are not permitted to access this resource."),
    404: ("Resource Not Found", "The requested resource could not be found."),
    405: (
        "Method Not Allowed",
        "The requested method and resource are not compatible.",
    ),
    429: (
        "Too Many Requests",
        "You have exceeded the limit of 10 simultaneous connections.",
    ),
    500: ("Internal Server Error", "An unexpected internal error has occurred."),
    503: ("Service Unavailable", "The service is temporarily unavailable."),
}


def problem(
    status: int, title: str, detail: str, errors: Iterable[checks.Fault] = ()
) -> JSONResponse:
    """problem+json."""
    body: dict[str, Any] = {
        "type": ERRORS,
        "title": title,
        "status": status,
        "detail": detail,
        "instance": str(uuid.uuid4()),
    }
    if listed := [{"field": name, "message": message} for name, message in errors]:
        body["errors"] = listed
    return JSONResponse(body, status, media_type="application/problem+json")


def invalid(faults: Iterable[checks.Fault]) -> Refusal:
    detail = (
        "The resource submitted could not be validated. "
        "For field-specific details, see the 'errors' array."
    )
    return Refusal(problem(400, "Invalid Resource", detail, faults))


def not_found() -> Refusal:
    return Refusal(problem(404, *PROBLEMS[404]))


class MailchimpTwin(Acts):
    """The API; settings: `Rules`; acts: `Acts`."""

    def routes(self) -> Sequence[BaseRoute]:
        members = "/3.0/lists/{list}/members"
        one = members + "/{member}"
        hooks = "/3.0/lists/{list}/webhooks"
        interests = "/3.0/lists/{list}/interest-categories"
        return [
            Route("/3.0/", self.root, methods=["GET"]),
            Route("/3.0/ping", self.ping, methods=["GET"]),
            Route("/3.0/lists", self.get_lists, methods=["GET"]),
            Route("/3.0/lists/{list}", self.get_list, methods=["GET"]),
            Route("/3.0/lists/{list}", self.post_bulk, methods=["POST"]),
            Route(members, self.get_members, methods=["GET"]),
            Route(members, self.post_member, methods=["POST"]),
            Route(one, self.get_member, methods=["GET"]),
            Route(one, self.patch_member, methods=["PATCH"]),
            Route(one, self.put_member, methods=["PUT"]),
            Route(one, self.delete_member, methods=["DELETE"]),
            Route(one + "/actions/delete-permanent", self.erase_member, methods=["POST"]),
            Route(one + "/tags", self.get_tags, methods=["GET"]),
            Route(one + "/tags", self.post_tags, methods=["POST"]),
            Route(interests, self.get_categories, methods=["GET"]),
            Route(interests + "/{category}/interests", self.get_interests, methods=["GET"]),
            Route("/3.0/lists/{list}/merge-fields", self.get_merge_fields, methods=["GET"]),
            Route("/3.0/lists/{list}/merge-fields", self.post_merge_field, methods=["POST"]),
            Route(hooks, self.get_webhooks, methods=["GET"]),
            Route(hooks, self.post_webhook, methods=["POST"]),
            Route(hooks + "/{hook}", self.get_webhook, methods=["GET"]),
            Route(hooks + "/{hook}", self.patch_webhook, methods=["PATCH"]),
            Route(hooks + "/{hook}", self.delete_webhook, methods=["DELETE"]),
            Route("/3.0/search-members", self.search_members, methods=["GET"]),
            Route("/3.0/batches", self.get_batches, methods=["GET"]),
            Route("/3.0/batches", self.post_batch, methods=["POST"]),
            Route("/3.0/batches/{batch}", self.get_batch, methods=["GET"]),
            Route("/3.0/batches/{batch}", self.delete_batch, methods=["DELETE"]),
            Route("/batch-results/{batch}.tar.gz", self.get_results, methods=["GET"]),
        ]

    def problem(self, status: int, reason: str = "") -> Response:
        title, detail = PROBLEMS.get(status, PROBLEMS[500])
        return problem(status, title, reason or detail)

    def gate(self, request: Request) -> Response | None:
        if request.url.path.startswith("/batch-results/"):  # the link itself is the key
            return None
        return None if self._key_of(request) == self.api_key else self.problem(401)

    def _key_of(self, request: Request) -> str:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return given
        try:
            user_and_key = base64.b64decode(given, validate=True).decode()
        except ValueError:
            return ""
        return user_and_key.partition(":")[2] if scheme.lower() == "basic" else ""

    # The endpoints of audiences

    async def root(self, request: Request) -> Response:
        self._query(request, checks.PART)
        account = {"account_id": "twin", "account_name": "Twin"}
        return self._shown(request, account)

    async def ping(self, request: Request) -> Response:
        self._query(request, {})
        return JSONResponse({"health_status": "Everything's Chimpy!"})

    async def get_lists(self, request: Request) -> Response:
        query = self._query(request, checks.LISTS)
        found = [
            audience_view(a)
            for a in self.state.audiences.values()
            if "email" not in query or subscriber_hash(query["email"]) in a.members
        ]
        return self._page_of(request, "lists", found)

    async def get_list(self, request: Request) -> Response:
        self._query(request, checks.LIST)
        return self._shown(request, audience_view(self._audience(request)))

    async def get_categories(self, request: Request) -> Response:
        self._query(request, {**checks.PAGED, "type": checks.text})
        audience = self._audience(request)
        found = [
            category_view(audience, category, n)
            for n, category in enumerate(audience.categories.values())
        ]
        return self._page_of(request, "categories", found, list_id=audience.id)

    async def get_interests(self, request: Request) -> Response:
        self._query(request, checks.PAGED)
        audience = self._audience(request)
        category = audience.categories.get(request.path_params["category"])
        if category is None:
            raise not_found()
        found = interest_views(audience, category)
        ids = {"list_id": audience.id, "category_id": category.id}
        return self._page_of(request, "interests", found, **ids)

    async def get_merge_fields(self, request: Request) -> Response:
        self._query(request, {**checks.PAGED, "type": checks.text, "required": checks.flag})
        audience = self._audience(request)
        found = [
            {"merge_id": n, "tag": tag, "name": tag, "type": kind, "list_id": audience.id}
            for n, (tag, kind) in enumerate(audience.merge_fields.items(), 1)
        ]
        return self._page_of(request, "merge_fields", found, list_id=audience.id)

    async def post_merge_field(self, request: Request) -> Response:
        given = await self._body(request)
        self._refuse(checks.faults(given, checks.MERGE_FIELD, ("name", "type")))
        audience = self._audience(request)
        tag = given.get("tag") or f"MMERGE{len(audience.merge_fields) + 1}"
        if tag in audience.merge_fields:
            raise invalid([("tag", "A merge field with this tag exists.")])
        audience.merge_fields[tag] = given["type"]
        number = len(audience.merge_fields)
        return JSONResponse({"merge_id": number, "tag": tag, **given, "list_id": audience.id})

    # The endpoints of members

    async def get_members(self, request: Request) -> Response:
        query = self._query(request, checks.MEMBERS)
        audience = self._audience(request)
        if "unsubscribed_since" in query and query.get("status") != "unsubscribed":
            raise invalid([("unsubscribed_since", "Needs the status unsubscribed.")])
        found = [m for m in audience.members.values() if _wanted(m, query)]
        if field := query.get("sort_field"):
            backwards = query.get("sort_dir", "DESC") == "DESC"
            found.sort(key=lambda m: _sort_key(m, field), reverse=backwards)
        count, offset = _window(query)
        views = [member_view(m, audience) for m in found[offset : offset + count]]
        answer = {"members": views, "list_id": audience.id, "total_items": len(found)}
        return self._shown(request, answer)

    async def get_member(self, request: Request) -> Response:
        self._query(request, checks.PART)
        audience, member = self._member(request)
        return self._shown(request, member_view(member, audience))

    async def post_member(self, request: Request) -> Response:
        self._query(request, checks.WRITE)
        audience, given = self._audience(request), await self._body(request)
        required = ("email_address", "status")
        self._refuse(checks.member_faults(given, checks.POST_MEMBER, audience, required))
        email = given["email_address"]
        if (held := audience.find(email)) and held.status != "archived":
            use = "Use PUT to insert or update list members."
            detail = f"{email} is already a list member. {use}"
            raise Refusal(problem(400, "Member Exists", detail))
        return self._written(audience, lambda: self.put(audience, email, given, given["status"]))

    async def patch_member(self, request: Request) -> Response:
        self._query(request, checks.WRITE)
        audience, member = self._member(request)
        given = await self._body(request)
        self._refuse(checks.member_faults(given, checks.PATCH_MEMBER, audience))
        return self._written(audience, lambda: self.change(audience, member, given, "api"))

    async def put_member(self, request: Request) -> Response:
        self._query(request, checks.WRITE)
        audience, given = self._audience(request), await self._body(request)
        required = ("email_address", "status_if_new")
        self._refuse(checks.member_faults(given, checks.PUT_MEMBER, audience, required))
        member = audience.find(request.path_params["member"])
        if member is not None:
            return self._written(audience, lambda: self.change(audience, member, given, "api"))
        email, key = given["email_address"], request.path_params["member"]
        if key.lower() not in (email.lower(), subscriber_hash(email)):
            raise invalid([("email_address", "Does not fit the address in the path.")])
        status = given.get("status", given["status_if_new"])
        return self._written(audience, lambda: self.put(audience, email, given, status))

    async def delete_member(self, request: Request) -> Response:
        audience, member = self._member(request)
        self.archive(audience, member, "api")
        return Response(status_code=204)

    async def erase_member(self, request: Request) -> Response:
        audience, member = self._member(request)
        self.erase(audience, member, "api")
        return Response(status_code=204)

    async def get_tags(self, request: Request) -> Response:
        self._query(request, checks.PAGED)
        _, member = self._member(request)
        found = [{"id": tag_id(tag), "name": tag} for tag in member.tags]
        return self._page_of(request, "tags", found)

    async def post_tags(self, request: Request) -> Response:
        _, member = self._member(request)
        given = await self._body(request)
        faults = checks.faults(given, checks.TAGS, ("tags",))
        for n, tag in enumerate(given.get("tags", [])):
            faults += checks.faults(tag, checks.TAG, ("name", "status"), f"tags.item:{n}.")
        self._refuse(faults)
        for tag in given["tags"]:
            without = [name for name in member.tags if name != tag["name"]]
            member.tags = [*without, tag["name"]] if tag["status"] == "active" else without
        self.note_change(member, "api", {"tags": given["tags"]})
        return Response(status_code=204)

    async def search_members(self, request: Request) -> Response:
        query = self._query(request, checks.SEARCH)
        if len(query.get("query", "")) < 3:
            raise invalid([("query", "Please provide at least 3 characters.")])
        sought = query["query"].lower()
        pairs = [
            (audience, member)
            for audience in self.state.audiences.values()
            for member in audience.members.values()
            if query.get("list_id") in (None, audience.id) and member.status != "archived"
        ]
        exact = [member_view(m, a) for a, m in pairs if m.email.lower() == sought]
        partly = [
            member_view(m, a)
            for a, m in pairs
            if sought in m.email.lower()
            or any(sought in str(v).lower() for v in m.merge_fields.values())
        ]
        answer = {
            "exact_matches": {"members": exact, "total_items": len(exact)},
            "full_search": {"members": partly, "total_items": len(partly)},
        }
        return self._shown(request, answer)

    # The bulk call

    async def post_bulk(self, request: Request) -> Response:
        query = self._query(request, checks.BULK_WRITE)
        audience, given = self._audience(request), await self._body(request)
        self._refuse(_bulk_faults(given, audience))
        update = given.get("update_existing", False)
        once = query.get("skip_duplicate_check") == "true"
        new: list[Any] = []
        updated: list[Any] = []
        errors: list[Any] = []
        seen: set[str] = set()
        for item in given["members"]:
            email = str(item.get("email_address", ""))
            key, fault = subscriber_hash(email), self.item_fault(request, email)
            if once and key in seen:
                continue
            if fault is not None and fault.kind == "omit_item" and not fault.work:
                continue
            known = key in audience.members
            try:
                if fault is not None and fault.kind == "bad_item":
                    raise RefusedError("", "An unknown error occurred for this address.")
                if key in seen:
                    raise RefusedError("", f"{email} has been duplicated in the request.")
                member = self._bulk_item(audience, item, update)
            except RefusedError as refused:
                errors.append(_item_error(email, refused))
            else:
                if fault is None:
                    (updated if known else new).append(bulk_member_view(member, audience))
            seen.add(key)
        return JSONResponse(
            {
                "new_members": new,
                "updated_members": updated,
                "errors": errors,
                "total_created": len(new),
                "total_updated": len(updated),
                "error_count": len(errors),
                "_links": [],
            }
        )

    def _bulk_item(self, audience: Audience, item: Item, update: bool) -> Member:
        wrong = checks.faults(item, checks.MEMBER, ("email_address",))
        if wrong:
            raise RefusedError(wrong[0][0], wrong[0][1])
        email = item["email_address"]
        held = audience.find(email)
        if held is None:
            if "status" not in item:
                raise RefusedError("status", "A new member needs a status.")
            return self.put(audience, email, item, item["status"])
        if not update:
            tell = "please provide update_existing:true in the request body"
            raise RefusedError("EXISTS", f"{email} is already a list member, to update it {tell}")
        return self.change(audience, held, item, "api")

    # The endpoints of webhooks

    async def get_webhooks(self, request: Request) -> Response:
        self._query(request, {})
        audience = self._audience(request)
        found = [webhook_view(hook) for hook in audience.webhooks.values()]
        return JSONResponse(
            {"webhooks": found, "list_id": audience.id, "total_items": len(found), "_links": []}
        )

    async def post_webhook(self, request: Request) -> Response:
        audience, given = self._audience(request), await self._body(request)
        self._refuse(checks.webhook_faults(given))
        if "url" not in given:
            raise invalid([("url", "This value should not be blank.")])
        await self._knock(audience, given["url"])
        secret = secrets.token_hex(32) if self.sign_new else ""
        hook = self.add_webhook(audience, given["url"], given, secret)
        view = webhook_view(hook)
        return JSONResponse(view | {"signing_secret": secret} if secret else view)

    async def get_webhook(self, request: Request) -> Response:
        return JSONResponse(webhook_view(self._webhook(request)))

    async def patch_webhook(self, request: Request) -> Response:
        hook, given = self._webhook(request), await self._body(request)
        self._refuse(checks.webhook_faults(given))
        if given.get("url", hook.url) != hook.url:
            await self._knock(self._audience(request), given["url"])
            hook.url = given["url"]
        hook.events |= given.get("events", {})
        hook.sources |= given.get("sources", {})
        return JSONResponse(webhook_view(hook))

    async def delete_webhook(self, request: Request) -> Response:
        del self._audience(request).webhooks[self._webhook(request).id]
        return Response(status_code=204)

    async def _knock(self, audience: Audience, url: str) -> None:
        """Refuse a URL that is taken here, or does not answer GET with 200."""
        if any(hook.url == url for hook in audience.webhooks.values()):
            raise invalid([("url", "Sorry, you can't set up multiple WebHooks for one URL")])
        async with httpx.AsyncClient(trust_env=False, timeout=10, verify=False) as client:
            try:
                status = (await client.get(url)).status_code
            except httpx.HTTPError:
                status = 0
        if status != 200:
            raise invalid([("url", "We could not verify the URL: it must answer GET with 200.")])

    def _webhook(self, request: Request) -> Webhook:
        hook = self._audience(request).webhooks.get(request.path_params["hook"])
        if hook is None:
            raise not_found()
        return hook

    # The endpoints of batches

    async def get_batches(self, request: Request) -> Response:
        self._query(request, checks.PAGED)
        found = [batch_view(b, self._results_url(request, b)) for b in self.state.batches.values()]
        return self._page_of(request, "batches", found)

    async def post_batch(self, request: Request) -> Response:
        given = await self._body(request)
        self._refuse(checks.faults(given, checks.BATCH, ("operations",)))
        self._refuse(checks.operation_faults(given["operations"]))
        unfinished = [b for b in self.state.batches.values() if b.completed_at is None]
        if len(unfinished) >= MOST_BATCHES:
            raise Refusal(self.problem(429, "You have more than 500 pending batches."))
        batch = Batch(
            id=derived("batch", str(self.state.number()), 10),
            operations=[_operation(each) for each in given["operations"]],
            submitted_at=self.clock(),
        )
        self.state.batches[batch.id] = batch
        return JSONResponse(batch_view(batch, ""))

    async def get_batch(self, request: Request) -> Response:
        """Each question moves the batch on; the work is done when it leaves `started`."""
        self._query(request, checks.PART)
        batch = self._batch(request)
        for _ in range(self.stages_a_poll):
            if STAGES[batch.stage] == "started":
                await self._run_batch(request, batch)
            batch.stage = min(batch.stage + 1, len(STAGES) - 1)
        if STAGES[batch.stage] == "finished" and batch.completed_at is None:
            batch.completed_at = self.clock()
        return self._shown(request, batch_view(batch, self._results_url(request, batch)))

    async def delete_batch(self, request: Request) -> Response:
        del self.state.batches[self._batch(request).id]
        return Response(status_code=204)

    async def get_results(self, request: Request) -> Response:
        """The gzip tar behind `response_body_url`."""
        batch = self._batch(request)
        if batch.completed_at is None:
            raise not_found()
        return Response(_tar(batch), media_type="application/gzip")

    async def _run_batch(self, request: Request, batch: Batch) -> None:
        """In the reverse order: Mailchimp promises none."""
        for operation in reversed(batch.operations):
            fault = self.item_fault(request, operation.operation_id or operation.path)
            if fault is not None and fault.kind == "omit_item" and not fault.work:
                continue
            if fault is not None and fault.kind == "bad_item":
                status, body = 500, bytes(self.problem(500).body)
            else:
                reply = await self.inner(
                    operation.method,
                    "/3.0/" + operation.path.lstrip("/"),
                    urlencode(operation.params),
                    operation.body.encode(),
                )
                status, body = reply.status, reply.body
            if fault is None or fault.kind == "bad_item":
                self._keep_result(batch, operation, status, body)

    def _keep_result(self, batch: Batch, done: Operation, status: int, body: bytes) -> None:
        batch.finished += 1
        batch.errored += status >= 400
        result = {
            "status_code": status,
            "operation_id": done.operation_id or None,
            "response": body.decode(),
        }
        batch.results.append(result)

    def _batch(self, request: Request) -> Batch:
        batch = self.state.batches.get(request.path_params["batch"])
        if batch is None:
            raise not_found()
        return batch

    def _results_url(self, request: Request, batch: Batch) -> str:
        return f"{str(request.base_url).rstrip('/')}/batch-results/{batch.id}.tar.gz"

    def _written(self, audience: Audience, write: Callable[[], Member]) -> Response:
        try:
            return JSONResponse(member_view(write(), audience))
        except RefusedError as refused:
            raise Refusal(problem(400, refused.title, refused.detail)) from refused

    # The page

    def people(self) -> Sequence[Row]:
        """One row for each address, whatever audiences it is in."""
        held: dict[str, list[tuple[Audience, Member]]] = {}
        for audience in self.state.audiences.values():
            for member in audience.members.values():
                held.setdefault(member.email, []).append((audience, member))
        return [_row(email, pairs) for email, pairs in held.items()]

    def page_buttons(self) -> Sequence[Button]:
        return [
            Button(
                f"Sign up by the form of {a.name}",
                "subscribe_by_form",
                {"list_id": a.id},
                ["email"],
            )
            for a in self.state.audiences.values()
        ]

    # Small parts of the endpoints

    def _query(self, request: Request, fields: checks.Fields) -> dict[str, str]:
        query = dict(request.query_params)
        self._refuse(checks.faults(query, fields))
        return query

    async def _body(self, request: Request) -> dict[str, Any]:
        try:
            given = json.loads(await request.body())
        except ValueError as error:
            detail = "We encountered an unspecified JSON parsing error."
            raise Refusal(problem(400, "JSON Parse Error", detail)) from error
        if not isinstance(given, dict):
            raise invalid([("", "Schema describes object")])
        return given

    def _refuse(self, faults: Sequence[checks.Fault]) -> None:
        if faults:
            raise invalid(faults)

    def _audience(self, request: Request) -> Audience:
        audience = self.state.audiences.get(request.path_params["list"])
        if audience is None:
            raise not_found()
        return audience

    def _member(self, request: Request) -> tuple[Audience, Member]:
        audience = self._audience(request)
        member = audience.find(request.path_params["member"])
        if member is None:
            raise not_found()
        return audience, member

    def _shown(self, request: Request, view: Any) -> Response:
        parts = (request.query_params.get(name, "") for name in ("fields", "exclude_fields"))
        fields, excluded = ([p for p in part.split(",") if p] for part in parts)
        return JSONResponse(select(view, fields, excluded))

    def _page_of(self, request: Request, name: str, found: Sequence[Any], **ids: str) -> Response:
        count, offset = _window(request.query_params)
        answer = {name: found[offset : offset + count], **ids, "total_items": len(found)}
        return self._shown(request, answer | {"_links": []})


def _bulk_faults(given: Item, audience: Audience) -> list[checks.Fault]:
    """What makes the whole bulk call wrong; a bad value of an item fails that item only. What an
    empty address does is on no page: here it costs the whole call."""
    faults = checks.faults(given, checks.BULK, ("members",))
    if faults:
        return faults
    if len(given["members"]) > checks.MOST_MEMBERS:
        return [("members", f"At most {checks.MOST_MEMBERS} members.")]
    for n, item in enumerate(given["members"]):
        if not isinstance(item, dict):
            faults.append((f"members.item:{n}", "Schema describes object"))
        elif unknown := item.keys() - checks.MEMBER.keys():
            faults.append((f"members.item:{n}.{min(unknown)}", "This field is not expected here."))
        elif item.get("email_address") == "":
            faults.append((f"members.item:{n}.email_address", "This value should not be blank."))
        else:
            shape = {k: v for k, v in item.items() if k not in ("email_address", "status")}
            faults += checks.member_faults(shape, checks.MEMBER, audience, at=f"members.item:{n}.")
    return faults


def _item_error(email: str, refused: RefusedError) -> dict[str, str]:
    exists = refused.title == "EXISTS"
    field = refused.title if refused.title in checks.MEMBER else ""
    return {
        "email_address": email,
        "error": refused.detail,
        "error_code": "ERROR_CONTACT_EXISTS" if exists else "ERROR_GENERIC",
        "field": field,
        "field_message": refused.detail if field else "",
    }


def _operation(given: Item) -> Operation:
    return Operation(
        given["method"],
        given["path"],
        given.get("params", {}),
        given.get("body", ""),
        given.get("operation_id", ""),
    )


def _tar(batch: Batch) -> bytes:
    packed = io.BytesIO()
    content = json.dumps(batch.results).encode()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        folder = tarfile.TarInfo("./")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        file = tarfile.TarInfo(f"./{derived('results', batch.id, 10)}.json")
        file.size = len(content)
        tar.addfile(file, io.BytesIO(content))
    return packed.getvalue()


def _window(query: Mapping[str, str]) -> tuple[int, int]:
    return int(query.get("count", 10)), int(query.get("offset", 0))


def _wanted(member: Member, query: Mapping[str, str]) -> bool:
    """Archived members are shown only when asked for."""
    status = query.get("status")
    if (member.status != status) if status else (member.status == "archived"):
        return False
    times = {
        "last_changed": member.changed_at,
        "timestamp_opt": member.timestamp_opt,
    }
    for name, at in times.items():
        if f"since_{name}" in query and not (at and at > _time(query[f"since_{name}"])):
            return False
        if f"before_{name}" in query and not (at and at < _time(query[f"before_{name}"])):
            return False
    if "unsubscribed_since" in query:
        left = member.unsubscribed_at
        if not (left and left > _time(query["unsubscribed_since"])):
            return False
    return (
        query.get("email_type") in (None, member.email_type)
        and query.get("unique_email_id") in (None, member.unique_email_id)
        and (query.get("vip_only") != "true" or member.vip)
        and _interested(member, query)
    )


def _interested(member: Member, query: Mapping[str, str]) -> bool:
    if "interest_ids" not in query:
        return True
    held = [member.interests.get(i, False) for i in query["interest_ids"].split(",")]
    match query.get("interest_match"):
        case "all":
            return all(held)
        case "none":
            return not any(held)
        case _:
            return any(held)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _sort_key(member: Member, field: str) -> float:
    times = {
        "last_changed": member.changed_at,
        "timestamp_opt": member.timestamp_opt,
        "timestamp_signup": member.timestamp_signup,
    }
    at = times[field]
    return at.timestamp() if at else 0.0


def _row(email: str, held: Sequence[tuple[Audience, Member]]) -> Row:
    marks: dict[bool, list[Mark]] = {True: [], False: []}
    for audience, member in held:
        marketing = audience.purpose == "marketing" and member.status != "transactional"
        on = {"subscribed": True, "transactional": True, "pending": None}.get(member.status, False)
        touched = f", {len(member.changed_by('api'))} API writes" if not marketing else ""
        marks[marketing].append(Mark(f"{audience.name}: {member.status}{touched}", on))
    return Row(
        email,
        marks[True],
        marks[False] or [Mark("none sent from here")],
        "; ".join(filter(None, (_detail(*pair) for pair in held))),
        [button for pair in held for button in _buttons(*pair)],
    )


def _detail(audience: Audience, member: Member) -> str:
    topics = [name for i, name in audience.interests().items() if member.interests.get(i)]
    left = f"{audience.name}: off by {member.left_by}" if member.left_by else ""
    return ", ".join(filter(None, (left, *topics)))


def _buttons(audience: Audience, member: Member) -> list[Button]:
    where = {"list_id": audience.id, "email": member.email}
    if member.status == "subscribed":
        return [Button(f"Unsubscribe from {audience.name}", "person_unsubscribes", where)]
    return [
        Button(f"Staff: back on {audience.name}", "admin_resubscribes", where),
        Button(f"Staff: delete from {audience.name}", "admin_deletes", where),
    ]
