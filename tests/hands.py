"""A person at a page: by mouse, or by keyboard alone. A keyboard gets about by its own keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from playwright.sync_api import Locator, Page

MOST = 150
"""Presses of Tab after which something cannot be reached."""
HAS_FOCUS = "one => one === document.activeElement"
GROUP_HAS_FOCUS = """one => document.activeElement.type === "radio"
  && document.activeElement.name === one.name && document.activeElement.form === one.form"""


class Hands(Protocol):
    def press(self, one: Locator) -> None:
        """A button, a link or a summary."""

    def write(self, one: Locator, text: str) -> None: ...

    def choose(self, one: Locator) -> None:
        """One of several."""

    def tick(self, one: Locator) -> None: ...

    def select(self, one: Locator, option: str) -> None: ...


@dataclass
class Mouse:
    page: Page

    def press(self, one: Locator) -> None:
        one.click()

    def write(self, one: Locator, text: str) -> None:
        one.click()
        self.page.keyboard.insert_text(text)

    def choose(self, one: Locator) -> None:
        one.check()

    def tick(self, one: Locator) -> None:
        one.check()

    def select(self, one: Locator, option: str) -> None:
        one.select_option(label=option)


@dataclass
class Keyboard:
    page: Page

    def press(self, one: Locator) -> None:
        self._reach(one)
        self.page.keyboard.press("Enter")

    def write(self, one: Locator, text: str) -> None:
        self._reach(one)
        self.page.keyboard.insert_text(text)

    def choose(self, one: Locator) -> None:
        self._reach(one, GROUP_HAS_FOCUS)
        self.page.keyboard.press("Space")
        for _ in range(MOST):
            if one.is_checked():
                return
            self.page.keyboard.press("ArrowDown")
        raise AssertionError(f"{one} cannot be chosen by keyboard")

    def tick(self, one: Locator) -> None:
        self._reach(one)
        self.page.keyboard.press("Space")

    def select(self, one: Locator, option: str) -> None:
        self._reach(one)
        self.page.keyboard.type(option)

    def _reach(self, one: Locator, has_focus: str = HAS_FOCUS) -> None:
        wanted = one.element_handle()  # a locator looks for its element each time it is asked
        for _ in range(MOST):
            if wanted.evaluate(has_focus):
                return
            self.page.keyboard.press("Tab")
        raise AssertionError(f"{one} cannot be reached by keyboard")


HANDS: Mapping[str, Callable[[Page], Hands]] = {"mouse": Mouse, "keyboard": Keyboard}
