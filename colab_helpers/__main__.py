"""The package's verbs from a shell: ``python -m colab_helpers <verb>``.

Exit code 0: everything succeeded; 1: something failed while it was done; 2: refused before any work; 130:
stopped.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, get_origin

import yaml

from colab_helpers import __version__
from colab_helpers.errors import ColabHelpersError, ModelError, UsageError
from colab_helpers.files import absolute, to_json
from colab_helpers.language import ASKED, Asked, mark, spoken, tr
from colab_helpers.machine import lost_mount, mounted_drive, require_places
from colab_helpers.request import BatchRequest, PreloadRequest
from colab_helpers.settings import DEFAULT_PRESET, Settings, field_help, load_settings

if TYPE_CHECKING:
    from colab_helpers.batch.report import BatchReport, FileReport
    from colab_helpers.models.progress import Progress as Transfer


SUCCESS, FAILURE, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130
_STOPPED = mark("stopped; the same command goes on with what is finished")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code."""
    if isinstance(sys.stdout, TextIOWrapper):  # names that are no UTF-8, as stderr has them already
        sys.stdout.reconfigure(errors="backslashreplace")
    with spoken(_language_asked(sys.argv[1:] if arguments is None else arguments)):
        options, unknown = build_parser().parse_known_args(arguments)
        if unknown:
            options.parser.error(tr("unrecognized arguments: {words}", words=" ".join(unknown)))
        return _run(options)


def _language_asked(arguments: Sequence[str]) -> Asked:
    """The language that a command line names, for the parser itself; ``auto`` without a known one."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--language", choices=ASKED, default="auto")
    try:
        asked: Asked = parser.parse_known_args(arguments)[0].language
    except (argparse.ArgumentError, SystemExit):
        return "auto"  # whoever reads the whole command line will complain
    return asked


def _run(options: argparse.Namespace) -> int:
    verb: Callable[[argparse.Namespace], int] = options.verb
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
    told = type(error)(error.what, where=error.where, remedy=_as_options(error.remedy))
    print(tr("error: {error}", error=told), file=sys.stderr)
    return WRONG_USAGE if error.refusal else FAILURE


def _as_options(remedy: str) -> str:
    """A remedy with the names of settings as options: ``models_dir`` is ``--models-dir``."""
    known = {*Settings.model_fields, *BatchRequest.model_fields, *PreloadRequest.model_fields}
    # A single word may be just a word, unless a value follows.
    names = "|".join(rf"{name}\b" if "_" in name else rf"{name}(?==)" for name in known)
    written = re.sub(rf"(?<![\w-])({names})", lambda found: option_name(found[1]), remedy)
    return re.sub(r"(--[a-z-]+)=(?:true\b)?", r"\1 ", written).replace("  ", " ")


class _Parser(argparse.ArgumentParser):
    """Says which option may be meant where one is misspelt."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self._words = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        known = re.findall(r"--[a-z][a-z-]+", self.format_help())
        given = [word.partition("=")[0] for word in self._words if word.startswith("--")]
        odd = [word for word in given if not any(option.startswith(word) for option in known)]
        meant = [close for word in odd for close in difflib.get_close_matches(word, known, 1)]
        hint = tr(" (did you mean {options}?)", options=", ".join(meant)) if meant else ""
        super().error(message + hint)


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = _Parser(prog="colab_helpers", description=tr("Batch face swap for consented, lawful use."))
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    _add_swap(verbs.add_parser("swap", help=tr("swap the faces of one video or image")))
    _add_batch(verbs.add_parser("batch", help=tr("swap the faces of many videos and images")))
    _add_status(verbs.add_parser("status", help=tr("tell how the batch in an output folder stands")))
    _add_stop(
        verbs.add_parser("stop", help=tr("stop the batch in an output folder; a later run goes on with it"))
    )
    demo_help = tr("copy rendered people to try everything on, with stand-in models")
    _add_demo(verbs.add_parser("demo", help=demo_help))
    _add_preload(verbs.add_parser("preload", help=tr("fetch the models that the settings need, verified")))
    _add_convert(
        verbs.add_parser(
            "convert", help=tr("make checked half-precision copies of models, and ONNX of GFPGAN's weights")
        )
    )
    _add_doctor(verbs.add_parser("doctor", help=tr("find out what works on this machine")))
    return parser


def _add_swap(parser: argparse.ArgumentParser) -> None:
    _add_run_options(parser)
    parser.add_argument("-t", "--target", required=True, metavar="VIDEO_OR_IMAGE")
    parser.add_argument(
        "-o", "--output", required=True, metavar="FILE", help=tr("result; its suffix is the container")
    )
    parser.set_defaults(verb=_swap, parser=parser)


