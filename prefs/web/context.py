"""What every route works with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from starlette.requests import Request

from prefs.checkpoints import Checkpoints, Watch
from prefs.core.keys import Keyring
from prefs.core.propagation import Facts, Target
from prefs.door import Door
from prefs.intake import Intake
from prefs.scan import Scan
from prefs.settings import Settings
from prefs.store.database import Database
from prefs.store.permissions import LookUp


@dataclass(frozen=True, slots=True)
class Service:
    settings: Settings
    database: Database
    intake: Intake
    keys: Keyring
    clock: Callable[[], datetime]
    door: Door
    look_up: LookUp
    watch: Watch = field(default_factory=Watch)
    checkpoints: Checkpoints | None = None


@dataclass(frozen=True, slots=True)
class Vendors:
    """What the console reads of systems: facts by system, and a way to read a target through."""

    facts: Mapping[str, Facts]
    scan: Callable[[Target], Scan]


def vendors(request: Request) -> Vendors:
    found: Vendors = request.app.state.vendors
    return found


def service(request: Request) -> Service:
    found: Service = request.app.state.service
    return found
