"""`dibs-rl front`: a policy for each of several preferences, and what the front that they make is worth."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dibs_rl import arms
from dibs_rl import study as studies
from dibs_rl.cli.benchmark import check_against_runs, objectives_of, run_jobs
from dibs_rl.cli.flags import parse, print_line
from dibs_rl.cli.front_results import conclude
from dibs_rl.cli.launchers import Launcher
from dibs_rl.cli.trainings import TrainingFlags, Trainings, make_launcher
from dibs_rl.config import Count, Fraction, Seed
from dibs_rl.envs import resolve_id
from dibs_rl.envs.scaling import parse_transform
from dibs_rl.errors import UserError
from dibs_rl.front_folder import FrontPolicy, points, read_policy
from dibs_rl.front_study import FrontPlan, recipe
from dibs_rl.preferences import refined
from dibs_rl.run_folder import RunFolder
from dibs_rl.study import Job
from dibs_rl.yardstick import TABLE, Yardstick, yardstick


@dataclass
class FrontConfig:
    """Train a policy for each of several preferences, and measure the front that they make.

    A first part of the preferences is a lattice, the others go where the front it led to is sparse. The same command goes on
    where it was stopped; with more --points or --seeds it adds to what is there.
    """

    env: str = "mo-halfcheetah"
    """Environment id; of a bare name the newest version is taken."""
    points: Count = 11
    """Preferences, each a policy; at least one for each objective. Experts, where there are any, come on top."""
    refine: Fraction = 0.5
    """Share of the points that go where the front is sparse, once the others are there; 0 for a lattice alone."""
    arm: str = ""
    """What has the preferences: dibs, dibs-anchored, dibs-fading, norm-sum, norm-sum-fading, weighted-sum, sb3-ppo, or
    a combiner that takes a preference. That of configs/fronts.yaml if not given, else dibs."""
    seeds: tuple[Seed, ...] = (0,)
    """Each preference is trained once with each; each seed has a front of its own."""
    warm_start: str = ""
    """What each policy begins as. none: random networks. equal: the policy of equal weights. forward=1,energy=8: that of this
    preference. expert: that of the objective that its own preference favours. expert-OBJECTIVE: that of one objective.
    neighbour-OBJECTIVE: of those trained before it the policy of the nearest preference with no less weight on that objective
    (the trainings of a seed then wait for each other). Experts, and the policy of one preference, are trained first, as points
    of the front. That of configs/fronts.yaml if not given, with the arm that stands there; none with any other."""
    transform: str = ""
    """Rewards in other units, for the learners alone, as in train; the front is made of untransformed returns."""
    ref_point: str = ""
    """Reference point of the hypervolume, by name: forward=-100,energy=-100. That of fronts.yaml if not given. No gap below it
    is refined."""
    gamma: float | None = None
    """Discount of the returns that the front is made of; that of fronts.yaml if not given, else the training's."""
    out: Path | None = None
    """The front's folder; runs/fronts/<env>/<arm> if not given, with -from-equal or so behind the arm where there is a warm
    start, and the transform."""
    trainings: Trainings = field(default_factory=TrainingFlags)
    """What all of them have in common."""


def run(arguments: list[str]) -> int:
    """Trains what is missing of a front and measures it; returns the exit code, as `dibs-rl benchmark` does."""
    flags = parse(FrontConfig, arguments, "front")
    plan = read_plan(flags)
    if not flags.seeds:
        raise UserError("A front has at least one seed: --seeds 0.")
    plan.check_points(flags.points)
    measure = yardstick(plan.env, plan.objectives, flags.ref_point, flags.gamma)
    root = flags.out or plan.folder
    plan, preferences = plan.begun(root, measure.gamma)
    front = Front(plan, root, measure)
    with contextlib.closing(make_launcher(flags.trainings, root)) as launcher:
        code, jobs = front.train(preferences, flags.points, flags.refine, launcher)
    policies = front.policies(jobs)
    if policies and code in (0, 1):
        conclude(plan, root, measure, policies, steps=front.steps(jobs))
    return code


