"""The environment a notebook runs in: the only module that talks to Google Colab and IPython.

Running on Colab does not mean that a user is present, and mounting Drive waits minutes for a browser: every
host has an explicit ``headless`` switch.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from colab_helpers.errors import UsageError
from colab_helpers.files import absolute
from colab_helpers.language import printable, tr
from colab_helpers.machine import (
    DRIVES,
    drive_of,
    is_remote,
    is_unmounted_drive,
    mounted_drive,
    require_reachable,
)

COLAB_RUNS = Path("/content/runs")
RUNS_ENV = "COLAB_HELPERS_RUNS"
"""Environment variable for the folder of runs."""


@dataclass(frozen=True)
class Host:
    """Jupyter, a plain shell, or anything else that is not a Colab VM.

    Attributes:
        headless: No user is there to click or answer.
        has_cells: The user runs cells; if not, everything is done with buttons.
        has_buttons: Buttons react, and widgets are updated, while no cell runs.
    """

    headless: bool = False
    has_cells: ClassVar[bool] = True
    has_buttons: ClassVar[bool] = True

    @property
    def runs(self) -> Path:
        """Parent folder of all runs: ``COLAB_HELPERS_RUNS``, else ``runs`` in the checkout.

        For an installed wheel, ``runs`` in the working folder; on Colab, see ``ColabHost``.
        """
        if os.environ.get(RUNS_ENV):
            return absolute(os.environ[RUNS_ENV])
        return self._default_runs()

    def _default_runs(self) -> Path:
        root = Path(__file__).resolve().parents[2]
        return (root if (root / "pyproject.toml").exists() else Path.cwd()) / "runs"

    def new_run_folder(self) -> Path:
        """Return the path of a new folder under ``runs``, named by the time; it is not created."""
        first = self.runs / time.strftime("%Y%m%d-%H%M%S")
        folder, number = first, 2
        while folder.exists():
            folder, number = first.with_name(f"{first.name}-{number}"), number + 1
        return folder

    def retention_note(self, folder: Path) -> str:
        """Return a sentence on how to keep the files in a folder; empty if they stay anyway."""
        return ""

    def ensure_reachable(self, *paths: Path) -> None:
        """Mount what the paths need, such as Google Drive, and check that all are reachable.

        Raise UsageError if a path is not reachable, or mounting needs a user at a browser.
        """
        require_reachable(paths)

    def secret(self, name: str) -> str | None:
        """Return a password or token that the user keeps outside the notebook, if there is one."""
        return os.environ.get(name) or None

    def upload(self, folder: Path) -> list[Path]:
        """Let the user upload files into a folder; return their paths, or raise UsageError if impossible."""
        remedy = tr("enter their paths, or upload them in the panel or in your notebook frontend")
        raise UsageError(tr("a cell can upload files on Google Colab only"), remedy=remedy)

    def download(self, path: Path) -> None:
        """Let the browser download a file; raise UsageError if that is not possible here."""
        what, remedy = tr("a cell can download files on Google Colab only"), tr("copy it from there")
        raise UsageError(what, where=str(path), remedy=remedy)

    def show(self, html: str, text: str, *, kept: bool = False) -> None:
        """Show HTML in a notebook; print the text instead outside notebooks, or if headless.

        With ``kept``, show HTML in a headless notebook, too, for readers of the executed copy.
        """
        if not in_notebook() or (self.headless and not kept):
            print(printable(text), flush=True)
            return
        ipython: Any = importlib.import_module("IPython.display")
        ipython.publish_display_data({"text/html": printable(html), "text/plain": printable(text)})

    def call_repeatedly(self, action: Callable[[], bool], seconds: float) -> None:
        """Call ``action`` every so many seconds between cells, until it returns False.

        Runs in the kernel's main thread: widget updates from other threads may be lost.
        """
        loop = asyncio.get_running_loop()

        def step() -> None:
            if action():
                loop.call_later(seconds, step)

        loop.call_soon(step)


class VoilaHost(Host):
    """Voila, which runs all cells before it shows a page and none after."""

    has_cells = False


class ColabHost(Host):
    """A Google Colab VM; it does not show changes made after a cell has ended (colabtools #3373)."""

    has_buttons = False

    def _default_runs(self) -> Path:
        """Return a folder on Drive if it is mounted: the VM's disk is deleted with the session."""
        drive = mounted_drive()
        return drive / "colab_helpers" / "runs" if drive else COLAB_RUNS

    def ensure_reachable(self, *paths: Path) -> None:
        """Mount Google Drive if a path is on it and it is not mounted elsewhere, then check all paths."""
        missing = [path for path in paths if is_unmounted_drive(path)]
        if missing and mounted_drive() is None:
            self._mount(missing[0])
        super().ensure_reachable(*paths)

    def retention_note(self, folder: Path) -> str:
        """Say that files on a mounted drive stay, or that the VM's disk is deleted with the session."""
        if drive_of(folder) and not is_unmounted_drive(folder):
            return tr("The results are on Google Drive and stay there.")
        if is_remote(folder):
            return tr("The results are on a mounted drive and stay there.")
        return tr(
            "This disk is deleted with the session. To keep the results, download them (folder icon at the "
            "left, then the file's menu), or choose an output folder under {drive}.",
            drive=DRIVES[0] / "MyDrive",
        )

    def _require_user(self, what: str, *, remedy: str, where: str = "") -> None:
        if self.headless:
            raise UsageError(what, where=where, remedy=remedy)

    def _mount(self, path: Path) -> None:
        what = tr("Google Drive is not mounted, and a headless session has no user to allow access")
        remedy = tr("mount Drive in the session first, or use files under /content")
        self._require_user(what, where=str(path), remedy=remedy)
        from google.colab import drive

        cause, reason = None, tr("access was not allowed")
        try:
            drive.mount(str(drive_of(path)))
        except Exception as error:  # noqa: BLE001 - Colab raises its own exception classes
            cause, reason = error, str(error) or type(error).__name__
        if is_unmounted_drive(path):
            what = tr("Google Drive was not mounted ({reason})", reason=reason)
            remedy = tr("run the cell again and allow access, or use files under /content")
            raise UsageError(what, where=str(path), remedy=remedy) from cause

    def secret(self, name: str) -> str | None:
        """Return the environment variable of that name, else the secret from Colab's sidebar."""
        value = super().secret(name)
        if value or self.headless:
            return value
        from google.colab import userdata

        try:
            return str(userdata.get(name)) or None
        except Exception:  # noqa: BLE001 - missing, not granted, or timed out: all mean no secret
            return None

    def upload(self, folder: Path) -> list[Path]:
        """Show an upload dialog in the cell's output."""
        remedy = tr("enter the paths of the files")
        self._require_user(tr("a headless session has no user to choose files"), remedy=remedy)
        from google.colab import files

        folder.mkdir(parents=True, exist_ok=True)
        # The returned names tell under which numbered name Colab has stored a file that existed already.
        return [folder / Path(name).name for name in files.upload(target_dir=str(folder))]

    def download(self, path: Path) -> None:
        """Let the browser save the file."""
        what = tr("a headless session has no browser to save a file")
        self._require_user(what, where=str(path), remedy=tr("copy it from there"))
        from google.colab import files

        files.download(str(path))


def this_host(*, headless: bool = False) -> Host:
    """Return the host this session runs on; ``headless`` if no user can click or answer (papermill, CI)."""
    if "google.colab" in sys.modules:
        return ColabHost(headless)
    if os.environ.get("SERVER_SOFTWARE", "").startswith("voila"):
        return VoilaHost(headless)
    return Host(headless)


def in_notebook() -> bool:
    """Return whether this code runs in a notebook kernel, which can display HTML."""
    return _kernel() is not None


def has_frontend() -> bool:
    """Return whether a user can answer prompts; papermill and nbclient run cells without one."""
    # Colab does not use the kernel's stdin for its dialogs.
    return "google.colab" in sys.modules or bool(getattr(_kernel(), "_allow_stdin", True))


def _kernel() -> Any:
    ipython = sys.modules.get("IPython")
    return getattr(ipython.get_ipython() if ipython else None, "kernel", None)


def open_html_area() -> Callable[[str], None] | None:
    """Show an area below the notebook's cell, and return a function that replaces its HTML.

    Call that from the main thread, at most once a second. None outside notebooks and without ipywidgets.
    """
    library = widget_library()
    if library is None:
        return None
    area = library.HTML()
    show_widget(area)

    def replace(html: str) -> None:
        area.value = printable(html)

    return replace


def widget_library() -> Any | None:
    """Return the ipywidgets module; None outside notebooks or if it is not installed."""
    if not in_notebook():
        return None
    try:
        return importlib.import_module("ipywidgets")
    except ImportError:
        return None


def show_widget(widget: Any) -> None:
    """Show a widget below the notebook's cell."""
    display: Any = importlib.import_module("IPython.display")
    display.display(widget)
