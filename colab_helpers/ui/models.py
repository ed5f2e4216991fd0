"""What the cells of ``preload.ipynb`` call: which models a preset needs, getting them, proving them."""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict
from tqdm.auto import tqdm

from colab_helpers.diagnosis import Diagnosis
from colab_helpers.diagnosis.doctor import QUESTIONS, examine
from colab_helpers.diagnosis.subject import Subject
from colab_helpers.errors import ColabHelpersError, LicenceError, ModelError
from colab_helpers.files import write_atomically
from colab_helpers.language import mark, speak, tr
from colab_helpers.models.catalog import Licence, ModelEntry, load_catalog, needed_models
from colab_helpers.models.half import wants_half
from colab_helpers.models.inventory import look_at
from colab_helpers.models.preload import TOKEN, PreloadReport, preload
from colab_helpers.models.progress import Progress
from colab_helpers.models.session import Runtime, is_standin, models_root
from colab_helpers.models.transfer import FetchOptions
from colab_helpers.presets import load_presets
from colab_helpers.request import PreloadRequest
from colab_helpers.settings import Settings
from colab_helpers.ui.cells import PRELOAD_REPORT
from colab_helpers.ui.doctor import failure_text, models_folder, prepare_folder, show, show_diagnosis
from colab_helpers.ui.host import Host, this_host
from colab_helpers.ui.progress import TEXT_INTERVAL

State = Literal["there", "unknown", "missing", "damaged", "stand-in"]
_STATES: dict[State, str] = {
    "there": mark("there"),
    "unknown": mark("unknown"),
    "missing": mark("missing"),
    "damaged": mark("damaged"),
    "stand-in": mark("stand-in"),
}
_USED: tuple[State, ...] = ("there", "unknown", "stand-in")
CONVERTED_ROLES = ("swapper", "enhancer")
_STANDIN_LICENCE = Licence(
    name="Apache-2.0",
    link="",
    non_commercial=False,
    forbids=mark("Nothing beyond its terms; part of the demo."),
)

_STANDIN_HINT = mark(
    "The demo's stand-in networks know the demo's rendered people only: for the real ones untick demo, or "
    "name another folder in models_dir."
)


class PreloadError(ColabHelpersError, RuntimeError):
    """A model could not be fetched, or is in place but does not run as it should."""

    refusal = False


class NeededModel(BaseModel):
    """A model of the preset and what is on the disk.

    Attributes:
        bytes: Size of what is there, else of what would be fetched; None if unknown.
        forbids: What its licence forbids, in one sentence.
        note: What is wrong with the file, that nobody knows it, or where else it was found.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    role: str
    licence: str
    licence_link: str
    non_commercial: bool
    forbids: str
    bytes: int | None
    state: State
    note: str = ""


class PreloadResult(BaseModel):
    """What ``preload.json`` holds.

    Attributes:
        models: As they are when all is done.
        fetched: What was fetched or found; None where nothing was tried or it failed.
        converted: Files made to fit this machine.
        notes: What was refused or replaced while converting, and where the comparison ran.
        diagnosis: Each network run; None where it did not come to that.
        error: Why it ended early; empty if it did not.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    ok: bool
    root: Path
    models: tuple[NeededModel, ...]
    fetched: PreloadReport | None = None
    converted: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    diagnosis: Diagnosis | None = None
    error: str = ""


@dataclass(frozen=True)
class Needed:
    """What a form asks for: the models of its preset, in their folder."""

    request: PreloadRequest
    root: Path
    folder: Path
    host: Host
    entries: Sequence[ModelEntry]

    @property
    def settings(self) -> Settings:
        """The settings whose models these are."""
        return self.request.settings

    @property
    def report(self) -> Path:
        """Where the result is written down."""
        return self.folder / PRELOAD_REPORT

    def models(self) -> tuple[NeededModel, ...]:
        """Every model and its state on the disk now."""
        return tuple(_described(entry, self.root) for entry in self.entries)


def show_models(request: PreloadRequest) -> Needed:
    """Show which models a preset needs, with licence, size and state; fetches nothing.

    Raises:
        ColabHelpersError: Wrong settings, an unknown model, or a folder that cannot be reached or written.
    """
    speak(request.language)
    settings, host = request.settings, this_host(headless=request.headless)
    folder = prepare_folder(host, request, PRELOAD_REPORT)
    root = models_root(models_folder(request, folder))
    entries = needed_models(settings, load_catalog(load_presets().models), root=root)
    needed = Needed(request, root, folder, host, entries)
    models = needed.models()
    show(host, models_html(models, root), models_text(models, root))
    return needed


