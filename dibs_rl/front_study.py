"""A front as a study: one environment, and an arm for each preference vector."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dibs_rl import arms, conditions
from dibs_rl import study as studies
from dibs_rl.by_objective import parse_preference, preference_label
from dibs_rl.combiners import make_combiner
from dibs_rl.errors import UserError
from dibs_rl.files import load_yaml
from dibs_rl.preferences import lattice_from, with_finer_lattice
from dibs_rl.study import Job, Study
from dibs_rl.warm_start import NOTHING, WarmStart
from dibs_rl.yardstick import entry_of

_DEFAULT_ARM = "dibs"
_FRONT = "front of "  # what its study is called
_SAID_BY_THE_FRONT = {"preference", "combiner", "anchors", "start_from", "eval_gamma"}


def has_begun(path: Path) -> bool:
    """Whether a folder is a front's, whatever is done of it."""
    try:
        return str(load_yaml(path / "study.yaml").get("name")).startswith(_FRONT)
    except UserError:  # there is none, or it cannot be read
        return False


def recipe(env_id: str, objectives: Sequence[str], algo: str, arm: str = "", warm_start: str = "") -> tuple[str, str]:
    """The arm that traces a front, and its warm start: what is given, else what the shipped table has for the environment.

    The table is about PPO and the environment's own objectives, and its warm start about its own arm.

    Args:
        env_id: Environment id.
        objectives: Names of the objectives.
        algo: Learning algorithm.
        arm: The arm that is asked for; empty for none.
        warm_start: The warm start that is asked for; empty for none.

    Returns:
        Arm and warm start: `dibs` and `none` where nothing is asked for and the table says nothing.

    Raises:
        UserError: If the table cannot be read.
    """
    entry = entry_of(env_id)
    measured = entry if algo == "ppo" and set(entry.get("reference", ())) == set(objectives) else {}
    best = measured.get("arm", _DEFAULT_ARM)
    arm = arm or best
    return arm, warm_start or (measured.get("warm_start", NOTHING) if arm == best else NOTHING)


