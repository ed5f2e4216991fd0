"""Run a notebook without anybody watching, through papermill.

``python -m colab_helpers.ui.headless NOTEBOOK OUTPUT [-p NAME VALUE]... [NAME=VALUE]...``

Papermill only warns of parameters a notebook does not have and guesses types; here an unknown name or a
value that the notebook's request does not take is refused before any kernel is started. Results go beside
the executed notebook unless ``output_dir`` says otherwise.

Exit codes: 0 everything succeeded; 1 something failed; 2 wrong usage (refused before any work); 130 stopped;
138 the kernel died, as papermill has it.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from colab_helpers import errors
from colab_helpers.batch.lock import FolderBusyError
from colab_helpers.errors import ColabHelpersError, UsageError
from colab_helpers.files import absolute
from colab_helpers.language import ASKED, spoken, tr
from colab_helpers.machine import require_places
from colab_helpers.request import REQUESTS, Request
from colab_helpers.ui.cells import DOCTOR_REPORT, MONITOR_REPORT, PRELOAD_REPORT, STANDIN_NOTE

KERNEL = "python3"
EXIT_FAILED, EXIT_USAGE, EXIT_STOPPED, EXIT_DEAD_KERNEL = 1, 2, 130, 138
REFUSALS = {
    name
    for name, kind in {**vars(errors), "FolderBusyError": FolderBusyError}.items()
    if isinstance(kind, type) and issubclass(kind, ColabHelpersError) and kind.refusal
}
"""Errors of a cell that mean: refused before any work."""

STOPS = {"KeyboardInterrupt", "StoppedError"}


def read_form(path: Path) -> tuple[type[Request], dict[str, Any]]:
    """The request that a notebook builds, and the values that stand in its form, in the form's order.

    Raises:
        UsageError: There is no such notebook, or it builds no request.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["cells"]
        sources = ["".join(cell["source"]) for cell in found if cell["cell_type"] == "code"]
    except OSError as error:
        raise UsageError(
            tr("there is no such notebook"), where=str(path), remedy=tr("name a file of notebooks/")
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            tr("this is no notebook"), where=str(path), remedy=tr("name a file of notebooks/")
        ) from error
    nodes = [node for source in sources for node in _parsed(source)]
    names = (inner.id for node in nodes for inner in ast.walk(node) if isinstance(inner, ast.Name))
    model = next((REQUESTS[name] for name in names if name in REQUESTS), None)
    if model is None:
        raise UsageError(
            tr("this notebook has no form that can be filled in from here"),
            where=str(path),
            remedy=tr("name a file of notebooks/"),
        )
    values: dict[str, Any] = {}
    for node in nodes:
        values |= {name: value for name, value in _assigned(node).items() if name in model.form()}
    return model, values


def _parsed(source: str) -> list[ast.stmt]:
    try:
        return ast.parse(source).body
    except SyntaxError:
        return []  # a cell with commands of the shell, say


def _assigned(node: ast.stmt) -> dict[str, Any]:
    """What a line such as ``preset: str = "light"`` sets, where that is written out."""
    target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
    if not isinstance(node, (ast.Assign, ast.AnnAssign)) or not isinstance(target, ast.Name):
        return {}
    try:
        return {target.id: ast.literal_eval(node.value)} if node.value is not None else {}
    except ValueError:
        return {}  # computed


def fill_in(
    model: type[Request], form: Mapping[str, Any], pairs: Iterable[tuple[str, Any]]
) -> tuple[Request, dict[str, Any]]:
    """Put values into a form.

    Returns:
        The whole request, and those of its values that were given, as a notebook takes them.

    Raises:
        UsageError: A name the notebook does not have, or a value of the wrong kind.
        SettingsError: An unknown preset or key, or a bad value.
    """
    given = dict(pairs)
    for name in given:
        if name not in form:
            raise UsageError(
                tr("the notebook has no parameter {name!r}", name=name),
                remedy=tr("choose from {names}", names=", ".join(form)),
            )
    language = given.get("language", form.get("language"))
    with spoken(next((known for known in ASKED if known == language), "auto")):
        request = model(**{**form, **given})
        request.check()
    return request, request.model_dump(mode="json", include=set(given))


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
        codes = {
            **dict.fromkeys(REFUSALS, EXIT_USAGE),
            "KeyboardInterrupt": EXIT_STOPPED,
            "StoppedError": EXIT_STOPPED,
        }
        return codes.get(error.ename, EXIT_FAILED)
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
    report = Path(str(values.get("output_dir") or output.parent)) / "report.json"
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


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; ``NAME=VALUE`` words are joined to the ``-p`` pairs."""
    prog = "python -m colab_helpers.ui.headless"
    parser = argparse.ArgumentParser(prog=prog, description=tr("Run a notebook."))
    parser.add_argument("notebook", type=absolute)
    parser.add_argument("output", type=absolute, help=tr("where the executed notebook goes"))
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
        model, form = read_form(arguments.notebook)
        usual = {"headless": True, "output_dir": arguments.output.parent}
        chosen = {name: value for name, value in usual.items() if name in form}
        request, values = fill_in(model, form, [*chosen.items(), *map(tuple, arguments.pairs)])
        require_places([arguments.notebook, arguments.output, *request.places])
        prepare_environment()
        check_kernel()
    except ColabHelpersError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return EXIT_USAGE
    # What is printed at the end is printed by this process.
    with spoken(request.language):
        code = run_notebook(arguments.notebook, arguments.output, values)
        print("\n".join(["", *describe_results(arguments.output, values)]), flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
