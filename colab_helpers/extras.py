"""Verbs beside the run and their options; what needs packages of its own says how to install them."""

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
    accept = tr("accept the licences shown; non-commercial models are refused without")
    add("--accept-licences", "--accept-licenses", help=accept, **SWITCH)
    add("--offline", help=tr("never touch the network, only say what is missing"), **SWITCH)
    add("--shared-cache", help=tr("copy from and to this folder, say on Drive"), **FOLDER)
    add("--verify", help=tr("hash files that are there already"), **SWITCH)
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
    given = {name: getattr(options, name) for name in ("accept_licences", "offline", "shared_cache")}
    how = {"models_dir": options.models_dir, "verify": options.verify}
    try:
        with FetchLine(headless=not sys.stderr.isatty()) as line:
            report = preload(settings, FetchOptions(**given), on_progress=line, **how)
    except ModelError as error:
        code = print_error(error)
        # Fetching is this verb's work.
        return code if options.offline else FAILURE
    for file in report.files:
        print(f"{tr(SOURCE_WORDS[file.source])}: {file.path} ({file.record.bytes / 1e6:.1f} MB)")
    _print_notes(report.notes)
    return SUCCESS


def _convert_options(parser: argparse.ArgumentParser) -> None:
    files = tr("swapper or enhancer, .onnx or .pth")
    parser.add_argument("models", nargs="+", type=absolute, metavar="FILE", help=files)
    parser.add_argument("--half", help=tr("compute in float16, too"), **SWITCH)
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
    trust = tr("PEM file of certificates that vouch for signers, beside the one made on this machine")
    parser.add_argument("--trust", type=absolute, metavar="FILE", help=trust)
    add_language(parser)


def _verify(options: argparse.Namespace) -> int:
    from colab_helpers.trust.verify import EXIT_CODES, load_anchors, split_media, verify

    (media, others), anchors = split_media(options.files), load_anchors(options.trust)
    worst = SUCCESS if media else FAILURE
    for path in media:
        try:
            print((found := verify(path, anchors=anchors)).text)
            worst = max(worst, EXIT_CODES[found.state])
        except ColabHelpersError as error:
            worst = max(worst, print_error(error))
    _print_notes(tr("{name} is passed over: no picture or video", name=one_line(one.name)) for one in others)
    return worst


def _doctor_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", help=tr("print JSON for machines"), **SWITCH)
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
    jobs = tr("where jobs wait and their results go, each in a folder of its own")
    add("jobs", help=jobs, **FOLDER)
    inputs = tr("folders of photos and videos that requests may name; nothing else is read for them")
    add("--inputs", nargs="+", default=[], help=inputs, **FOLDER)
    add("--library", help=tr("a folder of people, each a folder of photos"), **FOLDER)
    host = tr("address to listen at; the default lets in this machine alone, others see all that is sent")
    add("--host", default="127.0.0.1", metavar="ADDRESS", help=host)
    add("--port", type=int, default=8765, metavar="N", help=tr("0 takes one that is free"))
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
    add("--track", help=tr("also write a copy with a track of them, marked as results are"), **SWITCH)
    add("--words", help=tr("each word by itself, with its time"), **SWITCH)
    add("--model", help=tr("folder of another Whisper model in CTranslate2's form"), **FOLDER)
    add_language(parser, models=True)


def _transcribe(options: argparse.Namespace) -> int:
    require_extra("transcripts", "faster_whisper", "ctranslate2")
    from colab_helpers.models.session import models_root
    from colab_helpers.transcribe import MODEL, load_transcriber, transcribe

    folder: Path = options.model or models_root(options.models_dir) / MODEL
    transcriber, failed = load_transcriber(folder, named=bool(options.model), words=options.words), SUCCESS
    for path in options.files:
        try:
            transcript, made = transcribe(path, transcriber, track=options.track)
        except ColabHelpersError as error:
            print_error(error)
            failed = FAILURE
            continue
        told = tr(
            "{files}: {lines} line(s) in the language {language} ({share:.0%} sure)",
            files=", ".join(map(str, made)),
            lines=len(transcript.lines),
            language=transcript.language or "?",
            share=transcript.probability,
        )
        print(told, flush=True)
    return failed


def _prompt_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", help=tr("what the picture shows, in English or Spanish"))
    kinds = tr("auto is a portrait where it speaks of a person")
    parser.add_argument("--kind", choices=("auto", "portrait", "general"), default="auto", help=kinds)
    add_language(parser)


def _prompt(options: argparse.Namespace) -> int:
    from colab_helpers.prompts import improve_prompt

    print(improve_prompt(options.prompt, options.kind))
    return SUCCESS


