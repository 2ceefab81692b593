"""Where worlds live: in this process, or in a worker process at the end of a pipe. Both answer the same calls."""

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from gymnasium.vector.utils import CloudpickleWrapper

from dibs_rl.envs.worlds import WorldArrays, Worlds, WorldSetup, array_views


class LocalHost:
    """Worlds in this process."""

    def __init__(self, worlds: Worlds) -> None:
        self._worlds = worlds
        self._answer: Any = None

    def send(self, method: str, *arguments: Any) -> None:
        """Calls a method of the worlds."""
        self._answer = getattr(self._worlds, method)(*arguments)

    def receive(self) -> Any:
        """What it returned."""
        return self._answer

    def close(self) -> None:
        """Closes the worlds."""
        self._worlds.close()


class WorkerHost:
    """Worlds in a worker process, which ends when its pipe does: a killed parent leaves no orphans."""

    def __init__(
        self,
        context: Any,
        factories: Sequence[Callable[[], Any]],
        setup: WorldSetup,
        rows: Sequence[int],
        memory: WorldArrays,
    ) -> None:
        self._pipe, theirs = context.Pipe()
        arguments = (theirs, _pickled(list(factories)), setup, rows, memory)
        self._process = context.Process(target=_work, args=arguments, daemon=True)
        self._process.start()
        theirs.close()

    def send(self, method: str, *arguments: Any) -> None:
        """Lets the process call a method of its worlds, and does not wait."""
        self._pipe.send((method, _pickled(arguments)))

    def receive(self) -> Any:
        """Waits for what it returned; raises what it raised."""
        try:
            failed, answer = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            raise RuntimeError("A worker process of the environments died; see its message above.") from None
        if failed:
            raise answer
        return answer

    def close(self) -> None:
        """Ends the process."""
        with contextlib.suppress(OSError):  # it is gone already
            self._pipe.send(None)
        self._process.join(timeout=5)
        if self._process.is_alive():
            self._process.terminate()
        self._pipe.close()


def _work(pipe: Any, factories: Any, setup: WorldSetup, rows: Sequence[int], memory: WorldArrays) -> None:
    """Body of a worker process: answers calls until it is told to stop or its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle: it saves first
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    worlds = Worlds(factories.fn, setup, rows, array_views(setup, memory, len(factories.fn)))
    while True:
        try:
            message = pipe.recv()
        except (EOFError, ConnectionResetError):
            break
        if message is None:
            break
        method, arguments = message
        try:
            reply = (False, getattr(worlds, method)(*arguments.fn))
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            reply = (True, RuntimeError(f"{type(error).__name__} in an environment: {error}"))
        pipe.send(reply)
    worlds.close()


def _pickled(value: Any) -> CloudpickleWrapper:
    """Lets anything cross to a process: lambdas and local classes too."""
    return CloudpickleWrapper(value)
