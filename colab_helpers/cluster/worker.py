"""A worker on any node: a process with networks of its own, as on one machine, and an actor that carries."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

from colab_helpers.addresses import here
from colab_helpers.batch.keys import code_digest
from colab_helpers.errors import UsageError
from colab_helpers.language import tr
from colab_helpers.machine import SHARED_BY


class Worker:
    """Starts a worker's process on its node and carries between that and the crew.

    Ray says by ``CUDA_VISIBLE_DEVICES`` which GPU is its own. A crash of decoder or networks costs the
    process and not this one, which tells of it; where this one goes, the process ends by itself.

    Args:
        crew: Who hears of the process: the coordinator.
        number: Tells this worker from others.
        job: What is to be done, as JSON.
        code: Digest of the coordinator's code: another one here would make other pictures.
        shared_by: How many workers share this machine.
    """

    def __init__(self, crew: Any, number: int, job: str, code: str, shared_by: int) -> None:
        self._crew, self._number = crew, number
        self._far, theirs = Pipe()
        if code_digest() != code:
            told = tr("{node} has another version of the package", node=socket.gethostname())
            self._tell("refused", UsageError(told, remedy=tr("install the same one on every machine")))
            return
        self._folder = tempfile.TemporaryDirectory(prefix="colab_helpers-")
        file = Path(self._folder.name) / "job.json"
        file.write_text(here(job), encoding="utf-8")
        # Ray gives one thread to whoever claims no processor; the GPU's worker needs them all.
        env = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "colab_helpers.batch.member", str(file), str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env={**env, SHARED_BY: str(shared_by)},
        )
        theirs.close()
        threading.Thread(target=self._carry, name="carry", daemon=True).start()

    def take(self, message: object) -> None:
        """Hand something to the process."""
        with suppress(OSError):  # it has died, which is told
            self._far.send(message)

    def alive(self) -> None:
        """Answer, which only what is there does."""

    def end(self) -> None:
        """Ask the process to end; what it is at is left as it is."""
        self._process.terminate()

    def _carry(self) -> None:
        with suppress(EOFError, OSError):
            while True:
                self._tell(*self._far.recv())
        self._tell("lost", self._process.wait())

    def _tell(self, *news: object) -> None:
        self._crew.hear.remote(self._number, news)