def _portraits_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("name", metavar="NAME", help=tr("what the new person is called"))
    add("prompt", help=tr("who is shown: an adult, in English or Spanish; it is improved first"))
    add("--library", required=True, help=tr("a folder of people, each a folder of photos"), **FOLDER)
    several = tr("make so many, called NAME-1, NAME-2 and so on, beside those who are there")
    add("--count", type=int, choices=range(1, 1000), metavar="N", help=several)
    add("--seed", type=int, default=0, metavar="N", help=tr("another seed is another person"))
    add("--size", type=int, choices=(512, 768, 1024), default=1024, help=tr("edge of the picture in pixels"))
    add("--offline", help=tr("never touch the network, only say what is missing"), **SWITCH)
    add_language(parser, models=True)


def _portraits(options: argparse.Namespace) -> int:
    from colab_helpers.ui.portraits import PortraitsRequest, paint_portraits, show_prompt

    names = ("name", "prompt", "count", "size", "seed", "library", "models_dir", "offline", "language")
    given = {name: getattr(options, name) for name in names}
    paint_portraits(show_prompt(PortraitsRequest(**given, headless=True)))
    return 0


def _cluster_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("action", choices=("start", "join", "status", "stop"))
    address = tr("of the cluster, as start tells it")
    add("address", nargs="?", default="auto", metavar="HOST:PORT", help=address)
    host = tr("address at which others reach this machine; without it, start lets nobody else in")
    add("--host", default="", help=host)
    add("--port", type=int, default=6379, metavar="N", help=tr("where start listens"))
    add_language(parser)


def _cluster(options: argparse.Namespace) -> int:
    from colab_helpers.cluster import nodes

    if options.action == "start":
        address = nodes.start(options.host or nodes.LOOPBACK, options.port)
        token = nodes.token_path()
        print(tr("the cluster is at {address}; its token: {token}", address=address, token=token))
    elif options.action == "join":
        nodes.join(options.address, options.host)
        print(tr("this machine is part of the cluster at {address}", address=options.address))
    elif options.action == "stop":
        print(tr("{number} node(s) of this machine ended", number=nodes.stop()))
    else:
        print("\n".join(nodes.describe_cluster(options.address)))
    return SUCCESS


def _bench_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    several: dict[str, Any] = {"nargs": "+", "metavar": "N"}
    add("--json", type=absolute, metavar="FILE", help=tr("write all figures there, for machines"))
    add("--quick", help=tr("one short clip, each run three times: a minute or two"), **SWITCH)
    add("--demo", help=tr("the demo's clip and networks in place of made ones"), **SWITCH)
    add("--heights", type=int, help=tr("of the clips, in pixels"), **several)
    add("--faces", type=int, help=tr("in each frame"), **several)
    add("--seconds", type=float, help=tr("that a clip lasts"), **several)
    add("--repeat", type=int, metavar="N", help=tr("runs of which the median counts"))
    add("--set", dest="settings", action="append", metavar="KEY=VALUE", help=tr("any setting of the runs"))
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
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    quick: dict[str, Any] = {"heights": [1080], "faces": [1], "seconds": [4.0], "repeat": 3}
    plan = (quick if options.quick else {}) | given
    with TemporaryDirectory() as folder:
        made = copy_demo(Path(folder) / "media") if options.demo else None
        plan["demo"] = (made.targets[0], made.source, made.models) if made else None
        asked = BenchPlan(**plan, models=options.models_dir)
        found = bench(asked, Path(folder), partial(print, flush=True))
    if options.json:
        write_text(options.json, json.dumps(found, indent=2) + "\n")
    return SUCCESS


VERBS: dict[str, Verb] = {
    "transcribe": Verb(_transcribe_options, mark("write what is said in videos as subtitles"), _transcribe),
    "serve": Verb(_serve_options, mark("take jobs over HTTP from programs of this machine"), _serve),
    "cluster": Verb(
        _cluster_options,
        mark("make this machine part of a cluster of your own, which does batches"),
        _cluster,
    ),
    "demo": Verb(
        _demo_options, mark("copy rendered people to try everything on, with stand-in models"), _demo
    ),
    "prompt": Verb(_prompt_options, mark("improve the description of a picture, by rules"), _prompt),
    "portraits": Verb(
        _portraits_options, mark("make up somebody who does not exist, for the library"), _portraits
    ),
    "preload": Verb(_preload_options, mark("fetch the models that the settings need, verified"), _preload),
    "convert": Verb(
        _convert_options,
        mark("make checked half-precision copies of models, and ONNX of GFPGAN's weights"),
        _convert,
    ),
    "verify": Verb(
        _verify_options,
        mark("tell what files say of how they were made, and whether that holds"),
        _verify,
    ),
    "doctor": Verb(_doctor_options, mark("find out what works on this machine"), _doctor),
    "bench": Verb(
        _bench_options, mark("measure what a run costs on this machine, and where its time goes"), _bench
    ),
}
