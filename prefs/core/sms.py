"""What an inbound text means: whole-message words, plain wishes, and everything that is neither.

The words are those that gateways and the law know (https://www.twilio.com/docs/messaging/tutorials/
advanced-opt-out, 47 CFR 64.1200(a)(10)); a plain wish in other words counts just as much (PECR
regulation 22, UK GDPR articles 7(3) and 21(3)). What could be a wish but is not plain is held for
staff; what merely contains such a word changes nothing.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from enum import StrEnum

from prefs.core.signals import Statement
from prefs.core.words import Channel, Choice, Purpose, Scope


class Meaning(StrEnum):
    MARKETING_OUT = "marketing_out"
    ALL_SMS_OUT = "all_sms_out"
    REMINDERS_AND_MARKETING_OUT = "reminders_and_marketing_out"
    START_MARKETING = "start_marketing"
    """Lifts only what the rule of START lets it lift."""
    START_REMINDERS = "start_reminders"
    """Reminders on; marketing only by the rule of START."""
    APPOINTMENT_REPLY = "appointment_reply"
    """An answer to a reminder that the gateway takes for an opt-out: a task, no change."""
    HOLD = "hold"
    NOTHING = "nothing"


_STOP = ("stop", "unsubscribe", "quit", "revoke", "optout")
_START = ("start", "unstop")

MARKETING_SENDER: dict[str, Meaning] = {
    **dict.fromkeys(_STOP, Meaning.MARKETING_OUT),
    "stopall": Meaning.ALL_SMS_OUT,
    **dict.fromkeys(("cancel", "end"), Meaning.MARKETING_OUT),
    **dict.fromkeys(_START, Meaning.START_MARKETING),
    "yes": Meaning.NOTHING,
}
REMINDER_SENDER: dict[str, Meaning] = {
    **dict.fromkeys(_STOP, Meaning.REMINDERS_AND_MARKETING_OUT),
    "stopall": Meaning.ALL_SMS_OUT,
    **dict.fromkeys(("cancel", "end"), Meaning.APPOINTMENT_REPLY),
    **dict.fromkeys(_START, Meaning.START_REMINDERS),
    "yes": Meaning.NOTHING,
}


def meaning(body: str, purpose: Purpose, flag: str | None) -> Meaning:
    """What a text to a sender of that purpose means; any purpose but reminders is marketing.

    `flag` is the gateway's own opt-out flag. It is asked only where the words are not ours: a
    clinic may have taught its gateway keywords of its own, in any language.
    """
    table = REMINDER_SENDER if purpose is Purpose.REMINDERS else MARKETING_SENDER
    word = _one_word(_letters(body))
    if word in table:
        return table[word]
    sign = (flag or "").strip().lower()
    if sign == "stop":
        return table["stop"]
    free = _free_text(body, purpose)
    if free is Meaning.NOTHING and sign == "start":
        return table["start"]
    return free


_OUT_OF: dict[Meaning, tuple[Purpose, ...]] = {
    Meaning.MARKETING_OUT: (Purpose.MARKETING,),
    Meaning.REMINDERS_AND_MARKETING_OUT: (Purpose.REMINDERS, Purpose.MARKETING),
    Meaning.ALL_SMS_OUT: (Purpose.MARKETING, Purpose.REMINDERS, Purpose.SERVICE),
    Meaning.HOLD: (Purpose.MARKETING,),
}
_IN_FOR: dict[Meaning, tuple[Purpose, ...]] = {
    Meaning.START_MARKETING: (Purpose.MARKETING,),
    Meaning.START_REMINDERS: (Purpose.REMINDERS, Purpose.MARKETING),
}


def statements(meaning: Meaning) -> tuple[Statement, ...]:
    """The statements of a meaning. Those of HOLD name what is held (`Signal.hold`)."""
    outs = _statements(_OUT_OF.get(meaning, ()), Choice.OUT)
    return outs + _statements(_IN_FOR.get(meaning, ()), Choice.IN)


def _statements(purposes: Iterable[Purpose], choice: Choice) -> tuple[Statement, ...]:
    return tuple(Statement(Scope(Channel.SMS, purpose), choice) for purpose in purposes)


# --- spelling ------------------------------------------------------------------------------------

_SILENT = {"Cf", "Mn", "Me", "Cc", "Cs", "Co", "Cn"}
"""Zero-width characters, variation selectors, keycaps: nobody sees that they typed them."""


def _visible(body: str) -> str:
    """NFKC (full-width letters become plain), lower case, without what cannot be seen."""
    text = unicodedata.normalize("NFKC", body).casefold()
    return "".join(
        " " if char.isspace() else char
        for char in text
        if char.isspace() or unicodedata.category(char) not in _SILENT
    )


def _letters(body: str) -> str:
    """The message with punctuation and symbols ignored, its blanks made single."""
    kept = "".join(char for char in _visible(body) if char.isalnum() or char == " ")
    return " ".join(kept.split())


def _one_word(text: str) -> str:
    """ "stop stop stop" is one word said thrice."""
    words = text.split()
    return words[0] if len(set(words)) == 1 else text


# --- plain wishes --------------------------------------------------------------------------------
# A clause counts as a wish only when the whole clause is one: "can you stop by" never matches.

_LONGEST = 1600
"""Characters: the longest body that a gateway carries."""

_MARKETING = (
    r"marketing|promotional|promotions?|promos?|offers?|deals?|sales|spam|junk|ads?|adverts?"
    r"|advertising|advertisements?|newsletters?|campaigns?"
)
_REMINDERS = r"reminders?|appointment|appt"
_THING = (
    rf"(?:{_MARKETING}|reminders?|texts?|txts?|sms|sms ?s|messages?|msgs?|messaging|texting"
    r"|communications?|notifications?|alerts?|updates?)"
)
_WHICH = (
    r"(?:me|us|my|mobile|phone|number|your|the|this|these|those|all|any|anymore|anything|more|such"
    r"|of|from|you|to|with|further|future|unwanted|unsolicited|annoying|bloody|appointment|appt"
    r"|about|again|please|ever|direct|via|by)"
)
_BAG = rf"(?: (?:{_WHICH}|{_THING}|else|stuff|rubbish|nonsense|crap|shit))"
_SEND = r"(?:texting|messaging|sending|contacting|spamming|txting|bothering|pestering|harassing)"
_TEXT = r"(?:text|message|send|contact|spam|txt|msg|bother|pester)"
_NOT = r"(?:do not|dont|do nt|never|not|no longer|stop)"
_ME = r"(?:me|us|(?:my|this) (?:mobile |phone )?(?:number|details|name|phone|mobile)|this number)"
_LIST = (
    r"(?:(?:your|the|this|any|all|every|these|of|marketing|mailing|sms|text|texting|message"
    r"|messaging|contacts?|promo|promotional|distribution) )*"
    r"(?:lists?|databases?|systems?|records|contacts|marketing|texts|messages|mailings?)"
)
_LEAVE = (
    r"(?:un ?subscribe|unsub|un ?suscribe|un ?subcribe|un ?subscibe|opt ?out|opt (?:me|us) out"
    rf"|unsub(?:scribe)? {_ME})"
)

_PLAIN = [
    rf"(?:stop|quit|cease) {_SEND}{_BAG}*",
    rf"stop(?: {_WHICH})* {_THING}{_BAG}*",
    rf"(?:stop (?:receiving|getting))(?: {_WHICH}| {_THING})+",
    rf"{_NOT} (?:ever )?(?:text|message|contact|spam|txt|msg|bother|pester){_BAG}*",
    rf"{_NOT} send{_BAG}+",
    (
        r"(?:i )?(?:do not|dont|no longer|never) (?:want|wanna|wish|need)"
        rf"(?: to (?:get|receive|have|be sent))?(?: {_WHICH})* {_THING}{_BAG}*"
    ),
    (
        r"(?:i )?(?:do not|dont|no longer|never) (?:want|wanna|wish)(?: you)? to"
        rf" (?:be texted|be contacted|be messaged|hear from you|{_TEXT} {_ME}){_BAG}*"
    ),
    rf"no more(?: {_WHICH})* {_THING}{_BAG}*",
    rf"no (?:{_MARKETING}|texts|messages|sms|marketing texts|marketing messages)",
    rf"take {_ME} off(?: (?:from )?{_LIST})?",
    rf"get {_ME} off {_LIST}",
    rf"(?:remove|delete|erase) {_ME}(?: (?:from|off) {_LIST})?",
    rf"remove (?:from|off) {_LIST}",
    rf"be (?:removed|deleted|taken off)(?: (?:from )?{_LIST})?",
    rf"{_LEAVE}(?: (?:from|of) (?:all|any|your|these|this|the|{_THING}|{_LIST})(?:{_BAG})*)?",
    rf"(?:cancel|end|quit|halt|cease)(?: {_WHICH})* (?:marketing|texts|messages|sms|newsletters?)",
    r"lose my number",
    r"(?:i )?(?:hereby )?(?:withdraw|revoke) (?:my |all )?consent(?: to (?:direct )?marketing)?",
    rf"(?:i )?(?:do not|dont|never) consent(?:ed)?(?: to(?: {_WHICH})* {_THING}{_BAG}*)?",
    rf"(?:i )?object to(?: {_WHICH})* {_THING}{_BAG}*",
    (
        r"you (?:do not|dont|no longer) have (?:my |any )?(?:consent|permission) to"
        rf" {_TEXT} {_ME}{_BAG}*"
    ),
    (
        r"(?:i|ive|i have) (?:already )?(?:said|texted|sent|replied|told you to|asked you to) stop"
        rf"(?: {_SEND}{_BAG}*)?"
    ),
    r"s t o p",
]
_WISH = re.compile("|".join(f"(?:{pattern})" for pattern in _PLAIN))

_POLITE_BEFORE = re.compile(
    r"(?:(?:please|pls|plz|plse|kindly|hi|hiya|hello|hey|dear (?:all|team|sirs?|madam)|ok|okay"
    r"|right|just|sorry|and|also|so|but|now|then|asap|look|listen|again|team|there|thanks|thank you"
    r"|(?:can|could|would|will) (?:you|u|i|we|someone)|may i|i (?:want|wish|need|would like)"
    r"(?: you)?(?: to)?|id like(?: you)? to|i would appreciate it if you|(?:i am|im) asking you to"
    r"|you (?:must|should|can|may)|for the last time|once and for all) )+"
)
_POLITE_AFTER = re.compile(
    r"(?: (?:please|pls|plz|plse|thanks|thank you|thankyou|thx|ta|cheers|now|asap|immediately"
    r"|at once|straight ?away|right away|right now|already|altogether|completely|anymore|any more"
    r"|any longer|again|ever|from now on|in (?:the )?future|xx?|kind regards|regards|many thanks"
    r"|for good|for ?ever|ok|okay|if possible|if you (?:can|could)))+$"
)
_ONLY_POLITE = re.compile(
    r"(?:please|pls|plz|hi|hiya|hello|hey|thanks?|thank you|many thanks|thx|ta|cheers|ok|okay|now"
    r"|sorry|kind regards|regards|no|yes|xx?|asap|immediately|no thanks|no thank you"
    r"|sent from (?:my|outlook) .*)"
)
_CLAUSE_END = re.compile(
    r"[.!?;:,()\n\r|]+| [-\u2013\u2014]+ |\b(?:and|or|but|because|cos|since|as i|as im|otherwise)\b"
)
_CONDITION = re.compile(r"(?:if|unless|until|when|whenever|after|before)\b")

# --- what is nobody's wish -----------------------------------------------------------------------

# Phones send a reaction as a text where the other side has none: iMessage as 'Liked "..."',
# Android as the emoji, "to" and the text.
_REACTION = re.compile(
    r"\W*(?:(?:liked|loved|disliked|laughed at|emphasi[sz]ed|questioned)\b"
    r"|reacted\b.*?\b(?:to|with)\b|removed an? .{1,40}? from\b|replied to\b)"
    r"\s*(?:[\"'\u2018\u201c\u00ab\u201e]"
    r"|(?:an?|your|the) (?:image|photo|message|picture|text|link)\b)"
)
_EMOJI_REACTION = re.compile(r"[^\w\"'\u201c]+to\s*[\"'\u2018\u201c\u00ab]")
_QUOTED = re.compile(
    r"\u201c[^\u201d]*\u201d?|\u00ab[^\u00bb]*\u00bb?|\"[^\"]*\"?|^\s*>.*$", re.MULTILINE
)
_ASKS = r"(?:reply|replying|text|texting|txt|send)(?: with)?"
_ENDS = r"(?:end|stop|cancel|opt ?out|opt-out|unsubscribe|quit)"
_OUR_FOOTER = re.compile(
    rf"\b{_ASKS} (?:stop|unsubscribe|end|optout)(?: (?:to|at) \+?[\d ]{{3,}})?"
    rf" to {_ENDS}\b(?: (?:texts?|messages?|marketing))?"
    rf"|\b{_ASKS} (?:stop|unsubscribe|end|optout) (?:to|at) \+?\d[\d ]{{2,}}"
    rf"|\b(?:stop|optout) to (?:{_ENDS}\b|\d{{3,}})"
    r"|\b(?:to )?(?:opt ?out|opt-out|unsubscribe|stop)\b[\w\s:,?]{0,40}?"
    r"\b(?:reply|text|txt|click|visit|tap)\b(?: stop| end| here)"
)

# --- what might be one ---------------------------------------------------------------------------

_NEGATED = re.compile(
    r"(?:i |you )?(?:do not|dont|never|didnt|did not) (?:ever |want (?:you )?to )?"
    rf"(?:stop|{_LEAVE}|quit|remove|delete|take me off|cancel)\b"
)
_CURT = re.compile(
    r"(?:(?:i )?(?:do not|dont) want (?:this|it|these|that|them|any of (?:this|it))|no more|enough"
    r"|stop (?:it|this|that)|go away|spam|(?:fuck|piss|sod|bugger|eff|f) (?:off|you)|lose it)"
)
"""Whole clauses that may mean us."""
_PERHAPS = re.compile(
    r"\b(?:not interested|no interest|leave (?:me|us) alone|wrong (?:number|person)"
    r"|(?:how|where) (?:did|have|do) (?:you|u) (?:get|got) (?:my|this)"
    r"|report (?:you|this)|reported (?:you|this|as)|gdpr|data protection|ico"
    r"|never (?:signed|asked|subscribed|consented|agreed|gave)"
    r"|(?:did not|didnt|have not|havent) (?:sign|ask|subscribe|consent|agree|give|gave)"
    rf"|stop (?:{_SEND}|emailing|calling|ringing|phoning)|stop(?: {_WHICH})+ {_THING}|{_LEAVE}"
    r"|(?:remove|delete|erase) (?:all )?my (?:data|information|info|records|account)"
    r"|opted out|opting out|unsubscrib\w*|this is spam|harass\w*|spamming"
    rf"|(?:do not|dont|never) (?:text|message|contact|spam|txt|msg|call|email|phone|ring) {_ME}"
    rf"|(?:remove|delete|take) {_ME} (?:from|off)|off (?:your|the|this) (?:mailing |marketing )?"
    r"list|lose my number|withdraw (?:my )?consent)\b"
)
_SIGNS = re.compile("[\U0001f6d1\U0001f6ab\u26d4\U0001f515\U0001f4f5]")
"""Stop sign, no entry, muted bell, no phones."""


def _free_text(body: str, purpose: Purpose) -> Meaning:
    text = body[:_LONGEST]
    spoken = _spoken(text)
    if spoken is None:
        return Meaning.NOTHING
    clauses = _clauses(spoken)
    wishes = [clause for clause in clauses if _WISH.fullmatch(clause)]
    if wishes and not any(_CONDITION.match(clause) for clause in clauses):
        return _wish(wishes, clauses, purpose)
    bare = _bare(clauses, purpose)
    if bare is not None:
        return bare
    unsure = wishes or any(_perhaps(clause) for clause in clauses)
    shown = not clauses and _SIGNS.search(text)
    return Meaning.HOLD if unsure or shown else Meaning.NOTHING


def _spoken(text: str) -> str | None:
    """The person's own words, lower case: no quotes, none of our footer; None for a reaction."""
    seen = unicodedata.normalize("NFKC", text).casefold()
    if _REACTION.match(seen) or _EMOJI_REACTION.match(seen):
        return None
    own = _QUOTED.sub(" ", seen)
    plain = re.sub(r"[\u2018\u2019'`\u00b4]", "", own)
    lines = "\n".join(_visible(line) for line in plain.splitlines())
    return _OUR_FOOTER.sub(" ", lines)


