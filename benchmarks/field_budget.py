"""How PGMORL fills a budget of environment steps in `field.py`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from dibs_rl.errors import UserError

PGMORL_SIZES = {"num_envs": 4, "pop_size": 6, "steps_per_iteration": 2048}  # its defaults
_MOST_BETWEEN_CHOICES = 20  # its evolutionary_iterations
_LEAST_POPULATION = 4  # it looks for so many neighbours


def pgmorl_plan(budget: int, settings: Mapping[str, Any]) -> tuple[int, dict[str, int]]:
    """How many steps PGMORL takes, and in which iterations: as its defaults divide 100 of them, 80 first and then 20.

    Without it, PGMORL takes 100 iterations (4.9 million steps) at the least, and finishes the last 20 whatever the budget is.

    Raises:
        UserError: If the budget is less than two iterations, or the population smaller than what its prediction is made of.
    """
    sizes = {**PGMORL_SIZES, **settings}
    if sizes["pop_size"] < _LEAST_POPULATION:
        raise UserError(f"PGMORL predicts from {_LEAST_POPULATION} policies at the least; found pop_size={sizes['pop_size']}.")
    size = int(np.prod([sizes[name] for name in PGMORL_SIZES]))
    iterations = budget // size
    if iterations < 2:
        raise UserError(f"PGMORL needs at least two iterations of {size:,} steps; found a budget of {budget:,}.")
    between = min(_MOST_BETWEEN_CHOICES, max(1, iterations // 5))
    choices = max(1, iterations // between - 4)
    return iterations * size, {"warmup_iterations": iterations - choices * between, "evolutionary_iterations": between}
