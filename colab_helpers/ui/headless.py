"""Run a notebook without anybody watching, through papermill.

``python -m colab_helpers.ui.headless NOTEBOOK OUTPUT [-p NAME VALUE]... [NAME=VALUE]...``

Papermill only warns of parameters a notebook does not have and guesses types; here an unknown name or a
value that the notebook's request does not take is refused before any kernel is started. Results go beside
the executed notebook unless ``output_dir`` says otherwise.

Ctrl-C or SIGTERM interrupts the cell at work, as a notebook's stop button does, so that a batch is left in
order; a second one has its worker killed, a third one ends at once.

Exit codes: 0 everything succeeded; 1 something failed; 2 wrong usage (refused before any work); 130 stopped;
138 the kernel died, as papermill has it.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from colab_helpers import errors
from colab_helpers.batch.lock import FolderBusyError
from colab_helpers.batch.report import REPORT_NAME
from colab_helpers.errors import ColabHelpersError, UsageError
from colab_helpers.files import absolute
from colab_helpers.language import ASKED, spoken, tr
from colab_helpers.machine import require_places
from colab_helpers.pages.report import STANDIN_NOTE
from colab_helpers.request import REQUESTS, Request
from colab_helpers.ui.cells import DOCTOR_REPORT, MONITOR_REPORT, PRELOAD_REPORT

KERNEL = "python3"
_STARTUP_SECONDS = 300
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


class _StopError(Exception):
    """Cells that have not begun are left alone."""


class Stops:
    """Signals to stop, on their way to the cell at work.

    A kernel drops an interrupt while it is idle, and when it has been sent a cell it may not have begun it:
    an interrupt waits until the kernel has said that it has.
    """

    def __init__(self) -> None:
        self.count = 0
        self._passed = 0
        self._kernel: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Take a signal."""
        self.count += 1
        if self.count > 2:
            raise KeyboardInterrupt
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._pass_on)

    def before_cell(self, **_: object) -> None:
        """Called before a cell is sent to the kernel."""
        self._kernel = None
        if self.count:
            raise _StopError

    def on_message(self, message: Mapping[str, Any], kernel: Any) -> None:
        """Called with everything the kernel says of the cell at work."""
        if message["msg_type"] == "execute_input":
            self._kernel, self._loop = kernel, asyncio.get_running_loop()
            self._pass_on()

    def _pass_on(self) -> None:
        if self._kernel is not None and self._passed < self.count:
            self._passed = self.count
            self._sending = asyncio.ensure_future(self._kernel.interrupt_kernel())


@contextmanager
def stops_passed_on() -> Iterator[Stops]:
    """Have Ctrl-C and SIGTERM reach the notebook's cell instead of this process."""
    stops = Stops()
    # A job in the background of a shell ignores Ctrl-C, which is meant for the one in front.
    wanted = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stops.on_signal) for number in wanted}
    try:
        yield stops
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _engine(stops: Stops) -> str:
    """Papermill's own engine, with stops; returns the name it is registered under."""
    from papermill.clientwrap import PapermillNotebookClient
    from papermill.engines import NBClientEngine, papermill_engines

    class Client(PapermillNotebookClient):  # type: ignore[misc]
        def process_message(self, message: Mapping[str, Any], *rest: Any) -> Any:
            stops.on_message(message, self.km)
            return super().process_message(message, *rest)

    class Engine(NBClientEngine):  # type: ignore[misc]
        @classmethod
        def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **options: Any) -> Any:
            known = {name: value for name, value in options.items() if name in Client.class_trait_names()}
            known |= {"on_cell_execute": stops.before_cell, "startup_timeout": _STARTUP_SECONDS}
            return Client(nb_man, kernel_name=kernel_name, **known).execute()

    papermill_engines.register("colab_helpers", Engine)
    return "colab_helpers"


