"""One gradient per objective, and the way back into `.grad`."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from dibs_rl.errors import UserError


def objective_jacobian(losses: Tensor | Sequence[Tensor], params: Iterable[Tensor], *, retain_graph: bool = False) -> Tensor:
    """Differentiates every objective's loss with respect to all parameters, through one shared forward pass.

    Args:
        losses: The m losses, a tensor `[m]` or a sequence of scalars.
        params: Parameters of any shapes, on one device. Frozen ones (without `requires_grad`) are passed over, and one that
            is given twice counts once. A parameter that a loss does not reach contributes zeros to that loss's row.
        retain_graph: Keep the graph for another backward pass, of an entropy bonus for example.

    Returns:
        The Jacobian J, shape `[m, p]`, where p counts the entries of all parameters in the order given; in float32 at least,
        whatever the parameters are kept in.

    Raises:
        UserError: If there is no loss or no parameter that is not frozen, if a loss is not a scalar or has no graph, if the
            parameters are on more than one device, or if a compiled module cannot be differentiated more than once.
    """
    return jacobian_and_reach(losses, trainable(params), retain_graph=retain_graph)[0]


def jacobian_and_reach(
    losses: Tensor | Sequence[Tensor], params: Sequence[Tensor], *, retain_graph: bool = False
) -> tuple[Tensor, list[bool]]:
    """`objective_jacobian` of parameters that need a gradient, and whether any loss reaches each of them."""
    rows = list(losses.reshape(1) if isinstance(losses, Tensor) and losses.dim() == 0 else losses)
    _check_losses(rows)
    _check_params(params)
    jacobian = rows[0].new_zeros(len(rows), sum(p.numel() for p in params), dtype=_common_dtype(params))
    reached = [False] * len(params)
    last = len(rows) - 1
    for i, loss in enumerate(rows):
        gradients = _differentiate(loss, params, retain_graph=retain_graph or i < last)
        for j, (part, gradient) in enumerate(zip(split_like(jacobian[i], params), gradients, strict=True)):
            if gradient is not None:
                part.copy_(gradient.to_dense() if gradient.is_sparse else gradient)
                reached[j] = True
    return jacobian, reached


def write_gradient(params: Iterable[Tensor], vector: Tensor) -> None:
    """Puts a flat vector into the parameters' `.grad`, replacing what was there.

    Args:
        params: The parameters, in the order in which they were given to `objective_jacobian`; frozen ones are passed over.
        vector: Shape `[p]`. What an optimiser subtracts: a combination of the *loss* gradients.

    Raises:
        UserError: If the number of entries differs.
    """
    params = trainable(params)
    size = sum(p.numel() for p in params)
    if vector.shape != (size,):
        raise UserError(f"The parameters have {size} entries in all; found a vector of shape {list(vector.shape)}.")
    for param, part in zip(params, split_like(vector, params), strict=True):
        param.grad = part.to(param.dtype).clone()


def trainable(params: Iterable[Tensor]) -> list[Tensor]:
    """The parameters that are not frozen, each once, in the order given."""
    return list({id(p): p for p in params if p.requires_grad}.values())


def flat_gradient(params: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """A vector `[p]`, not yet filled, for a gradient by the parameters, and its views shaped as they are."""
    vector = params[0].new_empty(sum(p.numel() for p in params), requires_grad=False)
    return vector, split_like(vector, params)


def split_like(vector: Tensor, params: Sequence[Tensor]) -> list[Tensor]:
    """Cuts a flat vector `[p]` into views shaped as the parameters."""
    pieces = vector.split([p.numel() for p in params])
    return [piece.view(p.shape) for piece, p in zip(pieces, params, strict=True)]


def _differentiate(loss: Tensor, params: Sequence[Tensor], *, retain_graph: bool) -> tuple[Tensor | None, ...]:
    try:
        return torch.autograd.grad(loss, params, retain_graph=retain_graph, allow_unused=True)
    except RuntimeError as error:
        if "donated buffer" not in str(error):
            raise
        raise UserError(
            "The compiled module gave away memory that the second objective's gradient needs: set "
            "torch._functorch.config.donated_buffer = False before torch.compile, or compile with backend='aot_eager'."
        ) from error


def _common_dtype(params: Sequence[Tensor]) -> torch.dtype:
    dtype = torch.float32  # a norm over bfloat16 would have two digits
    for param in params:
        dtype = torch.promote_types(dtype, param.dtype)
    return dtype


def _check_losses(losses: Sequence[Tensor]) -> None:
    if not losses:
        raise UserError("There must be at least one objective (m >= 1); found no loss.")
    for i, loss in enumerate(losses):
        if loss.numel() != 1:
            raise UserError(f"Each loss is a scalar; found shape {list(loss.shape)} for objective {i}.")
        if not loss.requires_grad:
            raise UserError(
                f"The loss of objective {i} has no graph (it does not depend on any parameter with requires_grad, "
                "or was computed under no_grad or detached)."
            )


def _check_params(params: Sequence[Tensor]) -> None:
    if not params:
        raise UserError("There must be at least one parameter that needs a gradient (requires_grad); found none.")
    devices = sorted({str(p.device) for p in params})
    if len(devices) > 1:
        raise UserError(f"All parameters must be on one device; found {', '.join(devices)}.")
