"""Parsing of the command line; the verbs themselves are in ``__main__`` and ``extras``.

A verb's options are added, and ``settings`` imported, only when that verb is parsed: ``--version`` and
``--help`` stay fast.
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
    """A verb: adds its options, has a help text (marked for translation), and runs to an exit code."""

    add_options: Callable[[argparse.ArgumentParser], None]
    purpose: str
    run: Callable[[argparse.Namespace], int]


def build_parser(verbs: Mapping[str, Verb]) -> argparse.ArgumentParser:
    """Build the parser with a subparser for each verb."""
    parser = _Parser(prog="colab_helpers", description=tr("Batch face swap for consented, lawful use."))
    parser.add_argument("--version", action="version", version=VERSION)
    parsers = parser.add_subparsers(required=True, metavar="VERB", dest="verb")
    for name, verb in verbs.items():
        chosen = parsers.add_parser(name, help=tr(verb.purpose))
        chosen.add_options = verb.add_options
        chosen.set_defaults(parser=chosen)
    return parser


def add_language(parser: argparse.ArgumentParser, *, models: bool = False) -> None:
    """Add ``--language``, for verbs without settings, and with ``models`` ``--models-dir``."""
    if models:
        parser.add_argument("--models-dir", help=tr("folder of the model files"), **FOLDER)
    parser.add_argument("--language", choices=LANGUAGE_CHOICES, default="auto", help=tr(LANGUAGE_HELP))


def add_settings(parser: argparse.ArgumentParser, *, models: bool = False) -> None:
    """Add ``--preset``, ``--set``, an option for each setting, and with ``models`` ``--models-dir``."""
    from colab_helpers.settings import DEFAULT_PRESET, Settings, field_help

    if models:
        parser.add_argument("--models-dir", help=tr("folder of the model files"), **FOLDER)
    group = parser.add_argument_group(tr("settings"), tr("a preset, and settings that override it"))
    preset = tr("name(s) from presets.yaml, joined by '+'")
    group.add_argument("--preset", default=DEFAULT_PRESET, metavar="NAME", help=preset)
    anything = tr("override any setting, as the options below do")
    group.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=anything)
    for name, field in Settings.model_fields.items():
        # As in roop, --many-faces alone means --many-faces true.
        kwargs: dict[str, Any] = {"nargs": "?", "const": "true"} if field.annotation is bool else {}
        # As in roop, a list is several words: --frame-processors face_swapper face_enhancer.
        kwargs |= {"nargs": "+"} if _is_list(field.annotation) else {}
        kwargs |= {"dest": f"setting_{name}", "metavar": "VALUE", "help": field_help(name).replace("%", "%%")}
        group.add_argument(option_name(name), **kwargs)


def _is_list(annotation: Any) -> bool:
    """Return whether a setting of this type may be a list."""
    return get_origin(annotation) is tuple or any(map(_is_list, get_args(annotation)))


def option_name(setting: str) -> str:
    """Return the command-line option of a setting: ``many_faces`` is ``--many-faces``."""
    return "--" + setting.replace("_", "-")


def settings_of(options: argparse.Namespace) -> Settings:
    """Load the settings of a command line: options override ``--set``, which overrides presets."""
    from colab_helpers.settings import load_settings

    return load_settings(options.preset, **overrides_of(options))


def overrides_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of a command line that override its preset."""
    from colab_helpers.settings import Settings

    pairs = (split_pair(pair, "batch_size=2") for pair in options.set)
    overrides = {key.replace("-", "_"): parse_value(value) for key, value in pairs}
    for name in Settings.model_fields:
        if (text := getattr(options, f"setting_{name}")) is not None:
            overrides[name] = parse_value(",".join(text) if isinstance(text, list) else text)
    return overrides


def split_pair(pair: str, example: str) -> tuple[str, str]:
    """Split KEY=VALUE into its halves; raise UsageError if there is no ``=``."""
    key, separator, value = pair.partition("=")
    if not separator:
        what = tr("--set takes KEY=VALUE, not {pair!r}", pair=pair)
        raise UsageError(what, remedy=tr("write, for example, --set {example}", example=example))
    return key.strip(), value.strip()


def parse_value(text: str) -> Any:
    """Parse a setting's value as YAML: a number, a boolean, a list or text."""
    import yaml

    try:
        return from_yaml(text)
    except yaml.YAMLError as error:
        what = tr("the value {text!r} is not valid YAML", text=text)
        raise UsageError(what, remedy=tr("put it in quotes")) from error


def requested_language(arguments: Sequence[str]) -> LanguageChoice:
    """Return the command line's ``--language``, for the parser's own texts; ``auto`` if absent or unknown."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--language", choices=LANGUAGE_CHOICES, default="auto")
    try:
        choice: LanguageChoice = parser.parse_known_args(arguments)[0].language
    except (argparse.ArgumentError, SystemExit):
        return "auto"  # the full parser reports the error
    return choice


def with_option_names(remedy: str) -> str:
    """Spell the settings in a remedy as options: ``models_dir`` becomes ``--models-dir``."""
    from colab_helpers.request import BatchRequest, PreloadRequest
    from colab_helpers.settings import Settings

    known = {*Settings.model_fields, *BatchRequest.model_fields, *PreloadRequest.model_fields}
    # A name without an underscore may be an ordinary word, unless ``=`` follows.
    names = "|".join(rf"{name}\b" if "_" in name else rf"{name}(?==)" for name in known)
    written = re.sub(rf"(?<![\w-])({names})", lambda match: option_name(match[1]), remedy)
    return re.sub(r"(--[a-z-]+)=(?:true\b)?", r"\1 ", written).replace("  ", " ")


def print_error(error: ColabHelpersError) -> int:
    """Print an error to stderr, with settings spelled as options; return the exit code."""
    shown = type(error)(error.what, where=error.where, remedy=with_option_names(error.remedy))
    print(tr("error: {error}", error=shown), file=sys.stderr)
    return WRONG_USAGE if error.refusal else FAILURE


class _Parser(argparse.ArgumentParser):
    """A parser that adds its options on first use, and suggests the nearest option for a misspelt one."""

    add_options: Callable[[argparse.ArgumentParser], None] | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self._words = list(sys.argv[1:] if args is None else args)
        if self.add_options:
            self.add_options(self)
            self.add_options = None
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        known = re.findall(r"--[a-z][a-z-]+", self.format_help())
        used = [word.partition("=")[0] for word in self._words if word.startswith("--")]
        unknown = [word for word in used if not any(option.startswith(word) for option in known)]
        nearest = [close for word in unknown for close in difflib.get_close_matches(word, known, 1)]
        hint = tr(" (did you mean {options}?)", options=", ".join(nearest)) if nearest else ""
        super().error(message + hint)
