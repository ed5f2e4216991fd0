"""Functions called by the cells of ``preload.ipynb``: list, fetch and test the models that a preset needs."""

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
_FETCHABLE: tuple[State, ...] = ("missing", "damaged")
CONVERTED_ROLES = ("swapper", "enhancer")
_STANDIN_TERMS = mark("Nothing beyond its terms; part of the demo.")
_STANDIN_LICENCE = Licence(name="Apache-2.0", link="", non_commercial=False, forbids=_STANDIN_TERMS)
_STANDIN_HINT = mark(
    "The demo's stand-in networks know only the demo's rendered people: for the real ones untick demo, "
    "or set models_dir to another folder."
)


class PreloadError(ColabHelpersError, RuntimeError):
    """A model could not be fetched, or failed its test run."""

    refusal = False


class NeededModel(BaseModel, extra="forbid", frozen=True):
    """A model of the preset and the state of its file, with a ``note`` on what is wrong with it."""

    name: str
    role: str
    licence: Licence
    bytes: int | None  # of the file, or of the download if it is missing or damaged
    state: State
    note: str = ""


class PreloadResult(BaseModel, extra="forbid", frozen=True):
    """Result of a preload, written as ``preload.json``; steps that were not reached are None or empty.

    Attributes:
        models: State at the end.
        converted: Files converted for this machine.
        notes: What was refused or replaced.
        error: Why it ended early, if it did.
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
    """A request with its folders and the models that its preset needs."""

    request: PreloadRequest
    root: Path
    folder: Path
    host: Host
    entries: Sequence[ModelEntry]

    def models(self) -> tuple[NeededModel, ...]:
        """Return the current state of every model."""
        return describe_models(self.entries, self.root)


def show_models(request: PreloadRequest) -> PreloadPlan:
    """Show which models a preset needs, with licence, size and state; fetch nothing.

    Raise ColabHelpersError for invalid settings, an unknown model, or a folder not reachable or writable.
    """
    set_language(request.language)
    settings, host = request.settings, this_host(headless=request.headless)
    folder = prepare_folder(host, request, PRELOAD_REPORT)
    root = models_root(models_folder(request, folder))
    plan = PreloadPlan(request, root, folder, host, required_models(settings, load_catalog(), root=root))
    models = plan.models()
    host.show(models_html(models, root), models_text(models, root))
    return plan


def fetch_models(plan: PreloadPlan) -> PreloadResult:
    """Fetch and verify missing models, convert them if requested, and run every network once.

    Nothing is fetched if all models are stand-ins. The result is written to ``preload.json`` in the output
    folder, also on failure.

    Raises:
        LicenceError: A model is missing and its licence was not accepted.
        PreloadError: A model could not be fetched.
        ColabHelpersError: A model is missing in offline mode, or a file is not writable.
    """
    try:
        _save(result := _preload(plan), plan)
        return result
    except ColabHelpersError as error:
        _save(PreloadResult(ok=False, root=plan.root, models=plan.models(), error=str(error)), plan)
        if isinstance(error, ModelError) and not plan.request.offline:
            # Elsewhere a missing model is a refusal (exit code 2); here fetching it has failed.
            raise PreloadError(error.what, where=error.where, remedy=error.remedy) from error
        raise


def _save(result: PreloadResult, plan: PreloadPlan) -> None:
    write_text(plan.folder / PRELOAD_REPORT, to_json(result, indent=2) + "\n")


def _preload(plan: PreloadPlan) -> PreloadResult:
    fetched, cache = None, plan.request.shared_cache
    if any(model.state != "stand-in" for model in plan.models()):
        fetched = _fetch(plan)
    converted, notes = _convert(plan) if plan.request.convert else ((), [])
    if cache is not None and fetched is not None:
        hint = mark("to use the cache directly, set models_dir in batch_swap.ipynb to {folder}")
        notes.append(tr(hint, folder=cache))
    subject = Subject.here(plan.request.settings, models_dir=plan.root, folder=plan.folder)
    diagnosis = run_checks(subject, {name: CHECKS[name] for name in ("gpu", "models")})
    values = {"fetched": fetched, "converted": converted, "notes": tuple(notes), "diagnosis": diagnosis}
    return PreloadResult(ok=diagnosis.ok, root=plan.root, models=plan.models(), **values)


def _fetch(plan: PreloadPlan) -> PreloadReport:
    request, token = plan.request, plan.host.secret(TOKEN)
    values = {name: getattr(request, name) for name in ("accept_licences", "offline", "shared_cache")}
    with FetchLine(headless=plan.host.headless) as line:
        try:
            options = FetchOptions(**values, token=token)
            return preload(request.settings, options, models_dir=plan.root, on_progress=line)
        except LicenceError as error:
            remedy = tr(
                "read the licences; if you may use the models under them, tick accept_licences "
                "(accept_licences=true) and run all cells again"
            )
            raise LicenceError(error.what, where=str(plan.root), remedy=remedy) from error


def _convert(plan: PreloadPlan) -> tuple[tuple[Path, ...], list[str]]:
    """Convert the large networks for this machine; return the new files and notes."""
    runtime = Runtime(plan.request.settings.execution_provider)
    half = wants_half(plan.request.settings.half_precision, runtime.provider)
    files = [plan.root / f"{entry.name}.onnx" for entry in plan.entries if entry.role in CONVERTED_ROLES]
    results = [convert(path, half=half, runtime=runtime) for path in files]
    converted = tuple(result.path for path, result in zip(files, results, strict=True) if result.path != path)
    return converted, [*runtime.notes, *(note for result in results for note in result.notes)]


def show_preload(plan: PreloadPlan, result: PreloadResult) -> None:
    """Show what was fetched and converted, and the test run of each network.

    Raise PreloadError, after everything was shown, if a check failed: the GPU's, or a network's test run.
    """
    notes = [*(result.fetched.notes if result.fetched else ()), *result.notes]
    lines = [tr("converted: {path}", path=path) for path in result.converted]
    lines += [tr("note: {note}", note=note) for note in notes]
    page, text = Markup().join(map(paragraph, lines)), "\n".join(lines)
    if result.fetched is not None:  # else the table above still holds
        page = models_html(result.models, result.root) + page
        text = "\n".join([models_text(result.models, result.root), *lines])
    if text:
        plan.host.show(page, text)
    if result.diagnosis is not None:
        show_diagnosis(plan.host, result.diagnosis, PreloadError, plan.folder / PRELOAD_REPORT)


def describe_models(entries: Iterable[ModelEntry], root: Path) -> tuple[NeededModel, ...]:
    """Return the state of each model's file; stand-ins get the demo's licence instead of their model's."""
    models = []
    for entry in entries:
        state, note = _state(entry, root)
        licence = _STANDIN_LICENCE if state == "stand-in" else entry.licence
        count = entry.bytes if state in _FETCHABLE else (root / entry.path).stat().st_size
        values = {"licence": licence, "bytes": count, "state": state, "note": note}
        models.append(NeededModel(name=entry.name, role=entry.role, **values))
    return tuple(models)


