"""Run a notebook without anybody watching, through papermill.

``python -m colab_helpers.ui.headless NOTEBOOK OUTPUT [-p NAME VALUE]... [NAME=VALUE]...``

Papermill only warns of parameters a notebook does not have and guesses types; here an unknown name or a
value of the wrong type is refused before any work. Results go beside the executed notebook unless
``output_dir`` says otherwise.

Exit codes: 0 everything succeeded; 1 something failed; 2 wrong usage (refused before any work);
138 the kernel died, as papermill has it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from colab_helpers.errors import ColabHelpersError, UsageError
from colab_helpers.language import ASKED, Asked, spoken, tr
from colab_helpers.pages.report import STANDIN_NOTE
from colab_helpers.ui.cells import DOCTOR_REPORT, MONITOR_REPORT, PRELOAD_REPORT

KERNEL = "python3"
EXIT_FAILED, EXIT_USAGE, EXIT_DEAD_KERNEL = 1, 2, 138
REFUSALS = {"ConsentError", "SettingsError", "UsageError"}
"""Errors of a cell that mean: refused before any work."""

_TYPES: dict[str, type] = {"str": str, "int": int, "float": float, "bool": bool, "list": list, "dict": dict}


@dataclass(frozen=True)
class Parameter:
    """A value a notebook asks for: a line of its cell tagged ``parameters``."""

    name: str
    type_name: str
    default: str
    """As it is written in the notebook."""


def notebook_parameters(path: Path) -> dict[str, Parameter]:
    """The parameters a notebook declares, by name, with their annotated types.

    Raises:
        UsageError: The notebook does not exist.
    """
    from papermill.inspection import inspect_notebook

    if not path.is_file():
        raise UsageError(
            tr("there is no such notebook"), where=str(path), remedy=tr("name a file of notebooks/")
        )
    found = inspect_notebook(str(path))
    return {
        name: Parameter(name, str(entry["inferred_type_name"]), str(entry["default"]))
        for name, entry in found.items()
    }


def parse_values(pairs: Iterable[tuple[str, str]], known: Mapping[str, Parameter]) -> dict[str, Any]:
    """Turn ``name, text`` pairs into values of the declared types.

    Text for a ``str`` stays exactly as it is (``007`` is no number); the rest is read as YAML, and a list
    may be given as its only item.

    Raises:
        UsageError: A name the notebook does not have, or a value of another type.
    """
    values = {}
    for name, text in pairs:
        if name not in known:
            raise UsageError(
                tr("the notebook has no parameter {name!r}", name=name),
                remedy=tr("choose from {names}", names=", ".join(known)),
            )
        values[name] = _parse(known[name], text)
    return values


def _parse(parameter: Parameter, text: str) -> Any:
    if parameter.type_name == "str":
        return text
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise _wrong_value(parameter, text) from error
    wanted = _TYPES.get(parameter.type_name)
    if wanted is list and isinstance(value, str):
        return [value]
    if wanted is float and type(value) is int:
        return float(value)
    if wanted is not None and type(value) is not wanted:
        raise _wrong_value(parameter, text)
    return value


def _wrong_value(parameter: Parameter, text: str) -> UsageError:
    examples = {"list": "[a.jpg, b.jpg]", "dict": "{batch_size: 2}", "bool": tr("true or false")}
    example = examples.get(parameter.type_name, "")
    return UsageError(
        tr(
            "{name} = {text!r} is not a {type_name}",
            name=parameter.name,
            text=text,
            type_name=parameter.type_name,
        ),
        remedy=tr("write it like {example}", example=example)
        if example
        else tr("give a {type_name}", type_name=parameter.type_name),
    )


def check_kernel() -> None:
    """Make sure that the kernel papermill starts is this very Python, with its packages.

    A ``python3`` kernel installed for the user may point to another environment.

    Raises:
        UsageError: It is another Python, or there is no kernel.
    """
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    try:
        program = KernelSpecManager().get_kernel_spec(KERNEL).argv[0]
    except NoSuchKernel as error:
        raise UsageError(
            tr("there is no Jupyter kernel {KERNEL!r}", KERNEL=KERNEL),
            remedy=tr("run 'bash setup.sh install notebook'"),
        ) from error
    # A bare "python" means the interpreter that starts the kernel: this one.
    if Path(program).name != program and Path(program).parent != Path(sys.executable).parent:
        raise UsageError(
            tr(
                "the kernel {KERNEL!r} starts {program}, not {executable}",
                KERNEL=KERNEL,
                program=program,
                executable=sys.executable,
            ),
            remedy=tr("run 'python -m ipykernel install --sys-prefix' in this environment"),
        )


def prepare_environment() -> None:
    """Set what Jupyter, and the kernel it starts, read from the environment; what is set already stays."""
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")
    # The kernel's debugger, which nobody uses here, would print a warning on Python 3.13.
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")


def run_notebook(notebook: Path, output: Path, values: Mapping[str, Any]) -> int:
    """Execute a notebook and keep the executed copy.

    Args:
        notebook: What to run.
        output: Where the executed notebook goes; its folder is made.
        values: Parameters by name.

    Returns:
        The exit code.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            _literal(notebook),
            _literal(output),
            parameters=dict(values),
            kernel_name=KERNEL,
            progress_bar=False,
            stdout_file=sys.stdout,
            stderr_file=sys.stderr,
            # Kernels warn that local TCP is not encrypted, and call being shut down an error.
            extra_arguments=["--log-level=CRITICAL"],
        )
    except PapermillExecutionError as error:
        print(f"\n{error.ename}: {error.evalue}", file=sys.stderr, flush=True)
        return EXIT_USAGE if error.ename in REFUSALS else EXIT_FAILED
    except DeadKernelError:
        print(tr("\nThe notebook's kernel died; most often the memory was used up."), file=sys.stderr)
        print(tr("What to do: run again with preset=stable or a smaller max_memory."), file=sys.stderr)
        return EXIT_DEAD_KERNEL
    return 0


