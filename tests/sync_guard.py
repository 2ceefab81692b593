"""What would make the host wait for a GPU, refused on the processor; and learners that behave as on a GPU there."""

from contextlib import contextmanager

import pytest
import torch
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
# Whose result's value or shape the host has to know, and those that look at their arguments on a GPU (ATen's sources).
REFUSED = {
    aten._local_scalar_dense,
    aten.bincount,
    aten.equal,
    aten.linalg_eigh,
    aten.masked_select,
    aten.multinomial,
    aten.nonzero,
    aten.unique_consecutive,
    aten._unique2,
    aten._linalg_eigh,
}
OVERLOADS = {
    aten.normal.Tensor_Tensor,
    aten.repeat_interleave.Tensor,
    aten.masked_fill.Tensor,
    aten.masked_fill_.Tensor,
}
INDEXED = {aten.index, aten.index_put, aten.index_put_}


class HostSync(Exception):
    """The host would have waited."""


class _Refuse(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        packet = func.overloadpacket
        by_mask = packet in INDEXED and any(part is not None and part.dtype == torch.bool for part in args[1])
        if packet in REFUSED or func in OVERLOADS or by_mask:
            raise HostSync(str(func))
        return func(*args, **(kwargs or {}))


def _refuse(name):
    def refuse(*args, **kwargs):
        raise HostSync(name)

    return refuse


def _tensors_only(name, original):
    def guarded(data, *args, **kwargs):
        if not isinstance(data, torch.Tensor):
            raise HostSync(f"{name} of the host's data")
        return original(data, *args, **kwargs)

    return guarded


@contextmanager
def no_sync():
    """Refuses every look at a tensor, and every tensor made of the host's data."""
    with pytest.MonkeyPatch.context() as patch, _Refuse():
        for name in ("numpy", "tolist", "cpu", "__array__"):
            patch.setattr(torch.Tensor, name, _refuse(name))
        for name in ("tensor", "as_tensor", "from_numpy"):
            patch.setattr(torch, name, _tensors_only(name, getattr(torch, name)))
        yield


def guarded_parts(model):
    """Names of the methods in which nothing waits: of a rollout's steps, or of each of them, and of an update."""
    return ("_fill" if isinstance(model, OnPolicyAlgorithm) else "_step_worlds", "_update")


def guard(model):
    """Lets a learner's steps and updates run under `no_sync`; returns how often each did."""
    counts = dict.fromkeys(guarded_parts(model), 0)

    def guarded(name, original):
        def call(*args, **kwargs):
            counts[name] += 1
            with no_sync():
                return original(*args, **kwargs)

        return call

    for name in counts:
        setattr(model, name, guarded(name, getattr(model, name)))
    return counts
