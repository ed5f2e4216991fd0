"""What can be written on the command line: ``build_parser``; what the verbs do stands in ``__main__``.

Settings are imported where options are made of them: a verb gets its options when it is asked for, so that
``--version`` and ``--help`` need not wait for models of what they do not use.
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, get_args, get_origin

from colab_helpers.errors import UsageError
from colab_helpers.extra_options import (
    FOLDER,
    SWITCH,
    add_cluster,
    add_language,
    add_models_dir,
    add_portraits,
    add_prompt,
    add_serve,
    add_transcribe,
)
from colab_helpers.files import absolute, from_yaml
from colab_helpers.itself import VERSION
from colab_helpers.language import ASKED, Asked, tr

if TYPE_CHECKING:
    from colab_helpers.settings import Settings


def build_parser() -> argparse.ArgumentParser:
    """Build the whole command line."""
    parser = _Parser(prog="colab_helpers", description=tr("Batch face swap for consented, lawful use."))
    parser.add_argument("--version", action="version", version=VERSION)
    parsers = parser.add_subparsers(required=True, metavar="VERB", dest="verb")
    halves = tr("make checked half-precision copies of models, and ONNX of GFPGAN's weights")
    verbs = {
        "swap": (_add_swap, tr("swap the faces of one video or image")),
        "batch": (_add_batch, tr("swap the faces of many videos and images")),
        "roop": (_add_roop, tr("do what a command line of roop's says, and tell what it became")),
        "status": (_add_status, tr("tell how the batch in an output folder stands")),
        "people": (
            _add_people,
            tr("list the people of a batch or of a library, with pictures; change the map"),
        ),
        "stop": (_add_stop, tr("stop the batch in an output folder; a later run goes on with it")),
        "transcribe": (add_transcribe, tr("write what is said in videos as subtitles")),
        "serve": (add_serve, tr("take jobs over HTTP from programs of this machine")),
        "cluster": (add_cluster, tr("make this machine part of a cluster of your own, which does batches")),
        "demo": (_add_demo, tr("copy rendered people to try everything on, with stand-in models")),
        "prompt": (add_prompt, tr("improve the description of a picture, by rules")),
        "portraits": (add_portraits, tr("make up somebody who does not exist, for the library")),
        "preload": (_add_preload, tr("fetch the models that the settings need, verified")),
        "convert": (_add_convert, halves),
        "verify": (_add_verify, tr("tell what files say of how they were made, and whether that holds")),
        "doctor": (_add_doctor, tr("find out what works on this machine")),
        "bench": (_add_bench, tr("measure what a run costs on this machine, and where its time goes")),
    }
    for name, (add_options, purpose) in verbs.items():
        chosen = parsers.add_parser(name, help=purpose)
        chosen.add_options = add_options
        chosen.set_defaults(parser=chosen)
    return parser


def _add_swap(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    _add_run_options(parser)
    add("-t", "--target", required=True, metavar="VIDEO_OR_IMAGE")
    result = tr("result; its suffix is the container")
    add("-o", "--output", required=True, metavar="FILE", help=result)


def _add_batch(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    _add_run_options(parser)
    add("-t", "--targets", required=True, nargs="+", metavar="FOLDER_OR_FILE")
    add("-o", "--output-dir", "--output", required=True, metavar="DIR")
    which = tr("which of the targets, counted from 1, such as 1-30 or 2,5-")
    add("--range", dest="video_range", default="", metavar="1-30", help=which)
    people = tr(
        "find everybody first and go on by people.yaml, or only find them; everybody: whoever is not in it "
        "gets a portrait of their own; auto: by the file if it is there"
    )
    add("--people", choices=("auto", "find", "only", "everybody"), default="auto", help=people)
    work = tr("a folder on a local disk for unfinished work; chosen if not given")
    add("--work-dir", help=work, **FOLDER)
    session = tr("how long this machine can be used: you are told what fits as soon as something is done")
    add("--session-minutes", default=0.0, metavar="N", help=session)
    shortest = tr("begin with the files of fewest frames and pixels")
    add("--shortest-first", help=shortest, **SWITCH)
    here = tr("work in this process: a crash takes everything with it")
    add("--in-process", help=here, **SWITCH)
    add("--cluster", default="", metavar="ADDRESS", help=tr("have a cluster do it: HOST:PORT, or auto"))
    add("--gpus-per-worker", default=1.0, metavar="SHARE", help=tr("of a GPU, for each worker there"))
    first = tr("a batch there waits as long as one of a higher priority works")
    add("--priority", default=0, metavar="N", help=first)
    other = tr("what lies below OLD here lies below NEW on the cluster's machines")
    add("--map", dest="map_paths", action="append", default=[], metavar="OLD=NEW", help=other)


def _add_roop(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("script", nargs="*", metavar="WORD", help=tr("how it begins: python run.py, or runbatch.py 1-30"))
    _add_run_options(parser)
    add("-t", "--target", metavar="VIDEO_OR_IMAGE")
    add("-o", "--output", metavar="FILE", help=tr("result; in a folder it gets the name that roop gives"))
    add("--dry-run", help=tr("only tell what it becomes"), **SWITCH)
    # Of settings whose names roop has for something else, the meaning is roop's.
    add = parser.add_argument_group(tr("as in roop"), conflict_handler="resolve").add_argument
    provider, quality = "setting_execution_provider", "setting_output_video_quality"
    where = tr("cuda is taken where it works")
    add("--execution-provider", dest=provider, nargs="+", metavar="NAME", help=where)
    add("--output-video-quality", dest=quality, metavar="N", help=tr("0 to 100, lower is better"))
    add("--memory-optimization", help=tr("nothing: memory is always bounded"), **SWITCH)


def _add_status(parser: argparse.ArgumentParser) -> None:
    _add_stop(parser)
    parser.add_argument("--json", help=tr("the whole status, for machines"), **SWITCH)


def _add_stop(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help=tr("output folder of the batch"), **FOLDER)
    add_language(parser)


def _add_people(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folder", help=tr("output folder of a batch, or a library: a folder of people"), **FOLDER)
    several: dict[str, Any] = {"action": "append", "default": []}
    pair = {**several, "nargs": 2}
    add("--split", metavar="NAME", help=tr("two people were taken for one"), **several)
    add("--merge", metavar=("NAME", "OTHER"), help=tr("both are one person, called NAME"), **pair)
    source = tr(
        "put this source in: photos, leave, blur, pixelate, portraits, a name of the library, or paths"
    )
    add("--set", metavar="NAME=SOURCE", help=source, **several)
    add("--name", metavar=("NAME", "NEW"), help=tr("call somebody NEW"), **pair)
    add("--library", help=tr("a folder of people, each a folder of photos"), **FOLDER)
    add_models_dir(parser)
    add_language(parser)


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    photos = tr("photo(s) of the person to put in, or their folder; averaged")
    add("-s", "--source", "--sources", dest="sources", nargs="+", default=[], metavar="FACE", help=photos)
    library = tr("a folder of people, each a folder of photos; any FACE may be a name there")
    add("--library", help=library, **FOLDER)
    person = tr("photo(s) of the one person who is changed, wherever she is")
    add("--target-person", nargs="+", default=[], metavar="FACE", help=person)
    add("--never", nargs="+", default=[], metavar="FACE", help=tr("photo(s) of people who are never changed"))
    consent = tr("who is shown, and on what ground: a sentence, or a consent.yaml (required)")
    add("--consent", default="", metavar="TEXT", help=consent)
    where = tr("where the report goes")
    add("--report", dest="report_path", type=absolute, metavar="FILE", help=where)
    add_models_dir(parser)
    _add_settings(parser)


def _setting_help(name: str) -> str:
    from colab_helpers.settings import field_help

    return field_help(name).replace("%", "%%")


def _add_settings(parser: argparse.ArgumentParser) -> None:
    from colab_helpers.settings import DEFAULT_PRESET, Settings

    group = parser.add_argument_group(tr("settings"), tr("a preset, and any setting on top of it"))
    preset = tr("name(s) from presets.yaml, joined by '+'")
    group.add_argument("--preset", default=DEFAULT_PRESET, metavar="NAME", help=preset)
    anything = tr("any setting, also those below")
    group.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=anything)
    for name, field in Settings.model_fields.items():
        # A switch may stand alone, as in roop: --many-faces is --many-faces true.
        bare: dict[str, Any] = {"nargs": "?", "const": "true"} if field.annotation is bool else {}
        # Several words, as in roop: --frame-processors face_swapper face_enhancer.
        bare |= {"nargs": "+"} if _takes_several(field.annotation) else {}
        option = f"setting_{name}"
        group.add_argument(option_name(name), dest=option, metavar="VALUE", help=_setting_help(name), **bare)


def _takes_several(annotation: Any) -> bool:
    """Whether a setting may be a list."""
    return get_origin(annotation) is tuple or any(map(_takes_several, get_args(annotation)))


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", **FOLDER)
    add_language(parser)


def _add_preload(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_models_dir(parser)
    accept = tr("accept the licences shown; non-commercial models are refused without")
    add("--accept-licences", "--accept-licenses", help=accept, **SWITCH)
    add("--offline", help=tr("never touch the network, only say what is missing"), **SWITCH)
    add("--shared-cache", help=tr("copy from and to this folder, say on Drive"), **FOLDER)
    add("--verify", help=tr("hash files that are there already"), **SWITCH)
    _add_settings(parser)


def _add_convert(parser: argparse.ArgumentParser) -> None:
    files = tr("swapper or enhancer, .onnx or .pth")
    parser.add_argument("models", nargs="+", type=absolute, metavar="FILE", help=files)
    parser.add_argument("--half", help=tr("compute in float16, too"), **SWITCH)
    _add_settings(parser)


def _add_verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", type=absolute, metavar="FILE")
    trust = tr("PEM file of certificates that vouch for signers, beside the one made on this machine")
    parser.add_argument("--trust", type=absolute, metavar="FILE", help=trust)
    add_language(parser)


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", help=tr("print JSON for machines"), **SWITCH)
    add_models_dir(parser)
    _add_settings(parser)


def _add_bench(parser: argparse.ArgumentParser) -> None:
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
    add_models_dir(parser)
    add_language(parser)


def option_name(setting: str) -> str:
    """Return the command-line option of a setting: ``many_faces`` is ``--many-faces``."""
    return "--" + setting.replace("_", "-")


def settings_of(options: argparse.Namespace) -> Settings:
    """Return the settings that a command line asks for; options win over ``--set``, that over presets."""
    from colab_helpers.settings import load_settings

    return load_settings(options.preset, **overrides_of(options))


def overrides_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return what a command line sets on top of its preset."""
    from colab_helpers.settings import Settings

    overrides = dict(_parse_pair(pair) for pair in options.set)
    given = {name: getattr(options, f"setting_{name}") for name in Settings.model_fields}
    texts = {name: ",".join(text) if isinstance(text, list) else text for name, text in given.items()}
    return overrides | {name: parse_value(text) for name, text in texts.items() if text is not None}


