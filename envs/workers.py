"""Where worlds live: in this process, or in a worker process at the end of a pipe. Both answer the same calls."""

import contextlib
import pickle
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.vector.utils import CloudpickleWrapper

from dibs_rl.envs.worlds import WorldArrays, Worlds, WorldSetup, array_views

_DIED = "A worker process of the environments died; its last words, if any, stand above."


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
        try:
            self._pipe.send((method, _pickled(arguments)))
        except OSError:
            raise RuntimeError(_DIED) from None

    def receive(self) -> Any:
        """Waits for what it returned; raises what it raised."""
        try:
            failed, answer = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            raise RuntimeError(_DIED) from None
        if failed:
            raise answer
        return answer

    def close(self) -> None:
        """Ends the process."""
        with contextlib.suppress(OSError):  # it is gone already
            self._pipe.send(None)
        self._process.join(timeout=5)
        if self._process.is_alive():
            self._process.kill()
        self._pipe.close()


def _work(pipe: Any, factories: Any, setup: WorldSetup, rows: Sequence[int], memory: WorldArrays) -> None:
    """Body of a worker process: answers calls until it is told to stop or its parent is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the whole group, they are the parent's to handle: it saves first
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    worlds: Worlds | None = None
    failure: tuple[bool, Exception] | None = None
    try:
        worlds = Worlds(factories.fn, setup, rows, array_views(setup, memory, len(factories.fn)))
    except Exception as error:
        failure = _told(error)  # the answer to whatever the parent asks first
    while True:
        try:
            message = pipe.recv()
        except (EOFError, ConnectionResetError):
            break
        if message is None:
            break
        try:
            pipe.send(failure if worlds is None else _answer(worlds, *message))
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            pipe.send(_told(error))  # an answer that cannot cross to the parent
    if worlds is not None:
        worlds.close()


def _answer(worlds: Worlds, method: str, arguments: Any) -> tuple[bool, Any]:
    """Calls a method of the worlds; whether it failed, and what it returned or raised."""
    try:
        if method == "reset" and arguments.fn[0][0] is not None:
            np.random.seed(arguments.fn[0][0] % 2**32)  # some environments draw from numpy's global generator
        return False, getattr(worlds, method)(*arguments.fn)
    except Exception as error:
        return _told(error)


def _told(error: Exception) -> tuple[bool, Exception]:
    """The reply that raises the error in the parent."""
    if isinstance(error, AttributeError):  # an answer that SB3's has_attr waits for
        return True, AttributeError(str(error))
    traceback.print_exc(file=sys.stderr)
    return True, RuntimeError(f"{type(error).__name__} in an environment: {error}")


def _pickled(value: Any) -> CloudpickleWrapper:
    """Lets anything cross to a process: lambdas and local classes too."""
    return CloudpickleWrapper(value)
