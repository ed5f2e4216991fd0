"""What the cells of ``preload.ipynb`` call: which models a preset needs, getting them, proving them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from markupsafe import Markup
from pydantic import BaseModel

from colab_helpers.batch.report import write_text
from colab_helpers.diagnosis import Diagnosis
from colab_helpers.diagnosis.doctor import CHECKS, run_checks
from colab_helpers.diagnosis.findings import Subject
from colab_helpers.errors import ColabHelpersError, LicenceError, ModelError
from colab_helpers.files import to_json
from colab_helpers.language import mark, set_language, tr
from colab_helpers.models.catalog import Licence, ModelEntry, load_catalog, required_models
from colab_helpers.models.download import FetchOptions
from colab_helpers.models.inventory import inspect_model
from colab_helpers.models.model_conversion import convert, wants_half
from colab_helpers.models.preload import TOKEN, PreloadReport, preload
from colab_helpers.models.session import Runtime, is_standin, models_root
from colab_helpers.pages.units import size
from colab_helpers.request import PreloadRequest
from colab_helpers.ui.form import PRELOAD_REPORT
from colab_helpers.ui.host import Host, this_host
from colab_helpers.ui.markup import paragraph, table
from colab_helpers.ui.progress import FetchLine
from colab_helpers.ui.setup import models_folder, prepare_folder, show_diagnosis

State = Literal["there", "unknown", "missing", "damaged", "stand-in"]
_STATES: dict[State, str] = {
    "there": mark("there"),
    "unknown": mark("unknown"),
    "missing": mark("missing"),
    "damaged": mark("damaged"),
    "stand-in": mark("stand-in"),
}
_TO_BE_FETCHED: tuple[State, ...] = ("missing", "damaged")
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


class NeededModel(BaseModel, extra="forbid", frozen=True):
    """A model of the preset and what is on the disk.

    Attributes:
        bytes: Size of what is there, else of what would be fetched; None if unknown.
        note: What is wrong with the file, or that nobody knows it.
    """

    name: str
    role: str
    licence: Licence
    bytes: int | None
    state: State
    note: str = ""


class PreloadResult(BaseModel, extra="forbid", frozen=True):
    """What ``preload.json`` holds: models as they are when all is done, and what it did not come to is None.

    ``converted`` are files made to fit this machine, ``notes`` what was refused or replaced, ``error`` is why
    it ended early.
    """

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
class PreloadPlan:
    """What a form asks for: the models of its preset, in their folder."""

    request: PreloadRequest
    root: Path
    folder: Path
    host: Host
    entries: Sequence[ModelEntry]

    def models(self) -> tuple[NeededModel, ...]:
        """Return every model and its state on the disk now."""
        return describe_models(self.entries, self.root)


def show_models(request: PreloadRequest) -> PreloadPlan:
    """Show which models a preset needs, with licence, size and state; fetches nothing.

    Raises:
        ColabHelpersError: Wrong settings, an unknown model, or a folder that cannot be reached or written.
    """
    set_language(request.language)
    settings, host = request.settings, this_host(headless=request.headless)
    folder = prepare_folder(host, request, PRELOAD_REPORT)
    root = models_root(models_folder(request, folder))
    needed = PreloadPlan(request, root, folder, host, required_models(settings, load_catalog(), root=root))
    models = needed.models()
    host.show(models_html(models, root), models_text(models, root))
    return needed


def fetch_models(needed: PreloadPlan) -> PreloadResult:
    """Fetch and verify what is missing, convert if asked, and run every network once.

    Stand-ins are complete as they are: nothing is fetched for them. ``preload.json`` in the output folder
    holds the result, also where this fails.

    Raises:
        LicenceError: Something is missing and its licence was not accepted.
        PreloadError: A model could not be fetched.
        ColabHelpersError: A model is not there and nothing may be fetched, or a file cannot be written.
    """
    try:
        _save(result := _fetched(needed), needed)
        return result
    except ColabHelpersError as error:
        _save(PreloadResult(ok=False, root=needed.root, models=needed.models(), error=str(error)), needed)
        if isinstance(error, ModelError) and not needed.request.offline:
            # Fetching is this notebook's work: that failed, it was not refused.
            raise PreloadError(error.what, where=error.where, remedy=error.remedy) from error
        raise


def _save(result: PreloadResult, needed: PreloadPlan) -> None:
    write_text(needed.folder / PRELOAD_REPORT, to_json(result, indent=2) + "\n")


def _fetched(needed: PreloadPlan) -> PreloadResult:
    fetched, cache = None, needed.request.shared_cache
    if any(model.state != "stand-in" for model in needed.models()):
        fetched = _preload(needed)
    converted, notes = _converted(needed) if needed.request.convert else ((), [])
    if cache is not None and fetched is not None:
        told = tr(
            "batch_swap.ipynb takes the cache as it is: name {folder} there in models_dir", folder=cache
        )
        notes = [*notes, told]
    subject = Subject.here(needed.request.settings, models_dir=needed.root, folder=needed.folder)
    diagnosis = run_checks(subject, {name: CHECKS[name] for name in ("gpu", "models")})
    made = {"fetched": fetched, "converted": converted, "notes": tuple(notes), "diagnosis": diagnosis}
    return PreloadResult(ok=diagnosis.ok, root=needed.root, models=needed.models(), **made)


def _preload(needed: PreloadPlan) -> PreloadReport:
    request, token = needed.request, needed.host.secret(TOKEN)
    given = {name: getattr(request, name) for name in ("accept_licences", "offline", "shared_cache")}
    with FetchLine(headless=needed.host.headless) as line:
        try:
            options = FetchOptions(**given, token=token)
            return preload(request.settings, options, models_dir=needed.root, on_progress=line)
        except LicenceError as error:
            remedy = tr(
                "read the licences; if you may use the models under them, tick accept_licences "
                "(accept_licences=true) and run all cells again"
            )
            raise LicenceError(error.what, where=str(needed.root), remedy=remedy) from error


def _converted(needed: PreloadPlan) -> tuple[tuple[Path, ...], list[str]]:
    runtime = Runtime(needed.request.settings.execution_provider)
    half = wants_half(needed.request.settings.half_precision, runtime.provider)
    files = [needed.root / f"{entry.name}.onnx" for entry in needed.entries if entry.role in CONVERTED_ROLES]
    results = [convert(path, half=half, runtime=runtime) for path in files]
    made = tuple(result.path for path, result in zip(files, results, strict=True) if result.path != path)
    return made, [*runtime.notes, *(note for result in results for note in result.notes)]


def show_preload(needed: PreloadPlan, result: PreloadResult) -> None:
    """Show what was fetched and converted, and what came of running each network.

    Raises:
        PreloadError: A network does not run as it should; so a headless run ends with an error.
    """
    notes = [*(result.fetched.notes if result.fetched else ()), *result.notes]
    lines = [tr("converted: {path}", path=path) for path in result.converted]
    lines += [tr("note: {note}", note=note) for note in notes]
    page, text = Markup().join(map(paragraph, lines)), "\n".join(lines)
    if result.fetched is not None:  # else the table above still holds
        page = models_html(result.models, result.root) + page
        text = "\n".join([models_text(result.models, result.root), *lines])
    if text:
        needed.host.show(page, text)
    if result.diagnosis is not None:
        report = needed.folder / PRELOAD_REPORT
        show_diagnosis(needed.host, result.diagnosis, PreloadError, report)


def describe_models(entries: Iterable[ModelEntry], root: Path) -> tuple[NeededModel, ...]:
    """Look at models in their folder; a stand-in has the demo's licence, whatever its name."""
    found = []
    for entry in entries:
        state, note = _state(entry, root)
        licence = _STANDIN_LICENCE if state == "stand-in" else entry.licence
        count = entry.bytes if state in _TO_BE_FETCHED else (root / entry.path).stat().st_size
        values = {"licence": licence, "bytes": count, "state": state, "note": note}
        found.append(NeededModel(name=entry.name, role=entry.role, **values))
    return tuple(found)


