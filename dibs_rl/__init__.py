"""One policy, many rewards, no reward weights: DiBS bargaining between per-objective policy gradients.

The public names load on first use: TorchJD, whose base classes the combiners share, takes as long to import as
everything else here together, and a script that only asks for the version should not wait for it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "DiBS": "bargaining",
    "DiBSWeighting": "bargaining",
    "combined_backward": "backward",
    "dibs_weights": "games",
    "make_combiner": "combiners",
    "objective_jacobian": "gradients",
    "write_combined_gradient": "backward",
    "write_gradient": "gradients",
}

if TYPE_CHECKING:
    from dibs_rl.backward import combined_backward, write_combined_gradient
    from dibs_rl.bargaining import DiBS, DiBSWeighting
    from dibs_rl.combiners import make_combiner
    from dibs_rl.games import dibs_weights
    from dibs_rl.gradients import objective_jacobian, write_gradient

__all__ = [
    "DiBS",
    "DiBSWeighting",
    "__version__",
    "combined_backward",
    "dibs_weights",
    "make_combiner",
    "objective_jacobian",
    "write_combined_gradient",
    "write_gradient",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'dibs_rl' has no attribute {name!r}")
    return getattr(import_module(f"dibs_rl.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
