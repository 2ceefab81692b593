"""Where the host looks at what a device computes: on a GPU it would wait until all that was asked of it before is done.

So what is learnt there is not looked at on the way: what depends on it is a mask, and a number for the log is read when the
update is over. On the processor a look costs nothing, and saves the work that it shows to be needless.
"""

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
    flat = torch.cat([tensor.detach().double().reshape(-1) for tensor in tensors]).cpu()
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.to(tensor.dtype).view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


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