def fetch_models(needed: Needed) -> PreloadResult:
    """Fetch and verify what is missing, convert if asked, and run every network once.

    Stand-ins are complete as they are: nothing is fetched for them. ``preload.json`` in the output folder
    holds the result, also where this fails.

    Args:
        needed: From ``show_models``.

    Raises:
        LicenceError: Something is missing and its licence was not accepted.
        PreloadError: A model could not be fetched.
        ColabHelpersError: A model is not there and nothing may be fetched, or a file cannot be written.
    """
    try:
        result = _fetched(needed)
    except ColabHelpersError as error:
        _save(needed, PreloadResult(ok=False, root=needed.root, models=needed.models(), error=str(error)))
        if isinstance(error, ModelError) and not needed.request.offline:
            # Fetching is this notebook's work: that failed, it was not refused.
            raise PreloadError(error.what, where=error.where, remedy=error.remedy) from error
        raise
    _save(needed, result)
    return result


def _fetched(needed: Needed) -> PreloadResult:
    fetched = None
    if any(model.state != "stand-in" for model in needed.models()):
        fetched = _preload(needed)
    converted, notes = _converted(needed) if needed.request.convert else ((), ())
    diagnosis = _prove(needed)
    return PreloadResult(
        ok=diagnosis.ok,
        root=needed.root,
        models=needed.models(),
        fetched=fetched,
        converted=converted,
        notes=(*notes, *_cache_notes(needed, fetched)),
        diagnosis=diagnosis,
    )


def _cache_notes(needed: Needed, fetched: PreloadReport | None) -> list[str]:
    cache = needed.request.shared_cache
    if cache is None or fetched is None:
        return []
    return [tr("batch_swap.ipynb takes the cache as it is: name {folder} there in models_dir", folder=cache)]


def _preload(needed: Needed) -> PreloadReport:
    request = needed.request
    with TransferLine(headless=needed.host.headless) as line:
        try:
            return preload(
                needed.settings,
                FetchOptions(
                    accept_licences=request.accept_licences,
                    offline=request.offline,
                    shared_cache=request.shared_cache,
                    token=needed.host.secret(TOKEN),
                ),
                models_dir=needed.root,
                user_models=load_presets().models,
                on_progress=line,
            )
        except LicenceError as error:
            missing = [model.name for model in needed.models() if model.state not in _USED]
            raise LicenceError(
                tr(
                    "nothing was fetched; missing are {names}. {what}",
                    names=", ".join(missing),
                    what=error.what,
                ),
                where=str(needed.root),
                remedy=tr(
                    "read the licences; if you may use the models under them, tick accept_licences "
                    "(accept_licences=true) and run all cells again"
                ),
            ) from error


def _converted(needed: Needed) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    from colab_helpers.models.half import convert

    runtime = Runtime(needed.settings.execution_provider)
    half = wants_half(needed.settings.half_precision, runtime.provider)
    files = [needed.root / f"{entry.name}.onnx" for entry in needed.entries if entry.role in CONVERTED_ROLES]
    results = [convert(path, half=half, runtime=runtime) for path in files]
    made = tuple(result.path for path, result in zip(files, results, strict=True) if result.path != path)
    return made, (*runtime.notes, *(note for result in results for note in result.notes))


def _prove(needed: Needed) -> Diagnosis:
    subject = Subject.here(needed.settings, models_dir=needed.root, folder=needed.folder)
    return examine(subject, {name: QUESTIONS[name] for name in ("gpu", "models")})


def _save(needed: Needed, result: PreloadResult) -> None:
    write_atomically(needed.report, f"{result.model_dump_json(indent=2)}\n".encode())


def show_preload(needed: Needed, result: PreloadResult) -> None:
    """Show what was fetched and converted, and what came of running each network.

    Raises:
        PreloadError: A network does not run as it should; so a headless run ends with an error.
    """
    notes = [*(result.fetched.notes if result.fetched else ()), *result.notes]
    lines = [
        *(tr("converted: {path}", path=path) for path in result.converted),
        *(tr("note: {note}", note=note) for note in notes),
    ]
    page = "".join(f"<p>{html.escape(line)}</p>" for line in lines)
    text = "\n".join(lines)
    if result.fetched is not None:  # else the table above still holds
        page = models_html(result.models, result.root) + page
        text = "\n".join([models_text(result.models, result.root), *lines])
    if text:
        show(needed.host, page, text)
    if result.diagnosis is None:
        return
    show_diagnosis(needed.host, result.diagnosis)
    failures = result.diagnosis.failures()
    if failures:
        raise PreloadError(failure_text(failures), where=str(needed.report), remedy=failures[0].remedy)


def _described(entry: ModelEntry, root: Path) -> NeededModel:
    state, note = _state(entry, root)
    licence = _STANDIN_LICENCE if state == "stand-in" else entry.licence
    return NeededModel(
        name=entry.name,
        role=entry.role,
        licence=licence.name,
        licence_link=licence.link,
        non_commercial=licence.non_commercial,
        forbids=licence.forbids,
        bytes=(root / entry.path).stat().st_size if state in _USED else entry.bytes,
        state=state,
        note=note,
    )


