"""What the policies of a front begin as."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dibs_rl import arms
from dibs_rl.by_objective import parse_preference, preference_label, preference_vector
from dibs_rl.errors import UserError, did_you_mean
from dibs_rl.games import positive_weights
from dibs_rl.preferences import on_simplex

NOTHING = "none"
_EQUAL, _FAVOURED = "equal", "expert"
_NEIGHBOUR = "neighbour-"  # behind it stands an objective, as behind the name of an expert's arm
_DIGITS = 9  # of a distance between preferences: which of two is nearer is not to depend on rounding


@dataclass(frozen=True)
class WarmStart:
    """What each policy of a front begins as.

    Attributes:
        how: `none`; the `expert` of the objective that its preference favours (the first one of equals); whatever the
            preference is, that of one objective, `expert-OBJECTIVE`; or, `neighbour-OBJECTIVE`, the policy with the nearest
            preference before it among those with no less weight on that objective: from the one that favours it most, each
            goes on where one that favours it a little more has ended; or, where it is a preference by name, or `equal` for
            equal weights, the policy of that preference, a point of the front that is trained first with each seed.
        objectives: Names of the environment's objectives.

    Raises:
        UserError: If there is no such warm start, or it is no preference.
    """

    how: str
    objectives: tuple[str, ...]

    def __post_init__(self) -> None:
        of_one = [kind + name for kind in (arms.EXPERT, _NEIGHBOUR) for name in self.objectives]
        known = [NOTHING, _EQUAL, _FAVOURED, *of_one]
        if self.how not in known and self.preference is None:
            raise UserError(
                f"Unknown --warm-start {self.how!r}.{did_you_mean(self.how, known)} There is {', '.join(known)}, or a "
                f"preference, as {','.join(f'{name}=1' for name in self.objectives)}."
            )

    @property
    def preference(self) -> np.ndarray | None:
        """That of the policy that all others begin as, `[m]`; None unless it is a preference, or `equal`."""
        if self.how == _EQUAL:
            return self._equal
        if "=" not in self.how:
            return None
        weights = preference_vector(parse_preference(self.how), self.objectives)
        return on_simplex(positive_weights(weights or [], len(self.objectives), self.objectives).numpy())

    @property
    def experts(self) -> tuple[str, ...]:
        """Objectives whose experts are trained first, with each seed."""
        if self.how == _FAVOURED:
            return self.objectives
        return tuple(name for name in self.objectives if self.how == arms.EXPERT + name)

    @property
    def label(self) -> str:
        """It in one word, however it is spelt, which names folders: `none`, `equal`, `p0.1111-0.8889`, `experts`, ..."""
        preference = self.preference
        if preference is None:
            return "experts" if self.how == _FAVOURED else self.how
        return _EQUAL if np.array_equal(preference, self._equal) else preference_label(preference.tolist())

    def in_order(self, preferences: np.ndarray) -> np.ndarray:
        """Preferences `[k, m]` in the order in which they are trained: neighbours that policies begin as come before them."""
        if not self.how.startswith(_NEIGHBOUR):
            return preferences
        return preferences[np.argsort(-self._weights(preferences), kind="stable")]

    def arm_of(self, names: Sequence[str], preferences: np.ndarray, k: int) -> str | None:
        """The arm that the k-th policy begins as; None for random networks. It does not depend on those that come after it.

        Args:
            names: Of the arms, one for each preference.
            preferences: `[k, m]`, in the order of training.
            k: Which one.
        """
        if self.preference is not None:
            return names[0] if k else None
        if self.how == _FAVOURED:
            return arms.EXPERT + self.objectives[int(np.argmax(preferences[k]))]
        if self.how.startswith(_NEIGHBOUR):
            neighbour = self._neighbour(preferences, k)
            return None if neighbour is None else names[neighbour]
        return self.how if self.how.startswith(arms.EXPERT) else None

    @property
    def _equal(self) -> np.ndarray:
        """Equal weights `[m]`."""
        return on_simplex(np.ones(len(self.objectives)))

    def _weights(self, preferences: np.ndarray) -> np.ndarray:
        """Those of the objective that neighbours are sought towards, `[k]`."""
        return preferences[:, self.objectives.index(self.how.removeprefix(_NEIGHBOUR))]

    def _neighbour(self, preferences: np.ndarray, k: int) -> int | None:
        """Which preference the policy of the k-th begins with; None for the first one."""
        weights = self._weights(preferences)
        known = np.flatnonzero(weights[:k] >= weights[k])
        distances = np.linalg.norm(preferences[known] - preferences[k], axis=1).round(_DIGITS)
        return int(known[distances.argmin()]) if len(known) else None