def _literal(path: Path) -> str:
    """A path as papermill takes it: it formats braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


def describe_results(output: Path, values: Mapping[str, Any]) -> list[str]:
    """Say where everything is: results, report, executed notebook."""
    lines = []
    report = Path(str(values.get("output_dir") or output.parent)).expanduser() / "report.json"
    if report.exists():
        found = json.loads(report.read_text(encoding="utf-8"))
        summary, files = found["summary"], found["files"]
        if any(model["standin"] for model in found["models"]):
            lines.append(tr(STANDIN_NOTE))
        lines.append(
            tr(
                "{succeeded} of {total} files in {seconds:.1f} s",
                succeeded=summary["succeeded"],
                total=summary["total"],
                seconds=summary["seconds"],
            )
        )
        lines += [tr("result:   {path}", path=file["output"]) for file in files if file["status"] == "done"]
        lines.append(tr("report:   {report}", report=report))
    others = (report.with_name(name) for name in (DOCTOR_REPORT, PRELOAD_REPORT, MONITOR_REPORT))
    lines += [tr("report:   {path}", path=path) for path in others if path.exists()]
    return [*lines, tr("notebook: {output}", output=output)] if output.exists() else lines


def _language_of(known: Mapping[str, Parameter], values: Mapping[str, Any]) -> Asked:
    """What a notebook speaks; one that nobody can speak is left to the notebook to refuse."""
    default = yaml.safe_load(known["language"].default) if "language" in known else "auto"
    chosen = values.get("language", default)
    return next((name for name in ASKED if name == chosen), "auto")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; ``NAME=VALUE`` words are joined to the ``-p`` pairs."""
    prog = "python -m colab_helpers.ui.headless"
    parser = argparse.ArgumentParser(prog=prog, description=tr("Run a notebook."))
    parser.add_argument("notebook", type=Path)
    parser.add_argument("output", type=Path, help=tr("where the executed notebook goes"))
    parser.add_argument("-p", dest="pairs", nargs=2, metavar=("NAME", "VALUE"), action="append", default=[])
    parser.add_argument("words", nargs="*", metavar="NAME=VALUE", help=tr("the same, shorter"))
    arguments = parser.parse_intermixed_args(argv)
    for word in arguments.words:
        name, equals, value = word.partition("=")
        if not equals:
            parser.error(tr("{word!r} is not NAME=VALUE", word=word))
        arguments.pairs.append([name, value])
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run from a shell; returns the exit code."""
    arguments = parse_arguments(argv)
    try:
        known = notebook_parameters(arguments.notebook)
        values = parse_values([(name, value) for name, value in arguments.pairs], known)
        prepare_environment()
        check_kernel()
    except ColabHelpersError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return EXIT_USAGE
    defaults = {"headless": True, "output_dir": str(arguments.output.parent.absolute())}
    values = {**{name: value for name, value in defaults.items() if name in known}, **values}
    # What is printed at the end is printed by this process.
    with spoken(_language_of(known, values)):
        code = run_notebook(arguments.notebook, arguments.output, values)
        print("\n".join(["", *describe_results(arguments.output, values)]), flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
