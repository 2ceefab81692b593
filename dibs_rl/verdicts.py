"""Which ways of combining objectives an environment's scales will lead astray, by rules that are stated with their limits."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

from dibs_rl.scales import ObjectiveScale, Scales

DOMINANT = 0.9  # share of the advantages' variance
DROWNED = 0.01  # the same
BY_LENGTH = 0.9  # share of the returns' variance
ALL_OF_IT = 1 - 1e-6  # the same: an objective that is nothing but the length hides nothing
ROLLOUT = 4096  # steps: 64 worlds times 64, the defaults
FEW_REWARDS = 10  # in a rollout
SAME = 0.95  # correlation of returns

SUM = ("weighted-sum",)
EQUAL_SAY = ("dibs", "norm-sum", "mgda")  # examples of all that normalise each objective on its own
ALL = ("all",)

_LIMITS = {  # where each rule applies, and to which arms
    "never varied": (ALL, "advantages and returns of an objective are constant"),
    "dominant": (SUM, f"one of several objectives has more than {DOMINANT:.0%} of the advantage variance"),
    "drowned": (SUM, f"one has less than {DROWNED:.0%} of it, and none is dominant"),
    "offset": (
        ALL,
        "episodes end early, the mean of an objective's rewards is above their standard deviation, and the episode's length "
        f"explains more than {BY_LENGTH:.0%} of its return, but not all of it",
    ),
    "sparse": (EQUAL_SAY, f"fewer than {FEW_REWARDS} rewards other than 0 in a rollout of {ROLLOUT:,} steps"),
    "trivial": (EQUAL_SAY, "one action, all the time, gives the greatest reward that was seen"),
    "same": (EQUAL_SAY, f"the returns of two objectives have a correlation above {SAME}"),
}
_NONE = "none"


@dataclass(frozen=True)
class Rule:
    """One rule, and how near the environment comes to it.

    Attributes:
        rule: Its name.
        arms: Combiners that are led astray where it applies.
        limit: Where it applies, with the threshold.
        nearest: The objective that comes nearest to the limit, or is furthest beyond it, with its number.
    """

    rule: str
    arms: tuple[str, ...]
    limit: str
    nearest: str


@dataclass(frozen=True)
class Verdict:
    """One rule that applies.

    Attributes:
        rule: Its name.
        objectives: Which objectives it is about.
        arms: Combiners that are led astray.
        why: In one sentence, with the numbers.
    """

    rule: str
    objectives: tuple[str, ...]
    arms: tuple[str, ...]
    why: str


def verdicts(scales: Scales) -> list[Verdict]:
    """The rules that apply to what was measured (see `rules`); none where no combiner is led astray by scales."""
    voting = _voting(scales)
    silent = [name for name in scales.objectives if name not in voting]
    found = [
        Verdict("never varied", (name,), ALL, f"{name} never varied: no vote until exploration finds it") for name in silent
    ]
    if len(voting) > 1:
        found += _sizes(voting)
    for name, scale in voting.items():
        found += _of_one(name, scale, scales)
    return [*found, *_pairs(scales, voting)]


def rules(scales: Scales) -> list[Rule]:
    """All the rules, each with its limit and with the objective of an environment that comes nearest to it."""
    voting = _voting(scales)
    silent = [name for name in scales.objectives if name not in voting]
    by_share = sorted(voting, key=lambda name: voting[name].advantage_share) if len(voting) > 1 else []
    shares = [f"{name} {percent(voting[name].advantage_share)}" for name in by_share] or [_NONE]
    rewards = sorted((scale.nonzero * ROLLOUT, name) for name, scale in voting.items() if scale.nonzero > 0)
    nearest = {
        "never varied": ", ".join(silent),
        "dominant": shares[-1],
        "drowned": shares[0],
        "offset": _nearest_offset(scales, voting),
        "sparse": f"{rewards[0][1]} {rewards[0][0]:,.1f}" if rewards else "",
        "trivial": ", ".join(f"{name} by {scale.trivial_action}" for name, scale in voting.items() if scale.trivial_action),
        "same": _nearest_pair(scales, voting),
    }
    return [Rule(name, arms, limit, nearest[name] or _NONE) for name, (arms, limit) in _LIMITS.items()]


def _voting(scales: Scales) -> dict[str, ObjectiveScale]:
    return {name: scale for name, scale in scales.objectives.items() if scale.varies}


def _nearest_offset(scales: Scales, voting: dict[str, ObjectiveScale]) -> str:
    if not scales.ends_early:
        return "no episode ends early"
    hiding = {name: scale for name, scale in voting.items() if abs(scale.step.mean) > scale.step.std}
    explained = [(scale.by_length, name) for name, scale in hiding.items() if scale.by_length < ALL_OF_IT]
    return f"{max(explained)[1]} {percent(max(explained)[0])} by the length" if explained else _NONE


def _nearest_pair(scales: Scales, voting: dict[str, ObjectiveScale]) -> str:
    pairs = list(_correlated(scales, voting))
    if not pairs:
        return _NONE
    first, second, correlation = max(pairs, key=lambda pair: pair[2])
    return f"{first} and {second} {correlation:.2f}"


def _sizes(voting: dict[str, ObjectiveScale]) -> Iterator[Verdict]:
    loudest = max(voting, key=lambda name: voting[name].advantage_share)
    share = voting[loudest].advantage_share
    if share > DOMINANT:
        why = f"at equal weights {loudest} has {percent(share)} of the advantage variance; the others are noise to it"
        yield Verdict("dominant", (loudest,), SUM, why)
        return
    for name, scale in voting.items():
        if scale.advantage_share < DROWNED:
            why = f"at equal weights {name} has {percent(scale.advantage_share)} of the advantage variance and is not heard"
            yield Verdict("drowned", (name,), SUM, why)


def _of_one(name: str, scale: ObjectiveScale, scales: Scales) -> Iterator[Verdict]:
    if scales.ends_early and BY_LENGTH < scale.by_length < ALL_OF_IT and abs(scale.step.mean) > scale.step.std:
        what = "to go on" if scale.step.mean > 0 else "to end it"
        why = (
            f"an offset hides the signal of {name}: with {scale.step.mean:.3g} a step whatever is done (standard deviation "
            f"{scale.step.std:.2g}), the episode's length is {percent(scale.by_length)} of its return: {what} is learnt first"
        )
        yield Verdict("offset", (name,), ALL, why)
    rewards = scale.nonzero * ROLLOUT
    if scale.nonzero > 0 and rewards < FEW_REWARDS:
        why = (
            f"{name} is sparse: a rollout of {ROLLOUT:,} steps holds {rewards:.1f} of its rewards, so its equal say is mostly "
            "the critic's noise"
        )
        yield Verdict("sparse", (name,), EQUAL_SAY, why)
    if scale.trivial_action:
        why = (
            f"{name} is trivially satisfied: {scale.trivial_action}, all the time, gives the best value that was seen, "
            f"{scale.best + 0.0:.3g} in each step, and equal say can settle there"
        )
        yield Verdict("trivial", (name,), EQUAL_SAY, why)


def _pairs(scales: Scales, voting: dict[str, ObjectiveScale]) -> Iterator[Verdict]:
    for first, second, correlation in _correlated(scales, voting):
        if correlation > SAME:
            why = f"{first} and {second} say the same so far (correlation of returns {correlation:.2f}): together two votes"
            yield Verdict("same", (first, second), EQUAL_SAY, why)


def _correlated(scales: Scales, voting: dict[str, ObjectiveScale]) -> Iterator[tuple[str, str, float]]:
    """The pairs of objectives whose returns have a correlation, each with it."""
    names = list(scales.objectives)
    for i, j in itertools.combinations(range(len(names)), 2):
        correlation = float(scales.return_correlation[i, j])
        if {names[i], names[j]} <= voting.keys() and not math.isnan(correlation):
            yield names[i], names[j], correlation


def percent(share: float) -> str:
    """As a percentage that is 100 only where nothing is left."""
    return f"{100 * share:.2g}%" if share < 0.1 else f"{min(100 * share, 99.9 if share < 1 else 100):.3g}%"
