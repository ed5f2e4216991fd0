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
from colab_helpers.language import tr, use_language
from colab_helpers.machine import require_reachable
from colab_helpers.ui.form import DOCTOR_REPORT, MONITOR_REPORT, PRELOAD_REPORT, fill_in, read_form

KERNEL = "python3"
_STARTUP_SECONDS = 300
EXIT_FAILED, EXIT_USAGE, EXIT_STOPPED, EXIT_DEAD_KERNEL = 1, 2, 130, 138
_REFUSALS = {
    name: EXIT_USAGE
    for name, kind in {**vars(errors), "FolderBusyError": FolderBusyError}.items()
    if isinstance(kind, type) and issubclass(kind, ColabHelpersError) and kind.refusal
}
_CODES = {**_REFUSALS, **dict.fromkeys(("KeyboardInterrupt", "StoppedError"), EXIT_STOPPED)}
"""Exit codes for the errors of cells; others are ``EXIT_FAILED``."""


def check_kernel() -> None:
    """Make sure that the kernel papermill starts is this very Python, with its packages.

    A ``python3`` kernel installed for the user may point to another environment.
    """
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")
    # The kernel's debugger, which nobody uses here, would print a warning on Python 3.13.
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
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


class CellsSkippedError(Exception):
    """Cells that have not begun are left alone."""


class InterruptRelay:
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
        """Note that a cell is sent to the kernel; after a stop none is."""
        self._kernel = None
        if self.count:
            raise CellsSkippedError

    def on_message(self, message: Mapping[str, Any], kernel: Any) -> None:
        """Take everything the kernel says of the cell at work."""
        if message["msg_type"] == "execute_input":
            self._kernel, self._loop = kernel, asyncio.get_running_loop()
            self._pass_on()

    def _pass_on(self) -> None:
        if self._kernel is not None and self._passed < self.count:
            self._passed = self.count
            self._sending = asyncio.ensure_future(self._kernel.interrupt_kernel())


@contextmanager
def relay_interrupts() -> Iterator[InterruptRelay]:
    """Have Ctrl-C and SIGTERM reach the notebook's cell instead of this process."""
    stops = InterruptRelay()
    # A job in the background of a shell ignores Ctrl-C, which is meant for the one in front.
    wanted = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stops.on_signal) for number in wanted}
    try:
        yield stops
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _engine(stops: InterruptRelay) -> str:
    """Register papermill's own engine, with stops, and return its name."""
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


def run_notebook(notebook: Path, output: Path, values: Mapping[str, Any], stops: InterruptRelay) -> int:
    """Execute a notebook with values for its parameters, keep the executed copy, and return the exit code."""
    output.parent.mkdir(parents=True, exist_ok=True)
    code = EXIT_STOPPED
    with suppress(CellsSkippedError, KeyboardInterrupt):
        code = _execute(notebook, output, values, _engine(stops))
    if not stops.count:
        return code
    print("\n" + tr("stopped; the same command goes on with what is finished"), file=sys.stderr, flush=True)
    return EXIT_STOPPED


def _execute(notebook: Path, output: Path, values: Mapping[str, Any], engine: str) -> int:
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    # Papermill formats braces in paths.
    source, place = (str(path).replace("{", "{{").replace("}", "}}") for path in (notebook, output))
    try:
        papermill.execute_notebook(
            source,
            place,
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
        return _CODES.get(error.ename, EXIT_FAILED)
    except DeadKernelError:
        print(tr("\nThe notebook's kernel died; most often the memory was used up."), file=sys.stderr)
        print(tr("What to do: run again with preset=stable or a smaller max_memory."), file=sys.stderr)
        return EXIT_DEAD_KERNEL
    return 0


# --- what came of it ----------------------------------------------------------------------------------

Reports = dict[Path, tuple[int, int]]


def reports_in(folder: Path) -> Reports:
    """Return the reports in a folder, with what tells one that is written again from the one before."""
    paths = [folder / name for name in (REPORT_NAME, DOCTOR_REPORT, PRELOAD_REPORT, MONITOR_REPORT)]
    return {path: state for path in paths if (state := size_and_mtime(path))}


def describe_results(output: Path, folder: Path, before: Reports) -> list[str]:
    """Say how a batch has ended, and where the reports are that a run has made, and the executed notebook."""
    lines, after = [], reports_in(folder)
    for path in (path for path in after if before.get(path) != after[path]):
        if path.name == REPORT_NAME:  # a run that was stopped has shown nothing
            report = json.loads(path.read_bytes())
            told = {name: report["summary"][name] for name in ("succeeded", "total", "seconds")}
            lines.append(tr("{succeeded} of {total} files in {seconds:.1f} s", **told))
            made = [file["output"] for file in report["files"] if file["status"] == "done"]
            lines += [tr("result:   {path}", path=output) for output in made]
            if size_and_mtime(page := html_path(path)):
                lines.append(tr("report:   {path}", path=page))
        lines.append(tr("report:   {path}", path=path))
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
    notebook, output = arguments.notebook, arguments.output
    with relay_interrupts() as stops:
        try:
            model, form = read_form(notebook)
            usual = {"headless": True, "output_dir": output.parent}
            chosen = {name: value for name, value in usual.items() if name in form}
            request, values = fill_in(model, form, [*chosen.items(), *map(tuple, arguments.pairs)])
            require_reachable([notebook, output, *request.places])
            check_kernel()
        except ColabHelpersError as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return EXIT_USAGE
        folder = request.output_dir or output.parent
        before = reports_in(folder)
        # What is printed at the end is printed by this process.
        with use_language(request.language):
            code = run_notebook(notebook, output, values, stops)
            print("\n".join(["", *describe_results(output, folder, before)]), flush=True)
        return code


if __name__ == "__main__":
    sys.exit(main())
