"""Functions whose last bit depends on who computes them: here as Python and NumPy do, so that whole episodes come out equal.

On the CPU they are the C library's and BLAS's own; on other devices they may differ from them in the last place of float64.
"""

import numpy as np
import torch
from torch import Tensor


def cos_sin(angle: Tensor) -> tuple[Tensor, Tensor]:
    """`math.cos` and `math.sin` of each angle in rad.

    `torch.cos` takes vectorised code, which rounds about one value in 700 otherwise; `torch.polar` asks the C library.
    """
    unit = torch.polar(torch.ones_like(angle), angle)
    return unit.real, unit.imag


def length(vectors: Tensor) -> Tensor:
    """`np.sqrt(np.dot(v, v))` of each vector v of `[..., d]`: BLAS may fuse the products with the sum, as torch does not."""
    if vectors.device.type != "cpu":
        return vectors.square().sum(dim=-1).sqrt()
    array = vectors.numpy()
    return torch.from_numpy(np.vecdot(array, array)).sqrt()
