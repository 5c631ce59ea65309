"""What every route works with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from starlette.requests import Request

from prefs.core.keys import Keyring
from prefs.intake import Intake
from prefs.settings import Settings
from prefs.store.database import Database


@dataclass(frozen=True, slots=True)
class Service:
    settings: Settings
    database: Database
    intake: Intake
    keys: Keyring
    clock: Callable[[], datetime]


def service(request: Request) -> Service:
    found: Service = request.app.state.service
    return found
