"""The other verbs and their options; those that need an extra say how to install it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from colab_helpers.command_line import (
    FAILURE,
    FOLDER,
    SUCCESS,
    SWITCH,
    Verb,
    add_language,
    add_settings,
    print_error,
    settings_of,
    split_pair,
)  # fmt: skip
from colab_helpers.errors import ColabHelpersError, ModelError, require_extra
from colab_helpers.files import absolute
from colab_helpers.language import mark, one_line, tr


def _demo_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", **FOLDER)
    add_language(parser)


def _demo(options: argparse.Namespace) -> int:
    from colab_helpers.demo import copy_demo

    copy_demo(options.directory)
    print(tr("source, targets and stand-in models are in {folder}", folder=options.directory))
    return SUCCESS


def _preload_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    accept = tr("accept the licences shown; required for non-commercial models")
    add("--accept-licences", "--accept-licenses", help=accept, **SWITCH)
    add("--offline", help=tr("never use the network, only report what is missing"), **SWITCH)
    add("--shared-cache", help=tr("cache of models to copy from and to, such as on Drive"), **FOLDER)
    add("--verify", help=tr("also verify the hashes of files that are already there"), **SWITCH)
    add_settings(parser, models=True)


def _preload(options: argparse.Namespace) -> int:
    from colab_helpers.models.catalog import required_models
    from colab_helpers.models.download import FetchOptions
    from colab_helpers.models.fetching import SOURCE_WORDS
    from colab_helpers.models.preload import preload
    from colab_helpers.models.session import models_root
    from colab_helpers.ui.preload import describe_models, models_text
    from colab_helpers.ui.progress import FetchLine

    settings, root = settings_of(options), models_root(options.models_dir)
    print(models_text(describe_models(required_models(settings, root=root), root), root))
    fetch_options = FetchOptions(options.accept_licences, options.offline, shared_cache=options.shared_cache)
    kwargs = {"models_dir": options.models_dir, "verify": options.verify}
    try:
        with FetchLine(headless=not sys.stderr.isatty()) as line:
            report = preload(settings, fetch_options, on_progress=line, **kwargs)
    except ModelError as error:
        code = print_error(error)
        return code if options.offline else FAILURE  # a failed download is a failure, not a refusal
    for file in report.files:
        print(f"{tr(SOURCE_WORDS[file.source])}: {file.path} ({file.record.bytes / 1e6:.1f} MB)")
    _print_notes(report.notes)
    return SUCCESS


def _convert_options(parser: argparse.ArgumentParser) -> None:
    files = tr("model of a swapper or enhancer, .onnx or .pth")
    parser.add_argument("models", nargs="+", type=absolute, metavar="FILE", help=files)
    parser.add_argument("--half", help=tr("also make copies that compute in float16"), **SWITCH)
    add_settings(parser)


def _convert(options: argparse.Namespace) -> int:
    from colab_helpers.models.model_conversion import convert
    from colab_helpers.models.session import Runtime

    runtime = Runtime(settings_of(options).execution_provider)
    results = [convert(path, half=options.half, runtime=runtime) for path in options.models]
    print("\n".join(str(result.path) for result in results))
    _print_notes((*runtime.notes, *(note for result in results for note in result.notes)))
    return SUCCESS


def _verify_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", type=absolute, metavar="FILE")
    trust = tr("PEM file of further trusted certificates, beside the one made on this machine")
    parser.add_argument("--trust", type=absolute, metavar="FILE", help=trust)
    add_language(parser)


def _verify(options: argparse.Namespace) -> int:
    from colab_helpers.trust.verify import EXIT_CODES, load_anchors, split_media, verify

    (media, others), anchors = split_media(options.files), load_anchors(options.trust)
    worst = SUCCESS if media else FAILURE
    for path in media:
        try:
            print((verification := verify(path, anchors=anchors)).text)
            worst = max(worst, EXIT_CODES[verification.state])
        except ColabHelpersError as error:
            worst = max(worst, print_error(error))
    _print_notes(tr("{name} skipped: not an image or video", name=one_line(path.name)) for path in others)
    return worst


def _doctor_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", help=tr("print JSON"), **SWITCH)
    add_settings(parser, models=True)


def _doctor(options: argparse.Namespace) -> int:
    from colab_helpers.diagnosis import diagnose
    from colab_helpers.machine import mounted_drive

    diagnosis = diagnose(settings_of(options), models_dir=options.models_dir, drive=mounted_drive())
    print(json.dumps(diagnosis.model_dump(), indent=2) if options.json else "\n".join(diagnosis.lines()))
    return SUCCESS if diagnosis.ok else FAILURE


def _print_notes(notes: Iterable[str]) -> None:
    for note in notes:
        print(tr("note: {note}", note=note))


def _serve_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    jobs = tr("folder for waiting jobs and their results, with one subfolder per job")
    add("jobs", help=jobs, **FOLDER)
    inputs = tr("folders of photos and videos that requests may name; no others are read")
    add("--inputs", nargs="+", default=[], help=inputs, **FOLDER)
    add("--library", help=tr("library of people, one folder of photos per person"), **FOLDER)
    host = tr("address to listen on; the default admits this machine only, others expose unencrypted traffic")
    add("--host", default="127.0.0.1", metavar="ADDRESS", help=host)
    add("--port", type=int, default=8765, metavar="N", help=tr("port to listen on; 0 chooses a free one"))
    add_language(parser, models=True)


def _serve(options: argparse.Namespace) -> int:
    require_extra("serve", "fastapi", "uvicorn")
    from colab_helpers.batch.queue import Queue
    from colab_helpers.serve import Server, serve

    folders = tuple(options.inputs), options.library, options.models_dir
    serve(Server(*folders, Queue(options.jobs)), options.host, options.port)
    return SUCCESS


def _transcribe_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("files", nargs="+", type=absolute, metavar="VIDEO")
    add("--track", help=tr("also write a marked copy of the video with a subtitle track"), **SWITCH)
    add("--words", help=tr("make each word a subtitle of its own"), **SWITCH)
    add("--model", help=tr("folder of another Whisper model in CTranslate2 format"), **FOLDER)
    add_language(parser, models=True)


def _transcribe(options: argparse.Namespace) -> int:
    require_extra("transcripts", "faster_whisper", "ctranslate2")
    from colab_helpers.models.session import models_root
    from colab_helpers.transcribe import MODEL, load_transcriber, transcribe

    folder: Path = options.model or models_root(options.models_dir) / MODEL
    transcriber, code = load_transcriber(folder, named=bool(options.model), words=options.words), SUCCESS
    for path in options.files:
        try:
            transcript, written = transcribe(path, transcriber, track=options.track)
        except ColabHelpersError as error:
            print_error(error)
            code = FAILURE
            continue
        text = mark("{files}: {lines} line(s), language {language} ({share:.0%} probable)")
        lines, language, share = len(transcript.lines), transcript.language or "?", transcript.probability
        files = ", ".join(map(str, written))
        print(tr(text, files=files, lines=lines, language=language, share=share), flush=True)
    return code


def _prompt_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", help=tr("what the picture shows, in English or Spanish"))
    kinds = tr("kind of picture; auto: a portrait if the prompt mentions a person")
    parser.add_argument("--kind", choices=("auto", "portrait", "general"), default="auto", help=kinds)
    add_language(parser)


def _prompt(options: argparse.Namespace) -> int:
    from colab_helpers.prompts import improve_prompt

    print(improve_prompt(options.prompt, options.kind))
    return SUCCESS


def _portraits_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("name", metavar="NAME", help=tr("name of the new person"))
    add("prompt", help=tr("description of an adult, in English or Spanish; it is improved first"))
    add("--library", required=True, help=tr("library of people, one folder of photos per person"), **FOLDER)
    several = tr("number of people, called NAME-1, NAME-2 and so on; names that exist are skipped")
    add("--count", type=int, choices=range(1, 1000), metavar="N", help=several)
    add("--seed", type=int, default=0, metavar="N", help=tr("random seed: another seed gives another person"))
    add("--size", type=int, choices=(512, 768, 1024), default=1024, help=tr("edge of the picture in pixels"))
    add("--offline", help=tr("never use the network, only report what is missing"), **SWITCH)
    add_language(parser, models=True)


def _portraits(options: argparse.Namespace) -> int:
    from colab_helpers.ui.portraits import PortraitsRequest, paint_portraits, show_prompt

    names = ("name", "prompt", "count", "size", "seed", "library", "models_dir", "offline", "language")
    fields = {name: getattr(options, name) for name in names}
    paint_portraits(show_prompt(PortraitsRequest(**fields, headless=True)))
    return SUCCESS


def _cluster_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("action", choices=("start", "join", "status", "stop"))
    address = tr("address of the cluster, as printed by start")
    add("address", nargs="?", default="auto", metavar="HOST:PORT", help=address)
    host = tr("address at which others reach this machine; without it, start admits this machine only")
    add("--host", default="", help=host)
    add("--port", type=int, default=6379, metavar="N", help=tr("port on which start listens"))
    add_language(parser)


def _cluster(options: argparse.Namespace) -> int:
    from colab_helpers.cluster import nodes

    if options.action == "start":
        address = nodes.start(options.host or nodes.LOOPBACK, options.port)
        token = nodes.token_path()
        print(tr("the cluster is at {address}; its token is in {token}", address=address, token=token))
    elif options.action == "join":
        nodes.join(options.address, options.host)
        print(tr("this machine has joined the cluster at {address}", address=options.address))
    elif options.action == "stop":
        print(tr("{number} node(s) on this machine stopped", number=nodes.stop()))
    else:
        print("\n".join(nodes.describe_cluster(options.address)))
    return SUCCESS


def _bench_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    several: dict[str, Any] = {"nargs": "+", "metavar": "N"}
    add("--json", type=absolute, metavar="FILE", help=tr("write all figures to this file, as JSON"))
    add("--quick", help=tr("measure one short clip, three runs each: a minute or two"), **SWITCH)
    add("--demo", help=tr("use the demo's clip and networks instead of generated ones"), **SWITCH)
    add("--heights", type=int, help=tr("heights of the clips, in pixels"), **several)
    add("--faces", type=int, help=tr("numbers of faces in each frame"), **several)
    add("--seconds", type=float, help=tr("lengths of the clips, in seconds"), **several)
    add("--repeat", type=int, metavar="N", help=tr("runs of each measurement, of which the median counts"))
    add("--set", dest="settings", action="append", metavar="KEY=VALUE", help=tr("any setting for the runs"))
    add_language(parser, models=True)


def _bench(options: argparse.Namespace) -> int:
    from tempfile import TemporaryDirectory

    from colab_helpers.batch.report import check_report_path, is_own_file, write_text
    from colab_helpers.batch.write_policy import WritePolicy
    from colab_helpers.demo import copy_demo
    from colab_helpers.diagnosis.bench import BenchPlan, bench

    if options.json:
        check_report_path(options.json, WritePolicy(made=is_own_file), page=False)
    for pair in options.settings or ():
        split_pair(pair, "output_video_preset=veryfast")
    names = ("heights", "faces", "seconds", "repeat", "settings")
    quick: dict[str, Any] = {"heights": [1080], "faces": [1], "seconds": [4.0], "repeat": 3}
    fields = quick if options.quick else {}
    fields |= {name: value for name in names if (value := getattr(options, name)) is not None}
    with TemporaryDirectory() as folder:
        demo = copy_demo(Path(folder) / "media") if options.demo else None
        fields["demo"] = (demo.targets[0], demo.source, demo.models) if demo else None
        plan = BenchPlan(**fields, models=options.models_dir)
        figures = bench(plan, Path(folder), partial(print, flush=True))
    if options.json:
        write_text(options.json, json.dumps(figures, indent=2) + "\n")
    return SUCCESS


VERBS: dict[str, Verb] = {
    "transcribe": Verb(_transcribe_options, mark("write subtitles of what is said in videos"), _transcribe),
    "serve": Verb(_serve_options, mark("accept jobs over HTTP from programs on this machine"), _serve),
    "cluster": Verb(_cluster_options, mark("manage a cluster of your own machines for batches"), _cluster),
    "demo": Verb(_demo_options, mark("copy the demo: rendered people and stand-in models"), _demo),
    "prompt": Verb(_prompt_options, mark("improve the prompt for a picture, by rules"), _prompt),
    "portraits": Verb(_portraits_options, mark("paint people who do not exist, for the library"), _portraits),
    "preload": Verb(_preload_options, mark("fetch and verify the models that the settings need"), _preload),
    "convert": Verb(_convert_options, mark("convert models to float16 and GFPGAN weights to ONNX"), _convert),
    "verify": Verb(_verify_options, mark("show the provenance of files and check their signatures"), _verify),
    "doctor": Verb(_doctor_options, mark("check what works on this machine"), _doctor),
    "bench": Verb(_bench_options, mark("measure what a run costs here, and where its time goes"), _bench),
}
