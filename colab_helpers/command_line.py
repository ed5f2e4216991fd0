"""How a command line is read: ``build_parser``; the verbs stand in ``__main__`` and ``extras``.

Settings are imported where options are made of them: a verb gets its options when it is asked for, so that
``--version`` and ``--help`` need not wait for models of what they do not use.
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, get_args, get_origin

from colab_helpers.errors import ColabHelpersError, UsageError
from colab_helpers.files import absolute, from_yaml
from colab_helpers.language import LANGUAGE_CHOICES, LANGUAGE_HELP, LanguageChoice, tr
from colab_helpers.startup import VERSION

if TYPE_CHECKING:
    from colab_helpers.settings import Settings


SUCCESS, FAILURE, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130
FOLDER: dict[str, Any] = {"type": absolute, "metavar": "DIR"}
SWITCH: dict[str, Any] = {"action": "store_true"}


class Verb(NamedTuple):
    """What a verb takes, what it is for (marked for translation), and what it does, to an exit code."""

    add_options: Callable[[argparse.ArgumentParser], None]
    purpose: str
    run: Callable[[argparse.Namespace], int]


def build_parser(verbs: Mapping[str, Verb]) -> argparse.ArgumentParser:
    """Build the whole command line."""
    parser = _Parser(prog="colab_helpers", description=tr("Batch face swap for consented, lawful use."))
    parser.add_argument("--version", action="version", version=VERSION)
    parsers = parser.add_subparsers(required=True, metavar="VERB", dest="verb")
    for name, verb in verbs.items():
        chosen = parsers.add_parser(name, help=tr(verb.purpose))
        chosen.add_options = verb.add_options
        chosen.set_defaults(parser=chosen)
    return parser


def add_language(parser: argparse.ArgumentParser, *, models: bool = False) -> None:
    """Of verbs without settings: the one that concerns them, too, and with ``models`` the folder of these."""
    if models:
        parser.add_argument("--models-dir", help=tr("folder of the model files"), **FOLDER)
    parser.add_argument("--language", choices=LANGUAGE_CHOICES, default="auto", help=tr(LANGUAGE_HELP))


def add_settings(parser: argparse.ArgumentParser, *, models: bool = False) -> None:
    """Of verbs that take a preset and any setting, and with ``models`` the folder of these."""
    from colab_helpers.settings import DEFAULT_PRESET, Settings, field_help

    if models:
        parser.add_argument("--models-dir", help=tr("folder of the model files"), **FOLDER)
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
        bare |= {"dest": f"setting_{name}", "metavar": "VALUE", "help": field_help(name).replace("%", "%%")}
        group.add_argument(option_name(name), **bare)


def _takes_several(annotation: Any) -> bool:
    """Whether a setting may be a list."""
    return get_origin(annotation) is tuple or any(map(_takes_several, get_args(annotation)))


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

    pairs = (split_pair(pair, "batch_size=2") for pair in options.set)
    overrides = {key.replace("-", "_"): parse_value(value) for key, value in pairs}
    given = {name: getattr(options, f"setting_{name}") for name in Settings.model_fields}
    texts = {name: ",".join(text) if isinstance(text, list) else text for name, text in given.items()}
    return overrides | {name: parse_value(text) for name, text in texts.items() if text is not None}


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


def requested_language(arguments: Sequence[str]) -> LanguageChoice:
    """The language that a command line names, for the parser itself; ``auto`` without a known one."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--language", choices=LANGUAGE_CHOICES, default="auto")
    try:
        asked: LanguageChoice = parser.parse_known_args(arguments)[0].language
    except (argparse.ArgumentError, SystemExit):
        return "auto"  # whoever reads the whole command line will complain
    return asked


def with_option_names(remedy: str) -> str:
    """A remedy with the names of settings as options: ``models_dir`` is ``--models-dir``."""
    from colab_helpers.request import BatchRequest, PreloadRequest
    from colab_helpers.settings import Settings

    known = {*Settings.model_fields, *BatchRequest.model_fields, *PreloadRequest.model_fields}
    # A single word may be just a word, unless a value follows.
    names = "|".join(rf"{name}\b" if "_" in name else rf"{name}(?==)" for name in known)
    written = re.sub(rf"(?<![\w-])({names})", lambda found: option_name(found[1]), remedy)
    return re.sub(r"(--[a-z-]+)=(?:true\b)?", r"\1 ", written).replace("  ", " ")


def print_error(error: ColabHelpersError) -> int:
    """Print an error in the command line's words; return the exit code."""
    told = type(error)(error.what, where=error.where, remedy=with_option_names(error.remedy))
    print(tr("error: {error}", error=told), file=sys.stderr)
    return WRONG_USAGE if error.refusal else FAILURE


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
