"""Verbs beside the batch, loaded when asked for; what needs packages of its own says how to install them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from colab_helpers.command_line import split_pair
from colab_helpers.errors import ColabHelpersError, require_extra
from colab_helpers.language import tr


def _serve(options: argparse.Namespace) -> int:
    require_extra("serve", "fastapi", "uvicorn")
    from colab_helpers.batch.queue import Queue
    from colab_helpers.serve import Server, serve

    folders = tuple(options.inputs), options.library, options.models_dir
    serve(Server(*folders, Queue(options.jobs)), options.host, options.port)
    return 0


def _transcribe(options: argparse.Namespace) -> int:
    require_extra("transcripts", "faster_whisper", "ctranslate2")
    from colab_helpers.models.session import models_root
    from colab_helpers.transcribe import MODEL, listener, transcribe

    folder: Path = options.model or models_root(options.models_dir) / MODEL
    hear, failed = listener(folder, named=bool(options.model), words=options.words), 0
    for path in options.files:
        try:
            heard, made = transcribe(path, hear, track=options.track)
        except ColabHelpersError as error:
            print(tr("error: {error}", error=error), file=sys.stderr)
            failed = 1
            continue
        told = tr(
            "{files}: {lines} line(s) in the language {language} ({share:.0%} sure)",
            files=", ".join(map(str, made)),
            lines=len(heard.lines),
            language=heard.language or "?",
            share=heard.probability,
        )
        print(told, flush=True)
    return failed


def _prompt(options: argparse.Namespace) -> int:
    from colab_helpers.prompts import improved

    print(improved(options.prompt, options.kind))
    return 0


def _portraits(options: argparse.Namespace) -> int:
    from colab_helpers.ui.portraits import PortraitsRequest, paint_portraits, show_prompt

    names = ("name", "prompt", "count", "size", "seed", "library", "models_dir", "offline", "language")
    given = {name: getattr(options, name) for name in names}
    paint_portraits(show_prompt(PortraitsRequest(**given, headless=True)))
    return 0


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
        print("\n".join(nodes.described(options.address)))
    return 0


def _bench(options: argparse.Namespace) -> int:
    from tempfile import TemporaryDirectory

    from colab_helpers.batch.overwriting import Writable
    from colab_helpers.batch.report import clear_report, own_file, write_text
    from colab_helpers.demo import copy_demo
    from colab_helpers.diagnosis.bench import Plan, bench

    if options.json:
        clear_report(options.json, Writable(made=own_file), page=False)
    for pair in options.settings or ():
        split_pair(pair, "output_video_preset=veryfast")
    names = ("heights", "faces", "seconds", "repeat", "settings")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    quick: dict[str, Any] = {"heights": [1080], "faces": [1], "seconds": [4.0], "repeat": 3}
    plan = (quick if options.quick else {}) | given
    with TemporaryDirectory() as folder:
        made = copy_demo(Path(folder) / "media") if options.demo else None
        plan["demo"] = (made.targets[0], made.source, made.models) if made else None
        asked = Plan(**plan, models=options.models_dir)
        found = bench(asked, Path(folder), partial(print, flush=True))
    if options.json:
        write_text(options.json, json.dumps(found, indent=2) + "\n")
    return 0


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "serve": _serve,
    "transcribe": _transcribe,
    "cluster": _cluster,
    "bench": _bench,
    "prompt": _prompt,
    "portraits": _portraits,
}
