"""Command line of the package: ``python -m colab_helpers <verb>``.

Exit codes: 0, everything succeeded; 1, something failed during the work; 2, refused before any work; 130,
stopped. For ``verify``: 0, every file is marked; 1, a file is unmarked or none is media; 2, a mark is
invalid.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from io import TextIOWrapper
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from colab_helpers import extras
from colab_helpers.addresses import refuse_address
from colab_helpers.command_line import (
    FAILURE,
    FOLDER,
    INTERRUPTED,
    SUCCESS,
    SWITCH,
    Verb,
    add_language,
    add_settings,
    build_parser,
    overrides_of,
    print_error,
    requested_language,
    settings_of,
    split_pair,
)  # fmt: skip
from colab_helpers.errors import ColabHelpersError, UsageError
from colab_helpers.files import absolute
from colab_helpers.language import mark, tr, use_language
from colab_helpers.startup import begin_startup, exit_immediately, finish_startup

if TYPE_CHECKING:
    from colab_helpers.batch.report import BatchReport

_STOPPED = mark("stopped; run the same command again to resume")


def run() -> NoReturn:
    """Entry point of a dedicated process: run the verb in ``sys.argv`` and exit."""
    begin_startup()
    exit_immediately(main())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code."""
    if isinstance(sys.stdout, TextIOWrapper):  # file names that are not UTF-8; stderr does this already
        sys.stdout.reconfigure(errors="backslashreplace")
    with use_language(requested_language(sys.argv[1:] if arguments is None else arguments)):
        options, unknown = build_parser(VERBS).parse_known_args(arguments)
        if unknown:
            options.parser.error(tr("unrecognized arguments: {words}", words=" ".join(unknown)))
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    from colab_helpers.machine import lost_mount, require_reachable

    verb = VERBS[options.verb].run
    with ExitStack() as language:
        try:
            if verb is not _roop:  # its options are not settings until translated
                # Presets and --set may choose a language, too.
                choice = settings_of(options).language if hasattr(options, "preset") else options.language
                language.enter_context(use_language(choice))
            values = chain.from_iterable(v if isinstance(v, list) else [v] for v in vars(options).values())
            require_reachable(paths := [value for value in values if isinstance(value, Path)])
            for path in paths if verb not in (_status, _stop, _people) else ():
                refuse_address(path, stored=True)
            if verb not in (_swap, _status, _stop):  # _swap calls it after its imports; the others are short
                finish_startup()
            return verb(options)
        except ColabHelpersError as error:
            return print_error(error)
        except BrokenPipeError:  # the reader, such as ``head``, has closed the pipe
            return FAILURE
        except OSError as error:
            if (lost := lost_mount(error, Path(error.filename or "."))) is None:
                raise
            print_error(lost)
            return FAILURE
        except KeyboardInterrupt:
            print(tr(_STOPPED), file=sys.stderr)
            return INTERRUPTED


def _run_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    photos = tr("photo(s) of the source face, or a folder of them; several are averaged")
    add("-s", "--source", "--sources", dest="sources", nargs="+", default=[], metavar="FACE", help=photos)
    library = tr("library of people, one folder of photos per person; a FACE may be a name in it")
    add("--library", help=library, **FOLDER)
    person = tr("photo(s) of the only person to change")
    add("--target-person", nargs="+", default=[], metavar="FACE", help=person)
    add("--never", nargs="+", default=[], metavar="FACE", help=tr("photo(s) of people never to change"))
    consent = tr("who is shown and on what ground: a sentence or the path of a consent.yaml (required)")
    add("--consent", default="", metavar="TEXT", help=consent)
    add("--report", dest="report_path", type=absolute, metavar="FILE", help=tr("file for the report"))
    add_settings(parser, models=True)


def _swap_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    _run_options(parser)
    add("-t", "--target", required=True, metavar="VIDEO_OR_IMAGE")
    add("-o", "--output", required=True, metavar="FILE", help=tr("output file; its suffix is the container"))


def _swap(options: argparse.Namespace) -> int:
    import colab_helpers.batch.run_file  # noqa: F401 - loads everything a swap needs
    from colab_helpers.api import swap_file
    from colab_helpers.batch.report import check_report_path, is_own_file
    from colab_helpers.batch.write_policy import WritePolicy, file_identities
    from colab_helpers.ui.progress import ProgressLine

    finish_startup()
    settings = settings_of(options)
    if options.report_path:
        photos = (*options.sources, *options.target_person, *options.never)
        inputs = file_identities(map(Path, [*photos, options.target]))
        policy = WritePolicy(inputs, settings.overwrite, made=is_own_file)
        check_report_path(options.report_path, policy, page=False)
    with ProgressLine(headless=not sys.stderr.isatty()) as line:
        names = ("sources", "target", "output", "consent", "models_dir", "target_person", "never", "library")
        arguments = {name: getattr(options, name) for name in names}
        report = swap_file(**arguments, settings=settings, on_progress=line)
    if options.report_path:
        report.save(options.report_path)
    return _conclude(report)


