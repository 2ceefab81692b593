"""Which of several policies is the best: rules from the mean returns of a policy, by objective, to one number.

m returns have no order of their own, so somebody has to choose one. A rule is any function of this kind; these are the usual
ones, and each says what it asks for: a scale, a preference or a point to be better than.
"""

from collections.abc import Callable, Mapping

from dibs_rl import metrics
from dibs_rl.errors import UserError, did_you_mean

Returns = Mapping[str, float]
"""Mean return by objective."""
Rule = Callable[[Returns], float]
"""The greater its result, the better the policy."""


def maximin(low: Returns, high: Returns) -> Rule:
    """The worst objective's score, `min_i (J_i - low_i) / (high_i - low_i)`.

    Args:
        low: Return that is worth 0, by objective: a random policy's, say.
        high: Return that is worth 1: that of a policy trained for this objective alone, say.

    Raises:
        UserError: If both do not name the same objectives, or a `high` is not above its `low`.
    """
    if set(low) != set(high):
        raise UserError(f"low and high name the same objectives; found {', '.join(low)} and {', '.join(high)}.")
    flat = [name for name in low if not low[name] < high[name]]
    if flat:
        raise UserError(
            f"high is above low for each objective; found low={low[flat[0]]} and high={high[flat[0]]} for {flat[0]}."
        )
    return lambda returns: min((_of(returns, name) - low[name]) / (high[name] - low[name]) for name in low)


def preferred_sum(preference: Returns) -> Rule:
    """The weighted sum of the returns, `sum_i p_i J_i`; an objective that is not named does not count.

    Raises:
        UserError: If no objective is named.
    """
    if not preference:
        raise UserError("A preference names at least one objective; found none.")
    return lambda returns: sum(weight * _of(returns, name) for name, weight in preference.items())


def hypervolume(reference: Returns) -> Rule:
    """The volume between a reference point and the returns: 0 unless every objective is above its reference.

    For one policy it is `prod_i (J_i - r_i)`, the Nash product with the reference as the point of disagreement; the order
    that it gives does not depend on the objectives' units.

    Args:
        reference: Least return worth having, by objective.

    Raises:
        UserError: If no objective is named.
    """
    if not reference:
        raise UserError("A reference point names at least one objective; found none.")
    names, point = list(reference), list(reference.values())
    return lambda returns: metrics.hypervolume([[_of(returns, name) for name in names]], point)


def _of(returns: Returns, name: str) -> float:
    if name not in returns:
        raise UserError(f"Unknown objective {name!r}.{did_you_mean(name, returns)} There is {', '.join(returns)}.")
    return returns[name]