def _state(entry: ModelEntry, root: Path) -> tuple[State, str]:
    path = root / entry.path
    if path.is_file() and is_standin(path):
        return "stand-in", ""
    item = look_at(root, entry)
    if item.state == "present":
        return "there", ""
    if item.state == "unknown":
        return "unknown", item.notes[0]
    notes = [f"{entry.name}: {item.problem}"] if item.problem else []
    if item.found is not None:
        notes.append(tr("{name}: found at {found}, taken over from there", name=entry.name, found=item.found))
    return item.state, "; ".join(notes)


def models_text(models: Sequence[NeededModel], root: Path) -> str:
    """The models as plain text: state, size and licence of each, and what follows from it."""
    lines = [
        f"  {tr(_STATES[model.state]):9}{model.name} ({model.role}, {_size(model.bytes)}): "
        + tr(
            "{licence}. Forbidden: {forbids}",
            licence=tr(model.licence) + (f" ({model.licence_link})" if model.licence_link else ""),
            forbids=tr(model.forbids),
        )
        for model in models
    ]
    notes = [tr("note: {note}", note=model.note) for model in models if model.note]
    return "\n".join([tr("models folder: {root}", root=root), *lines, *notes, summary_text(models)])


def summary_text(models: Sequence[NeededModel]) -> str:
    """What is missing, in one sentence."""
    missing = [model for model in models if model.state in ("missing", "damaged")]
    if missing:
        size = sum(model.bytes or 0 for model in missing)
        return tr(
            "To be fetched: {names}; {size} in all.",
            names=", ".join(model.name for model in missing),
            size=_size(size),
        )
    standins = any(model.state == "stand-in" for model in models)
    nothing = tr("Nothing is missing.")
    return f"{nothing} {tr(_STANDIN_HINT)}" if standins else nothing


def models_html(models: Sequence[NeededModel], root: Path) -> str:
    """The models as an HTML table."""
    heads = (tr("model"), tr("role"), tr("state"), tr("size"), tr("licence"), tr("forbidden"))
    head = "".join(f'<th style="text-align:left">{name}</th>' for name in heads)
    rows = "".join(_row(model) for model in models)
    notes = [tr("note: {note}", note=model.note) for model in models if model.note]
    words = (tr("models folder: {root}", root=root), *notes, summary_text(models))
    before, *after = (f"<p>{html.escape(text)}</p>" for text in words)
    return f"{before}<table><tr>{head}</tr>{rows}</table>{''.join(after)}"


def _row(model: NeededModel) -> str:
    licence = html.escape(tr(model.licence))
    if model.licence_link:
        licence = f'<a href="{html.escape(model.licence_link)}">{licence}</a>'
    named = (model.name, model.role, tr(_STATES[model.state]), _size(model.bytes))
    texts = [html.escape(text) for text in named]
    cells = [*texts, licence, html.escape(tr(model.forbids))]
    return "<tr>" + "".join(f'<td style="text-align:left">{cell}</td>' for cell in cells) + "</tr>"


def _size(size: int | None) -> str:
    if size is None:
        return tr("size unknown")
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


class TransferLine:
    """Shows how far a fetch is: a bar where somebody watches, else at most one line every five seconds.

    Use it as a context manager and give it to ``preload`` as its ``on_progress``.

    Args:
        headless: Print plain lines.
        clock: Seconds that only ever grow.
    """

    def __init__(self, *, headless: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._headless = headless
        self._clock = clock
        self._printed_at = clock() - TEXT_INTERVAL
        self._bar: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, progress: Progress) -> None:
        """Show where the fetch stands."""
        if not self._headless:
            self._draw(progress)
        elif self._clock() - self._printed_at >= TEXT_INTERVAL:
            print(transfer_text(progress), flush=True)
            self._printed_at = self._clock()

    def _draw(self, progress: Progress) -> None:
        if self._bar is None:
            self._bar = tqdm(desc=tr("models"), unit="B", unit_scale=True, dynamic_ncols=True)
        self._bar.total = progress.bytes_total
        self._bar.update(progress.bytes_done - self._bar.n)


def transfer_text(progress: Progress) -> str:
    """How far a fetch is, in one line."""
    left = "" if progress.eta is None else tr(", {eta:.0f} s left", eta=progress.eta)
    return tr(
        "{files_done} of {files_total} files, {bytes_done:.0f} of {bytes_total:.0f} MB at "
        "{rate:.1f} MB/s{left}",
        files_done=progress.files_done,
        files_total=progress.files_total,
        bytes_done=progress.bytes_done / 1e6,
        bytes_total=progress.bytes_total / 1e6,
        rate=progress.rate / 1e6,
        left=left,
    )