def run_notebook(notebook: Path, output: Path, values: Mapping[str, Any], stops: Stops) -> int:
    """Execute a notebook and keep the executed copy.

    Args:
        notebook: What to run.
        output: Where the executed notebook goes; its folder is made.
        values: Parameters by name.
        stops: Signals to stop.

    Returns:
        The exit code.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    code = EXIT_STOPPED
    with suppress(_StopError, KeyboardInterrupt):
        code = _execute(notebook, output, values, _engine(stops))
    if stops.count:
        stopped = tr("stopped; the same command goes on with what is finished")
        print(f"\n{stopped}", file=sys.stderr, flush=True)
        return EXIT_STOPPED
    return code


def _execute(notebook: Path, output: Path, values: Mapping[str, Any], engine: str) -> int:
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    try:
        papermill.execute_notebook(
            _literal(notebook),
            _literal(output),
            parameters=dict(values),
            engine_name=engine,
            kernel_name=KERNEL,
            progress_bar=False,
            stdout_file=sys.stdout,
            stderr_file=sys.stderr,
            # Kernels warn that local TCP is not encrypted, and call being shut down an error.
            extra_arguments=["--log-level=CRITICAL"],
        )
    except PapermillExecutionError as error:
        if error.ename != "KeyboardInterrupt":
            print(f"\n{error.ename}: {error.evalue}", file=sys.stderr, flush=True)
        codes = {**dict.fromkeys(REFUSALS, EXIT_USAGE), **dict.fromkeys(STOPS, EXIT_STOPPED)}
        return codes.get(error.ename, EXIT_FAILED)
    except DeadKernelError:
        print(tr("\nThe notebook's kernel died; most often the memory was used up."), file=sys.stderr)
        print(tr("What to do: run again with preset=stable or a smaller max_memory."), file=sys.stderr)
        return EXIT_DEAD_KERNEL
    return 0


def _literal(path: Path) -> str:
    """A path as papermill takes it: it formats braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


Reports = dict[Path, tuple[int, int, bytes]]
"""Reports in a folder, with what tells one that is written again from the one before: it is another file."""


def reports_in(folder: Path) -> Reports:
    """The reports that notebooks leave in their output folder."""
    found: Reports = {}
    for name in (REPORT_NAME, DOCTOR_REPORT, PRELOAD_REPORT, MONITOR_REPORT):
        with suppress(OSError):
            facts = (folder / name).stat()
            found[folder / name] = facts.st_ino, facts.st_mtime_ns, (folder / name).read_bytes()
    return found


def describe_results(output: Path, folder: Path, before: Reports) -> list[str]:
    """Say where everything is that this run has made: results, reports, executed notebook.

    Args:
        output: The executed notebook.
        folder: Where the results go.
        before: The reports that lay there before the run.
    """
    lines = []
    for path, facts in reports_in(folder).items():
        if before.get(path) == facts:
            continue
        lines += _batch_lines(json.loads(facts[-1])) if path.name == REPORT_NAME else []
        lines.append(tr("report:   {path}", path=path))
    return [*lines, tr("notebook: {output}", output=output)] if output.exists() else lines


def _batch_lines(report: dict[str, Any]) -> list[str]:
    summary, files = report["summary"], report["files"]
    standins = any(model["standin"] for model in report["models"])
    return [
        *([tr(STANDIN_NOTE)] if standins else []),
        tr(
            "{succeeded} of {total} files in {seconds:.1f} s",
            succeeded=summary["succeeded"],
            total=summary["total"],
            seconds=summary["seconds"],
        ),
        *(tr("result:   {path}", path=file["output"]) for file in files if file["status"] == "done"),
    ]


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
    with stops_passed_on() as stops:
        return _main(arguments, stops)


def _main(arguments: argparse.Namespace, stops: Stops) -> int:
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
    folder = request.output_dir or absolute(arguments.output.parent)
    before = reports_in(folder)
    # What is printed at the end is printed by this process.
    with spoken(request.language):
        code = run_notebook(arguments.notebook, arguments.output, values, stops)
        print("\n".join(["", *describe_results(arguments.output, folder, before)]), flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
