"""Every way to turn m objectives into one direction, by name: DiBS and the sums from here, the rest from TorchJD."""

import importlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchjd.aggregation import Aggregator, NashMTL, Sum, WeightedAggregator, Weighting
from torchjd.linalg import Matrix

from dibs_rl.bargaining import DiBS
from dibs_rl.errors import UserError, did_you_mean
from dibs_rl.games import Preference, positive_weights
from dibs_rl.returns import normalise_columns


class AdvantageSum(Aggregator):
    """A weighted sum of the objectives, taken on their advantages, so that one gradient is enough.

    With `normalise` it is the strongest cheap scale-free baseline: normalise each objective's advantages, then add.
    Without, it is PPO on the weighted sum of the rewards, which is what hand-tuned reward weights amount to.

    As an aggregator it is the plain weighted sum of the Jacobian's rows, which is then the caller's to normalise: a Jacobian
    no longer knows the advantages.

    Args:
        preference: Positive weights, shape `[m]`; all 1 if not given.
        normalise: Bring each objective's advantages to mean 0 and standard deviation 1 first.
    """

    def __init__(self, preference: Preference = None, *, normalise: bool) -> None:
        super().__init__()
        self.preference = None if preference is None else positive_weights(preference)
        self.normalise = normalise

    def scalarise(self, advantages: Tensor, active: Tensor | None = None, stakes: Tensor | None = None) -> Tensor:
        """Sums advantages `[N, m]` to `[N, 1]`.

        Args:
            advantages: 0 where they are not active.
            active: Which of them count, `[N, m]` bool; all if not given.
            stakes: What the weights are multiplied by, `[m]`.
        """
        if self.normalise:
            advantages = normalise_columns(advantages, active)
        weights = self._weights(advantages, advantages.shape[1])
        return (advantages @ (weights if stakes is None else weights * stakes.to(weights.dtype))).unsqueeze(1)

    def weights_in(self, units: Tensor) -> Tensor:
        """Weights `[m]` on values that are counted in units `[m]` of the rewards.

        A unit is the value's spread: normalised sums leave it out, and plain ones count in the rewards' own units.
        """
        weights = self._weights(units, len(units))
        return torch.where(units > 0, weights, 0.0) if self.normalise else weights * units

    def forward(self, matrix: Tensor, /) -> Tensor:
        """Sums the rows of a Jacobian `[m, p]` to `[p]`."""
        return self._weights(matrix, len(matrix)) @ matrix

    def __getstate__(self) -> dict[str, Any]:
        """For a file that opens also where there is no GPU."""
        return {**self.__dict__, "preference": None if self.preference is None else self.preference.cpu()}

    def _weights(self, like: Tensor, m: int) -> Tensor:
        if self.preference is None:
            return like.new_ones(m)
        if len(self.preference) != m:
            positive_weights(self.preference, m)  # says so
        self.preference = self.preference.to(like.device)  # once: it stays there
        return self.preference.to(like.dtype)


class _NashMTLWeighting(Weighting[Matrix]):
    """TorchJD's Nash-MTL for as many objectives as have a gradient, which is not known before the first Jacobian.

    Its convex programme has no solution where a gradient is zero, and is not posed for fewer than two: here such an objective
    has no vote, and one alone gets what the programme's condition `G w = 1 / w` gives, its unit gradient.
    """

    def __init__(self, make_game: Callable[[int], NashMTL]) -> None:
        super().__init__()
        self._make_game = make_game
        self._game = make_game(2)  # says at once which packages are missing

    @torch.no_grad()
    def forward(self, jacobian: Tensor, /) -> Tensor:
        norms = torch.linalg.vector_norm(jacobian, dim=1)
        voting = norms > 0
        weights = torch.zeros_like(norms)
        if voting.sum() < 2:
            weights[voting] = 1 / norms[voting]
            return weights
        rows = jacobian[voting]
        if self._game.n_tasks != len(rows):
            self._game = self._make_game(len(rows))
        with warnings.catch_warnings():  # cvxpy's remarks on how TorchJD puts the programme, at every step
            warnings.simplefilter("ignore")
            weights[voting] = self._game.weighting(rows)
        return weights


class _NashMTL(WeightedAggregator):
    """Nash-MTL by TorchJD. It starts from its last weights, so it depends on the Jacobians seen before."""

    def __init__(self, make_game: Callable[[int], NashMTL]) -> None:
        super().__init__(_NashMTLWeighting(make_game))


