"""Where a notebook runs: the only door to Google Colab and to IPython.

Being on Colab does not mean that somebody is there to answer: mounting Drive waits minutes for a
browser. Every host therefore carries one explicit switch, ``headless``, and obeys it.
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
"""Environment variable that names the folder for runs."""


@dataclass(frozen=True)
class Host:
    """Jupyter, a plain shell, or any machine that is not a Colab VM.

    Attributes:
        headless: Nobody is there to click or answer.
        has_cells: Somebody runs cells; where nobody does, everything is done with buttons.
        has_buttons: Buttons answer, and widgets are painted, while no cell runs.
    """

    headless: bool = False
    has_cells: ClassVar[bool] = True
    has_buttons: ClassVar[bool] = True

    @property
    def runs(self) -> Path:
        """Folder under which each run gets one of its own.

        ``COLAB_HELPERS_RUNS``; or ``runs`` in the checkout, and for a wheel in the working folder.
        """
        if os.environ.get(RUNS_ENV):
            return absolute(os.environ[RUNS_ENV])
        return self._usual_runs()

    def _usual_runs(self) -> Path:
        root = Path(__file__).resolve().parents[2]
        return (root if (root / "pyproject.toml").exists() else Path.cwd()) / "runs"

    def new_run_folder(self) -> Path:
        """Return a folder under ``runs`` that is not there yet, named by the time."""
        first = self.runs / time.strftime("%Y%m%d-%H%M%S")
        folder, number = first, 2
        while folder.exists():
            folder, number = first.with_name(f"{first.name}-{number}"), number + 1
        return folder

    def retention_note(self, folder: Path) -> str:
        """Say how to keep what lies in a folder; nothing where it stays anyway."""
        return ""

    def ensure_reachable(self, *paths: Path) -> None:
        """Open places that have to be opened first, such as Google Drive, and refuse those out of reach.

        Raises:
            UsageError: A place cannot be reached, or opening it takes somebody at a browser.
        """
        require_reachable(paths)

    def secret(self, name: str) -> str | None:
        """Return a password or token that the user keeps outside the notebook; None where there is none."""
        return os.environ.get(name) or None

    def upload(self, folder: Path) -> list[Path]:
        """Ask for files of the computer that the browser runs on; none where nothing was chosen.

        Raises:
            UsageError: There is no way to ask for them here.
        """
        raise UsageError(
            tr("files can be uploaded by a cell on Google Colab only"),
            remedy=tr("write their paths, or use the upload of the panel or of your front end"),
        )

    def download(self, path: Path) -> None:
        """Hand a file to the computer that the browser runs on.

        Raises:
            UsageError: There is no way to do so here.
        """
        raise UsageError(
            tr("files can be downloaded by a cell on Google Colab only"),
            where=str(path),
            remedy=tr("take it from there"),
        )

    def show(self, html: str, text: str, *, kept: bool = False) -> None:
        """Show HTML in a notebook that somebody watches; elsewhere print the same in words.

        ``kept``: show it headless, too, for whoever opens the executed notebook later.
        """
        if not in_notebook() or (self.headless and not kept):
            print(printable(text), flush=True)
            return
        ipython: Any = importlib.import_module("IPython.display")
        ipython.publish_display_data({"text/html": printable(html), "text/plain": printable(text)})

    def call_repeatedly(self, action: Callable[[], bool], seconds: float) -> None:
        """Call something again and again between cells, in the kernel's main thread, until it says False.

        What is painted from another thread may be lost.
        """
        loop = asyncio.get_running_loop()

        def beat() -> None:
            if action():
                loop.call_later(seconds, beat)

        loop.call_soon(beat)


class VoilaHost(Host):
    """Voila, which runs all cells before it shows a page and none after."""

    has_cells = False


class ColabHost(Host):
    """A Google Colab VM. What changes after a cell has ended is not painted there (colabtools #3373)."""

    has_buttons = False

    def _usual_runs(self) -> Path:
        """On Drive where it is mounted: the disk ends with the session."""
        drive = mounted_drive()
        return drive / "colab_helpers" / "runs" if drive else COLAB_RUNS

    def ensure_reachable(self, *paths: Path) -> None:
        """Mount Google Drive when one of the paths lies on it, unless it is mounted elsewhere."""
        missing = [path for path in paths if is_unmounted_drive(path)]
        if missing and mounted_drive() is None:
            self._mount(missing[0])
        super().ensure_reachable(*paths)

    def retention_note(self, folder: Path) -> str:
        """Say where results stay, or that the VM's disk ends with the session."""
        if drive_of(folder) and not is_unmounted_drive(folder):
            return tr("The results are on Google Drive and stay there.")
        if is_remote(folder):
            return tr("The results are on a mounted drive and stay there.")
        return tr(
            "This disk ends with the session. To keep the results, download them (folder icon at the left, "
            "then the file's menu), or name an output folder under {drive}.",
            drive=DRIVES[0] / "MyDrive",
        )

    def _require_user(self, what: str, *, remedy: str, where: str = "") -> None:
        if self.headless:
            raise UsageError(what, where=where, remedy=remedy)

    def _mount(self, path: Path) -> None:
        self._require_user(
            tr("Google Drive is not mounted, and a headless session has nobody to allow it"),
            where=str(path),
            remedy=tr("mount Drive in the session first, or use files under /content"),
        )
        from google.colab import drive

        cause, reason = None, tr("access was not allowed")
        try:
            drive.mount(str(drive_of(path)))
        except Exception as error:  # noqa: BLE001 - refusals, time-outs and faults come in classes of Colab's own
            cause, reason = error, str(error) or type(error).__name__
        if is_unmounted_drive(path):
            raise UsageError(
                tr("Google Drive was not mounted ({reason})", reason=reason),
                where=str(path),
                remedy=tr("run the cell again and allow access, or use files under /content"),
            ) from cause

    def secret(self, name: str) -> str | None:
        """Return the environment variable of that name, or the secret kept in Colab's sidebar."""
        kept = super().secret(name)
        if kept or self.headless:
            return kept
        from google.colab import userdata

        try:
            return str(userdata.get(name)) or None
        except Exception:  # noqa: BLE001 - missing, not granted, or nobody there: the same to whoever asks
            return None

    def upload(self, folder: Path) -> list[Path]:
        """Ask in the cell's output."""
        remedy = tr("write the paths of the files")
        self._require_user(tr("a headless session has nobody to choose files"), remedy=remedy)
        from google.colab import files

        folder.mkdir(parents=True, exist_ok=True)
        # Colab adds a number to the name of a file that is there already; what it returns says which.
        return [folder / Path(name).name for name in files.upload(target_dir=str(folder))]

    def download(self, path: Path) -> None:
        """Have the browser save it."""
        what = tr("a headless session has no browser to save a file")
        self._require_user(what, where=str(path), remedy=tr("copy it"))
        from google.colab import files

        files.download(str(path))


def this_host(*, headless: bool = False) -> Host:
    """Return the host this session runs on; ``headless`` where nobody can click or answer (papermill, CI)."""
    if "google.colab" in sys.modules:
        return ColabHost(headless)
    if os.environ.get("SERVER_SOFTWARE", "").startswith("voila"):
        return VoilaHost(headless)
    return Host(headless)


def in_notebook() -> bool:
    """Tell whether this code runs in a notebook's kernel, where output may be more than text."""
    return _kernel() is not None


def has_front_end() -> bool:
    """Tell whether somebody can answer this session; papermill and nbclient run cells for nobody."""
    # Colab has questions of its own.
    return "google.colab" in sys.modules or bool(getattr(_kernel(), "_allow_stdin", True))


def _kernel() -> Any:
    ipython = sys.modules.get("IPython")
    return getattr(ipython.get_ipython() if ipython else None, "kernel", None)


def open_html_area() -> Callable[[str], None] | None:
    """Make a place below the notebook's cell whose HTML can be replaced.

    Returns:
        Replaces it; call it from the main thread and at most once a second. None outside notebooks and
        where there are no widgets.
    """
    widgets = widget_library()
    if widgets is None:
        return None
    page = widgets.HTML()
    show_widget(page)

    def replace(html: str) -> None:
        page.value = printable(html)

    return replace


def widget_library() -> Any | None:
    """Return ipywidgets where a notebook can show them; None outside notebooks and where there are none."""
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