def _add_batch(parser: argparse.ArgumentParser) -> None:
    _add_run_options(parser)
    parser.add_argument("-t", "--targets", required=True, nargs="+", metavar="FOLDER_OR_FILE")
    parser.add_argument("-o", "--output-dir", "--output", required=True, metavar="DIR")
    parser.add_argument(
        "--range",
        default="",
        metavar="1-30",
        help=tr("which of the targets, counted from 1, such as 1-30 or 2,5-"),
    )
    parser.add_argument(
        "--work-dir",
        type=absolute,
        metavar="DIR",
        help=tr("a folder on a local disk for unfinished work; chosen if not given"),
    )
    parser.add_argument(
        "--session-minutes",
        default=0.0,
        metavar="N",
        help=tr("how long this machine can be used: you are told what fits as soon as something is done"),
    )
    parser.add_argument(
        "--shortest-first",
        action="store_true",
        help=tr("begin with the files of fewest frames and pixels"),
    )
    parser.add_argument(
        "--in-process", action="store_true", help=tr("work in this process: a crash takes everything with it")
    )
    parser.set_defaults(verb=_batch, parser=parser)


def _add_status(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=absolute, metavar="DIR", help=tr("output folder of the batch"))
    parser.add_argument("--json", action="store_true", help=tr("the whole status, for machines"))
    _add_language(parser)
    parser.set_defaults(verb=_status, parser=parser)


def _add_stop(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=absolute, metavar="DIR", help=tr("output folder of the batch"))
    _add_language(parser)
    parser.set_defaults(verb=_stop, parser=parser)


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-s",
        "--source",
        nargs="+",
        default=[],
        metavar="FACE",
        help=tr("photo(s) of the person to put in; averaged"),
    )
    parser.add_argument(
        "--consent", default="", metavar="TEXT", help=tr("who is shown, and on what ground (required)")
    )
    parser.add_argument("--models-dir", type=absolute, metavar="DIR", help=tr("folder of the model files"))
    parser.add_argument("--report", type=absolute, metavar="FILE", help=tr("where the report goes"))
    _add_settings(parser)


def _add_language(parser: argparse.ArgumentParser) -> None:
    """The one setting that concerns verbs without settings, too."""
    parser.add_argument(
        "--language",
        choices=ASKED,
        default="auto",
        help=field_help("language").replace("%", "%%"),
    )


def _add_settings(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(tr("settings"), tr("a preset, and any setting on top of it"))
    group.add_argument(
        "--preset",
        default=DEFAULT_PRESET,
        metavar="NAME",
        help=tr("name(s) from presets.yaml, joined by '+'"),
    )
    group.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help=tr("any setting, also those below")
    )
    for name, field in Settings.model_fields.items():
        # A switch may stand alone, as in roop: --many-faces is --many-faces true.
        bare: dict[str, Any] = {"nargs": "?", "const": "true"} if field.annotation is bool else {}
        # Several words, as in roop: --frame-processors face_swapper face_enhancer.
        bare |= {"nargs": "+"} if get_origin(field.annotation) is tuple else {}
        group.add_argument(
            option_name(name),
            dest=f"setting_{name}",
            metavar="VALUE",
            help=field_help(name).replace("%", "%%"),
            **bare,
        )


def option_name(setting: str) -> str:
    """The command-line option of a setting: ``many_faces`` is ``--many-faces``."""
    return "--" + setting.replace("_", "-")


def settings_of(options: argparse.Namespace) -> Settings:
    """The settings that a command line asks for; options win over ``--set``, which wins over presets."""
    return load_settings(options.preset, **_overrides_of(options))


def _overrides_of(options: argparse.Namespace) -> dict[str, Any]:
    overrides = dict(_parse_pair(pair) for pair in options.set)
    given = {name: getattr(options, f"setting_{name}") for name in Settings.model_fields}
    texts = {name: ",".join(text) if isinstance(text, list) else text for name, text in given.items()}
    return overrides | {name: parse_value(text) for name, text in texts.items() if text is not None}


def _parse_pair(pair: str) -> tuple[str, Any]:
    key, separator, value = pair.partition("=")
    if not separator:
        raise UsageError(
            tr("--set takes KEY=VALUE, but got {pair!r}", pair=pair),
            remedy=tr("write it like --set batch_size=2"),
        )
    return key.strip().replace("-", "_"), parse_value(value)


def parse_value(text: str) -> Any:
    """A setting's value as YAML reads it: numbers, true and false, text.

    Raises:
        UsageError: It is not YAML.
    """
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(
            tr("the value {text!r} cannot be read", text=text), remedy=tr("put it in quotes")
        ) from error


def _swap(options: argparse.Namespace) -> int:
    from colab_helpers.api import swap_file
    from colab_helpers.batch.plan import Writable, identities
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
        overrides=_overrides_of(options),
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
    for note in report.notes:
        print(tr("note: {note}", note=note))
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


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=absolute, metavar="DIR")
    _add_language(parser)
    parser.set_defaults(verb=_demo, parser=parser)


