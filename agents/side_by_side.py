"""Who uses which threads and streams: the critic learns in another one beside the policy, since the two share nothing."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from dibs_rl import sync
from dibs_rl.agents.recordings import stream_for

Beside = Callable[..., Callable[[], Any]]  # takes a function and its arguments, returns a function that gives its result


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Lets torch use so many threads for one operation."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def beside(small: bool, overlaps: bool, device: torch.device) -> Iterator[Beside]:
    """Gives a function that calls another one in a second thread, in the order of the calls; at the end all calls are done.

    Each call returns a function that gives the result, or raises what was raised. torch's threads are shared out between the
    two. Where torch may use one thread only, the calls are made at once, in this one; the results are the same. On a CUDA
    device the calls are made at once, from this thread, and what they ask for goes to a second stream.

    Args:
        small: Whether operations are so short that each thread had better do its own alone.
        overlaps: Whether the calls leave anything to do beside them; if not, they are made at once.
        device: Where the tensors are.
    """
    threads = torch.get_num_threads()
    if overlaps and device.type == "cuda":
        stream = stream_for("what is beside", device)
        try:
            yield partial(_on_stream, stream)
        finally:
            torch.cuda.current_stream(device).wait_stream(stream)
        return
    if threads == 1 or not overlaps or sync.waits(device):
        with torch_threads(1 if small else threads):
            yield _at_once
        return
    share = 1 if small else threads // 2
    # A new thread has a limit of its own, which does not follow the one that is set here.
    with torch_threads(share), ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(share,)) as pool:
        yield lambda function, *arguments: pool.submit(function, *arguments).result


def _at_once(function: Callable, *arguments: Any) -> Callable[[], Any]:
    result = function(*arguments)
    return lambda: result


def _on_stream(stream: torch.cuda.Stream, function: Callable, *arguments: Any) -> Callable[[], Any]:
    stream.wait_stream(torch.cuda.current_stream(stream.device))  # what the arguments are made by
    with torch.cuda.stream(stream):
        result = function(*arguments)
    return partial(_when_done, stream, result, arguments)


def _when_done(stream: torch.cuda.Stream, result: Any, _arguments: Any) -> Any:
    """The result. Arguments are kept until then: the second stream may still read what the first one would overwrite."""
    torch.cuda.current_stream(stream.device).wait_stream(stream)
    return result