@dataclass(frozen=True)
class FrontPlan:
    """What a front is made with.

    Attributes:
        env: Environment id.
        objectives: Names of its objectives.
        arm: The game or sum that the preferences are given to: `dibs`, `dibs-anchored`, `norm-sum`, ...
        settings: Of each training, over those that are shipped for the environment.
        transform: What the learners see of the rewards.
        seeds: Each preference is trained once with each.
        warm_start: What each policy begins as, in the words of `WarmStart`.

    Raises:
        UserError: If the arm is unknown or takes no preference, a setting is the front's own to make, or there is no such
            warm start.
    """

    env: str
    objectives: tuple[str, ...]
    arm: str = _DEFAULT_ARM
    settings: Mapping[str, Any] | None = None
    transform: str = ""
    seeds: tuple[int, ...] = (0,)
    warm_start: str = NOTHING

    def __post_init__(self) -> None:
        if len(self.objectives) < 2:
            raise UserError(f"A front needs at least two objectives; {self.env} has {', '.join(self.objectives)}.")
        _ = self.start  # refuses what there is not
        if self.arm == arms.EXPERTS or arms.is_reference(self.arm):
            raise UserError(f"The arm {self.arm} takes no preference, and cannot trace a front.")
        said = self.settings or {}
        taken = sorted((_SAID_BY_THE_FRONT | self._own_settings.keys()) & said.keys())
        if taken:
            raise UserError(f"A front by {self.arm} says itself what {', '.join(taken)} is; leave it out of --settings.")
        if self.experts and "algo" in self._own_settings:
            raise UserError(f"The policies of {self.arm} are of another algorithm than experts, and cannot begin as one.")
        combiner = self._own_settings.get("combiner")
        if combiner:
            make_combiner(combiner, preference=[1.0] * len(self.objectives), objectives=self.objectives)
        arms.expand({self.arm: said}, self.objectives)  # refuses what its combiner cannot do with these settings

    @property
    def start(self) -> WarmStart:
        """What each policy begins as."""
        return WarmStart(self.warm_start, self.objectives)

    @property
    def experts(self) -> tuple[str, ...]:
        """Objectives whose experts are trained first, with each seed."""
        return self.objectives if arms.is_anchored(self._own_settings) else self.start.experts

    def check_points(self, count: int) -> None:
        """Raises a UserError if there are fewer preferences than objectives, or no room for the one that policies begin as."""
        extra = self.start.preference is not None
        least = len(self.objectives) + extra
        if count < least:
            wanted = f"{'the one that they begin as, and ' if extra else ''}one for each of {', '.join(self.objectives)}"
            raise UserError(f"--points is at least {least}, {wanted}; found {count}.")

    def first_preferences(self, count: int, refine: float) -> np.ndarray:
        """The preferences `[k, m]` of a new front that are chosen before anything is known of it, in the order of training.

        Args:
            count: Preferences in all.
            refine: Share of them that are chosen later.
        """
        room = max(len(self.objectives), count - math.floor(round(refine * count, 9)))
        return self.start.in_order(lattice_from(self.start.preference, len(self.objectives), room))

    def more_preferences(self, preferences: np.ndarray, count: int) -> np.ndarray:
        """Preferences `[k, m]` of a front, and behind them what a finer lattice of at most so many in all has more."""
        finer = with_finer_lattice(preferences, count, self.start.preference)
        return np.concatenate([preferences, self.start.in_order(finer[len(preferences) :])])

    @property
    def name(self) -> str:
        """What the study is called: a folder that holds another one is left alone."""
        units = ["with", self.transform] if self.transform else []
        return f"{_FRONT}{self.env} by {' '.join([self.arm, *self._begun, *units])}"

    @property
    def folder(self) -> Path:
        """Where it is kept if nothing else is said."""
        parts = [self.arm, *self._begun, *([self._condition] if self.transform else [])]
        return Path("runs/fronts") / self.env.replace(":", "-") / "-".join(parts)

    def jobs(self, preferences: Sequence[Sequence[float]] | np.ndarray, eval_gamma: float | None) -> tuple[Study, list[Job]]:
        """The study, resolved, and its jobs.

        Args:
            preferences: `[k, m]`.
            eval_gamma: Discount of the returns that are compared; that of the training if None.

        Raises:
            UserError: If a setting is unknown or out of bounds.
        """
        discount = {} if eval_gamma is None else {"eval_gamma": eval_gamma}
        study = Study(
            name=self.name,
            envs={self.env: {**(self.settings or {}), **discount}},
            conditions={self._condition: self.transform or None},
            arms=self._arms(np.asarray(preferences, dtype=float)),
            seeds=self.seeds,
        )
        objectives = {self.env: self.objectives}
        study = studies.resolved(study, objectives)
        return study, studies.jobs_of(study, objectives)

    def begun(self, root: Path, eval_gamma: float | None) -> tuple["FrontPlan", np.ndarray | None]:
        """The same front as a folder holds it.

        Args:
            root: The folder.
            eval_gamma: Discount of the returns that are compared; that of the training if None.

        Returns:
            The plan with the seeds that are there as well, and the preferences `[k, m]` in the order of their choice; None
            where nothing has begun yet.

        Raises:
            UserError: If the folder holds another study, or returns with another discount.
        """
        file = root / "study.yaml"
        if not file.is_file():
            return self, None
        before = load_yaml(file)
        if before.get("name") != self.name:
            raise UserError(f"{root} holds the study {before.get('name')!r}, and not {self.name!r}: choose another --out.")
        study = studies.validated_study(before, str(file))
        kept = (study.envs[self.env] or {}).get("eval_gamma")
        if kept != eval_gamma:
            raise UserError(
                f"The returns in {root} are discounted by {kept}, and not by {eval_gamma}: a front keeps its discount; leave "
                "--gamma as it was, or choose another --out."
            )
        weights = [own["preference"] for own in study.arms.values() if own and own.get("preference")]
        if weights and list(weights[0]) != list(self.objectives):
            names, wanted = ", ".join(weights[0]), ", ".join(self.objectives)
            raise UserError(f"{root} holds a front of {names}, and not of {wanted}: choose another --out.")
        plan = dataclasses.replace(self, seeds=tuple(dict.fromkeys([*study.seeds, *self.seeds])))
        return plan, np.array([[one[name] for name in self.objectives] for one in weights])

    def preference_of(self, job: Job) -> np.ndarray:
        """Preference weights `[m]` of a job: of an expert, 1 for its objective and 0 for all others."""
        said = parse_preference(job.config.preference)
        weights = said if isinstance(said, Mapping) else dict.fromkeys(arms.objectives_in(job.arm), 1.0)
        return np.array([weights.get(name, 0.0) for name in self.objectives])

    @property
    def _begun(self) -> list[str]:
        """What the policies have begun as, in words that name folders; nothing for `none`."""
        return [] if self.start.label == NOTHING else ["from", self.start.label]

    @property
    def _own_settings(self) -> dict[str, Any]:
        return arms.expand({self.arm: None}, self.objectives)[self.arm]

    @property
    def _condition(self) -> str:
        return re.sub(r"[^\w.@^+-]+", "-", self.transform) or conditions.AS_IT_IS

    def _arms(self, preferences: np.ndarray) -> dict[str, dict[str, Any]]:
        """An arm for each preference: settings by name."""
        names = [f"{self.arm}-{preference_label(weights)}" for weights in preferences.tolist()]
        found: dict[str, dict[str, Any]] = {arms.EXPERT + objective: {} for objective in self.experts}
        for k, (name, weights) in enumerate(zip(names, preferences.tolist(), strict=True)):
            start = self.start.arm_of(names, preferences, k)
            begun = {"start_from": start} if start else {}
            found[name] = {**self._own_settings, "preference": dict(zip(self.objectives, weights, strict=True)), **begun}
        return found
