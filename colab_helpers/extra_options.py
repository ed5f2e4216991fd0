"""Options of the verbs beside the swap, and those that many verbs share; see ``command_line``."""

from __future__ import annotations

import argparse
from typing import Any

from colab_helpers.files import absolute
from colab_helpers.language import ASKED, HELP, tr

FOLDER: dict[str, Any] = {"type": absolute, "metavar": "DIR"}
SWITCH: dict[str, Any] = {"action": "store_true"}


def add_prompt(parser: argparse.ArgumentParser) -> None:
    """Of ``prompt``."""
    parser.add_argument("prompt", help=tr("what the picture shows, in English or Spanish"))
    kinds = tr("auto is a portrait where it speaks of a person")
    parser.add_argument("--kind", choices=("auto", "portrait", "general"), default="auto", help=kinds)
    add_language(parser)


def add_portraits(parser: argparse.ArgumentParser) -> None:
    """Of ``portraits``."""
    add = parser.add_argument
    add("name", metavar="NAME", help=tr("what the new person is called"))
    add("prompt", help=tr("who is shown: an adult, in English or Spanish; it is improved first"))
    add("--library", required=True, help=tr("a folder of people, each a folder of photos"), **FOLDER)
    several = tr("make so many, called NAME-1, NAME-2 and so on, beside those who are there")
    add("--count", type=int, choices=range(1, 1000), metavar="N", help=several)
    add("--seed", type=int, default=0, metavar="N", help=tr("another seed is another person"))
    add("--size", type=int, choices=(512, 768, 1024), default=1024, help=tr("edge of the picture in pixels"))
    add("--offline", help=tr("never touch the network, only say what is missing"), **SWITCH)
    add_models_dir(parser)
    add_language(parser)


def add_transcribe(parser: argparse.ArgumentParser) -> None:
    """Of ``transcribe``."""
    add = parser.add_argument
    add("files", nargs="+", type=absolute, metavar="VIDEO")
    add("--track", help=tr("also write a copy with a track of them, marked as results are"), **SWITCH)
    add("--words", help=tr("each word by itself, with its time"), **SWITCH)
    add("--model", help=tr("folder of another Whisper model in CTranslate2's form"), **FOLDER)
    add_models_dir(parser)
    add_language(parser)


def add_serve(parser: argparse.ArgumentParser) -> None:
    """Of ``serve``."""
    add = parser.add_argument
    jobs = tr("where jobs wait and their results go, each in a folder of its own")
    add("jobs", help=jobs, **FOLDER)
    inputs = tr("folders of photos and videos that requests may name; nothing else is read for them")
    add("--inputs", nargs="+", default=[], help=inputs, **FOLDER)
    add("--library", help=tr("a folder of people, each a folder of photos"), **FOLDER)
    host = tr("address to listen at; the default lets in this machine alone, others see all that is sent")
    add("--host", default="127.0.0.1", metavar="ADDRESS", help=host)
    add("--port", type=int, default=8765, metavar="N", help=tr("0 takes one that is free"))
    add_models_dir(parser)
    add_language(parser)


def add_models_dir(parser: argparse.ArgumentParser) -> None:
    """Of verbs that run networks."""
    parser.add_argument("--models-dir", help=tr("folder of the model files"), **FOLDER)


def add_language(parser: argparse.ArgumentParser) -> None:
    """The one setting that concerns verbs without settings, too."""
    parser.add_argument("--language", choices=ASKED, default="auto", help=tr(HELP))


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """Add what ``cluster`` takes."""
    add = parser.add_argument
    add("action", choices=("start", "join", "status", "stop"))
    add(
        "address",
        nargs="?",
        default="auto",
        metavar="HOST:PORT",
        help=tr("of the cluster, as start tells it"),
    )
    host = tr("address at which others reach this machine; without it, start lets nobody else in")
    add("--host", default="", help=host)
    add("--port", type=int, default=6379, metavar="N", help=tr("where start listens"))
    add_language(parser)
