"""Units taken out: of magnitudes, by powers of two, which change no digit; of gradients, by dividing by their lengths."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dibs_rl import sync
from dibs_rl.errors import NonFiniteError


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


def positive_or_one(value: Any) -> Any:
    """A divisor that leaves an exact zero alone and adds no epsilon to anything else; for what is not negative."""
    return value + (value == 0)


def unit_rows(jacobian: Tensor, objectives: Sequence[str] | None = None) -> tuple[Tensor, Tensor]:
    """Divides each row of the Jacobian by its Euclidean norm.

    Args:
        jacobian: Shape `[m, p]`, any scale.
        objectives: Names for the error message.

    Returns:
        The unit rows `[m, p]` (a row of exact zeros stays zero) and the norms `[m]`. Multiplying a row by a power of two
        changes its unit row in no bit.

    Raises:
        NonFiniteError: If a row holds a NaN or an infinity (on the processor); it names the objectives.
    """
    scaled, shrink = near_one(jacobian, objectives)
    length = torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    return scaled / positive_or_one(length), (length / shrink).flatten()


def near_one(jacobian: Tensor, objectives: Sequence[str] | None) -> tuple[Tensor, Tensor]:
    """Rows whose squares neither vanish nor overflow, and the powers of two `[m, 1]` that they were multiplied by.

    Raises:
        NonFiniteError: If a row holds a NaN or an infinity (on the processor); it names the objectives.
    """
    largest = _largest(jacobian) if sync.waits(jacobian.device) else check_finite(jacobian, objectives)
    shrink = unit_power(largest).unsqueeze(1)
    return jacobian * shrink, shrink


def cosines(units: Tensor) -> Tensor:
    """Cosine matrix `[m, m]` of unit rows `[m, p]`, in float64: long games amplify the rounding of float32."""
    units = units.double()
    return units @ units.T


def check_finite(jacobian: Tensor, objectives: Sequence[str] | None = None) -> Tensor:
    """The largest absolute value in each row of the Jacobian, `[m]`.

    Raises:
        NonFiniteError: If a row holds a NaN or an infinity; it names the objectives.
    """
    largest = _largest(jacobian)
    finite = torch.isfinite(largest)
    if finite.all():
        return largest
    bad = [i for i, good in enumerate(finite.tolist()) if not good]
    named = objectives is not None and len(objectives) == len(finite)
    names = ", ".join(objectives[i] if objectives and named else f"row {i}" for i in bad)
    raise NonFiniteError(f"The gradient of each objective must be finite; found NaN or infinity in that of {names}.")


def _largest(jacobian: Tensor) -> Tensor:
    return jacobian.abs().amax(dim=1) if jacobian.shape[1] else jacobian.new_zeros(len(jacobian))