def _status_options(parser: argparse.ArgumentParser) -> None:
    _stop_options(parser)
    parser.add_argument("--json", help=tr("print the full status as JSON"), **SWITCH)


def _status(options: argparse.Namespace) -> int:
    from colab_helpers.batch.status import read_status
    from colab_helpers.files import to_json
    from colab_helpers.pages.live import live_text

    status = read_status(options.folder)
    lost = status.state == "running" and not status.alive()
    lines = [] if options.json else live_text([], status, now=time.time(), lost=lost)
    print(to_json(status, indent=2) if options.json else "\n".join(lines))
    return SUCCESS if status.state == "done" or status.alive() else FAILURE


def _stop_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help=tr("output folder of the batch"), **FOLDER)
    add_language(parser)


def _stop(options: argparse.Namespace) -> int:
    from colab_helpers.batch.stop import request_stop

    if not request_stop(options.folder):
        print(tr("no batch is running there"))
        return FAILURE
    print(tr("stop requested; finished work is kept, and the same command resumes the batch"))
    return SUCCESS


def _batch_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    _run_options(parser)
    add("-t", "--targets", required=True, nargs="+", metavar="FOLDER_OR_FILE")
    add("-o", "--output-dir", "--output", required=True, metavar="DIR")
    targets = tr("targets to process, counted from 1, such as 1-30 or 2,5-")
    add("--range", dest="video_range", default="", metavar="1-30", help=targets)
    people = tr(
        "auto: follow people.yaml if it exists; find: find everybody first, then follow it; only: stop after "
        "finding; everybody: also give whoever is not in people.yaml a portrait of their own"
    )
    add("--people", choices=("auto", "find", "only", "everybody"), default="auto", help=people)
    work = tr("work folder for unfinished results, on a local disk; chosen automatically if not given")
    add("--work-dir", help=work, **FOLDER)
    session = tr("minutes this machine can be used; how much fits is shown once something is done")
    add("--session-minutes", default=0.0, metavar="N", help=session)
    add("--shortest-first", help=tr("process the files with the fewest frames and pixels first"), **SWITCH)
    add("--in-process", help=tr("work in this process, without a worker: a crash ends all"), **SWITCH)
    add("--cluster", default="", metavar="ADDRESS", help=tr("run the batch on a cluster: HOST:PORT, or auto"))
    share = tr("share of a GPU for each worker of the cluster")
    add("--gpus-per-worker", default=1.0, metavar="SHARE", help=share)
    priority = tr("a batch on the cluster waits while one of higher priority runs")
    add("--priority", default=0, metavar="N", help=priority)
    mapping = tr("files below OLD here are found below NEW on the cluster's machines")
    add("--map", dest="map_paths", action="append", default=[], metavar="OLD=NEW", help=mapping)


def _batch(options: argparse.Namespace) -> int:
    from colab_helpers.api import run_batch_request
    from colab_helpers.batch.report import REPORT_NAME, html_path
    from colab_helpers.batch.supervisor import BatchStopped
    from colab_helpers.request import BatchRequest
    from colab_helpers.ui.progress import ProgressLine

    fields = {name: value for name, value in vars(options).items() if name in BatchRequest.model_fields}
    request = BatchRequest(**fields, overrides=overrides_of(options))
    # SIGTERM stops the batch; only SIGKILL leaves the worker running. Not SIGINT's current handler: a shell
    # that starts this in the background has set it to be ignored.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ProgressLine(headless=not sys.stderr.isatty()) as line:
        try:
            report = run_batch_request(request, on_progress=line, on_status=line.status)
        except BatchStopped as stopped:
            if stopped.report is None:
                raise
            report = stopped.report
    code = _conclude(report)
    if request.output_dir and (page := html_path(request.output_dir / REPORT_NAME)).is_file():
        print(tr("report:   {path}", path=page))
    return code


