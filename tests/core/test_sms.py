"""The table of words, plain wishes, unclear ones, and all that must change nothing."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefs.core.signals import Statement
from prefs.core.sms import MARKETING_SENDER, REMINDER_SENDER, Meaning, meaning, statements
from prefs.core.words import Channel, Choice, Purpose, Scope

MARKETING, REMINDERS = Purpose.MARKETING, Purpose.REMINDERS

WORDS = [
    *(
        (word, Meaning.MARKETING_OUT, Meaning.REMINDERS_AND_MARKETING_OUT)
        for word in ("STOP", "UNSUBSCRIBE", "QUIT", "REVOKE", "OPTOUT")
    ),
    ("STOPALL", Meaning.ALL_SMS_OUT, Meaning.ALL_SMS_OUT),
    ("CANCEL", Meaning.MARKETING_OUT, Meaning.APPOINTMENT_REPLY),
    ("END", Meaning.MARKETING_OUT, Meaning.APPOINTMENT_REPLY),
    ("START", Meaning.START_MARKETING, Meaning.START_REMINDERS),
    ("UNSTOP", Meaning.START_MARKETING, Meaning.START_REMINDERS),
    ("YES", Meaning.NOTHING, Meaning.NOTHING),
]

PLAIN = """
please take me off your list
Please take me off your mailing list, thanks. Jane
take my number off your system
stop texting me
Can you stop texting me?
No, stop texting me
I want you to stop texting me
please stop texting me and take me off your list
don't text me again
Don’t text me any more
do not contact me again
never text me again
please don't send me any more promotional texts
dont send me anything else
remove me
remove me from your list please
Thank you. Please remove me from the list
Please remove my number from your database
can i be removed from this list please
delete my number
lose my number
no more marketing texts please
no more texts
no more offers
no marketing please
STOP please
please stop!!!
STOP!! thank you
stop now
STOP ok?
stop sending
stop sending me texts
Stop sending me these offers
Stop sending me this rubbish
Stop the texts now
Stop all texts
stop spamming me
stop messaging me!!!
I want to stop getting these messages
I said stop
I've already told you to stop texting me
unsubscribe me
un subscribe
UN-SUBSCRIBE
unsuscribe
I want to unsubscribe
I'd like to opt out please
opt me out
opt-out
Please opt me out of marketing
I don't want any more texts
I don’t want to receive marketing messages
I do not wish to receive your texts
I no longer want to receive your messages
I don't want to hear from you again
cease messages
I withdraw my consent
I object to direct marketing
you do not have my permission to text me
Reply STOP
S T O P
quit texting me
unsubscribe this number
please remove from list
I do not consent to these messages
You can stop now
Stop contacting me or I will call the police
who is this? stop texting me
I'm not interested, please remove me
Unsubscribe me from marketing
""".strip().splitlines()

UNCLEAR = """
I don't want this
not interested
stop it?
stop it
no more
who is this, leave me alone
Go away.
fuck off
if you don't stop texting me I'll report you
If you dont stop texting me i will be cross
If this is marketing, remove me
stop texting me if I've booked
do not contact me today
why do you keep texting, I never signed up
how did you get my number
how do i unsubscribe
it won't unsubscribe me
I thought I unsubscribed
I have told you I opted out
wrong number
delete my data
dont want these
How can I stop these texts?
STOP. Jane
stop, make it Tuesday
please cancel
revoke please
stop emailing me
please stop calling me
20% off botox. Reply STOP
🛑
🚫🚫
""".strip().splitlines()

NOT_A_WISH = """
can you stop by
I'll stop by at 4, thanks
the bus stop
See you at the bus stop
Is there a stop near you?
stop the 3pm, make it 4pm
Please don't stop sending offers
Don't stop!
don't unsubscribe me
I don't want to unsubscribe
I can't stop thinking about it
Please stop the botox appointment at 3
nonstop
unstoppable
stop-start
stopping by later
I quit smoking
Can I cancel my appointment
please cancel my 3pm
Does it end at 5?
what's the end date
Start at 3?
start please
take off
we go away on holiday
I don't want it too big
I don't like the offer
yes I'd like to book
YES please
No thanks
ok thanks
help
info
where is your clinic
👍
❤️
Liked "Reply STOP to opt out"
Liked “stop texting me”
Disliked “STOP”
Loved an image
Laughed at “20% off this week. Reply STOP to opt out”
Emphasised “Stop”
Questioned "unsubscribe me"
Removed a like from “stop”
👍 to “Reply STOP to end”
❤️ to "stop texting me"
Reacted 🛑 to "Offer"
Reply STOP to opt out
reply stop to end
Text STOP to 60777
20% off! Opt-out: txt STOP to 60777
it says "Reply STOP to opt out" what is the offer?
my friend wrote "stop texting me" lol
Great, I'll end with you and revoke nothing
""".strip().splitlines()


@pytest.mark.parametrize(("word", "at_marketing", "at_reminders"), WORDS)
@pytest.mark.parametrize("flag", [None, "STOP", "START", "HELP"])
def test_the_words_decide_whatever_the_gateway_flags(
    word: str, at_marketing: Meaning, at_reminders: Meaning, flag: str | None
) -> None:
    assert meaning(word, MARKETING, flag) is at_marketing
    assert meaning(word, REMINDERS, flag) is at_reminders


def test_the_table_has_no_other_words() -> None:
    expected = {word.lower() for word, _, _ in WORDS}
    assert set(MARKETING_SENDER) == expected == set(REMINDER_SENDER)


def test_a_purpose_that_is_not_reminders_counts_as_marketing() -> None:
    assert meaning("STOP", Purpose.SERVICE, None) is Meaning.MARKETING_OUT


AROUND = st.text(
    st.sampled_from(
        list(" \t\n\u00a0.,!?;:'\"*-_()\u2019\u201c\u2026\u200b\u200d\ufeff🛑👍\ufe0f🙏🏽")
    )
)


@st.composite
def dressed_words(draw: st.DrawFn) -> tuple[str, Meaning, Meaning]:
    """A word of the table in any case, width and company that leaves it one word."""
    word, at_marketing, at_reminders = draw(st.sampled_from(WORDS))
    letters = [draw(st.sampled_from(_forms(letter))) for letter in word]
    inside = draw(st.sampled_from(["", "\u200b", ".", "\u00ad", "-"]))
    return f"{draw(AROUND)}{inside.join(letters)}{draw(AROUND)}", at_marketing, at_reminders


def _forms(letter: str) -> list[str]:
    wide = chr(ord(letter) + 0xFEE0)
    return [letter, letter.lower(), wide, wide.lower()]


@given(dressed_words())
def test_case_blanks_punctuation_width_and_emoji_do_not_matter(
    dressed: tuple[str, Meaning, Meaning],
) -> None:
    body, at_marketing, at_reminders = dressed
    assert meaning(body, MARKETING, None) is at_marketing
    assert meaning(body, REMINDERS, None) is at_reminders


@pytest.mark.parametrize("body", ["STOP STOP STOP", "Stop, stop!", "please stop"])
def test_a_word_said_again_or_politely_is_the_word(body: str) -> None:
    assert meaning(body, MARKETING, None) is Meaning.MARKETING_OUT
    assert meaning(body, REMINDERS, None) is Meaning.REMINDERS_AND_MARKETING_OUT


@pytest.mark.parametrize("body", PLAIN)
def test_a_plain_wish_is_an_out(body: str) -> None:
    assert meaning(body, MARKETING, None) is Meaning.MARKETING_OUT
    assert meaning(body.upper(), MARKETING, None) is Meaning.MARKETING_OUT
    assert meaning(body, REMINDERS, None) in (
        Meaning.REMINDERS_AND_MARKETING_OUT,
        Meaning.MARKETING_OUT,
    )


def test_stop_all_in_two_words_is_the_word() -> None:
    assert meaning("stop all", MARKETING, None) is Meaning.ALL_SMS_OUT
    assert meaning("Stop all please", REMINDERS, None) is Meaning.ALL_SMS_OUT


@pytest.mark.parametrize(
    ("body", "purpose", "expected"),
    [
        ("stop texting me", REMINDERS, Meaning.REMINDERS_AND_MARKETING_OUT),
        ("please take me off your list", REMINDERS, Meaning.REMINDERS_AND_MARKETING_OUT),
        ("no more reminders please", REMINDERS, Meaning.REMINDERS_AND_MARKETING_OUT),
        ("no more marketing texts please", REMINDERS, Meaning.MARKETING_OUT),
        ("No more texts, just the reminders please", REMINDERS, Meaning.MARKETING_OUT),
        ("stop sending me offers but keep the reminders", MARKETING, Meaning.MARKETING_OUT),
        ("stop sending me reminders", MARKETING, Meaning.HOLD),
        ("please cancel", REMINDERS, Meaning.NOTHING),
        ("STOP\n\nSent from my iPhone", MARKETING, Meaning.MARKETING_OUT),
    ],
)
def test_a_wish_is_about_what_it_names(body: str, purpose: Purpose, expected: Meaning) -> None:
    assert meaning(body, purpose, None) is expected


@pytest.mark.parametrize("body", UNCLEAR)
def test_an_unclear_wish_is_held(body: str) -> None:
    assert meaning(body, MARKETING, None) is Meaning.HOLD


@pytest.mark.parametrize("purpose", [MARKETING, REMINDERS])
@pytest.mark.parametrize("body", [*NOT_A_WISH, "", "   ", "> Reply STOP to opt out\nSee you then"])
def test_what_merely_contains_a_word_changes_nothing(body: str, purpose: Purpose) -> None:
    assert meaning(body, purpose, None) is Meaning.NOTHING


@pytest.mark.parametrize(
    ("body", "flag", "at_marketing", "at_reminders"),
    [
        ("BASTA", "STOP", Meaning.MARKETING_OUT, Meaning.REMINDERS_AND_MARKETING_OUT),
        ("basta", " stop ", Meaning.MARKETING_OUT, Meaning.REMINDERS_AND_MARKETING_OUT),
        ("GENAU", "START", Meaning.START_MARKETING, Meaning.START_REMINDERS),
        ("HILFE", "HELP", Meaning.NOTHING, Meaning.NOTHING),
        ("BASTA", "SOMETHING NEW", Meaning.NOTHING, Meaning.NOTHING),
        ("", "STOP", Meaning.MARKETING_OUT, Meaning.REMINDERS_AND_MARKETING_OUT),
        (
            "stop texting me",
            "START",
            Meaning.MARKETING_OUT,
            Meaning.REMINDERS_AND_MARKETING_OUT,
        ),
    ],
)
def test_the_flag_is_asked_where_the_words_are_not_ours(
    body: str, flag: str, at_marketing: Meaning, at_reminders: Meaning
) -> None:
    assert meaning(body, MARKETING, flag) is at_marketing
    assert meaning(body, REMINDERS, flag) is at_reminders


def _sms(purpose: Purpose, choice: Choice) -> Statement:
    return Statement(Scope(Channel.SMS, purpose), choice)


@pytest.mark.parametrize(
    ("means", "expected"),
    [
        (Meaning.MARKETING_OUT, {_sms(MARKETING, Choice.OUT)}),
        (Meaning.HOLD, {_sms(MARKETING, Choice.OUT)}),
        (
            Meaning.REMINDERS_AND_MARKETING_OUT,
            {_sms(MARKETING, Choice.OUT), _sms(REMINDERS, Choice.OUT)},
        ),
        (Meaning.ALL_SMS_OUT, {_sms(purpose, Choice.OUT) for purpose in Purpose}),
        (Meaning.START_MARKETING, {_sms(MARKETING, Choice.IN)}),
        (Meaning.START_REMINDERS, {_sms(MARKETING, Choice.IN), _sms(REMINDERS, Choice.IN)}),
        (Meaning.APPOINTMENT_REPLY, set()),
        (Meaning.NOTHING, set()),
    ],
)
def test_statements(means: Meaning, expected: set[Statement]) -> None:
    assert set(statements(means)) == expected


@given(st.text(max_size=400), st.sampled_from([MARKETING, REMINDERS]))
def test_every_text_has_a_meaning(body: str, purpose: Purpose) -> None:
    assert meaning(body, purpose, None) in Meaning


@pytest.mark.parametrize(
    "piece", ["please ", "stop me ", "xx ", "no more texts ", '"', "👍 to ", "reply ", "i want to "]
)
def test_a_long_text_costs_little(piece: str) -> None:
    began = time.perf_counter()
    meaning(piece * 20_000, MARKETING, None)
    assert time.perf_counter() - began < 1.0
