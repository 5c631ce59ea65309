"""The upkeep of webhooks: what each vendor ends, and what may be brought back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from connectors import activecampaign_hooks, keap_hooks, messenger_hooks
from connectors.mailchimp_hooks import EVENTS as MAILCHIMP_EVENTS
from connectors.upkeep import leads_here
from prefs import doctor
from prefs.core.errors import Temporary
from prefs.core.propagation import Target
from tests.connectors.tended import KEY, TendedContract
from tests.twins.activecampaign import ActiveCampaignTwin
from tests.twins.keap import INACTIVE, UNVERIFIED, VERIFIED, KeapTwin
from tests.twins.mailchimp import MailchimpTwin
from tests.twins.messenger import MessengerTwin
from tests.twins.pipedrive import PipedriveTwin
from webhooks import keap as keap_webhook


class TestKeap(TendedContract):
    system = "keap"
    list_path = mend_path = "/crm/rest/v1/hooks"
    needed = keap_hooks.EVENTS

    def make_twin(self) -> KeapTwin:
        return KeapTwin()

    def furnish(self) -> None:
        self.twin.configure(windows=[], gaps=[0.01, 0.01, 0.01])

    def options(self) -> Mapping[str, Any]:
        return {"token": self.twin.token}

    def register(self) -> None:
        self.twin.has_hooks(self.target().webhook_url, sorted(self.needed))

    def vanish(self) -> None:
        self.twin.hooks_vanish()

    def delivers(self) -> bool:
        found: dict[str, str] = self.twin.hooks()
        return found == dict.fromkeys(self.needed, VERIFIED)

    def fail(self, answer: int, times: int) -> None:
        """Deliveries that end badly."""
        self.box.answers = [answer] * times
        self.twin.new_contact("amy@example.com")
        self.twin.courier.settle()

    @pytest.mark.parametrize(("answer", "times"), [(500, 4), (410, 1)])
    def test_a_hook_that_failed_is_verified_again(self, answer: int, times: int) -> None:
        self.register()
        self.look()
        self.fail(answer, times)
        assert self.twin.hooks()["contact.add"] == INACTIVE
        (call,) = self.during(self.look)
        assert call.path.endswith("/verify")
        assert self.delivers()

    def test_one_failure_ends_nothing(self) -> None:
        self.register()
        self.fail(500, 3)
        assert self.delivers()

    def test_a_hook_whose_handshake_failed_at_first_is_verified(self) -> None:
        self.twin.has_hooks(self.target().webhook_url, sorted(self.needed), UNVERIFIED)
        assert self.look() is None
        assert self.delivers()

    def test_only_the_event_that_is_gone_is_made_again(self) -> None:
        self.register()
        self.look()
        self.twin.hooks_vanish("contactGroup.applied")
        (call,) = self.during(self.look)
        url = self.target().webhook_url
        assert call.json() == {"eventKey": "contactGroup.applied", "hookUrl": url}
        assert self.delivers()

    def test_an_event_that_was_never_registered_is_said_beside_what_is(self) -> None:
        self.twin.has_hooks(self.target().webhook_url, sorted(self.needed - {"contact.redact"}))
        found = self.told()
        assert found.once
        assert "contact.redact" in found.todo
        assert "contact.edit" not in found.todo
        assert self.written() == []

    def test_a_service_that_cannot_be_reached_is_for_a_person(self) -> None:
        self.register()
        self.look()
        self.fail(500, 4)
        self.box.echoes = ""
        found = self.told()
        assert not found.once
        assert "contact.add" in found.todo
        assert "contact.edit" not in found.todo

    def test_an_old_key_leads_nowhere(self) -> None:
        """Its deliveries are turned away: with the present one the hooks are made anew."""
        self.register()
        self.look()
        self.vanish()
        old = self.target().webhook_url.partition("?")[0] + "?key=old"
        self.twin.has_hooks(old, sorted(self.needed))
        assert self.look() is None
        assert self.delivers()

    def test_it_makes_the_hooks_that_the_webhook_module_reads(self) -> None:
        ours = keap_webhook.CONTACT_EVENTS | keap_webhook.TAG_EVENTS
        assert ours == self.needed
        assert all(event in doctor.EVENTS["keap"] for event in ours)

    @pytest.mark.parametrize(
        ("method", "path", "body", "code"),
        [
            ("POST", "", {"eventKey": "contact.add"}, 400),
            ("POST", "", {"eventKey": "contact.optout", "hookUrl": "http://a"}, 400),
            ("POST", "", {"eventKey": "contact.add", "hookUrl": "here"}, 400),
            ("POST", "/77/verify", None, 404),
            ("DELETE", "/77", None, 404),
        ],
    )
    def test_the_twin_refuses(self, method: str, path: str, body: Any, code: int) -> None:
        assert self.ask(method, path, body).status_code == code

    def test_the_twin_shakes_hands(self) -> None:
        assert "contact.add" in self.ask("GET", "/event_keys").json()
        body = {"eventKey": "contact.add", "hookUrl": self.box.url}
        made = self.ask("POST", "", body).json()
        assert made["status"] == VERIFIED
        assert len(self.box.take()) == 1
        assert self.ask("DELETE", f"/{made['key']}").status_code == 204
        self.box.echoes = ""
        assert self.ask("POST", "", body).json()["status"] == UNVERIFIED

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"X-Keap-API-Key": self.twin.token, "X-Test": "1"}
        url = f"{self.url}/crm/rest/v1/hooks{path}"
        return httpx.request(method, url, json=body, headers=headers)

    def written(self) -> list[Any]:
        return [call for call in super().written() if "x-test" not in call.headers]


class TestPipedrive(TendedContract):
    system = "pipedrive"
    list_path = mend_path = "/v1/webhooks"
    needed = frozenset({"create", "change", "delete"})
    login: tuple[str, str] = ("twin-hook", "twin-hook-password")

    def make_twin(self) -> PipedriveTwin:
        return PipedriveTwin()

    def furnish(self) -> None:
        self.twin.configure(windows=[], gaps=[])

    def options(self) -> Mapping[str, Any]:
        user, password = self.login
        login = {"webhook_user": user, "webhook_password": password} if user else {}
        return {"token": self.twin.token, **login}

    def register(self) -> None:
        self.twin.has_hook(self.target().webhook_url, login=self.login)

    def vanish(self) -> None:
        self.twin.hooks_vanish()

    def delivers(self) -> bool:
        return self.needed <= {
            action
            for hook in self.twin.state.hooks.values()
            for action in (self.needed if hook.action == "*" else [hook.action])
        }

    def test_three_days_of_failures_delete_it_and_it_comes_back_with_its_credentials(self) -> None:
        self.register()
        self.look()
        amy = self.twin.new_person(emails=["amy@example.com"])
        self.twin.courier.settle()
        for _ in range(2):
            self.box.answers = [500]
            self.twin.staff_edits(amy, ["amy@example.com"], [])
            self.twin.courier.settle()
            self.twin.clock.move(3 * 86400)
        assert not self.delivers()
        (call,) = self.during(self.look)
        user, password = self.login
        assert call.json() == {
            "subscription_url": self.target().webhook_url,
            "event_action": "*",
            "event_object": "person",
            "name": "prefs rt/pipedrive",
            "user_id": 1,
            "version": "2.0",
            "http_auth_user": user,
            "http_auth_password": password,
        }
        self.box.take()
        self.twin.staff_edits(amy, ["amy@example.com"], [])
        self.twin.courier.settle()
        (event,) = self.box.take()
        assert event.headers["authorization"] == self.twin.credentials()["Authorization"]

    def test_ten_failures_are_a_ban_of_half_an_hour(self) -> None:
        self.register()
        amy = self.twin.new_person(emails=["amy@example.com"])
        self.twin.courier.settle()
        self.box.answers = [500] * 10
        for _ in range(12):
            self.twin.staff_edits(amy, ["amy@example.com"], [])
            self.twin.courier.settle()
        assert len(self.box.take()) == 11
        self.twin.clock.move(1801)
        self.twin.staff_edits(amy, ["amy@example.com"], [])
        self.twin.courier.settle()
        assert len(self.box.take()) == 1

    def test_a_user_who_is_no_admin_makes_none(self) -> None:
        self.register()
        self.look()
        self.vanish()
        self.twin.configure(admin=False)
        found = self.told()
        assert "no admin" in found.todo
        assert self.written() == []

    def test_the_key_is_not_told_when_pipedrive_repeats_the_url(self) -> None:
        self.register()
        self.look()
        self.vanish()
        body = json.dumps({"success": False, "error": f"bad {self.target().webhook_url} given"})
        self.twin.faults.add("status", method="POST", status=400, body=body, times=None)
        found = self.told()
        assert "bad (removed) given" in found.todo

    def test_single_actions_are_made_again_alone(self) -> None:
        for action in self.needed:
            self.twin.has_hook(self.target().webhook_url, action, self.login)
        self.look()
        hooks = self.twin.state.hooks
        self.twin.state.hooks = {k: v for k, v in hooks.items() if v.action != "delete"}
        (call,) = self.during(self.look)
        assert call.json()["event_action"] == "delete"
        assert self.delivers()

    @pytest.mark.parametrize("more", [{"version": "1.0"}, {"object": "deal"}])
    def test_a_webhook_of_another_kind_tells_us_nothing(self, more: dict[str, str]) -> None:
        self.twin.has_hook(self.target().webhook_url, login=self.login, **more)
        assert self.told().once

    def test_without_credentials_the_key_must_be_right(self) -> None:
        self.login = ("", "")
        url = self.target().webhook_url
        self.twin.has_hook(url.partition("?")[0])
        assert self.told().once
        self.register()
        assert self.look() is None
        self.vanish()
        (call,) = self.during(self.look)
        assert "http_auth_user" not in call.json()
        assert call.json()["subscription_url"] == url

    def test_a_look_costs_ten_tokens_of_the_day(self) -> None:
        self.register()
        before = self.twin.state.tokens_left
        self.look()
        assert before - self.twin.state.tokens_left == 10
        self.vanish()
        before = self.twin.state.tokens_left
        self.look()
        assert before - self.twin.state.tokens_left == 10 + 2 + 10 + 10

    def test_a_spent_day_is_waited_for(self) -> None:
        self.register()
        self.twin.configure(tokens_left=3)
        with pytest.raises(Temporary, match="tokens are spent"):
            self.look()

    @pytest.mark.parametrize(
        "body",
        [
            {"subscription_url": "http://a", "event_action": "*", "event_object": "person"},
            {"name": "a", "event_action": "*", "event_object": "person"},
            {
                "name": "a",
                "subscription_url": "http://a",
                "event_action": "updated",
                "event_object": "person",
            },
        ],
    )
    def test_the_twin_refuses(self, body: Any) -> None:
        headers = {"x-api-token": self.twin.token, "x-test": "1"}
        answer = httpx.post(f"{self.url}/v1/webhooks", json=body, headers=headers)
        assert (answer.status_code, answer.json()["success"]) == (400, False)


class TestActiveCampaign(TendedContract):
    system = "activecampaign"
    list_path = mend_path = "/api/3/webhooks"
    needed = frozenset(activecampaign_hooks.EVENTS)

    def make_twin(self) -> ActiveCampaignTwin:
        return ActiveCampaignTwin()

    def furnish(self) -> None:
        self.twin.configure(windows=[])
        self.twin.new_list("1", "Offers")
        self.twin.new_contact("amy@example.com", statuses={"1": "1"})

    def options(self) -> Mapping[str, Any]:
        return {"api_key": self.twin.token, "marketing_lists": {"1": ["news"]}}

    def register(self) -> None:
        self.twin.has_webhook(self.target().webhook_url, sorted(self.needed))

    def vanish(self) -> None:
        self.twin.webhooks_vanish()

    def hooks(self) -> list[dict[str, Any]]:
        return list(self.twin.state.webhooks.values())

    def delivers(self) -> bool:
        alive = [hook for hook in self.hooks() if hook["state"] == "1"]
        return self.needed <= {event for hook in alive for event in hook["events"]}

    def switch_off(self) -> None:
        self.box.answers = [410]
        self.twin.person_unsubscribes("amy@example.com", "1")
        self.twin.courier.settle()

    def test_one_that_was_switched_off_is_deleted_and_made_again(self) -> None:
        self.register()
        self.look()
        self.switch_off()
        assert not self.delivers()
        gone, made = self.during(self.look)
        assert (gone.method, made.method) == ("DELETE", "POST")
        assert made.json()["webhook"]["sources"] == ["public", "admin", "system"]
        (hook,) = self.hooks()
        assert self.delivers()
        self.box.take()
        self.twin.person_subscribes("amy@example.com", "1")
        self.twin.courier.settle()
        assert len(self.box.take()) == 1
        assert hook["url"] == self.target().webhook_url

    def test_a_state_that_is_not_shown_is_not_guessed(self) -> None:
        self.twin.configure(shows_state=False)
        self.register()
        self.look()
        self.switch_off()
        assert self.look() is None
        assert self.written() == []

    @pytest.mark.parametrize("state", [1, "1", True, "enabled", None])
    def test_a_state_that_nobody_knows_counts_as_alive(self, state: object) -> None:
        self.register()
        self.hooks()[0]["state"] = state
        assert self.look() is None
        assert self.written() == []

    def test_events_that_staff_took_away_are_made_again(self) -> None:
        self.register()
        self.look()
        self.hooks()[0]["events"].remove("sms_unsub")
        (call,) = self.during(self.look)
        assert call.json()["webhook"]["events"] == ["sms_unsub"]

    def test_webhooks_of_single_lists_come_back_as_they_were(self) -> None:
        self.twin.new_list("2", "News")
        for place in ("1", "2"):
            self.twin.has_webhook(self.target().webhook_url, sorted(self.needed), place)
        assert self.look() is None
        first = self.hooks()[0]
        del self.twin.state.webhooks[first["id"]]
        (call,) = self.during(self.look)
        assert call.json()["webhook"]["listid"] == 1
        self.box.take()
        self.twin.person_unsubscribes("amy@example.com", "1")
        self.twin.courier.settle()
        assert len(self.box.take()) == 1

    def test_more_webhooks_than_a_page_holds(self) -> None:
        for number in range(120):
            self.twin.has_webhook(f"http://127.0.0.1:9/{number}", ["update"])
        self.register()
        assert self.look() is None

    def test_doctor_names_the_events(self) -> None:
        assert all(event in doctor.EVENTS["activecampaign"] for event in self.needed)


class TestMessenger(TendedContract):
    system = "messenger"
    list_path = mend_path = "/v25.0/[0-9]+/subscribed_apps"
    needed = messenger_hooks.NEEDED
    by_url = False  # the callback belongs to the app, not to the Page

    def make_twin(self) -> MessengerTwin:
        return MessengerTwin()

    def options(self) -> Mapping[str, Any]:
        return {
            "page": self.twin.page,
            "token": self.twin.token,
            "app_secret": self.twin.app_secret,
            "verify_token": self.twin.verify_token,
        }

    def register(self) -> None:
        self.twin.state.subscribed = list(messenger_hooks.FIELDS)

    def vanish(self) -> None:
        self.twin.loses_subscription()

    def delivers(self) -> bool:
        return self.needed <= set(self.twin.state.subscribed)

    def test_an_hour_of_failures_ends_it_and_it_is_made_again(self) -> None:
        self.register()
        self.look()
        self.twin.configure(webhook_url=self.box.url, gaps=[])
        self.twin.new_person("1001")
        for _ in range(2):
            self.box.answers = [500]
            self.twin.types("1001", "hello")
            self.twin.courier.settle()
            self.twin.clock.move(3600)
        assert not self.delivers()
        self.box.take()
        self.look()
        self.twin.types("1001", "STOP")
        self.twin.courier.settle()
        assert len(self.box.take()) == 1

    def test_what_else_the_app_heard_goes_along(self) -> None:
        self.twin.state.subscribed = [*messenger_hooks.FIELDS, "message_reads"]
        self.look()
        self.vanish()
        self.look()
        assert set(self.twin.state.subscribed) == self.needed | {"message_reads"}

    def test_another_apps_fields_do_not_hide_the_loss_of_ours(self) -> None:
        self.twin.another_app("messages", "message_reads")
        self.register()
        assert self.look() is None
        self.vanish()
        self.look()
        assert set(self.twin.state.subscribed) == self.needed

    def test_the_token_stands_in_no_url(self) -> None:
        self.register()
        self.look()
        self.vanish()
        self.look()
        assert self.twin.calls
        assert not any(self.twin.token in call.target for call in self.twin.calls)

    def test_doctor_names_the_fields(self) -> None:
        assert all(field in doctor.EVENTS["messenger"] for field in self.needed)


class TestMailchimp(TendedContract):
    system = "mailchimp"
    list_path = "/3.0/lists/[^/]+/webhooks"
    needed = frozenset(f"{event}@{a}" for event in MAILCHIMP_EVENTS for a in ("a1", "b2"))
    mends = False
    secret: object = "signing"

    def make_twin(self) -> MailchimpTwin:
        return MailchimpTwin()

    def furnish(self) -> None:
        for audience in ("a1", "b2"):
            self.twin.new_audience(audience)

    def options(self) -> Mapping[str, Any]:
        signed = {"webhook_secret": self.secret} if self.secret else {}
        audiences = {"a1": ["news"], "b2": ["news"]}
        return {"api_key": self.twin.api_key, "audiences": audiences, **signed}

    def register(self) -> None:
        for audience in ("a1", "b2"):
            self.put(audience, self.target().webhook_url)

    def put(self, audience: str, url: str, *sources: str) -> None:
        self.twin.old_webhook(audience, url, sources=sources or ("user", "admin"), secret="s")

    def vanish(self) -> None:
        self.twin.webhooks_vanish("a1")
        self.twin.webhooks_vanish("b2")

    def delivers(self) -> bool:
        return all(self.twin.audience(audience).webhooks for audience in ("a1", "b2"))

    def bare(self, path: str) -> str:
        return path.removeprefix("/3.0")

    def test_one_that_is_gone_is_told_with_its_audience_and_never_made(self) -> None:
        self.register()
        assert self.look() is None
        self.twin.webhooks_vanish("b2")
        found = self.told()
        assert not found.once
        assert "unsubscribe@b2" in found.todo
        assert "@a1" not in found.todo
        assert "signing secret" in found.todo
        assert self.written() == []
        self.put("b2", self.target().webhook_url)
        assert self.look() is None

    def test_without_the_source_user_it_is_silent(self) -> None:
        self.put("a1", self.target().webhook_url, "admin")
        self.put("b2", self.target().webhook_url)
        found = self.told()
        assert "unsubscribe@a1" in found.todo
        assert "@b2" not in found.todo

    @pytest.mark.parametrize("secret", ["signing", {"a1": "signing", "b2": "signing"}])
    def test_what_is_signed_needs_no_key(self, secret: object) -> None:
        self.secret = secret
        for audience in ("a1", "b2"):
            self.put(audience, self.target().webhook_url.partition("?")[0])
        assert self.look() is None

    def test_what_is_not_signed_needs_the_key(self) -> None:
        self.secret = {"a1": "signing"}
        for audience in ("a1", "b2"):
            self.put(audience, self.target().webhook_url.partition("?")[0])
        found = self.told()
        assert "@b2" in found.todo
        assert "@a1" not in found.todo

    def test_doctor_names_the_events(self) -> None:
        assert all(event in doctor.EVENTS["mailchimp"] for event in MAILCHIMP_EVENTS)


# --- whose URL it is -----------------------------------------------------------------------------

OURS = Target(
    "keap", "rt", "keap", True, None, {"webhook_key": KEY}, (), public_url="https://prefs.example"
)
PLACE = "https://prefs.example/webhooks/keap/rt/keap"


@pytest.mark.parametrize(
    "url",
    [
        OURS.webhook_url,
        f"{PLACE}?key=a+key+%26+secret",
        f"{PLACE}?key=a%20key%20%26%20secret&from=keap",
        f"HTTPS://Prefs.Example:443/webhooks/keap/rt/keap?key={KEY.replace('&', '%26')}",
    ],
)
def test_one_url_in_several_spellings(url: str) -> None:
    assert leads_here(url, OURS)


@pytest.mark.parametrize(
    "url",
    [
        None,
        7,
        "",
        "not a url",
        "https://prefs.example:port/webhooks/keap/rt/keap",
        PLACE,
        f"{PLACE}?key=another",
        f"{OURS.webhook_url}&key=another",
        OURS.webhook_url.replace("https", "http"),
        OURS.webhook_url.replace("rt/", "second/"),
        OURS.webhook_url.replace("prefs.example", "prefs.example:8080"),
        OURS.webhook_url.replace("prefs.example", "other.example"),
    ],
)
def test_another_url(url: object) -> None:
    assert not leads_here(url, OURS)


def test_where_something_else_lets_in_the_key_does_not_matter() -> None:
    assert leads_here(PLACE, OURS, keyed=False)
    assert leads_here(f"{PLACE}?key=old", OURS, keyed=False)
    assert not leads_here(f"{PLACE}x", OURS, keyed=False)
