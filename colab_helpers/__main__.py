"""The package's verbs from a shell: ``python -m colab_helpers <verb>``.

Exit code 0: everything succeeded; 1: something failed while it was done; 2: refused before any work; 130:
stopped. For ``verify``, 0: every file is marked; 1: some is not, or there is none; 2: a mark does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from colab_helpers.command_line import (
    as_options,
    build_parser,
    language_asked,
    overrides_of,
    settings_of,
    split_pair,
)
from colab_helpers.errors import ColabHelpersError, ModelError, UsageError
from colab_helpers.itself import all_loaded, end_process, own_process
from colab_helpers.language import mark, one_line, spoken, tr

if TYPE_CHECKING:
    from colab_helpers.batch.report import BatchReport

SUCCESS, FAILURE, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130
_STOPPED = mark("stopped; the same command goes on with what is finished")


def run() -> NoReturn:
    """Run the verb of the command line in a process of its own."""
    own_process()
    end_process(main())


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
    from colab_helpers.machine import lost_mount, require_places

    verb = VERBS[options.verb]
    with ExitStack() as language:
        try:
            if verb is not _roop:  # its values are not settings yet
                # Presets and --set may name one, too.
                asked = settings_of(options).language if hasattr(options, "preset") else options.language
                language.enter_context(spoken(asked))
            require_places(value for value in vars(options).values() if isinstance(value, Path))
            if verb not in (_swap, _status, _stop):  # these load all at once, or end at once
                all_loaded()
            return verb(options)
        except ColabHelpersError as error:
            return _complain(error)
        except BrokenPipeError:  # of ``| head``: it has what it wants
            return FAILURE
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
    import colab_helpers.batch.run_file  # noqa: F401 - and with it all that does the work
    from colab_helpers.api import swap_file
    from colab_helpers.batch.overwriting import Writable, identities
    from colab_helpers.batch.report import clear_report, own_file
    from colab_helpers.ui.progress import ProgressLine

    all_loaded()
    settings = settings_of(options)
    if options.report_path:
        photos = (*options.sources, *options.target_person, *options.never)
        inputs = identities(map(Path, [*photos, options.target]))
        clear_report(options.report_path, Writable(inputs, settings.overwrite, made=own_file), page=False)
    with ProgressLine(headless=not sys.stderr.isatty()) as line:
        names = ("sources", "target", "output", "consent", "models_dir", "target_person", "never", "library")
        given = {name: getattr(options, name) for name in names}
        report = swap_file(**given, settings=settings, on_progress=line)
    if options.report_path:
        report.save(options.report_path)
    return _conclude(report)


def _status(options: argparse.Namespace) -> int:
    from colab_helpers.batch.status import read_status
    from colab_helpers.files import to_json
    from colab_helpers.pages.live import live_text

    status = read_status(options.folder)
    lost = status.state == "running" and not status.alive()
    lines = [] if options.json else live_text([], status, now=time.time(), lost=lost)
    print(to_json(status, indent=2) if options.json else "\n".join(lines))
    return SUCCESS if status.state == "done" or status.alive() else FAILURE


def _stop(options: argparse.Namespace) -> int:
    from colab_helpers.batch.stop import ask_to_stop

    if not ask_to_stop(options.folder):
        print(tr("no batch is at work there"))
        return FAILURE
    print(tr("asked to stop; what is finished is kept, and the same command goes on with it"))
    return SUCCESS


def _batch(options: argparse.Namespace) -> int:
    from colab_helpers.api import do_batch
    from colab_helpers.batch.report import REPORT_NAME, html_path
    from colab_helpers.batch.supervisor import BatchStopped
    from colab_helpers.request import BatchRequest
    from colab_helpers.ui.progress import ProgressLine

    given = {name: value for name, value in vars(options).items() if name in BatchRequest.model_fields}
    request = BatchRequest(**given, overrides=overrides_of(options))
    # Whoever ends this process politely means the batch; only a kill leaves the worker to itself.
    # Not what SIGINT has: a shell that starts this in the background has that ignored.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ProgressLine(headless=not sys.stderr.isatty()) as line:
        try:
            report = do_batch(request, on_progress=line, on_status=line.status)
        except BatchStopped as stopped:
            if stopped.report is None:
                raise
            report = stopped.report
    code = _conclude(report)
    if request.output_dir and (page := html_path(request.output_dir / REPORT_NAME)).is_file():
        print(tr("report:   {path}", path=page))
    return code


def _roop(options: argparse.Namespace) -> int:
    from colab_helpers.roop import translated

    native, lines = translated(options)
    print("\n".join(lines))
    if not options.dry_run:
        return _run(native)
    settings_of(native)  # what cannot be used is refused
    return SUCCESS


def _conclude(report: BatchReport) -> int:
    from colab_helpers.pages.units import results_text

    print(results_text(report))
    if report.stopped:
        print(tr(_STOPPED), file=sys.stderr)
        return INTERRUPTED
    return SUCCESS if report.ok else FAILURE


def _people(options: argparse.Namespace) -> int:
    from colab_helpers.batch.known_people import FOLDER_NAME
    from colab_helpers.batch.people_edits import has_people
    from colab_helpers.pages.sheet import batch_cards, library_cards, write_sheet

    folder, of_batch = options.folder, has_people(options.folder)
    if of_batch:
        _edit_people(options)
        cards, place = batch_cards(folder), folder / FOLDER_NAME
    elif options.split or options.merge or options.set or options.name:
        raise UsageError(
            tr("there are no people of a batch here that could be changed"),
            where=str(folder),
            remedy=tr("name the output folder of a batch whose people were found"),
        )
    else:
        cards, place = library_cards(folder, options.models_dir), folder
    print("\n".join(card.line for card in cards))
    title = tr("People of {folder}", folder=folder.name)
    print(tr("pictures: {paths}", paths=write_sheet(place, title, cards)))
    return SUCCESS


def _edit_people(options: argparse.Namespace) -> None:
    """Do what is asked in this order: split, merge, set, name; each is saved by itself."""
    from colab_helpers.batch.people_edits import merge, rename, set_source, split
    from colab_helpers.files import absolute

    for name in options.split:
        print(tr("{name} is now {parts}", name=name, parts=", ".join(split(options.folder, name))))
    for one, other in options.merge:
        merge(options.folder, one, other)
    for pair in options.set:
        name, value = split_pair(pair, "p1=leave")
        one = os.path.exists(absolute(value))  # noqa: PTH110 - many words are too long a name for Path.exists
        words = [value] if one else [word.strip() for word in value.split(",")]
        set_source(options.folder, name, words, options.library)
    for old, new in options.name:
        rename(options.folder, old, new)


def _extra(options: argparse.Namespace) -> int:
    from colab_helpers import extras

    return extras.VERBS[options.verb](options)


def _demo(options: argparse.Namespace) -> int:
    from colab_helpers.demo import copy_demo

    copy_demo(options.directory)
    print(tr("source, targets and stand-in models are in {folder}", folder=options.directory))
    return SUCCESS


def _preload(options: argparse.Namespace) -> int:
    from colab_helpers.models.catalog import needed_models
    from colab_helpers.models.download import FetchOptions
    from colab_helpers.models.fetching import SOURCE_WORDS
    from colab_helpers.models.preload import preload
    from colab_helpers.models.session import models_root
    from colab_helpers.ui.preload import described, models_text
    from colab_helpers.ui.progress import FetchLine

    settings, root = settings_of(options), models_root(options.models_dir)
    print(models_text(described(needed_models(settings, root=root), root), root))
    names = ("accept_licences", "offline", "shared_cache")
    try:
        with FetchLine(headless=not sys.stderr.isatty()) as line:
            report = preload(
                settings,
                FetchOptions(**{name: getattr(options, name) for name in names}),
                models_dir=options.models_dir,
                verify=options.verify,
                on_progress=line,
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


def _convert(options: argparse.Namespace) -> int:
    from colab_helpers.models.half import convert
    from colab_helpers.models.session import Runtime

    runtime = Runtime(settings_of(options).execution_provider)
    results = [convert(path, half=options.half, runtime=runtime) for path in options.models]
    print("\n".join(str(result.path) for result in results))
    _print_notes((*runtime.notes, *(note for result in results for note in result.notes)))
    return SUCCESS


def _verify(options: argparse.Namespace) -> int:
    from colab_helpers.trust.verify import EXIT_CODES, anchors_of, media_among, verify

    (media, others), anchors = media_among(options.files), anchors_of(options.trust)
    worst = SUCCESS if media else FAILURE
    for path in media:
        try:
            print((found := verify(path, anchors=anchors)).text)
            worst = max(worst, EXIT_CODES[found.state])
        except ColabHelpersError as error:
            worst = max(worst, _complain(error))
    _print_notes(tr("{name} is passed over: no picture or video", name=one_line(one.name)) for one in others)
    return worst


def _doctor(options: argparse.Namespace) -> int:
    from colab_helpers.diagnosis import diagnose
    from colab_helpers.machine import mounted_drive

    diagnosis = diagnose(settings_of(options), models_dir=options.models_dir, drive=mounted_drive())
    print(json.dumps(diagnosis.model_dump(), indent=2) if options.json else "\n".join(diagnosis.lines()))
    return SUCCESS if diagnosis.ok else FAILURE


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "swap": _swap,
    "batch": _batch,
    "roop": _roop,
    "status": _status,
    "people": _people,
    "stop": _stop,
    "serve": _extra,
    "transcribe": _extra,
    "cluster": _extra,
    "demo": _demo,
    "prompt": _extra,
    "portraits": _extra,
    "preload": _preload,
    "convert": _convert,
    "verify": _verify,
    "doctor": _doctor,
    "bench": _extra,
}

if __name__ == "__main__":
    run()