def _demo(options: argparse.Namespace) -> int:
    from colab_helpers.demo import copy_demo

    copy_demo(options.directory)
    print(tr("source, targets and stand-in models are in {folder}", folder=options.directory))
    return SUCCESS


def _add_preload(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models-dir", type=absolute, metavar="DIR", help=tr("folder of the model files"))
    parser.add_argument(
        "--accept-licences",
        "--accept-licenses",
        action="store_true",
        help=tr("accept the licences shown; non-commercial models are refused without"),
    )
    parser.add_argument(
        "--offline", action="store_true", help=tr("never touch the network, only say what is missing")
    )
    parser.add_argument(
        "--shared-cache", type=absolute, metavar="DIR", help=tr("copy from and to this folder, say on Drive")
    )
    parser.add_argument("--mirror-prefix", metavar="URL", help=tr("put before every address"))
    parser.add_argument("--proxy", metavar="URL")
    parser.add_argument("--verify", action="store_true", help=tr("hash files that are there already"))
    _add_settings(parser)
    parser.set_defaults(verb=_preload, parser=parser)


def _preload(options: argparse.Namespace) -> int:
    from colab_helpers.models.preload import preload, preview
    from colab_helpers.models.records import SOURCE_WORDS
    from colab_helpers.models.transfer import FetchOptions
    from colab_helpers.settings import load_presets

    settings, own = settings_of(options), load_presets().models
    outlook = preview(settings, models_dir=options.models_dir, user_models=own)
    print(
        tr("models folder: {folder} ({free:.1f} GB free)", folder=outlook.root, free=outlook.bytes_free / 1e9)
    )
    for name, size in outlook.missing.items():
        if size is None:
            print(tr("missing: {name} (size unknown)", name=name))
        else:
            print(tr("missing: {name} ({size:.0f} MB)", name=name, size=size / 1e6))
    print(outlook.licences)
    try:
        report = preload(
            settings,
            FetchOptions(
                accept_licences=options.accept_licences,
                offline=options.offline,
                shared_cache=options.shared_cache,
                mirror_prefix=options.mirror_prefix,
                proxy=options.proxy,
            ),
            models_dir=options.models_dir,
            user_models=own,
            verify=options.verify,
            on_progress=_show_transfer if sys.stderr.isatty() else None,
        )
    except ModelError as error:
        code = _complain(error)
        # Fetching is this verb's work.
        return code if options.offline else FAILURE
    for file in report.files:
        print(f"{tr(SOURCE_WORDS[file.source])}: {file.path} ({file.bytes / 1e6:.1f} MB)")
    for note in report.notes:
        print(tr("note: {note}", note=note))
    return SUCCESS


def _show_transfer(progress: Transfer) -> None:
    """One line that is written over: megabytes, rate, time left."""
    line = tr(
        "{done:.0f} of {total:.0f} MB at {rate:.1f} MB/s",
        done=progress.bytes_done / 1e6,
        total=progress.bytes_total / 1e6,
        rate=progress.rate / 1e6,
    )
    left = "" if progress.eta is None else tr(", {eta:.0f} s left", eta=progress.eta)
    print(
        f"\r{line}{left}   ",
        end="",
        file=sys.stderr,
        flush=True,
    )


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models", nargs="+", type=absolute, metavar="FILE", help=tr("swapper or enhancer, .onnx or .pth")
    )
    parser.add_argument("--half", action="store_true", help=tr("compute in float16, too"))
    _add_settings(parser)
    parser.set_defaults(verb=_convert, parser=parser)


def _convert(options: argparse.Namespace) -> int:
    from colab_helpers.models.half import convert
    from colab_helpers.models.session import Runtime

    runtime = Runtime(settings_of(options).execution_provider)
    results = [convert(path, half=options.half, runtime=runtime) for path in options.models]
    for result in results:
        print(result.path)
    for note in (*runtime.notes, *(note for result in results for note in result.notes)):
        print(tr("note: {note}", note=note))
    return SUCCESS


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help=tr("print JSON for machines"))
    parser.add_argument("--models-dir", type=absolute, metavar="DIR", help=tr("folder of the model files"))
    _add_settings(parser)
    parser.set_defaults(verb=_doctor, parser=parser)


def _doctor(options: argparse.Namespace) -> int:
    from colab_helpers.diagnosis import diagnose

    diagnosis = diagnose(settings_of(options), models_dir=options.models_dir, drive=mounted_drive())
    if options.json:
        print(json.dumps(diagnosis.model_dump(), indent=2))
    else:
        print("\n".join(diagnosis.lines()))
    return SUCCESS if diagnosis.ok else FAILURE


if __name__ == "__main__":
    sys.exit(main())
