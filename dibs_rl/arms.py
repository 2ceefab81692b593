"""Arms of a study: a name and the settings that set it apart; everything else is the same for all."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torchjd.aggregation import WeightedAggregator

from dibs_rl.combiners import COMBINERS, check_fading, make_combiner, split_scalarisation
from dibs_rl.errors import UserError, did_you_mean

RANDOM, EXPERTS, EXPERT = "random", "experts", "expert-"
_OWN: dict[str, dict[str, Any]] = {
    RANDOM: {"steps": 0, "eval_stochastic": True},
    "sb3-ppo": {"algo": "sb3-ppo", "combiner": "weighted-sum"},
    "dibs-anchored": {"combiner": "dibs", "anchors": "auto"},
    "dibs-fading": {"combiner": "dibs", "fading": True},
    "norm-sum-fading": {"combiner": "norm-sum", "fading": True},
}
_DIBS_STEPS = re.compile(r"dibs-(\d+)")


def is_reference(arm: str) -> bool:
    """Whether the arm only fixes the scale of the scores: the random policy, and an objective's expert."""
    return arm == RANDOM or arm.startswith(EXPERT)


def expand(given: Mapping[str, Mapping[str, Any] | None], objectives: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Arms by name, each with the settings that are its own.

    `random` evaluates the untrained policy; `sb3-ppo` is Stable-Baselines3's; `dibs-50` is DiBS with 50 steps; the name of any
    combiner is an arm with that combiner; `expert-OBJECTIVE` learns with all other rewards off, `experts` stands for all of
    them that are not named, and comes along with an arm that has `anchors: auto`, as `dibs-anchored` does. Any other name is a
    new arm, which needs settings.

    Args:
        given: By name: settings, over those that the name says.
        objectives: Names of all environments' objectives.

    Raises:
        UserError: If a name is unknown and has no settings, or a combiner cannot be made.
    """
    known = list(dict.fromkeys(objectives))
    found: dict[str, dict[str, Any]] = {}
    if any(is_anchored(_said_by(name, known, bool(own)) | dict(own or {})) for name, own in given.items() if name != EXPERTS):
        # First, since they are waited for; in the order that they are named in, since one may begin as another.
        given = {**{name: own for name, own in given.items() if name.startswith(EXPERT)}, EXPERTS: None, **given}
    for name, settings in given.items():
        names = [name] if name != EXPERTS else [one for one in (EXPERT + what for what in known) if one not in given]
        for one in names:
            found[one] = {**_said_by(one, known, bool(settings)), **(settings or {})}
            if "combiner" in found[one]:
                combiner = make_combiner(found[one]["combiner"])  # what is wrong with it is said before any job runs
                if found[one].get("fading"):
                    check_fading(combiner)
    return found


def is_anchored(settings: Mapping[str, Any]) -> bool:
    """Whether an arm with these settings plays the anchored game with the study's own experts."""
    return settings.get("anchors") == "auto"


def objectives_in(arm: str) -> set[str]:
    """Names of the objectives that an arm is about: an expert's own."""
    return {arm.removeprefix(EXPERT)} if arm.startswith(EXPERT) else set()


def expert_transform(arm: str, objectives: Iterable[str]) -> str:
    """What an expert does to the rewards: all are off but its own. Empty for any other arm."""
    if not arm.startswith(EXPERT):
        return ""
    return ",".join(f"{objective}=0" for objective in objectives if objective != arm.removeprefix(EXPERT))


def _said_by(name: str, objectives: list[str], is_described: bool) -> dict[str, Any]:
    """The settings that a name stands for."""
    steps = _DIBS_STEPS.fullmatch(name)
    if name in _OWN:
        return dict(_OWN[name])
    if steps:
        return {"combiner": "dibs", "bargaining_steps": int(steps[1])}
    if name in COMBINERS:
        return {"combiner": name, **_how_often(name)}
    if name.startswith(EXPERT):
        if name.removeprefix(EXPERT) not in objectives:
            raise UserError(f"No objective for the arm {name!r}; the objectives here are {', '.join(objectives)}.")
        return {}
    if is_described:
        return {}
    names = list(dict.fromkeys([*_OWN, EXPERTS, "dibs-1", *COMBINERS]))
    hint = did_you_mean(name, names)
    raise UserError(f"Unknown arm {name!r}.{hint} There is {', '.join(names)}, or a name of yours with settings.")


def _how_often(combiner: str) -> dict[str, str]:
    """A combiner that gives no weights has to combine every minibatch."""
    _, aggregator = split_scalarisation(make_combiner(combiner))
    return {} if isinstance(aggregator, WeightedAggregator) else {"bargain_every": "minibatch"}
