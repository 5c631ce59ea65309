"""Texts, languages and looks: complete catalogues, a brand's own words and colours."""

from __future__ import annotations

import re
import string
from pathlib import Path

import pytest

from prefs.locales import FALLBACK, FOLDER, catalogues, table_of
from prefs.settings import contrast_with_white
from prefs.web.texts import Texts
from tests.kit import Clock
from tests.served import configure, served
from tests.web.people import ADA, fresh, mails, unsubscribe

SVG = '<svg xmlns="http://www.w3.org/2000/svg"><circle r="9"/></svg>'
LOOK = """
[brands.rt.look]
colour = "#7a3e9d"
logo = "logo.svg"
[brands.rt.texts]
"centre.heading" = "Hello from {brand}: what would you like?"
"""


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


@pytest.mark.parametrize("language", sorted(catalogues()))
def test_a_language_has_every_text_with_the_same_values(language: str) -> None:
    english, other = catalogues()[FALLBACK], catalogues()[language]
    assert other.keys() == english.keys()
    differing = [k for k in english if placeholders(english[k]) != placeholders(other[k])]
    assert differing == []


def test_more_than_one_language_is_shipped() -> None:
    assert len(catalogues()) >= 2


ALIKE = (
    "system.",
    "channel.",
    "data.system",
    "source.messenger",
    "staff.calls.reason",
    "staff.choice.pause",
    "staff.col.system",
    "staff.containers.name",
    "staff.history.row",
    "staff.login.code",
    "staff.person.title",
    "staff.scope",
    "staff.systems.live",
    "task.fact.name",
)
"""Names, patterns, and words that are the same in both; whole keys or their beginnings."""


def test_german_is_german() -> None:
    english, german = catalogues()[FALLBACK], catalogues()["de"]
    same = {key for key in english if english[key] == german[key] and not key.startswith(ALIKE)}
    assert same == set(), "translate these in de.po, or name them in ALIKE"


def test_a_german_brand_has_german_pages_mails_and_dates(tmp_path: Path) -> None:
    environ = {"PREFS__BRANDS__RT__LOCALE": "de-DE", "PREFS__BRANDS__RT__TIMEZONE": "Europe/Berlin"}
    with served(tmp_path, environ=environ, clock=Clock()) as rt:
        rt.consent(ADA)
        path = fresh(rt)
        (message,) = mails(rt)
        assert message["Subject"] == "Ihr Link zu Ihren Einstellungen bei RT Aesthetics"
        assert '<html lang="de">' in message.get_body(("html",)).get_content()
        page = rt.client.get(path).text
        assert '<html lang="de">' in page
        assert "Was darf RT Aesthetics Ihnen schicken?" in page
        assert "Sonderangebote" in page
        done = rt.client.post(f"{path}/pause", data={"until": "2026-04-01"}).text
        assert "bis 1. April 2026" in done
        stopped = rt.client.post(unsubscribe(rt, topic="offers")).text
        assert "keine E-Mails zu „Sonderangebote“ mehr von RT Aesthetics" in stopped


def test_a_language_is_added_by_dropping_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = 'msgid ""\nmsgstr ""\n"Content-Type: text/plain; charset=utf-8\\n"\n\n'
    entry = 'msgid "title.unsubscribe"\nmsgstr "Afmelden"\n'
    entry += '\nmsgid "stop.button"\nmsgstr "Ja, {naam}"\n'
    for name, text in (("en", Path(FOLDER, "en.po").read_text()), ("nl", header + entry)):
        (tmp_path / f"{name}.po").write_text(text)
    monkeypatch.setattr("prefs.locales.FOLDER", tmp_path)
    monkeypatch.setattr("prefs.locales.catalogues", catalogues.__wrapped__)
    table_of.cache_clear()
    assert Texts("nl-NL")("title.unsubscribe") == "Afmelden"
    assert Texts("nl-NL")("stop.done") == "You are unsubscribed"
    assert Texts("nl-NL")("stop.button") == "Yes, unsubscribe me", "it has no such value"
    table_of.cache_clear()


def test_an_unknown_language_is_read_in_english_with_its_own_dates() -> None:
    texts = Texts("sv-SE")
    assert texts("title.unsubscribe") == "Unsubscribe"
    assert texts.language == "en"
    assert texts.day(1_760_000_000) == "9 oktober 2025"


def test_times_are_told_in_the_brands_zone() -> None:
    winter, summer = 1_767_225_600.0, 1_751_328_000.0
    assert "00:00" in Texts("en-GB").moment(winter)
    assert "01:00" in Texts("en-GB").moment(summer)


def test_a_brand_has_its_own_words_colour_and_logo(tmp_path: Path) -> None:
    (tmp_path / "logo.svg").write_text(SVG)
    with served(tmp_path, LOOK) as rt:
        made = rt.post("/v1/links", {"brand": "rt", "email": "ada@example.com"}).json()
        page = rt.client.get(made["preferences"]).text
        assert "Hello from RT Aesthetics: what would you like?" in page
        (style,) = re.findall(r'href="(/static/brands/rt\.css[^"]*)"', page)
        assert "#7a3e9d" in rt.client.get(style).text
        (logo,) = re.findall(r'src="(/static/brands/rt/logo[^"]*)"', page)
        answer = rt.client.get(logo)
        assert (answer.text, answer.headers["content-type"]) == (SVG, "image/svg+xml")
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert rt.client.get("/static/brands/second/logo").status_code == 404
        assert rt.client.get("/static/brands/nobody.css").status_code == 404


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ('[brands.rt.look]\ncolour = "red"', "is no colour"),
        ('[brands.rt.look]\ncolour = "#ffcc00"', "contrast"),
        ('[brands.rt.look]\nlogo = "none.svg"', "there is no file"),
        ('[brands.rt.texts]\n"centre.headin" = "x"', "centre.heading"),
        ('[brands.rt.texts]\n"centre.heading" = "Hello {you}"', "you has no value here"),
        ('[brands.rt.texts]\n"centre.heading" = "Hello {"', "write it as in"),
    ],
)
def test_a_wrong_look_is_told_with_its_fix(tmp_path: Path, extra: str, says: str) -> None:
    from prefs.app import load_settings
    from prefs.core.errors import SettingsError

    environ = {"PREFS_TEST_KEY": "a secret of thirty-two bytes or more"}
    with pytest.raises(SettingsError) as fault:
        load_settings(configure(tmp_path, extra), environ)
    assert any(says in one for one in fault.value.faults)


def test_contrast_is_that_of_the_guidelines() -> None:
    assert contrast_with_white("#ffffff") == pytest.approx(1.0)
    assert contrast_with_white("#000000") == pytest.approx(21.0)
    assert contrast_with_white("#767676") == pytest.approx(4.54, abs=0.01)
