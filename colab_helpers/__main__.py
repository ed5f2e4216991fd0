"""The package's verbs from a shell: ``python -m colab_helpers <verb>``.

Exit code 0: everything succeeded; 1: something failed while it was done; 2: refused before any work; 130:
stopped.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING

from colab_helpers.command_line import as_options, build_parser, language_asked, overrides_of, settings_of
from colab_helpers.errors import ColabHelpersError, ModelError
from colab_helpers.files import to_json
from colab_helpers.language import mark, spoken, tr
from colab_helpers.machine import disk_free, lost_mount, mounted_drive, require_places
from colab_helpers.request import BatchRequest

if TYPE_CHECKING:
    from colab_helpers.batch.report import BatchReport, FileReport
    from colab_helpers.models.progress import Progress as Transfer


SUCCESS, FAILURE, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130
_STOPPED = mark("stopped; the same command goes on with what is finished")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code."""
    if isinstance(sys.stdout, TextIOWrapper):  # names that are no UTF-8, as stderr has them already
        sys.stdout.reconfigure(errors="backslashreplace")
    with spoken(language_asked(sys.argv[1:] if arguments is None else arguments)):
        options, unknown = build_parser().parse_known_args(arguments)
        if unknown:
            options.parser.error(tr("unrecognized arguments: {words}", words=" ".join(unknown)))
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    verb = VERBS[options.verb]
    with ExitStack() as language:
        try:
            # Presets and --set may name one, too.
            asked = settings_of(options).language if hasattr(options, "preset") else options.language
            language.enter_context(spoken(asked))
            require_places(value for value in vars(options).values() if isinstance(value, Path))
            return verb(options)
        except ColabHelpersError as error:
            return _complain(error)
        except OSError as error:
            lost = lost_mount(error, Path(error.filename or "."))
            if lost is None:
                raise
            _complain(lost)
            return FAILURE
        except KeyboardInterrupt:
            print(tr(_STOPPED), file=sys.stderr)
            return INTERRUPTED


def _complain(error: ColabHelpersError) -> int:
    told = type(error)(error.what, where=error.where, remedy=as_options(error.remedy))
    print(tr("error: {error}", error=told), file=sys.stderr)
    return WRONG_USAGE if error.refusal else FAILURE


def _swap(options: argparse.Namespace) -> int:
    from colab_helpers.api import swap_file
    from colab_helpers.batch.overwriting import Writable, identities
    from colab_helpers.batch.report import clear_report, own_file
    from colab_helpers.ui.progress import ProgressLine

    settings = settings_of(options)
    if options.report:
        inputs = identities(map(Path, [*options.source, options.target]))
        clear_report(Path(options.report), Writable(inputs, settings.overwrite, made=own_file), page=False)
    with ProgressLine(headless=not sys.stderr.isatty()) as line:
        report = swap_file(
            options.source,
            options.target,
            options.output,
            consent=options.consent,
            settings=settings,
            models_dir=options.models_dir,
            on_progress=line,
        )
    if options.report:
        report.save(options.report)
    return _conclude(report)


def _status(options: argparse.Namespace) -> int:
    from colab_helpers.batch.status import read_status
    from colab_helpers.pages.live import live_text

    status = read_status(options.folder)
    lost = status.state == "running" and not status.alive()
    lines = [] if options.json else live_text([], status, now=time.time(), lost=lost)
    print(to_json(status, indent=2) if options.json else "\n".join(lines))
    return SUCCESS if status.state == "done" or status.alive() else FAILURE


def _stop(options: argparse.Namespace) -> int:
    from colab_helpers.batch.status import ask_to_stop

    if not ask_to_stop(options.folder):
        print(tr("no batch is at work there"))
        return FAILURE
    print(tr("asked to stop; what is finished is kept, and the same command goes on with it"))
    return SUCCESS


def _batch(options: argparse.Namespace) -> int:
    from colab_helpers.api import do_batch
    from colab_helpers.batch.job import Source
    from colab_helpers.batch.supervisor import BatchStopped
    from colab_helpers.ui.progress import ProgressLine

    request = BatchRequest(
        sources=options.source,
        targets=options.targets,
        output_dir=options.output_dir,
        preset=options.preset,
        overrides=overrides_of(options),
        consent=options.consent,
        models_dir=options.models_dir,
        video_range=options.range,
        report_path=options.report,
        work_dir=options.work_dir,
        session_minutes=options.session_minutes,
        shortest_first=options.shortest_first,
        in_process=options.in_process,
    )
    # Whoever ends this process politely means the batch; only a kill leaves the worker to itself.
    # Not what SIGINT has: a shell that starts this in the background has that ignored.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ProgressLine(headless=not sys.stderr.isatty()) as line:
        photos = [Source.of(photo) for photo in options.source]
        try:
            report = do_batch(request, photos=photos, on_progress=line, on_status=line.status)
        except BatchStopped as stopped:
            if stopped.report is None:
                raise
            report = stopped.report
    return _conclude(report)