# TorchJD's aggregators by their names in the literature.
_TORCHJD = {
    "aligned-mtl": "AlignedMTL",
    "cagrad": "CAGrad",
    "config": "ConFIG",
    "dualproj": "DualProj",
    "excess-mtl": "ExcessMTL",
    "fairgrad": "FairGrad",
    "graddrop": "GradDrop",
    "gradvac": "GradVac",
    "imtl-g": "IMTLG",
    "mean": "Mean",
    "mgda": "MGDA",
    "nash-mtl": "NashMTL",
    "pcd": "PCD",
    "pcgrad": "PCGrad",
    "random": "Random",
    "sum": "Sum",
    "upgrad": "UPGrad",
}
# What TorchJD leaves to the caller, as the methods' authors set it where they train policies.
_ARGUMENTS: dict[str, dict[str, Any]] = {
    "cagrad": {"c": 0.5},  # Liu et al. 2021, arXiv 2110.14048: their code, toy problem and MTRL configuration
    "fairgrad": {"alpha": 1.0},  # Ban and Ji 2024, arXiv 2402.15638: their code's default and MTRL configuration
    # nash-mtl: max_norm 1, new weights every step, 20 iterations: TorchJD's defaults are those of Navon et al. 2022's code
}
_TAKES_PREFERENCE = {"aligned-mtl", "config", "dualproj", "upgrad"}
_OURS: dict[str, Callable[[Preference, Sequence[str] | None, int], Aggregator]] = {
    "dibs": lambda preference, objectives, steps: DiBS(steps=steps, preference=preference, objectives=objectives),
    "norm-sum": lambda preference, objectives, steps: AdvantageSum(preference, normalise=True),
    "weighted-sum": lambda preference, objectives, steps: AdvantageSum(preference, normalise=False),
}
COMBINERS = (*_OURS, *_TORCHJD)


def make_combiner(
    name: str,
    *,
    preference: Preference = None,
    objectives: Sequence[str] | None = None,
    steps: int = 5,
) -> Aggregator:
    """Makes a combiner by name.

    Args:
        name: One of `COMBINERS`.
        preference: Positive weights on the objectives, shape `[m]`.
        objectives: Their names, for error messages.
        steps: Steps T of DiBS's local game; the others ignore it.

    Raises:
        UserError: If the name is unknown, the preference is not positive or of another length than `objectives`, the
            combiner takes none, or it needs a package that is not installed.
    """
    if name not in COMBINERS:
        raise UserError(f"Unknown combiner {name!r}.{did_you_mean(str(name), COMBINERS)} There is {', '.join(COMBINERS)}.")
    m = None if objectives is None else len(objectives)
    weights = None if preference is None else positive_weights(preference, m, objectives or ())
    if name in _OURS:
        return _OURS[name](weights, objectives, steps)
    kind = getattr(importlib.import_module("torchjd.aggregation"), _TORCHJD[name])
    if weights is not None and name not in _TAKES_PREFERENCE:
        raise UserError(f"The combiner {name} takes no preference; {', '.join([*_OURS, *sorted(_TAKES_PREFERENCE)])} do.")
    arguments = _ARGUMENTS.get(name, {}) if weights is None else {"pref_vector": weights.float()}
    try:
        return _NashMTL(kind) if name == "nash-mtl" else kind(**arguments)
    except ImportError as error:
        raise UserError(f"The combiner {name} needs more packages: pip install 'dibs-rl[combiners]' ({error}).") from None


def follow_jacobian(combiner: Aggregator, jacobian: Tensor) -> None:
    """Brings a TorchJD preference to the Jacobian's type and device, which are not known when the combiner is made."""
    preference = getattr(combiner, "pref_vector", None)
    if preference is not None and (preference.dtype, preference.device) != (jacobian.dtype, jacobian.device):
        combiner.pref_vector = preference.to(jacobian)


def combine(combiner: Aggregator, jacobian: Tensor) -> tuple[Tensor, Tensor | None]:
    """Combines the rows of a Jacobian `[m, p]`.

    Returns:
        The direction `[p]`, and the weights `[m]` on the rows that it is made with, where the combiner has any.
    """
    follow_jacobian(combiner, jacobian)
    if not isinstance(combiner, WeightedAggregator):
        return combiner(jacobian), None
    weights: list[Tensor] = []
    handle = combiner.weighting.register_forward_hook(lambda _weighting, _inputs, output: weights.append(output))
    try:
        return combiner(jacobian), weights[0]
    finally:
        handle.remove()


def is_recordable(combiner: Aggregator) -> bool:
    """Whether what it does may be recorded as a CUDA graph: it looks at no tensor, and nobody listens to it."""
    hooked = any(part._forward_hooks or part._forward_pre_hooks for part in combiner.modules())
    return type(combiner) in (DiBS, Sum) and not hooked


def check_fading(combiner: Aggregator) -> None:
    """Raises a UserError if a combiner has no weights that could be multiplied by what is at stake."""
    if isinstance(combiner, AdvantageSum) and not combiner.normalise:
        raise UserError(
            "Fading is for advantages without units, and weighted-sum, as sb3-ppo, adds them up in those of the rewards: "
            "take norm-sum, or leave fading out."
        )
    if not isinstance(combiner, AdvantageSum | WeightedAggregator):
        raise UserError(f"{type(combiner).__name__} gives no weights on the objectives that could fade: leave fading out.")


def split_scalarisation(combiner: Aggregator) -> tuple[AdvantageSum | None, Aggregator]:
    """The sum that a learner takes before any gradient, if its combiner is one, and what combines the gradients then."""
    return (combiner, Sum()) if isinstance(combiner, AdvantageSum) else (None, combiner)
