"""Verbs that need packages which nothing else needs: each says the one command that installs them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from colab_helpers.errors import ColabHelpersError, UsageError
from colab_helpers.language import tr


def _need(extra: str, *modules: str) -> None:
    """Refuse a verb whose modules are not installed: UsageError."""
    if missing := ", ".join(name for name in modules if find_spec(name) is None):
        what = tr("this needs packages that are not installed: {names}", names=missing)
        raise UsageError(what, remedy=tr("run 'bash setup.sh install {extra}'", extra=extra))


def _serve(options: argparse.Namespace) -> int:
    _need("serve", "fastapi", "uvicorn")
    from colab_helpers.batch.queue import Queue
    from colab_helpers.serve import Server, serve

    folders = tuple(options.inputs), options.library, options.models_dir
    serve(Server(*folders, Queue(options.jobs)), options.host, options.port)
    return 0


def _transcribe(options: argparse.Namespace) -> int:
    _need("transcripts", "faster_whisper", "ctranslate2")
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


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {"serve": _serve, "transcribe": _transcribe}
