"""What an update does again and again: on a CUDA device it is recorded once, and then played back as one graph.

Networks of this size keep a GPU busy for less time than it takes to ask for each operation. A recording asks for all at once.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten


@cache
def stream_for(purpose: str, device: torch.device) -> torch.cuda.Stream:
    """The one stream for a purpose: memory is kept for each stream, so there must not be a new one in each update."""
    return torch.cuda.Stream(device)


class Recordings:
    """Makes recordings for one update after the other.

    A recording is of no use once its update is over, since what it works on lies elsewhere then; the next one of its name gets
    its memory.
    """

    def __init__(self) -> None:
        self.last: dict[str, Any] = {}
        self.done: set[Any] = set()

    def of(self, name: str, work: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
        """A function that does the same work by a recording; on any but a CUDA device the work itself.

        Args:
            name: Two recordings of different names can be played side by side.
            work: Takes and returns tensors, and any tuples and dictionaries of them. It must not look at them, and what else
                it reads or writes must stay in its place; anything but tensors must be the same in each call.
            device: Where the tensors are.
        """
        return Playback(name, work, device, self) if device.type == "cuda" else work


class Playback:
    """See `Recordings.of`. Calls with tensors of other shapes than the recorded one's are done as they are."""

    def __init__(self, name: str, work: Callable[..., Any], device: torch.device, recordings: Recordings) -> None:
        self._name, self._work, self._device, self._recordings = name, work, device, recordings
        self._graph: Any = None

    def __call__(self, *arguments: Any) -> Any:
        """Does the work."""
        leaves, structure = tree_flatten(arguments)
        layout = _layout(leaves)
        if (self._name, layout) not in self._recordings.done:
            self._recordings.done.add((self._name, layout))  # it loads kernels, which a recording cannot
            return self._work(*arguments)
        if self._graph is None:
            self._takes = structure, layout
            self._record([leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves], structure)
        if (structure, layout) != self._takes:
            return self._work(*arguments)
        if self._inputs:
            torch._foreach_copy_(self._inputs, _tensors(leaves))
        self._graph.replay()
        found = [torch.empty_like(output) for output in self._outputs]
        if found:
            torch._foreach_copy_(found, self._outputs)
        fresh = iter(found)
        return tree_unflatten([next(fresh) if isinstance(leaf, Tensor) else leaf for leaf in self._gives], self._returns)

    def _record(self, kept: list[Any], structure: Any) -> None:
        before = self._recordings.last.get(self._name)
        self._graph, result = capture(
            lambda: self._work(*tree_unflatten(kept, structure)),
            stream_for(f"recording of {self._name}", self._device),
            None if before is None else before.pool(),
        )
        self._recordings.last[self._name] = self._graph  # only now: the memory of a recording that is gone is not given back
        self._gives, self._returns = tree_flatten(result)
        self._inputs, self._outputs = _tensors(kept), _tensors(self._gives)


def capture(work: Callable[[], Any], stream: torch.cuda.Stream, pool: Any) -> tuple[torch.cuda.CUDAGraph, Any]:
    """A graph of what some work asks of a CUDA device, none of which is done yet, and what it returned.

    torch's own context manager would wait for the device, and give back all memory that is kept for later.
    """
    graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream(stream.device)
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        try:
            result = work()
        finally:
            graph.capture_end()
    current.wait_stream(stream)
    return graph, result


def _tensors(leaves: list[Any]) -> list[Tensor]:
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def _layout(leaves: list[Any]) -> tuple[Any, ...]:
    return tuple((leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else leaf for leaf in leaves)