def _roop_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("script", nargs="*", metavar="WORD", help=tr("script: python run.py, or runbatch.py 1-30"))
    _run_options(parser)
    add("-t", "--target", metavar="VIDEO_OR_IMAGE")
    add("-o", "--output", metavar="FILE", help=tr("output file; in a folder it gets roop's name for it"))
    add("--dry-run", help=tr("only show the translated command"), **SWITCH)
    # Names that mean something else in roop than as a setting have roop's meaning here.
    title = tr("options with roop's meaning")
    add = parser.add_argument_group(title, conflict_handler="resolve").add_argument
    provider, quality = "setting_execution_provider", "setting_output_video_quality"
    add("--execution-provider", dest=provider, nargs="+", metavar="NAME", help=tr("cuda is used if it works"))
    add("--output-video-quality", dest=quality, metavar="N", help=tr("0 to 100, lower is better"))
    add("--memory-optimization", help=tr("ignored: memory is always bounded"), **SWITCH)


def _roop(options: argparse.Namespace) -> int:
    from colab_helpers.roop import translate_command

    native, lines = translate_command(options)
    print("\n".join(lines))
    if not options.dry_run:
        return _run(native)
    settings_of(native)  # raises SettingsError for a bad value
    return SUCCESS


def _conclude(report: BatchReport) -> int:
    from colab_helpers.pages.units import results_text

    print(results_text(report))
    if report.stopped:
        print(tr(_STOPPED), file=sys.stderr)
        return INTERRUPTED
    return SUCCESS if report.ok else FAILURE


def _people_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folder", help=tr("output folder of a batch, or a library of people"), **FOLDER)
    several: dict[str, Any] = {"action": "append", "default": []}
    pair = {**several, "nargs": 2}
    add("--split", metavar="NAME", help=tr("split NAME, in whom two people were mixed up"), **several)
    add("--merge", metavar=("NAME", "OTHER"), help=tr("merge both into one person called NAME"), **pair)
    source = tr("source of NAME: photos, leave, blur, pixelate, portraits, a name in the library, or paths")
    add("--set", metavar="NAME=SOURCE", help=source, **several)
    add("--name", metavar=("NAME", "NEW"), help=tr("rename NAME to NEW"), **pair)
    add("--library", help=tr("library of people, one folder of photos per person"), **FOLDER)
    add_language(parser, models=True)


def _people(options: argparse.Namespace) -> int:
    from colab_helpers.batch.known_people import PEOPLE_FOLDER_NAME
    from colab_helpers.batch.object_store import sync_inputs
    from colab_helpers.batch.people_edits import PEOPLE_FILES
    from colab_helpers.pages.sheet import batch_cards, library_cards, write_sheet

    sync_inputs(folder := options.folder, (), ())
    if any((folder / name).exists() for name in PEOPLE_FILES):  # found by a batch, or written by hand
        _edit_people(options)
        cards, sheet_folder = batch_cards(folder), folder / PEOPLE_FOLDER_NAME
    elif options.split or options.merge or options.set or options.name:
        what = tr("this folder has no people of a batch to edit")
        remedy = tr("name the output folder of a batch whose people were found")
        raise UsageError(what, where=str(folder), remedy=remedy)
    else:
        cards, sheet_folder = library_cards(folder, options.models_dir), folder
    print("\n".join(card.line for card in cards))
    title = tr("People of {folder}", folder=folder.name)
    print(tr("pictures: {paths}", paths=write_sheet(sheet_folder, title, cards)))
    return SUCCESS


def _edit_people(options: argparse.Namespace) -> None:
    """Apply the edits in the order split, merge, set, name; each is saved before the next."""
    from colab_helpers.batch.people_edits import merge, rename, set_source, split

    for name in options.split:
        print(tr("{name} was split into {parts}", name=name, parts=", ".join(split(options.folder, name))))
    for one, other in options.merge:
        merge(options.folder, one, other)
    for pair in options.set:
        name, value = split_pair(pair, "p1=leave")
        is_path = os.path.exists(absolute(value))  # noqa: PTH110 - Path.exists raises if the name is too long
        sources = [value] if is_path else [word.strip() for word in value.split(",")]
        set_source(options.folder, name, sources, options.library)
    for old, new in options.name:
        rename(options.folder, old, new)


VERBS: dict[str, Verb] = {
    "swap": Verb(_swap_options, mark("swap the faces of one video or image"), _swap),
    "batch": Verb(_batch_options, mark("swap the faces of many videos and images"), _batch),
    "roop": Verb(_roop_options, mark("run a roop command line, and show what it was translated to"), _roop),
    "status": Verb(_status_options, mark("show the status of the batch in an output folder"), _status),
    "people": Verb(_people_options, mark("show the people of a batch or library; edit who is who"), _people),
    "stop": Verb(_stop_options, mark("stop the batch in an output folder; a later run resumes it"), _stop),
    **extras.VERBS,
}

if __name__ == "__main__":
    run()
