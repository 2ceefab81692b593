"""Steps of torch's Adam that cost little more than their arithmetic."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer

Step = Callable[[Tensor | None], None]


def quick_step(optimizer: Optimizer) -> Step:
    """The optimiser's `step`; where it is torch's fused Adam, without looking up each tensor every time.

    For small networks that takes several times as long as the arithmetic. The numbers are the same bit for bit, and the
    optimiser's state stays where it was. The step takes a mask, `[]` float32 or None: where it holds 1 nothing moves. Adam's
    own kernel leaves off then, as where a gradient of mixed precision has overflowed; for another optimiser the mask is
    looked at.

    Args:
        optimizer: The parameters that have a gradient now are moved. Its contents may change, the tensor and the optimiser's
            settings may not, for as long as the result is used.
    """
    group = optimizer.param_groups[0]
    learning = [p for p in group["params"] if p.grad is not None]
    if not is_plain(optimizer):
        return partial(_step_unless, optimizer)
    if any(p not in optimizer.state for p in learning):
        optimizer._init_group(group, [], [], [], [], [], [])  # type: ignore[attr-defined]  # as its first step does
    states = [optimizer.state[p] for p in learning]
    counts = torch.stack([state["step"] for state in states])
    for state, count in zip(states, counts, strict=True):
        state["step"] = count  # a view: one addition counts for all
    move = partial(
        torch._fused_adam_,
        [p.detach() for p in learning],
        [p.grad for p in learning],
        [state["exp_avg"] for state in states],
        [state["exp_avg_sq"] for state in states],
        [],
        [state["step"] for state in states],
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        **{key: group[key] for key in ("amsgrad", "lr", "weight_decay", "eps", "maximize")},
    )

    def step(mask: Tensor | None = None) -> None:
        counts.add_(1 if mask is None else 1 - mask)
        move(found_inf=mask)

    return step


def fused_adam(parameter: Tensor, lr: float) -> Adam:
    """Adam for one parameter, which counts its steps where the parameter is: the plain one may look there for the count.

    It stays so if the state of a plain one is loaded.
    """

    def fused(_: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        return {**state, "param_groups": [{**group, "fused": True} for group in state["param_groups"]]}

    optimizer = Adam([parameter], lr=lr, fused=True)
    optimizer.register_load_state_dict_pre_hook(fused)
    return optimizer


def _step_unless(optimizer: Optimizer, mask: Tensor | None = None) -> None:
    if mask is None or not mask:
        optimizer.step()


def is_plain(optimizer: Optimizer) -> bool:
    """Whether `step` is torch's fused Adam on one group of parameters, and nobody listens to it."""
    if type(optimizer) is not Adam or len(optimizer.param_groups) > 1 or "step" in vars(optimizer):
        return False
    group, hooks = optimizer.param_groups[0], (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks)
    return bool(group["fused"]) and not (group["amsgrad"] or group.get("decoupled_weight_decay") or any(hooks))
