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
from dibs_rl.by_objective import parse_preference, preference_label, preference_vector
from dibs_rl.combiners import make_combiner
from dibs_rl.errors import UserError, did_you_mean
from dibs_rl.files import load_yaml
from dibs_rl.games import positive_weights
from dibs_rl.preferences import lattice_from, on_simplex, with_finer_lattice
from dibs_rl.study import Job, Study
from dibs_rl.yardstick import entry_of

_DEFAULT_ARM = "dibs"
_NOTHING, _EQUAL = "none", "equal"
_FAVOURED, _NEIGHBOUR = "expert", "neighbour-"  # and the expert of an objective, by the name of its arm
_FRONT = "front of "  # what its study is called
_SAID_BY_THE_FRONT = {"preference", "combiner", "anchors", "start_from", "eval_gamma"}
_DIGITS = 9  # of a distance between preferences: which of two is nearer is not to depend on rounding


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
    return arm, warm_start or (measured.get("warm_start", _NOTHING) if arm == best else _NOTHING)


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
        warm_start: What each policy begins as: `none`; the `expert` of the objective that its preference favours (the first
            one of equals); whatever the preference is, that of one objective, `expert-OBJECTIVE`; or, `neighbour-OBJECTIVE`,
            the policy with the nearest preference before it among those with no less weight on that objective: from the one
            that favours it most, each goes on where one that favours it a little more has ended; or, where it is a preference
            by name, or `equal` for equal weights, the policy of that preference, a point of the front that is trained first
            with each seed.

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
    warm_start: str = _NOTHING

    def __post_init__(self) -> None:
        if len(self.objectives) < 2:
            raise UserError(f"A front needs at least two objectives; {self.env} has {', '.join(self.objectives)}.")
        of_one = [kind + name for kind in (arms.EXPERT, _NEIGHBOUR) for name in self.objectives]
        starts = [_NOTHING, _EQUAL, _FAVOURED, *of_one]
        if self.warm_start not in starts and self.start_preference is None:
            hint = did_you_mean(self.warm_start, starts)
            raise UserError(
                f"Unknown --warm-start {self.warm_start!r}.{hint} There is {', '.join(starts)}, or a preference, as "
                f"{','.join(f'{name}=1' for name in self.objectives)}."
            )
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
    def start_preference(self) -> np.ndarray | None:
        """The preference `[m]` of the policy that all others begin as; None unless `warm_start` is a preference, or `equal`.

        Raises:
            UserError: If it is not a preference.
        """
        if self.warm_start == _EQUAL:
            return self._equal
        if "=" not in self.warm_start:
            return None
        weights = preference_vector(parse_preference(self.warm_start), self.objectives)
        return on_simplex(positive_weights(weights or [], len(self.objectives), self.objectives).numpy())

    @property
    def experts(self) -> tuple[str, ...]:
        """Objectives whose experts are trained first, with each seed."""
        if self.warm_start == _FAVOURED or arms.is_anchored(self._own_settings):
            return self.objectives
        return tuple(name for name in self.objectives if self.warm_start == arms.EXPERT + name)

    def check_points(self, count: int) -> None:
        """Raises a UserError if there are fewer preferences than objectives, or no room for the one that policies begin as."""
        extra = self.start_preference is not None
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
        return self.in_order(lattice_from(self.start_preference, len(self.objectives), room))

    def more_preferences(self, preferences: np.ndarray, count: int) -> np.ndarray:
        """Preferences `[k, m]` of a front, and behind them what a finer lattice of at most so many in all has more."""
        finer = with_finer_lattice(preferences, count, self.start_preference)
        return np.concatenate([preferences, self.in_order(finer[len(preferences) :])])

    @property
    def begun_as(self) -> str:
        """What the policies begin as, in a word: `none`, `equal`, `experts`, or what the folder's name has behind `from`."""
        return self._begun[1] if self._begun else _NOTHING

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
        plan = dataclasses.replace(self, seeds=tuple(dict.fromkeys([*study.seeds, *self.seeds])))
        return plan, np.array([[one[name] for name in self.objectives] for one in weights])

    def preference_of(self, job: Job) -> np.ndarray:
        """Preference weights `[m]` of a job: of an expert, 1 for its objective and 0 for all others."""
        said = parse_preference(job.config.preference)
        weights = said if isinstance(said, Mapping) else dict.fromkeys(arms.objectives_in(job.arm), 1.0)
        return np.array([weights.get(name, 0.0) for name in self.objectives])

    def in_order(self, preferences: np.ndarray) -> np.ndarray:
        """Preferences `[k, m]` in the order in which they are trained: neighbours that policies begin as come before them."""
        if not self.warm_start.startswith(_NEIGHBOUR):
            return preferences
        return preferences[np.argsort(-self._weights(preferences), kind="stable")]

    @property
    def _begun(self) -> list[str]:
        """What the policies have begun as, in words that name folders: nothing for `none`, several for `expert`."""
        if self.start_preference is not None:
            is_equal = np.array_equal(self.start_preference, self._equal)
            return ["from", _EQUAL if is_equal else preference_label(self.start_preference.tolist())]
        words = {_NOTHING: [], _FAVOURED: ["from", "experts"]}
        return words.get(self.warm_start, ["from", self.warm_start])

    @property
    def _equal(self) -> np.ndarray:
        """Equal weights `[m]`."""
        return on_simplex(np.ones(len(self.objectives)))

    @property
    def _own_settings(self) -> dict[str, Any]:
        return arms.expand({self.arm: None}, self.objectives)[self.arm]

    @property
    def _condition(self) -> str:
        return re.sub(r"[^\w.@^+-]+", "-", self.transform) or conditions.AS_IT_IS

    def _weights(self, preferences: np.ndarray) -> np.ndarray:
        """Those of the objective that neighbours are sought towards, `[k]`."""
        return preferences[:, self.objectives.index(self.warm_start.removeprefix(_NEIGHBOUR))]

    def _neighbour(self, preferences: np.ndarray, k: int) -> int | None:
        """Which preference the policy of the k-th begins with; None for the first one."""
        weights = self._weights(preferences)
        known = np.flatnonzero(weights[:k] >= weights[k])
        distances = np.linalg.norm(preferences[known] - preferences[k], axis=1).round(_DIGITS)
        return int(known[distances.argmin()]) if len(known) else None

    def _arms(self, preferences: np.ndarray) -> dict[str, dict[str, Any]]:
        """An arm for each preference: settings by name. What one starts from does not depend on those that come after it."""
        names = [f"{self.arm}-{preference_label(weights)}" for weights in preferences.tolist()]
        found: dict[str, dict[str, Any]] = {arms.EXPERT + objective: {} for objective in self.experts}
        for k, (name, weights) in enumerate(zip(names, preferences.tolist(), strict=True)):
            start = self._start(names, preferences, k)
            begun = {"start_from": start} if start else {}
            found[name] = {**self._own_settings, "preference": dict(zip(self.objectives, weights, strict=True)), **begun}
        return found

    def _start(self, names: Sequence[str], preferences: np.ndarray, k: int) -> str | None:
        """The arm that the k-th policy begins as."""
        if self.start_preference is not None:
            return names[0] if k else None
        if self.warm_start == _FAVOURED:
            return arms.EXPERT + self.objectives[int(np.argmax(preferences[k]))]
        if self.warm_start.startswith(_NEIGHBOUR):
            neighbour = self._neighbour(preferences, k)
            return None if neighbour is None else names[neighbour]
        return self.warm_start if self.warm_start.startswith(arms.EXPERT) else None
