"""Every text that people read, in one place: key -> text, one table a language.

`{name}` is filled in; values are escaped where the page or mail is HTML. Plain British English;
a translation is one more table with the same keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prefs.core.words import Channel, Purpose, Scope, Why
from prefs.settings import Brand

ENGLISH: dict[str, str] = {
    # --- shared ---
    "title.unsubscribe": "Unsubscribe",
    "title.centre": "Your preferences",
    "title.confirm": "Please confirm",
    "title.request": "Get your preferences link",
    "title.forged": "This link does not work",
    "title.away": "Please try again in a moment",
    "title.bad": "That could not be saved",
    "neutral.name": "Message preferences",
    "address.email": "Email address: {masked}",
    "address.phone": "Phone number: {masked}",
    "address.messenger": "Messenger account: {masked}",
    "address.post": "Postal address: {masked}",
    "address.gone": "This is about the address our message came to.",
    "appointments": "Messages about your appointments go on as before.",
    "footer.privacy": "Privacy notice",
    "footer.controller": "{name} is responsible for your data.",
    "skip": "Skip to the content",
    # --- what a scope is called within a sentence ---
    "marketing.email": "marketing emails",
    "marketing.sms": "marketing text messages",
    "marketing.phone": "marketing calls",
    "marketing.post": "marketing by post",
    "marketing.messenger": "marketing on Messenger",
    "topic.email": "emails about “{topic}”",
    "topic.sms": "text messages about “{topic}”",
    "topic.phone": "calls about “{topic}”",
    "topic.post": "post about “{topic}”",
    "topic.messenger": "Messenger messages about “{topic}”",
    "reminders.email": "appointment reminders by email",
    "reminders.sms": "appointment reminders by text message",
    "service.email": "service messages by email",
    "service.sms": "service messages by text message",
    "service.phone": "service calls",
    "service.post": "service letters",
    "service.messenger": "service messages on Messenger",
    # --- unsubscribe ---
    "stop.ask": "Stop {what} from {brand}?",
    "stop.button": "Yes, unsubscribe me",
    "stop.already": "These are already switched off. You need do nothing more.",
    "stop.done": "You are unsubscribed",
    "stop.done.what": "We have recorded it: no more {what} from {brand}.",
    "stop.done.soon": "A message that is already on its way may still reach you.",
    "stop.reminders": "Without reminders, please keep note of your appointments yourself.",
    "stop.all.title": "Stop everything",
    "stop.all.hint": (
        "Email, text messages, phone, post and Messenger, from every brand of {controller}."
    ),
    "stop.all.button": "Stop all marketing",
    "stop.all.done": "All marketing is stopped",
    "stop.all.done.what": (
        "We have recorded it: no more marketing from {controller}, by email, text message, phone, "
        "post or Messenger."
    ),
    "stop.choose": "Choose what you get instead",
    "stop.change": "See or change all your preferences",
    # --- preference centre ---
    "centre.heading": "What may {brand} send you?",
    "centre.intro": "Tick what you would like, untick what you would not. Then save.",
    "centre.footer_intro": (
        "Here you can switch off what we send to this address. To switch something on, or to see "
        "everything, we mail you a personal link."
    ),
    "centre.expired": (
        "This link is more than 72 hours old. You can still switch things off here; to switch "
        "something on, please ask for a new link."
    ),
    "centre.marketing": "Marketing",
    "centre.marketing.hint": (
        "I agree to receive marketing from {brand} in the ways ticked here. I can change this at "
        "any time."
    ),
    "centre.by_default": "unless you say no",
    "centre.held": "waiting for our staff, and off meanwhile",
    "centre.topics": "Topics",
    "centre.topics.hint": "Untick what does not interest you.",
    "centre.appointments": "Appointments",
    "centre.appointments.hint": (
        "Reminders of your appointments. They are not marketing and do not depend on it."
    ),
    "centre.service": "Answers and aftercare",
    "centre.service.hint": "Replies to your own questions, aftercare advice, your account.",
    "centre.save": "Save my preferences",
    "centre.saved": "Your preferences are saved",
    "centre.on": "What goes on",
    "centre.off": "What is off",
    "centre.refused": "What we could not switch on",
    "centre.mailed": (
        "To switch something on we need to know that it is you. We are sending a personal link to "
        "the address we hold; it works for 72 hours."
    ),
    "centre.no_mail": (
        "To switch something on, please ask for a personal link with your email address."
    ),
    "centre.shared": (
        "Somebody else who shares your address or number has said no, so we stay silent there."
    ),
    "centre.restricted": (
        "Use of your data is restricted at present. What you switch off counts at once; what you "
        "switch on is kept until the restriction ends."
    ),
    "centre.nothing_on": "Nothing.",
    "channel.email": "Email",
    "channel.sms": "Text message",
    "channel.phone": "Phone call",
    "channel.post": "Post",
    "channel.messenger": "Messenger",
    "why.ambiguous": (
        "several people share this address, and we cannot tell for whom; please ask our staff"
    ),
    "why.older": "you said no after this link was sent; please ask for a new link",
    "why.held": "use of your data is restricted at present; our staff will tell you",
    "why.other": "our records do not allow it; please ask our staff",
    # --- asking for a link ---
    "request.heading": "See and change what we send you",
    "request.intro": (
        "Enter your email address and we send you a personal link to your preferences."
    ),
    "request.email": "Your email address",
    "request.button": "Send me the link",
    "request.done": "Thank you",
    "request.done.what": (
        "If we hold this address, a message with your link is on its way. It can take a few "
        "minutes; please look into your spam folder too."
    ),
    "request.done.again": "Nothing came? The address may be spelled differently in our records.",
    "request.offer": "Get a new link",
    # --- double opt-in ---
    "confirm.heading": "Did you ask for this?",
    "confirm.intro": "Somebody signed up with your address at {brand} for:",
    "confirm.agree": (
        "If it was you, please confirm that you would like to receive this. You can stop it at any "
        "time."
    ),
    "confirm.button": "Yes, I confirm",
    "confirm.not_you": "It was not you? Do nothing: nothing will be sent.",
    "confirm.done": "Thank you, it is confirmed",
    "confirm.done.what": "From now on {brand} may send you:",
    "confirm.nothing": "Nothing was switched on",
    "confirm.expired": "This link has expired",
    "confirm.expired.what": (
        "A confirmation link works for seven days. You can choose what you would like to receive "
        "with a new link."
    ),
    # --- when something is wrong ---
    "forged.what": (
        "It may have been cut off or changed on its way. We send you a new one with pleasure."
    ),
    "away.heading": "We could not record your wish just now",
    "away.what": (
        "Our records do not answer at this moment. Please try again in a minute: nothing has been "
        "saved yet."
    ),
    "away.other": "Or tell us in another way, which counts just the same:",
    "away.email": "Write to {address}",
    "away.sms": "Reply STOP to any of our marketing text messages",
    "away.reply": "Reply to any of our messages and say what should stop",
    "away.again": "Try again",
    "bad.what": "The form arrived damaged, and nothing was changed. Please open the page again.",
    "bad.again": "Open the page again",
    # --- mails ---
    "mail.centre.subject": "Your link to your preferences at {brand}",
    "mail.centre.intro": (
        "You asked for a link to see and change what {brand} sends you. Here it is:"
    ),
    "mail.centre.button": "See my preferences",
    "mail.centre.life": "The link works for 72 hours and is meant for you alone.",
    "mail.centre.not_you": "You did not ask for it? Then ignore this message: nothing changes.",
    "mail.confirm.subject": "Please confirm your sign-up at {brand}",
    "mail.confirm.intro": "Somebody signed up with this address at {brand} for:",
    "mail.confirm.ask": "If it was you, please confirm here:",
    "mail.confirm.button": "Confirm my sign-up",
    "mail.confirm.life": "The link works for seven days.",
    "mail.confirm.not_you": "It was not you? Then ignore this message: nothing will be sent.",
    "mail.stop": "To stop marketing to this address:",
    "mail.stop.button": "Unsubscribe",
    "mail.alert.subject": "Alert from your preference service",
    "mail.alert.intro": "The preference service needs somebody to look at this:",
}

TABLES: Mapping[str, Mapping[str, str]] = {"en": ENGLISH}


class Texts:
    """The texts of one language. A key that a translation lacks is read in English."""

    def __init__(self, locale: str) -> None:
        language = locale.partition("-")[0]
        self.language = language if language in TABLES else "en"
        self._table = {**ENGLISH, **TABLES[self.language]}

    def __call__(self, key: str, **values: str) -> str:
        return self._table[key].format(**values)

    def what(self, brand: Brand, scope: Scope) -> str:
        """The scope as it is called within a sentence."""
        if scope.topic is not None:
            return self(f"topic.{scope.channel}", topic=brand.topics.get(scope.topic, scope.topic))
        return self(f"{scope.purpose}.{scope.channel}")

    def why(self, why: Why) -> str:
        key = f"why.{why}"
        return self(key if key in self._table else "why.other")


def wording(texts: Texts, brand: Brand, scopes: Iterable[Scope]) -> str:
    """What the preference centre said, as the evidence of a consent keeps it."""
    lines = [texts("centre.heading", brand=brand.name), texts("centre.intro")]
    lines.append(texts("centre.marketing.hint", brand=brand.name))
    lines += [label(texts, brand, scope) for scope in scopes]
    return "\n".join(lines)


def label(texts: Texts, brand: Brand, scope: Scope) -> str:
    """The words beside a tick box, with the heading it stands under."""
    channel = texts(f"channel.{scope.channel}")
    if scope.purpose is Purpose.REMINDERS:
        return f"{texts('centre.appointments')}: {channel}"
    if scope.purpose is Purpose.SERVICE:
        return f"{texts('centre.service')}: {channel}"
    if scope.topic is None:
        return channel
    return f"{channel}, {texts('centre.topics')}: {brand.topics.get(scope.topic, scope.topic)}"


def address_key(channel: Channel) -> str:
    """Which kind of identifier a masked text on that channel is."""
    return {Channel.SMS: "address.phone"}.get(channel, f"address.{channel}")
