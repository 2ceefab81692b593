"""Units taken out without rounding: multiplying by a power of two commutes with every operation of floating point."""

import torch
from torch import Tensor


def unit_power(largest: Tensor) -> Tensor:
    """Powers of two that bring magnitudes next to 1, so that squares and sums of squares neither overflow nor vanish.

    Args:
        largest: Magnitudes, not negative, of any shape.

    Returns:
        Powers s, of the same shape, with `s * largest` in [0.5, 1): multiplying by s changes no digit. Magnitudes below the
        smallest normal number (zero among them) are multiplied by its inverse.
    """
    tiny = torch.finfo(largest.dtype).tiny
    mantissa, _ = torch.frexp(largest)
    return torch.where(largest >= tiny, mantissa / largest.clamp_min(tiny), 1 / tiny)
