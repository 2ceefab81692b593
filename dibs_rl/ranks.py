"""One training in several processes: each collects rollouts of its own, and all take the same steps.

A process of a `torch.distributed` group is a *rank*. Whatever an update is computed from - moments of observations, value
targets and advantages, the Jacobian, the gradients of minibatches - is brought together over the ranks before it is used, so
all of them hold the same networks and combine the same gradients. It is not `DistributedDataParallel`, which knows one
gradient and not m. Each rank must have the same number of worlds. Where there is one process, nothing here changes a bit.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from dibs_rl.errors import LostRankError

Anything = TypeVar("Anything")
_PATIENCE = timedelta(days=1)  # a lost rank is noticed at once, by its closed connection; the lead may have experts to train


def number() -> int:
    """How many ranks there are; 1 without a group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this process is, from 0."""
    return dist.get_rank() if number() > 1 else 0


def leads() -> bool:
    """Whether this process is the one that writes files and speaks to the person."""
    return rank() == 0


@contextmanager
def joined() -> Iterator[None]:
    """Joins the group that torchrun has started this process for, if it has; each process takes a GPU of its own."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    dist.init_process_group("cpu:gloo,cuda:nccl" if has_gpu else "gloo", timeout=_PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def mean(tensor: Tensor) -> Tensor:
    """The mean over the ranks, entry by entry: of what each has averaged over its own samples."""
    if number() == 1:
        return tensor
    total = tensor.clone(memory_format=torch.contiguous_format)
    _together(dist.all_reduce, total)
    return total.div_(number())


def largest(tensor: Tensor) -> Tensor:
    """The largest of the ranks' values, entry by entry."""
    if number() == 1:
        return tensor
    found = tensor.clone(memory_format=torch.contiguous_format)
    _together(dist.all_reduce, found, dist.ReduceOp.MAX)
    return found


def lead_tensor(tensor: Tensor) -> Tensor:
    """The first rank's tensor, of the same shape in all."""
    if number() == 1:
        return tensor
    found = tensor.clone(memory_format=torch.contiguous_format)
    _together(dist.broadcast, found, 0)
    return found


def moments(count: Tensor, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Number, mean and variance (divided by the number) of all ranks' samples, from each one's own (Chan et al. 1979).

    Args:
        count: Samples of this rank, of the mean's shape or `[]`; may be 0, and then the other two mean nothing.
        mean: Their mean.
        variance: Their variance.
    """
    if number() == 1:
        return count, mean, variance
    own = torch.stack(torch.broadcast_tensors(count.to(mean.dtype), mean, variance)).contiguous()
    parts = [torch.empty_like(own) for _ in range(number())]
    _together(dist.all_gather, parts, own)
    counts, means, variances = torch.stack(parts, dim=1)
    total = counts.sum(dim=0)
    share = counts / total.clamp(min=1)
    merged = (share * means).sum(dim=0)
    spread = (share * (variances + (means - merged).square())).sum(dim=0)
    return total.reshape(-1)[0].reshape(count.shape) if count.dim() == 0 else total, merged, spread


def std_mean(columns: Tensor) -> tuple[Tensor, Tensor]:
    """`torch.std_mean` of the rows `[N, k]` of all ranks: standard deviation (divided by N - 1) and mean, `[k]` each."""
    if number() == 1:
        return torch.std_mean(columns, dim=0)
    own = columns if len(columns) else columns.new_zeros(1, columns.shape[1])
    variance, own_mean = torch.var_mean(own, dim=0, correction=0)
    total, merged, spread = moments(columns.new_tensor(len(columns)), own_mean, variance)
    return (spread * total / (total - 1).clamp(min=1)).sqrt(), merged


def gathered(items: list[Anything]) -> list[list[Anything]]:
    """Each rank's list, in their order."""
    if number() == 1:
        return [items]
    found: list[Any] = [None] * number()
    _together(dist.all_gather_object, found, items)
    return found


def from_lead(thing: Any) -> Any:
    """What the first rank has given; what the others have given is forgotten."""
    if number() == 1:
        return thing
    box = [thing]
    _together(dist.broadcast_object_list, box, 0)
    return box[0]


def _together(collective: Callable[..., Any], *arguments: Any) -> None:
    try:
        collective(*arguments)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise LostRankError(
            f"Another process of this training has ended or cannot be reached ({reason}): its own message says why. "
            "'dibs-rl train --resume' goes on with the run from its newest checkpoint."
        ) from error
