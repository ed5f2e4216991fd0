"""A real browser and real front ends; tests are skipped if one is missing, unless REQUIRE_BROWSER=1."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import nbformat
import pytest

from colab_helpers.demo import copy_demo
from tests.browser.fronts import SLOW, Lab, Shot, Voila
from tests.browser.servers import LAB, ROOT, VOILA, end_kernels, environment, served

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
_OPTIONS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
    # The tests play videos without a click.
    "--autoplay-policy=no-user-gesture-required",
]  # fmt: skip


def _program() -> str | None:
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _PROGRAMS)), None)


def _missing() -> list[str]:
    modules = [name for name in ("playwright", "voila", "jupyterlab") if not importlib.util.find_spec(name)]
    return modules + ([] if _program() else ["chromium"])


if _missing() and os.environ.get("REQUIRE_BROWSER") == "1":
    raise RuntimeError(f"the browser tests cannot run: {', '.join(_missing())} missing; see .ci/browser")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if _missing():
        pytest.skip(f"{', '.join(_missing())} missing: run .ci/browser, which installs what these tests need")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=_program(), args=_OPTIONS)
        yield chromium
        chromium.close()


def fill(book: nbformat.NotebookNode, values: Mapping[str, object]) -> list[nbformat.NotebookNode]:
    """Replace values of a notebook's form; returns the changed cells."""
    changed = []
    for name, value in values.items():
        line = re.compile(rf"^({name}: \w+ = ).*?(  #@param)", re.MULTILINE)
        (cell,) = [cell for cell in book.cells if cell.cell_type == "code" and line.search(cell.source)]
        cell.source = line.sub(lambda found, value=value: f"{found[1]}{value!r}{found[2]}", cell.source)
        changed += [cell] if cell not in changed else []
    for cell in book.cells:
        cell.metadata.pop("jupyter", None)  # unfold: every cell must be reachable
    return changed


@dataclass(frozen=True)
class Site:
    """The folders shared by all browser tests.

    Attributes:
        notebooks: The servers' root folder, to which tests copy notebooks.
        runs: The default folder for runs; contains the demo.
        demo: Sources, targets and models.
        variables: Environment of servers and their kernels.
    """

    notebooks: Path
    runs: Path
    demo: Path
    variables: dict[str, str]

    def copy(self, notebook: str, name: str, **values: object) -> str:
        """Copy a notebook with other values in its form; returns the copy's name."""
        book = nbformat.read(ROOT / "notebooks" / notebook, as_version=4)
        fill(book, values)
        nbformat.write(book, self.notebooks / name)
        return name

    def form(self, notebook: str, values: Mapping[str, object]) -> list[str]:
        """The changed cells of a notebook's form with other values."""
        book = nbformat.read(ROOT / "notebooks" / notebook, as_version=4)
        return [cell.source for cell in fill(book, values)]

    def long_clip(self, path: Path, times: int) -> Path:
        """Write a second of the demo, repeated: a clip whose run takes long enough to be stopped."""
        with av.open(self.demo / "targets" / "crossing.mp4") as source:
            second = islice(source.decode(video=0), 25)
            frames = [frame.reformat(format="yuv420p") for frame in second]
        with av.open(path, "w") as container:
            stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
            stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, "yuv420p"
            for number, frame in enumerate(frames * times):
                frame.pts, frame.time_base, frame.pict_type = number, Fraction(1, 25), 0
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path


@pytest.fixture(scope="session")
def site(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("browser")
    created = Site(folder / "notebooks", folder / "runs", folder / "runs" / "demo", environment(folder))
    created.notebooks.mkdir()
    copy_demo(created.demo)
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        shutil.copy(path, created.notebooks)
    return created


@pytest.fixture(scope="session")
def lab_address(site: Site) -> Iterator[str]:
    with served(LAB, site.notebooks, site.variables, site.runs.with_name("lab.log")) as address:
        yield address


@pytest.fixture(scope="session")
def voila_address(site: Site) -> Iterator[str]:
    with served(VOILA, site.notebooks, site.variables, site.runs.with_name("voila.log")) as address:
        yield address


@pytest.fixture
def page(browser: Browser, request: pytest.FixtureRequest, shot: Shot) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    context.set_default_timeout(SLOW)
    opened = context.new_page()
    failed = request.session.testsfailed
    yield opened
    if request.session.testsfailed > failed:
        shot(opened, f"failed-{request.node.name}")
    context.close()


@pytest.fixture
def lab(page: Page, lab_address: str) -> Iterator[Lab]:
    yield Lab(page, lab_address)
    end_kernels(lab_address)


@pytest.fixture
def voila(page: Page, voila_address: str) -> Voila:
    return Voila(page, voila_address)


@pytest.fixture(params=["lab", "voila"])
def front(request: pytest.FixtureRequest) -> Lab | Voila:
    """Each of the two front ends."""
    found: Lab | Voila = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def shot() -> Shot:
    """Saves a screenshot of a page or element in the folder named by SCREENSHOTS, if set."""

    def take(what: Any, name: str) -> None:
        folder = os.environ.get("SCREENSHOTS")
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            what.screenshot(path=Path(folder) / f"{name}.png")

    return take