def read_plan(flags: FrontConfig) -> FrontPlan:
    """What the flags mean.

    Raises:
        UserError: If anything in them is not as it should be.
    """
    env_id = resolve_id(flags.env)
    settings = flags.trainings.overrides
    objectives = objectives_of(env_id, settings)
    parse_transform(flags.transform, objectives)
    algo = str(settings.get("algo", "ppo"))
    arm, start = recipe(env_id, objectives, algo, flags.arm, flags.warm_start)
    plan = FrontPlan(env_id, objectives, arm, settings, flags.transform, flags.seeds, start)
    untold = recipe("", objectives, algo, flags.arm, flags.warm_start)  # of an environment that nobody has measured
    words = zip(("--arm", "--warm-start"), (arm, start), untold, strict=True)
    taken = [f"{flag} {word}" for flag, word, other in words if word != other]
    if taken:
        print_line(f"From {TABLE.name}: {' '.join(taken)}. What you give wins over it.")
    return plan


@dataclass(frozen=True)
class Front:
    """A front and its folder.

    Attributes:
        plan: What it is made with.
        root: The folder.
        measure: What it is measured by.
    """

    plan: FrontPlan
    root: Path
    measure: Yardstick

    def train(self, preferences: np.ndarray | None, count: int, refine: float, launcher: Launcher) -> tuple[int, list[Job]]:
        """Trains what is missing: the lattice first, and, once all of it is there, what it leaves to be filled.

        Args:
            preferences: Those that were begun before, `[k, m]`; None for a new front.
            count: Preferences in all.
            refine: Share of them that are not of the lattice.
            launcher: Runs the jobs.

        Returns:
            The exit code, and all jobs.

        Raises:
            UserError: If the folder holds another front, or runs with other settings.
        """
        if preferences is None:
            preferences = self.plan.first_preferences(count, refine)
        elif not refine and len(preferences) < count:
            preferences = self.plan.more_preferences(preferences, count)
        if count < len(preferences):
            print_line(f"There are {len(preferences)} preferences already; --points {count} takes none of them away.")
        title = f"{self.plan.name} in {self.root}, {len(preferences)} of {max(count, len(preferences))} preferences"
        code, jobs = self._run(title, preferences, launcher)
        missing = count - len(preferences)
        if missing > 0 and not refine:
            print_line(
                f"There are {len(preferences)} preferences, not {count}: a lattice of at most {count} adds none to them, and "
                "others need --refine above 0."
            )
        if code or missing <= 0 or not refine:
            return code, jobs
        known = self.measure.reference
        reference = None if known is None else [known[name] for name in self.plan.objectives]
        more = refined(*self._outcomes(jobs), missing, reference)
        if len(more) < missing:
            print_line(f"Between neighbours on the front there is room for {len(more)} more preferences, not for {missing}.")
        title = f"With {len(more)} more where it is sparse"
        return self._run(title, np.concatenate([preferences, more]), launcher)

    def policies(self, jobs: Sequence[Job]) -> list[FrontPolicy]:
        """The policies that have been trained and evaluated."""
        names = self.plan.objectives
        return [
            read_policy(
                self.root, job.path, dict(zip(names, self.plan.preference_of(job).tolist(), strict=True)), job.config.seed
            )
            for job in jobs
            if RunFolder(self.root / job.path).finished
        ]

    def steps(self, jobs: Sequence[Job]) -> tuple[int, int]:
        """Environment steps that the finished jobs have taken in all, and those of the experts among them."""
        done = [job for job in jobs if RunFolder(self.root / job.path).finished]
        taken = {job: RunFolder(self.root / job.path).result()["steps"] for job in done}
        return sum(taken.values()), sum(steps for job, steps in taken.items() if arms.is_reference(job.arm))

    def _run(self, title: str, preferences: np.ndarray, launcher: Launcher) -> tuple[int, list[Job]]:
        study, jobs = self.plan.jobs(preferences, self.measure.gamma)
        check_against_runs(jobs, self.root)
        studies.record(study, self.root)
        return run_jobs(title, jobs, self.root, launcher), jobs

    def _outcomes(self, jobs: Sequence[Job]) -> tuple[np.ndarray, np.ndarray]:
        """Preferences `[k, m]` and the mean discounted returns over seeds that each led to, `[k, m]`."""
        by_preference: dict[tuple[float, ...], list[FrontPolicy]] = {}
        for policy in self.policies(jobs):
            by_preference.setdefault(tuple(policy.preference.values()), []).append(policy)
        return np.array(list(by_preference)), np.array([points(group).mean(axis=0) for group in by_preference.values()])
