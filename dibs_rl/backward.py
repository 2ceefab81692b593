"""One gradient per objective, combined, in anybody's `train()`: one call in the place of `loss.backward()`."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torchjd.aggregation import Aggregator

from dibs_rl.bargaining import DiBS
from dibs_rl.combiners import combine
from dibs_rl.diagnostics import describe_bargain, summarise
from dibs_rl.errors import UserError
from dibs_rl.gradients import jacobian_and_reach, trainable, write_gradient
from dibs_rl.units import check_finite


def combined_backward(
    losses: Tensor | Sequence[Tensor],
    params: Iterable[Tensor],
    combiner: Aggregator | None = None,
    *,
    objectives: Sequence[str] | None = None,
    retain_graph: bool = False,
) -> dict[str, float]:
    """Differentiates each objective's loss, combines the gradients, and leaves the direction in the parameters' `.grad`.

    It takes the place of `optimizer.zero_grad(); loss.backward()`: what was in `.grad` is replaced, and parameters that no
    loss reaches are left with none, so that an optimiser passes them over. Everything that comes after is as usual: another
    loss's `backward()` (an entropy bonus, a critic) adds to `.grad`, then gradients are clipped, then optimisers step.

    Args:
        losses: The m losses, a tensor `[m]` or a sequence of scalars, to be made smaller; of any scale.
        params: Parameters, on one device. Frozen ones are passed over, and one that is given twice counts once.
        combiner: `DiBS()` if not given; any TorchJD aggregator.
        objectives: Names of the losses in what is returned and in errors: the combiner's own, or `loss_0`, `loss_1`, ...
        retain_graph: Keep the graph for another backward pass.

    Returns:
        What the gradients said about each other (see `dibs_rl.diagnostics.summarise`): for each objective its
        `gradient_norm/`, its `share/` in the direction and its `cosine_to_step/`; `least_cosine`, `conflict_fraction`,
        `stationarity_residual` and `stationarity_noise_floor`.

    Raises:
        UserError: See `objective_jacobian`; or if the names are not one for each loss.
        NonFiniteError: If a gradient is NaN or infinite; it names the objective, and leaves `.grad` as it was.

    Example:
        >>> import torch
        >>> from dibs_rl import combined_backward
        >>> weight = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> record = combined_backward([weight[0] ** 2, 1e6 * weight[1]], [weight], objectives=["near", "low"])
        >>> weight.grad
        tensor([0.7071, 0.7071])
        >>> record["share/near"]
        0.5
    """
    params = trainable(params)
    jacobian, reached = jacobian_and_reach(losses, params, retain_graph=retain_graph)
    record = write_combined_gradient(params, jacobian, combiner, objectives=objectives)
    for param, is_reached in zip(params, reached, strict=True):
        if not is_reached:
            param.grad = None
    return record


def write_combined_gradient(
    params: Iterable[Tensor],
    jacobian: Tensor,
    combiner: Aggregator | None = None,
    *,
    objectives: Sequence[str] | None = None,
) -> dict[str, float]:
    """What `combined_backward` does once it has the Jacobian.

    For gradients that are accumulated over parts of a batch, or over machines: the parts' Jacobians are added up, and
    combined once. Combining each part and adding the directions would give a noisy part as loud a voice as a clear one.

    Args:
        params: The parameters, as given to `objective_jacobian`.
        jacobian: Shape `[m, p]`.
        combiner: `DiBS()` if not given; any TorchJD aggregator.
        objectives: Names of the rows.

    Returns:
        See `combined_backward`.

    Raises:
        UserError: If the Jacobian is not one of these parameters, or the names are not one for each row.
        NonFiniteError: If a row is NaN or infinite; it names the objective, and leaves `.grad` as it was.
    """
    combiner = DiBS() if combiner is None else combiner
    names = _names(combiner, objectives, len(jacobian))
    check_finite(jacobian, names)
    with torch.no_grad(), torch.autocast(jacobian.device.type, enabled=False):
        direction, weights = combine(combiner, jacobian)
        write_gradient(params, direction)
        return summarise([describe_bargain(jacobian, direction, weights, names)], names)


def _names(combiner: Aggregator, objectives: Sequence[str] | None, m: int) -> Sequence[str]:
    names = objectives or getattr(combiner, "objectives", None) or [f"loss_{i}" for i in range(m)]
    if len(names) != m:
        raise UserError(f"One name for each of the {m} objectives; found {', '.join(names)}.")
    return names