def _clauses(spoken: str) -> list[str]:
    parts = (_letters(part) for part in _CLAUSE_END.split(spoken))
    trimmed = (_without_politeness(part) for part in parts)
    return [clause for clause in trimmed if clause and not _ONLY_POLITE.fullmatch(clause)]


def _without_politeness(clause: str) -> str:
    before = _POLITE_BEFORE.match(clause)
    return _POLITE_AFTER.sub("", clause[before.end() :] if before else clause)


def _wish(wishes: list[str], clauses: list[str], purpose: Purpose) -> Meaning:
    """A plain wish, and what it is about where it says so."""
    about_reminders = any(re.search(rf"\b(?:{_REMINDERS})\b", wish) for wish in wishes)
    about_marketing = any(re.search(rf"\b(?:{_MARKETING})\b", wish) for wish in wishes)
    if purpose is not Purpose.REMINDERS:
        return Meaning.HOLD if about_reminders and not about_marketing else Meaning.MARKETING_OUT
    if about_reminders:
        return Meaning.REMINDERS_AND_MARKETING_OUT
    kept = any(re.search(r"\breminders?\b", clause) for clause in clauses)
    return Meaning.MARKETING_OUT if about_marketing or kept else REMINDER_SENDER["stop"]


_BARE = re.compile(
    r"(?:(?:reply|text|txt|send) )?(stop|unsubscribe|opt ?out|stop ?all)|(?:cancel|end|quit|revoke)"
)


def _bare(clauses: list[str], purpose: Purpose) -> Meaning | None:
    """A word of the table with politeness around it ("stop please"), or beside other talk.

    "Please cancel" is as likely about an appointment, and no gateway takes it for a keyword.
    """
    found = next((match for clause in clauses if (match := _BARE.fullmatch(clause))), None)
    if found is None:
        return None
    if not found[1]:
        return Meaning.NOTHING if purpose is Purpose.REMINDERS else Meaning.HOLD
    if any(clause != found[0] for clause in clauses):
        return Meaning.HOLD
    table = REMINDER_SENDER if purpose is Purpose.REMINDERS else MARKETING_SENDER
    return table[found[1].replace(" ", "")]


def _perhaps(clause: str) -> bool:
    if _NEGATED.match(clause):
        return False
    return bool(_CURT.fullmatch(clause) or _PERHAPS.search(clause))


__all__ = ["MARKETING_SENDER", "REMINDER_SENDER", "Meaning", "meaning", "statements"]
