"""Where the host looks at what a device computes: on a GPU it would wait until all that was asked of it before is done.

So what is learnt there is not looked at on the way: what depends on it is a mask, and a number for the log is read when the
update is over. On the processor a look costs nothing, and saves the work that it shows to be needless.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.distributions import Distribution


def waits(device: torch.device) -> bool:
    """Whether the host waits for the device when it looks at a tensor there."""
    return device.type != "cpu"


def read(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors of one device on the processor, in one transfer.

    Args:
        tensors: Of any shapes and types whose numbers float64 holds.
    """
    if not tensors or not waits(tensors[0].device):
        return list(tensors)
    # Many small tensors: those of one type are converted together.
    kinds: dict[torch.dtype, list[int]] = defaultdict(list)
    for i, tensor in enumerate(tensors):
        kinds[tensor.dtype].append(i)
    flat = torch.cat([torch.cat([tensors[i].detach().reshape(-1) for i in own]).double() for own in kinds.values()]).cpu()
    order = [i for own in kinds.values() for i in own]
    parts = dict(zip(order, flat.split([tensors[i].numel() for i in order]), strict=True))
    return [parts[i].to(tensor.dtype).view(tensor.shape) for i, tensor in enumerate(tensors)]


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on another device; the host does not wait until it has arrived, and what the device does next with it does."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        # Pinned memory, since a copy from any other holds the host up; torch uses it again when the copy is done.
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@contextmanager
def no_look(device: torch.device) -> Iterator[None]:
    """Keeps torch's distributions from looking whether their numbers are sound, where that would wait for the device."""
    before = Distribution._validate_args
    Distribution.set_default_validate_args(before and not waits(device))
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)
