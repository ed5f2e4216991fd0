"""Where a notebook runs: the only door to Google Colab and to IPython.

Being on Colab does not mean that somebody is there to answer: mounting Drive waits minutes for a
browser. Every host therefore carries one explicit switch, ``headless``, and obeys it.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from colab_helpers.errors import UsageError
from colab_helpers.files import absolute
from colab_helpers.language import printable, tr
from colab_helpers.machine import DRIVES, drive_of, home, is_remote, is_unmounted_drive, mounted_drive

COLAB_RUNS = Path("/content/runs")
RUNS = "COLAB_HELPERS_RUNS"
"""Environment variable that names the folder for runs."""
_beats: set[asyncio.Task[None]] = set()


class Host(Protocol):
    """What a notebook may ask of the place it runs in."""

    @property
    def name(self) -> str:
        """The place, in a word or two."""

    @property
    def headless(self) -> bool:
        """Whether nobody is there to click or answer."""

    @property
    def runs(self) -> Path:
        """Folder under which each run gets one of its own."""

    @property
    def home(self) -> Path:
        """Folder for what outlives a run: saved people and presets."""

    @property
    def has_cells(self) -> bool:
        """Whether somebody runs cells; where nobody does, everything is done with buttons."""

    @property
    def has_buttons(self) -> bool:
        """Whether buttons answer, and widgets are painted, while no cell runs."""

    def keeping(self, folder: Path) -> str:
        """How to keep what lies in a folder, in a sentence; empty where it stays anyway."""

    def reach(self, paths: Iterable[Path]) -> None:
        """Make places readable that have to be opened first, such as Google Drive.

        Raises:
            UsageError: It takes somebody's consent in a browser and nobody is there, or it failed.
        """

    def secret(self, name: str) -> str | None:
        """A password or token that the user keeps outside the notebook; None where there is none."""

    def upload(self, folder: Path) -> list[Path]:
        """Ask for files of the computer that the browser runs on; none where nothing was chosen.

        Args:
            folder: Where they go; made if missing.

        Raises:
            UsageError: There is no way to ask for them here.
        """

    def download(self, path: Path) -> None:
        """Hand a file to the computer that the browser runs on.

        Raises:
            UsageError: There is no way to do so here.
        """

    def show_html(self, html: str, *, text: str) -> None:
        """Show HTML where that is possible, otherwise print ``text``."""


@dataclass(frozen=True)
class LocalHost:
    """Jupyter, a plain shell, or any machine that is not a Colab VM."""

    headless: bool = False
    name: str = "this machine"
    has_cells: bool = True
    has_buttons: bool = True

    @property
    def runs(self) -> Path:
        """``COLAB_HELPERS_RUNS``; or ``runs`` in the checkout, and for a wheel in the working folder."""
        if os.environ.get(RUNS):
            return absolute(os.environ[RUNS])
        root = Path(__file__).resolve().parents[2]
        return (root if (root / "pyproject.toml").exists() else Path.cwd()) / "runs"

    @property
    def home(self) -> Path:
        """``COLAB_HELPERS_HOME``, or a folder of the user's own."""
        return home()

    def keeping(self, folder: Path) -> str:
        """Nothing: a disk of one's own stays."""
        return ""

    def reach(self, paths: Iterable[Path]) -> None:
        """Nothing to open: what is not there is reported by whoever reads it."""

    def secret(self, name: str) -> str | None:
        """The environment variable of that name."""
        return os.environ.get(name) or None

    def upload(self, folder: Path) -> list[Path]:
        """Nothing to bring: the files are where the notebook runs, or the front end takes them there."""
        raise UsageError(
            tr("files can be uploaded by a cell on Google Colab only"),
            remedy=tr("write their paths, or use the upload of the panel or of your front end"),
        )

    def download(self, path: Path) -> None:
        """Nothing to hand over: the file is where the user named it."""
        raise UsageError(
            tr("files can be downloaded by a cell on Google Colab only"),
            where=str(path),
            remedy=tr("take it from there"),
        )

    def show_html(self, html: str, *, text: str) -> None:
        """Show HTML in the notebook, or print ``text`` in a shell."""
        _display(html, text)


@dataclass(frozen=True)
class VoilaHost(LocalHost):
    """Voila, which runs all cells before it shows a page and none after."""

    has_cells: bool = False