def _state(entry: ModelEntry, root: Path) -> tuple[State, str]:
    path = root / entry.path
    if path.is_file() and is_standin(path):
        return "stand-in", ""
    item = inspect_model(root, entry)
    if item.state == "present":
        return "there", ""
    if (problem := item.problem) is None:
        return item.state, "; ".join(item.notes)
    note = tr("{problem}; what to do: {remedy}", problem=problem.what, remedy=problem.remedy)
    return item.state, f"{entry.name}: {note}"


def models_text(models: Sequence[NeededModel], root: Path) -> str:
    """Return the models as plain text: state, size and licence of each, and notes."""
    lines = []
    for name, role, state, count, licence, forbids in map(_cells, models):
        terms = tr("{licence}. Forbidden: {forbids}", licence=licence, forbids=forbids)
        lines.append(f"  {state:8} {name} ({role}, {count}): {terms}")
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
    folder = paragraph(tr("models folder: {root}", root=root))
    return folder + table(heads, rows) + Markup().join(map(paragraph, _remarks(models)))


def _cells(model: NeededModel) -> tuple[str, ...]:
    """Return name, role, state, size, licence, and what that forbids."""
    licence, count = model.licence, tr("size unknown") if model.bytes is None else size(model.bytes)
    name = f"{tr(licence.name)} ({licence.link})" if licence.link else tr(licence.name)
    return model.name, model.role, tr(_STATES[model.state]), count, name, tr(licence.forbids)


def _remarks(models: Sequence[NeededModel]) -> list[str]:
    """Return notes on files, and what is missing."""
    notes = [tr("note: {note}", note=model.note) for model in models if model.note]
    missing = [model for model in models if model.state in _FETCHABLE]
    if missing:
        names = ", ".join(model.name for model in missing)
        total = size(sum(model.bytes or 0 for model in missing))
        return [*notes, tr("To be fetched: {names}; {size} in total.", names=names, size=total)]
    hint = f" {tr(_STANDIN_HINT)}" if any(model.state == "stand-in" for model in models) else ""
    return [*notes, tr("Nothing is missing.") + hint]