def _conclude(report: BatchReport) -> int:
    for file in report.files:
        print(_line(file))
    _print_notes(report.notes)
    if any(model.standin for model in report.models):
        print(tr("note: stand-in models were used; they know the demo's rendered people only"))
    summary = report.summary
    print(
        tr(
            "{succeeded} of {total} done, {failed} failed, {skipped} skipped; "
            "{size:.1f} MB in {seconds:.1f} s; "
            "{warnings} memory warning(s)",
            succeeded=summary.succeeded,
            total=summary.total,
            failed=summary.failed,
            skipped=summary.skipped,
            size=summary.bytes / 1e6,
            seconds=summary.seconds,
            warnings=summary.memory_warnings,
        )
    )
    if report.stopped:
        print(tr(_STOPPED), file=sys.stderr)
        return INTERRUPTED
    return SUCCESS if report.ok else FAILURE


def _line(file: FileReport) -> str:
    from colab_helpers.batch.report import STATE_WORDS

    if file.status != "done":
        return f"{tr(STATE_WORDS[file.status])}: {file.target}: {file.error}"
    done = tr(
        "done: {target} -> {output} ({frames} frames, {faces} faces, {fps:.1f} fps)",
        target=file.target,
        output=file.output,
        frames=file.frames_out,
        faces=file.faces_swapped,
        fps=file.fps,
    )
    return "\n      ".join([done, *(tr("note: {note}", note=note) for note in file.fallbacks)])


def _demo(options: argparse.Namespace) -> int:
    from colab_helpers.demo import copy_demo

    copy_demo(options.directory)
    print(tr("source, targets and stand-in models are in {folder}", folder=options.directory))
    return SUCCESS


def _preload(options: argparse.Namespace) -> int:
    from colab_helpers.models.catalog import needed_models
    from colab_helpers.models.download import licence_notice
    from colab_helpers.models.inventory import take_stock
    from colab_helpers.models.preload import preload
    from colab_helpers.models.records import SOURCE_WORDS
    from colab_helpers.models.session import models_root
    from colab_helpers.models.transfer import FetchOptions

    settings, root = settings_of(options), models_root(options.models_dir)
    needed = needed_models(settings, root=root)
    free = disk_free(root) / 1e9
    print(tr("models folder: {folder} ({free:.1f} GB free)", folder=root, free=free))
    for item in take_stock(root, needed):
        if item.record is None:
            print(tr("missing: {name} ({size:.0f} MB)", name=item.model.name, size=item.model.bytes / 1e6))
    print(licence_notice(needed))
    try:
        report = preload(
            settings,
            FetchOptions(
                accept_licences=options.accept_licences,
                offline=options.offline,
                shared_cache=options.shared_cache,
            ),
            models_dir=options.models_dir,
            verify=options.verify,
            on_progress=_show_transfer if sys.stderr.isatty() else None,
        )
    except ModelError as error:
        code = _complain(error)
        # Fetching is this verb's work.
        return code if options.offline else FAILURE
    for file in report.files:
        print(f"{tr(SOURCE_WORDS[file.source])}: {file.path} ({file.record.bytes / 1e6:.1f} MB)")
    _print_notes(report.notes)
    return SUCCESS


def _print_notes(notes: Iterable[str]) -> None:
    for note in notes:
        print(tr("note: {note}", note=note))


def _show_transfer(progress: Transfer) -> None:
    """One line that is written over: megabytes, rate, time left."""
    line = tr(
        "{done:.0f} of {total:.0f} MB at {rate:.1f} MB/s",
        done=progress.bytes_done / 1e6,
        total=progress.bytes_total / 1e6,
        rate=progress.rate / 1e6,
    )
    left = "" if progress.eta is None else tr(", {eta:.0f} s left", eta=progress.eta)
    print(f"\r{line}{left}   ", end="", file=sys.stderr, flush=True)


def _convert(options: argparse.Namespace) -> int:
    from colab_helpers.models.half import convert
    from colab_helpers.models.session import Runtime

    runtime = Runtime(settings_of(options).execution_provider)
    results = [convert(path, half=options.half, runtime=runtime) for path in options.models]
    for result in results:
        print(result.path)
    _print_notes((*runtime.notes, *(note for result in results for note in result.notes)))
    return SUCCESS


def _doctor(options: argparse.Namespace) -> int:
    from colab_helpers.diagnosis import diagnose

    diagnosis = diagnose(settings_of(options), models_dir=options.models_dir, drive=mounted_drive())
    if options.json:
        print(json.dumps(diagnosis.model_dump(), indent=2))
    else:
        print("\n".join(diagnosis.lines()))
    return SUCCESS if diagnosis.ok else FAILURE


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "swap": _swap,
    "batch": _batch,
    "status": _status,
    "stop": _stop,
    "demo": _demo,
    "preload": _preload,
    "convert": _convert,
    "doctor": _doctor,
}

if __name__ == "__main__":
    sys.exit(main())