@dataclass(frozen=True)
class ColabHost:
    """A Google Colab VM. What changes after a cell has ended is not painted there (colabtools #3373)."""

    headless: bool = False
    name: str = "Google Colab"
    has_cells: bool = True
    has_buttons: bool = False

    @property
    def runs(self) -> Path:
        """``COLAB_HELPERS_RUNS``, or on Drive where it is mounted: the disk ends with the session."""
        if os.environ.get(RUNS):
            return absolute(os.environ[RUNS])
        drive = mounted_drive()
        return drive / "colab_helpers" / "runs" if drive else COLAB_RUNS

    @property
    def home(self) -> Path:
        """``COLAB_HELPERS_HOME``, or Drive where it is mounted."""
        return home()

    def reach(self, paths: Iterable[Path]) -> None:
        """Mount Google Drive when one of the paths lies on it, unless it is mounted elsewhere."""
        missing = [path for path in paths if is_unmounted_drive(path)]
        if missing and mounted_drive() is None:
            self._mount(missing[0])

    def keeping(self, folder: Path) -> str:
        """Say where results stay, or that the VM's disk ends with the session."""
        if is_remote(folder) or (drive_of(folder) and not is_unmounted_drive(folder)):
            if drive_of(folder):
                return tr("The results are on Google Drive and stay there.")
            return tr("The results are on a mounted drive and stay there.")
        return tr(
            "This disk ends with the session. To keep the results, download them (folder icon at the left, "
            "then the file's menu), or name an output folder under {drive}.",
            drive=DRIVES[0] / "MyDrive",
        )

    def _mount(self, path: Path) -> None:
        if self.headless:
            raise UsageError(
                tr("Google Drive is not mounted, and a headless session has nobody to allow it"),
                where=str(path),
                remedy=tr("mount Drive in the session first, or use files under /content"),
            )
        from google.colab import drive

        place = drive_of(path)
        cause, reason = None, tr("access was not allowed")
        try:
            drive.mount(str(place))
        except Exception as error:  # noqa: BLE001 - refusals, time-outs and faults come in classes of Colab's own
            cause, reason = error, str(error) or type(error).__name__
        if is_unmounted_drive(path):
            raise UsageError(
                tr("Google Drive was not mounted ({reason})", reason=reason),
                where=str(path),
                remedy=tr("run the cell again and allow access, or use files under /content"),
            ) from cause

    def secret(self, name: str) -> str | None:
        """The environment variable of that name, or the secret kept in Colab's sidebar."""
        kept = os.environ.get(name)
        if kept or self.headless:
            return kept or None
        from google.colab import userdata

        try:
            return str(userdata.get(name)) or None
        except Exception:  # noqa: BLE001 - missing, not granted, or nobody there: the same to whoever asks
            return None

    def upload(self, folder: Path) -> list[Path]:
        """Ask in the cell's output."""
        if self.headless:
            raise UsageError(
                tr("a headless session has nobody to choose files"), remedy=tr("write the paths of the files")
            )
        from google.colab import files

        folder.mkdir(parents=True, exist_ok=True)
        # Colab adds a number to the name of a file that is there already; what it returns says which.
        return [folder / Path(name).name for name in files.upload(target_dir=str(folder))]

    def download(self, path: Path) -> None:
        """Have the browser save it."""
        if self.headless:
            raise UsageError(
                tr("a headless session has no browser to save a file"), where=str(path), remedy=tr("copy it")
            )
        from google.colab import files

        files.download(str(path))

    def show_html(self, html: str, *, text: str) -> None:
        """Show HTML in the notebook."""
        _display(html, text)


def this_host(*, headless: bool = False) -> Host:
    """The host this session runs on.

    Args:
        headless: Nobody is there to click or answer (papermill, CI).
    """
    if "google.colab" in sys.modules:
        return ColabHost(headless=headless)
    if os.environ.get("SERVER_SOFTWARE", "").startswith("voila"):
        return VoilaHost(headless=headless)
    return LocalHost(headless=headless)


def in_notebook() -> bool:
    """Whether this code runs in a notebook's kernel, where output may be more than text."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return hasattr(shell, "kernel")


def has_front_end() -> bool:
    """Whether somebody sits before this session; papermill and nbclient run cells that nobody can answer."""
    ipython = sys.modules.get("IPython")
    kernel = getattr(ipython.get_ipython() if ipython else None, "kernel", None)
    # Colab has questions of its own.
    return "google.colab" in sys.modules or bool(getattr(kernel, "_allow_stdin", True))


def open_panel() -> Callable[[str], None] | None:
    """Make a place below the notebook's cell whose HTML can be replaced.

    Returns:
        Replaces it; call it from the main thread and at most once a second. None outside notebooks and
        where there are no widgets.
    """
    widgets = widget_library()
    if widgets is None:
        return None
    panel = widgets.HTML()
    show_widget(panel)

    def replace(html: str) -> None:
        panel.value = printable(html)

    return replace


def widget_library() -> Any | None:
    """ipywidgets, where a notebook can show them; None outside notebooks and where there are no widgets."""
    if not in_notebook():
        return None
    try:
        return importlib.import_module("ipywidgets")
    except ImportError:
        return None


def repeat(action: Callable[[], bool], seconds: float) -> None:
    """Call something again and again in the kernel's main thread, while no cell runs, until it says False.

    What is painted from another thread may be lost.
    """

    async def beat() -> None:
        while action():
            await asyncio.sleep(seconds)

    task = asyncio.get_running_loop().create_task(beat())
    # The loop itself does not keep it.
    _beats.add(task)
    task.add_done_callback(_beats.discard)


def show_widget(widget: Any) -> None:
    """Show a widget below the notebook's cell."""
    display: Any = importlib.import_module("IPython.display")
    display.display(widget)


def _display(html: str, text: str) -> None:
    html, text = printable(html), printable(text)
    if not in_notebook():
        print(text)
        return
    ipython: Any = importlib.import_module("IPython.display")
    ipython.publish_display_data({"text/html": html, "text/plain": text})
