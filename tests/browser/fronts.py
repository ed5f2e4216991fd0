"""JupyterLab and Voila, driven as a user would: open a notebook, run it, look at it."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.conftest import TIMEOUT

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

Shot = Callable[[Any, str], None]
"""Takes a screenshot of a page or element under a name."""
SLOW = TIMEOUT * 1000
"""Milliseconds allowed for a whole notebook on a busy machine."""

_ERRORS = (
    '[data-mime-type="application/vnd.jupyter.error"], [data-mime-type="application/vnd.jupyter.stderr"], '
    ".voila-error, .jp-RenderedError"
)


class _FrontEnd:
    name = ""

    def __init__(self, page: Page, address: str) -> None:
        self.page, self.address = page, address
        self.actions = 0  # user actions so far

    def errors(self) -> list[str]:
        """The errors shown on the page."""
        return self.page.locator(_ERRORS).all_inner_texts()

    def act(self) -> None:
        self.actions += 1

    def tab(self, title: str) -> None:
        self.act()
        self.page.locator(".widget-tab li").filter(has_text=re.compile(f"^{title}$")).click()

    def button(self, label: str) -> Locator:
        return self.page.locator(".widget-button:visible").filter(has_text=re.compile(f"^{label}$"))

    def press(self, label: str) -> None:
        self.act()
        self.button(label).click()

    def sees(self, text: str) -> None:
        self.page.get_by_text(text).locator("visible=true").first.wait_for(timeout=SLOW)

    def changes(self, what: Locator, before: str, *, attribute: str = "") -> str:
        """Wait until a text or an attribute differs from ``before``; returns it.

        Uses one query for all elements, since refreshed ones may be gone at the next query.
        """
        script = "(all, name) => all.map(one => name ? one.getAttribute(name) : one.textContent)"
        end = time.monotonic() + SLOW / 1000
        while time.monotonic() < end:
            found = what.evaluate_all(script, attribute)
            if found and found[0] is not None and found[0] != before:
                return str(found[0])
            self.page.wait_for_timeout(50)
        raise AssertionError(f"it remained {before!r}")

    def plays(self, video: Locator) -> None:
        """Play a video: it has pictures and its time advances."""
        video.scroll_into_view_if_needed()
        video.evaluate("one => one.play()")
        self.page.wait_for_function(
            "one => one.currentTime > 0.2 && one.videoWidth > 0", arg=video.element_handle()
        )

    def field(self, label: str) -> Locator:
        return self.page.locator(f'.jupyter-widgets:visible:has(> label:text-is("{label}"))').last


class Lab(_FrontEnd):
    """JupyterLab."""

    name = "lab"
    _workspaces = itertools.count()

    def open(self, notebook: str) -> None:
        self.act()
        self.page.goto(f"{self.address}/lab/workspaces/w{next(self._workspaces)}/tree/{notebook}")
        self.page.locator(".jp-Notebook .jp-CodeCell").first.wait_for(timeout=SLOW)
        # Until the kernel has started, running a cell would ask for one.
        self.page.get_by_text(re.compile(r"\| Idle$")).first.wait_for(timeout=SLOW)

    def _menu(self, menu: str, item: str) -> None:
        self.act()
        self.page.locator(".lm-MenuBar-itemLabel").filter(has_text=re.compile(f"^{menu}$")).click()
        self.page.locator(".lm-Menu-itemLabel").filter(has_text=re.compile(f"^{item}$")).click()

    def run_all(self) -> None:
        self._menu("Run", "Run All Cells")

    def interrupt(self) -> None:
        self._menu("Kernel", "Interrupt Kernel")

    def code_cells(self) -> Locator:
        return self.page.locator(".jp-Notebook .jp-CodeCell")

    def cell(self, title: str) -> Locator:
        return self.code_cells().filter(
            has=self.page.locator(".jp-InputArea-editor").filter(has_text=f"#@title {title}")
        )

    def run_cell(self, title: str) -> None:
        self.act()
        self.cell(title).locator(".jp-InputArea-editor").click()
        self.page.keyboard.press("Control+Enter")

    def write(self, title: str, text: str) -> None:
        """Replace the text of the cell with a title."""
        self.act()
        self.cell(title).locator(".jp-InputArea-editor").click()
        self.page.keyboard.press("Control+a")
        self.page.keyboard.insert_text(text)

    def finish(self) -> None:
        """Wait until every code cell has been run."""
        self.page.wait_for_function(
            """errors => {
                const prompts = [...document.querySelectorAll(".jp-Notebook .jp-CodeCell .jp-InputPrompt")];
                // A folded cell has no visible prompt.
                const shown = prompts.map(one => one.textContent).filter(text => text);
                const ended = shown.length && shown.every(text => /\\[\\d+\\]:/.test(text));
                return ended || document.querySelector(errors);
            }""",
            arg=_ERRORS,
            timeout=SLOW,
        )
        assert self.errors() == []


class Voila(_FrontEnd):
    """Voila, which runs all cells before it shows the page."""

    name = "voila"

    def open(self, notebook: str) -> None:
        """Open a notebook, which runs it."""
        self.act()
        self.page.goto(f"{self.address}/voila/render/{notebook}", timeout=SLOW)

    def run_all(self) -> None:
        """Do nothing: opening runs all cells."""

    def finish(self) -> None:
        """Wait until the page is complete, with its last heading."""
        self.page.get_by_role("heading", name="Troubleshooting").wait_for(timeout=SLOW)