def _parse_pair(pair: str) -> tuple[str, Any]:
    key, value = split_pair(pair, "batch_size=2")
    return key.replace("-", "_"), parse_value(value)


def split_pair(pair: str, example: str) -> tuple[str, str]:
    """Return the two halves of KEY=VALUE; UsageError where it is none."""
    key, separator, value = pair.partition("=")
    if not separator:
        what = tr("--set takes KEY=VALUE, but got {pair!r}", pair=pair)
        raise UsageError(what, remedy=tr("write it like --set {example}", example=example))
    return key.strip(), value.strip()


def parse_value(text: str) -> Any:
    """Read a setting's value as YAML does: numbers, true and false, text."""
    import yaml

    try:
        return from_yaml(text)
    except yaml.YAMLError as error:
        what = tr("the value {text!r} cannot be read", text=text)
        raise UsageError(what, remedy=tr("put it in quotes")) from error


def language_asked(arguments: Sequence[str]) -> Asked:
    """The language that a command line names, for the parser itself; ``auto`` without a known one."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--language", choices=ASKED, default="auto")
    try:
        asked: Asked = parser.parse_known_args(arguments)[0].language
    except (argparse.ArgumentError, SystemExit):
        return "auto"  # whoever reads the whole command line will complain
    return asked


def as_options(remedy: str) -> str:
    """A remedy with the names of settings as options: ``models_dir`` is ``--models-dir``."""
    from colab_helpers.request import BatchRequest, PreloadRequest
    from colab_helpers.settings import Settings

    known = {*Settings.model_fields, *BatchRequest.model_fields, *PreloadRequest.model_fields}
    # A single word may be just a word, unless a value follows.
    names = "|".join(rf"{name}\b" if "_" in name else rf"{name}(?==)" for name in known)
    written = re.sub(rf"(?<![\w-])({names})", lambda found: option_name(found[1]), remedy)
    return re.sub(r"(--[a-z-]+)=(?:true\b)?", r"\1 ", written).replace("  ", " ")


class _Parser(argparse.ArgumentParser):
    """Gets its options when it is used, and says which one may be meant where one is misspelt."""

    add_options: Callable[[argparse.ArgumentParser], None] | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self._words = list(sys.argv[1:] if args is None else args)
        if self.add_options:
            self.add_options(self)
            self.add_options = None
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        known = re.findall(r"--[a-z][a-z-]+", self.format_help())
        given = [word.partition("=")[0] for word in self._words if word.startswith("--")]
        odd = [word for word in given if not any(option.startswith(word) for option in known)]
        meant = [close for word in odd for close in difflib.get_close_matches(word, known, 1)]
        hint = tr(" (did you mean {options}?)", options=", ".join(meant)) if meant else ""
        super().error(message + hint)
