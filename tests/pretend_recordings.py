"""Recordings on the processor: each operation is kept with the very tensors it worked on, and done again on them.

As in a CUDA graph what is recorded knows no Python: what a recording reads has to be in the same place when it is played.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dibs_rl.agents import recordings


class PretendGraph(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self._operations, self._just_done = [], False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self._operations.append((func, args, kwargs or {}, result))
        return result

    def recorded(self, work):
        """The work's result; it is done, which a GPU does not do while it records."""
        with self:
            result = work()
        self._just_done = True
        return result

    def pool(self):
        return None

    def replay(self):
        if self._just_done:
            self._just_done = False
            return
        for func, args, kwargs, before in self._operations:
            after = func(*args, **kwargs)
            for old, new in zip(tree_leaves(before), tree_leaves(after), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new.reshape(old.shape))  # which has been squeezed in place


def pretend(monkeypatch):
    """Makes learners on the processor record; returns the names of what is recorded, in order."""
    made = []

    def capture(work, stream, pool):
        graph = PretendGraph()
        return graph, graph.recorded(work)

    def record(self, name, work, arguments, device):
        made.append(name)
        return own(self, name, work, arguments, device)

    own = recordings.Recordings.record
    monkeypatch.setattr(recordings.Recordings, "record", record)
    monkeypatch.setattr(recordings.Recordings, "of", lambda *arguments: recordings._Repeated(*arguments))
    monkeypatch.setattr(recordings, "capture", capture)
    monkeypatch.setattr(recordings, "stream_for", lambda purpose, device: None)
    return made
