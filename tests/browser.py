"""A real browser for tests: Debian's Chromium, driven by playwright.

Its headless shell, where there is one: the same engine without windows and tabs, which take as much
of the machine's time as the pages do."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, sync_playwright

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
HOW_TO_GET_ONE = (
    "no browser found: apt-get install chromium-headless-shell, or set PREFS_BROWSER=/path/to/one"
)
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def found() -> str | None:
    return os.environ.get("PREFS_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def running() -> Iterator[Browser]:
    """Skips where there is no browser, unless nothing may be skipped."""
    path = found()
    if path is None:
        if os.environ.get("PREFS_NO_SKIP"):
            pytest.fail("no browser found")
        pytest.skip(HOW_TO_GET_ONE)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=path, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()
