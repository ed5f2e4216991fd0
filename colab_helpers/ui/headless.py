"""Run a notebook headless, through papermill.

``python -m colab_helpers.ui.headless NOTEBOOK OUTPUT [-p NAME VALUE]... [NAME=VALUE]...``

Papermill only warns about unknown parameters, and guesses types; here unknown names and invalid values are
refused before a kernel is started. Results go beside the executed notebook unless ``output_dir`` is given.

Ctrl-C or SIGTERM interrupts the running cell, like a notebook's stop button, so that a batch stops cleanly; a
second one kills its worker, a third one exits at once.

Exit codes: 0 success; 1 failure; 2 usage error (refused before any work); 130 stopped; 138 the kernel died
(as papermill).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from colab_helpers import errors
from colab_helpers.batch.lock import FolderBusyError
from colab_helpers.batch.report import REPORT_NAME, html_path
from colab_helpers.errors import ColabHelpersError, UsageError
from colab_helpers.files import absolute, size_and_mtime
from colab_helpers.language import mark, tr, use_language
from colab_helpers.machine import require_reachable
from colab_helpers.ui.form import DOCTOR_REPORT, MONITOR_REPORT, PRELOAD_REPORT, fill_in, read_form

KERNEL = "python3"
_STARTUP_SECONDS = 300
EXIT_FAILED, EXIT_USAGE, EXIT_STOPPED, EXIT_DEAD_KERNEL = 1, 2, 130, 138
_CODES = {
    name: EXIT_USAGE
    for name, kind in {**vars(errors), "FolderBusyError": FolderBusyError}.items()
    if isinstance(kind, type) and issubclass(kind, ColabHelpersError) and kind.refusal
} | {"KeyboardInterrupt": EXIT_STOPPED, "StoppedError": EXIT_STOPPED}
"""Exit codes by the name of a cell's exception; any other is ``EXIT_FAILED``."""


def check_kernel() -> None:
    """Ensure that papermill's kernel runs in this Python environment.

    A ``python3`` kernel installed for the user may point to another one. Raise UsageError if there is no such
    kernel, or it uses another environment.
    """
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")
    # Suppress a warning of the kernel's debugger on Python 3.13.
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    try:
        program = KernelSpecManager().get_kernel_spec(KERNEL).argv[0]
    except NoSuchKernel as error:
        what = tr("there is no Jupyter kernel {name!r}", name=KERNEL)
        raise UsageError(what, remedy=tr("run 'bash setup.sh install notebook'")) from error
    # jupyter_client replaces a bare "python" by the current interpreter.
    if Path(program).name != program and Path(program).parent != Path(sys.executable).parent:
        what = mark("the kernel {name!r} starts {program}, not {executable}")
        raise UsageError(
            tr(what, name=KERNEL, program=program, executable=sys.executable),
            remedy=tr("run 'python -m ipykernel install --sys-prefix' in this environment"),
        )


class CellsSkippedError(Exception):
    """The remaining cells are not run after a stop."""


