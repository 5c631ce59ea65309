"""Which connected systems follow a wish, as a person reads it."""

from __future__ import annotations

from collections.abc import Collection

from prefs.core.words import Channel
from prefs.web.context import Service
from prefs.web.texts import Texts


def following(
    served: Service, texts: Texts, brands: Collection[str], channels: Collection[Channel]
) -> list[str]:
    """The names of the systems that we write to and that hold one of these channels."""
    targets = served.settings.targets
    names = (
        texts.system(info.system)
        for info in served.intake.targets
        if info.brand in brands and info.channels & set(channels) and targets[info.label].live
    )
    return list(dict.fromkeys(names))
