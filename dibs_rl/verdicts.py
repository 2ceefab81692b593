"""Which ways of combining objectives an environment's scales will lead astray, by rules that are stated."""

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

EQUAL_SAY = ("dibs", "norm-sum", "mgda")  # examples of all that normalise each objective on its own
ALL = ("all",)


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
    """The rules that apply to what was measured; none where no combiner is led astray by scales.

    never varied: An objective's advantages and returns are constant.
    dominant: An objective has more than 90% of the variance of all advantages.
    drowned: An objective has less than 1% of it, and another one is not dominant already.
    offset: The length of an episode explains more than 90% of an objective's return, but not all of it, and the mean of its
        rewards is larger than their standard deviation.
    sparse: Rewards other than 0 come less than ten times in a rollout of 4096 steps.
    trivial: One action, all the time, gives the greatest reward that was seen in each step.
    same: Returns of two objectives have a correlation above 0.95.
    """
    voting = {name: scale for name, scale in scales.objectives.items() if scale.varies}
    silent = [name for name in scales.objectives if name not in voting]
    found = [
        Verdict("never varied", (name,), ALL, f"{name} never varied: no vote until exploration finds it") for name in silent
    ]
    if len(voting) > 1:
        found += _sizes(voting)
    for name, scale in voting.items():
        found += _of_one(name, scale, scales)
    return [*found, *_pairs(scales, voting)]


def _sizes(voting: dict[str, ObjectiveScale]) -> Iterator[Verdict]:
    loudest = max(voting, key=lambda name: voting[name].advantage_share)
    share = voting[loudest].advantage_share
    if share > DOMINANT:
        why = f"at equal weights {loudest} has {percent(share)} of the advantage variance; the others are noise to it"
        yield Verdict("dominant", (loudest,), ("weighted-sum",), why)
        return
    for name, scale in voting.items():
        if scale.advantage_share < DROWNED:
            why = f"at equal weights {name} has {percent(scale.advantage_share)} of the advantage variance and is not heard"
            yield Verdict("drowned", (name,), ("weighted-sum",), why)


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
    names = list(scales.objectives)
    for i, j in itertools.combinations(range(len(names)), 2):
        correlation = scales.return_correlation[i, j]
        if {names[i], names[j]} <= voting.keys() and not math.isnan(correlation) and correlation > SAME:
            why = (
                f"{names[i]} and {names[j]} say the same so far (correlation of returns {correlation:.2f}): together two votes"
            )
            yield Verdict("same", (names[i], names[j]), EQUAL_SAY, why)


def percent(share: float) -> str:
    """As a percentage that is 100 only where nothing is left."""
    return f"{100 * share:.2g}%" if share < 0.1 else f"{min(100 * share, 99.9 if share < 1 else 100):.3g}%"
