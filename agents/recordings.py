"""What an update does again and again: on a CUDA device it is recorded once, and then played back as one graph.

Networks of this size keep a GPU busy for less time than it takes to ask for each operation. A recording asks for all at once.
"""

import gc
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten


def stream_for(purpose: str, device: torch.device) -> torch.cuda.Stream:
    """The one stream for a purpose: torch keeps memory for each stream, so there must not be a new one in each update."""
    return _stream_for(purpose, torch.cuda.current_device() if device.index is None else device.index)


@cache
def _stream_for(purpose: str, index: int) -> torch.cuda.Stream:
    return torch.cuda.Stream(index)


class Recording(NamedTuple):
    """A graph, and where it reads and writes.

    Attributes:
        graph: What was recorded.
        inputs: Where it finds the tensors that it is given.
        leaves: What it returns, flat: tensors, which it overwrites, and whatever else the work returned.
        structure: What it returns, as a tree of these.
    """

    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    leaves: list[Any]
    structure: TreeSpec

    def play(self, tensors: list[Tensor]) -> Any:
        """Does what was recorded with other tensors of the same shapes; what is returned is not overwritten later."""
        if tensors:
            torch._foreach_copy_(self.inputs, tensors)
        self.graph.replay()
        outputs = _tensors(self.leaves)
        found = [torch.empty_like(output) for output in outputs]
        if found:
            torch._foreach_copy_(found, outputs)
        fresh = iter(found)
        return tree_unflatten([next(fresh) if isinstance(leaf, Tensor) else leaf for leaf in self.leaves], self.structure)


class Recordings:
    """Makes recordings for one update after the other, for one learner in one thread.

    A recording is of no use once its update is over, since what it works on lies elsewhere then; the next one of its name gets
    its memory. A copy of this, and what is loaded from a file, begins anew.

    Attributes:
        last: The last graph of each name. torch gives a pool of memory back with its last graph, so each is kept until the
            next one is in the same pool.
        known: Names and layouts of what has been done once as it is: a first time loads kernels, which a recording cannot.
    """

    def __init__(self) -> None:
        self.last: dict[str, torch.cuda.CUDAGraph] = {}
        self.known: set[tuple[str, Any]] = set()

    def __reduce__(self) -> tuple[type["Recordings"], tuple[()]]:
        return Recordings, ()

    def of(self, name: str, work: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
        """A function that does the same work by a recording; on any but a CUDA device the work itself.

        Args:
            name: Two recordings of different names can be played side by side.
            work: Takes and returns tensors, and any tuples and dictionaries of them. It must not look at them, and what else
                it reads or writes must stay in its place. What it is given and is no tensor, and the tensors' shapes, must be
                those of the recording; with others it is done as it is.
            device: Where the tensors are.
        """
        return _Repeated(self, name, work, device) if device.type == "cuda" else work

    def record(self, name: str, work: Callable[..., Any], arguments: tuple[Any, ...], device: torch.device) -> Recording:
        """Records the work with copies of the arguments, in the memory of the last recording of that name."""
        leaves, structure = tree_flatten(arguments)
        kept = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        before = self.last.get(name)
        if before is None:
            torch.cuda.empty_cache()  # once: while it records, torch does not free what it keeps when memory runs short
        pool = None if before is None else before.pool()
        stream = stream_for(f"recording of {name}", device)
        graph, result = capture(lambda: work(*tree_unflatten(kept, structure)), stream, pool)
        self.last[name] = graph
        return Recording(graph, _tensors(kept), *tree_flatten(result))


class _Repeated:
    """See `Recordings.of`."""

    def __init__(self, recordings: Recordings, name: str, work: Callable[..., Any], device: torch.device) -> None:
        self._recordings, self._name, self._work, self._device = recordings, name, work, device
        self._recorded: tuple[Any, Recording] | None = None  # with the layout of its arguments

    def __call__(self, *arguments: Any) -> Any:
        leaves, structure = tree_flatten(arguments)
        layout = tuple((leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else leaf for leaf in leaves)
        if (self._name, layout) not in self._recordings.known:
            result = self._work(*arguments)
            self._recordings.known.add((self._name, layout))
            return result
        if self._recorded is None:
            recording = self._recordings.record(self._name, self._work, arguments, self._device)
            self._recorded = (structure, layout), recording
        wanted, recording = self._recorded
        return recording.play(_tensors(leaves)) if wanted == (structure, layout) else self._work(*arguments)


def capture(work: Callable[[], Any], stream: torch.cuda.Stream, pool: Any) -> tuple[torch.cuda.CUDAGraph, Any]:
    """A graph of what some work asks of a CUDA device, none of which is done yet, and what it returned.

    torch's own context manager would wait for the device, each time.
    """
    graph, current, collects = torch.cuda.CUDAGraph(), torch.cuda.current_stream(stream.device), gc.isenabled()
    stream.wait_stream(current)
    gc.disable()  # it may find a graph that nobody holds any more, and to destroy that one would spoil this one
    try:
        with torch.cuda.stream(stream):
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                result = work()
            finally:
                graph.capture_end()
    finally:
        if collects:
            gc.enable()
    current.wait_stream(stream)
    return graph, result


def _tensors(leaves: list[Any]) -> list[Tensor]:
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]