def _state(entry: ModelEntry, root: Path) -> tuple[State, str]:
    path = root / entry.path
    if path.is_file() and is_standin(path):
        return "stand-in", ""
    item = inspect_model(root, entry)
    if item.state == "present":
        return "there", ""
    if (problem := item.problem) is None:
        return item.state, "; ".join(item.notes)
    told = tr("{problem}; what to do: {remedy}", problem=problem.what, remedy=problem.remedy)
    return item.state, f"{entry.name}: {told}"


def models_text(models: Sequence[NeededModel], root: Path) -> str:
    """Return the models as plain text: state, size and licence of each, and what follows from it."""
    lines = []
    for name, role, state, count, licence, forbids in map(_cells, models):
        told = tr("{licence}. Forbidden: {forbids}", licence=licence, forbids=forbids)
        lines.append(f"  {state:8} {name} ({role}, {count}): {told}")
    return "\n".join([tr("models folder: {root}", root=root), *lines, *_remarks(models)])


def models_html(models: Sequence[NeededModel], root: Path) -> Markup:
    """Return the models as an HTML table."""
    heads = (tr("model"), tr("role"), tr("state"), tr("size"), tr("licence"), tr("forbidden"))
    rows = []
    for model in models:
        cells = [*_cells(model)]
        if link := model.licence.link:
            cells[4] = Markup('<a href="{}">{}</a>').format(link, tr(model.licence.name))
        rows.append(cells)
    place = paragraph(tr("models folder: {root}", root=root))
    return place + table(heads, rows) + Markup().join(map(paragraph, _remarks(models)))


def _cells(model: NeededModel) -> tuple[str, ...]:
    """Name, role, state, size, licence, and what that forbids."""
    licence, count = model.licence, tr("size unknown") if model.bytes is None else size(model.bytes)
    name = f"{tr(licence.name)} ({licence.link})" if licence.link else tr(licence.name)
    return model.name, model.role, tr(_STATES[model.state]), count, name, tr(licence.forbids)


def _remarks(models: Sequence[NeededModel]) -> list[str]:
    """Say what is worth knowing of single files, and what is missing."""
    notes = [tr("note: {note}", note=model.note) for model in models if model.note]
    missing = [model for model in models if model.state in _TO_BE_FETCHED]
    if missing:
        names = ", ".join(model.name for model in missing)
        whole = size(sum(model.bytes or 0 for model in missing))
        return [*notes, tr("To be fetched: {names}; {size} in all.", names=names, size=whole)]
    hint = f" {tr(_STANDIN_HINT)}" if any(model.state == "stand-in" for model in models) else ""
    return [*notes, tr("Nothing is missing.") + hint]