class InterruptRelay:
    """Passes stop signals on to the running cell.

    An idle kernel drops interrupts, and one that was sent a cell may not have started it yet: an interrupt
    is held back until the kernel reports that the cell runs.
    """

    def __init__(self) -> None:
        self.count = 0
        self._relayed = 0
        self._kernel: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Handle a stop signal; the third one raises KeyboardInterrupt here."""
        self.count += 1
        if self.count > 2:
            raise KeyboardInterrupt
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._relay)

    def before_cell(self, **_: object) -> None:
        """Hold interrupts back until the next cell runs; raise CellsSkippedError after a stop."""
        self._kernel = None
        if self.count:
            raise CellsSkippedError

    def on_message(self, message: Mapping[str, Any], kernel: Any) -> None:
        """Handle a kernel message; ``execute_input`` tells that the cell runs."""
        if message["msg_type"] == "execute_input":
            self._kernel, self._loop = kernel, asyncio.get_running_loop()
            self._relay()

    def _relay(self) -> None:
        if self._kernel is not None and self._relayed < self.count:
            self._relayed = self.count
            self._task = asyncio.ensure_future(self._kernel.interrupt_kernel())


@contextmanager
def relay_interrupts() -> Iterator[InterruptRelay]:
    """Redirect SIGINT and SIGTERM from this process to the running cell."""
    relay = InterruptRelay()
    # Keep an ignored SIGINT ignored: a shell's background job must not react to Ctrl-C.
    signals = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, relay.on_signal) for number in signals}
    try:
        yield relay
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _register_engine(relay: InterruptRelay) -> str:
    """Register a papermill engine that uses the relay, and return its name."""
    from papermill.clientwrap import PapermillNotebookClient
    from papermill.engines import NBClientEngine, papermill_engines

    class Client(PapermillNotebookClient):  # type: ignore[misc]
        def process_message(self, message: Mapping[str, Any], *rest: Any) -> Any:
            relay.on_message(message, self.km)
            return super().process_message(message, *rest)

    class Engine(NBClientEngine):  # type: ignore[misc]
        @classmethod
        def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **options: Any) -> Any:
            traits = {name: value for name, value in options.items() if name in Client.class_trait_names()}
            traits |= {"on_cell_execute": relay.before_cell, "startup_timeout": _STARTUP_SECONDS}
            return Client(nb_man, kernel_name=kernel_name, **traits).execute()

    papermill_engines.register("colab_helpers", Engine)
    return "colab_helpers"


def run_notebook(notebook: Path, output: Path, values: Mapping[str, Any], relay: InterruptRelay) -> int:
    """Execute a notebook with the given parameters, write the executed copy, and return the exit code."""
    output.parent.mkdir(parents=True, exist_ok=True)
    code = EXIT_STOPPED
    with suppress(CellsSkippedError, KeyboardInterrupt):
        code = _execute(notebook, output, values, _register_engine(relay))
    if not relay.count:
        return code
    print("\n" + tr("stopped; run the same command again to resume"), file=sys.stderr, flush=True)
    return EXIT_STOPPED


def _execute(notebook: Path, output: Path, values: Mapping[str, Any], engine: str) -> int:
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    # Papermill formats paths as templates: escape braces.
    source, target = (str(path).replace("{", "{{").replace("}", "}}") for path in (notebook, output))
    try:
        papermill.execute_notebook(
            source,
            target,
            parameters=dict(values),
            engine_name=engine,
            kernel_name=KERNEL,
            progress_bar=False,
            stdout_file=sys.stdout,
            stderr_file=sys.stderr,
            # Else kernels warn that local TCP is not encrypted, and log their shutdown as an error.
            extra_arguments=["--log-level=CRITICAL"],
        )
    except PapermillExecutionError as error:
        if error.ename != "KeyboardInterrupt":
            print(f"\n{error.ename}: {error.evalue}", file=sys.stderr, flush=True)
        return _CODES.get(error.ename, EXIT_FAILED)
    except DeadKernelError:
        print(tr("\nThe notebook's kernel died, most likely because memory ran out."), file=sys.stderr)
        print(tr("What to do: run again with preset=stable or a smaller max_memory."), file=sys.stderr)
        return EXIT_DEAD_KERNEL
    return 0


# --- results ------------------------------------------------------------------------------------------

Reports = dict[Path, tuple[int, int]]


def reports_in(folder: Path) -> Reports:
    """Return the reports in a folder with their size and modification time, to recognize new ones."""
    paths = [folder / name for name in (REPORT_NAME, DOCTOR_REPORT, PRELOAD_REPORT, MONITOR_REPORT)]
    return {path: state for path in paths if (state := size_and_mtime(path))}


def describe_results(output: Path, folder: Path, before: Reports) -> list[str]:
    """List the outcome of a batch, and the paths of the reports not in ``before`` and of the notebook."""
    lines, after = [], reports_in(folder)
    for path in (path for path in after if before.get(path) != after[path]):
        if path.name == REPORT_NAME:  # the cells of a stopped run have shown nothing
            report = json.loads(path.read_bytes())
            summary = {name: report["summary"][name] for name in ("succeeded", "total", "seconds")}
            lines.append(tr("{succeeded} of {total} files in {seconds:.1f} s", **summary))
            outputs = [file["output"] for file in report["files"] if file["status"] == "done"]
            lines += [tr("result:   {path}", path=each) for each in outputs]
            if size_and_mtime(page := html_path(path)):
                lines.append(tr("report:   {path}", path=page))
        lines.append(tr("report:   {path}", path=path))
    return [*lines, tr("notebook: {output}", output=output)] if output.exists() else lines


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; ``NAME=VALUE`` words are added to the ``-p`` pairs."""
    prog = "python -m colab_helpers.ui.headless"
    parser = argparse.ArgumentParser(prog=prog, description=tr("Run a notebook."))
    parser.add_argument("notebook", type=absolute)
    parser.add_argument("output", type=absolute, help=tr("path of the executed notebook"))
    parser.add_argument("-p", dest="pairs", nargs=2, metavar=("NAME", "VALUE"), action="append", default=[])
    parser.add_argument("words", nargs="*", metavar="NAME=VALUE", help=tr("short form of -p NAME VALUE"))
    arguments = parser.parse_intermixed_args(argv)
    for word in arguments.words:
        name, equals, value = word.partition("=")
        if not equals:
            parser.error(tr("{word!r} is not NAME=VALUE", word=word))
        arguments.pairs.append([name, value])
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    arguments = parse_arguments(argv)
    notebook, output = arguments.notebook, arguments.output
    with relay_interrupts() as relay:
        try:
            model, form = read_form(notebook)
            defaults = {"headless": True, "output_dir": output.parent}
            known = {name: value for name, value in defaults.items() if name in form}
            request, values = fill_in(model, form, [*known.items(), *map(tuple, arguments.pairs)])
            require_reachable([notebook, output, *request.paths])
            check_kernel()
        except ColabHelpersError as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return EXIT_USAGE
        folder = request.output_dir or output.parent
        before = reports_in(folder)
        with use_language(request.language):
            code = run_notebook(notebook, output, values, relay)
            print("\n".join(["", *describe_results(output, folder, before)]), flush=True)
        return code


if __name__ == "__main__":
    sys.exit(main())
