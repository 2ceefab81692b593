"""Every way to turn m objectives into one direction, by name: DiBS and the sums from here, the rest from TorchJD."""

import difflib
import importlib
from collections.abc import Callable, Sequence

from torch import Tensor
from torchjd.aggregation import Aggregator, Sum

from dibs_rl.bargaining import DiBS, Preference, positive_weights
from dibs_rl.errors import UserError
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

    def scalarise(self, advantages: Tensor) -> Tensor:
        """Sums advantages `[N, m]` to `[N, 1]`."""
        if self.normalise:
            advantages = normalise_columns(advantages)
        return (advantages @ self._weights(advantages, advantages.shape[1])).unsqueeze(1)

    def forward(self, matrix: Tensor, /) -> Tensor:
        """Sums the rows of a Jacobian `[m, p]` to `[p]`."""
        return self._weights(matrix, len(matrix)) @ matrix

    def _weights(self, like: Tensor, m: int) -> Tensor:
        if self.preference is None:
            return like.new_ones(m)
        return positive_weights(self.preference, m).to(like)


# TorchJD's aggregators that need no argument, by their names in the literature.
_TORCHJD = {
    "aligned-mtl": "AlignedMTL",
    "config": "ConFIG",
    "dualproj": "DualProj",
    "excess-mtl": "ExcessMTL",
    "graddrop": "GradDrop",
    "gradvac": "GradVac",
    "imtl-g": "IMTLG",
    "mean": "Mean",
    "mgda": "MGDA",
    "pcd": "PCD",
    "pcgrad": "PCGrad",
    "random": "Random",
    "sum": "Sum",
    "upgrad": "UPGrad",
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
        near = difflib.get_close_matches(name, COMBINERS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"Unknown combiner {name!r}; {hint}There is {', '.join(COMBINERS)}.")
    m = None if objectives is None else len(objectives)
    weights = None if preference is None else positive_weights(preference, m, objectives or ())
    if name in _OURS:
        return _OURS[name](weights, objectives, steps)
    kind = getattr(importlib.import_module("torchjd.aggregation"), _TORCHJD[name])
    if weights is not None and name not in _TAKES_PREFERENCE:
        raise UserError(f"The combiner {name} takes no preference; {', '.join([*_OURS, *sorted(_TAKES_PREFERENCE)])} do.")
    try:
        return kind() if weights is None else kind(pref_vector=weights.float())
    except ImportError as error:
        raise UserError(f"The combiner {name} needs more packages: pip install 'dibs-rl[combiners]' ({error}).") from None


def follow_jacobian(combiner: Aggregator, jacobian: Tensor) -> None:
    """Brings a TorchJD preference to the Jacobian's type and device, which are not known when the combiner is made."""
    preference = getattr(combiner, "pref_vector", None)
    if preference is not None and (preference.dtype, preference.device) != (jacobian.dtype, jacobian.device):
        combiner.pref_vector = preference.to(jacobian)


def split_scalarisation(combiner: Aggregator) -> tuple[Callable[[Tensor], Tensor] | None, Aggregator]:
    """What a learner does with the advantages before any gradient, if anything, and with the gradients then."""
    return (combiner.scalarise, Sum()) if isinstance(combiner, AdvantageSum) else (None, combiner)
