"""The database's time, as a process knows it whatever its way there is like."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest

from prefs.store.clock import DatabaseClock
from prefs.store.database import Database
from tests import empty
from tests.way import Way

pytestmark = pytest.mark.postgresql


def test_an_answer_that_comes_late_moves_no_clock(tmp_path: Path) -> None:
    """By half of what it took, the time of this process was ahead: whoever opted in here would
    have been later than an opt-out that followed elsewhere."""
    with Way(empty.database(tmp_path)) as way, Database(way.url) as database:
        clock = DatabaseClock(database)
        before = clock().timestamp() - time.time()
        way.cut()
        mending = threading.Timer(3.0, way.mend)
        mending.start()
        asyncio.run(clock.sync())
        mending.join()
        after = clock().timestamp() - time.time()
        assert abs(after - before) < 0.5
        asyncio.run(clock.sync())
