"""DiBS's fronts against the field: the same environment, as many environment steps, one way to score.

    python benchmarks/field.py --env mo-halfcheetah-v5 --budget 11e6 --points 11 --seeds 0 1 2 3 4 --out runs/field/cheetah
    python benchmarks/field.py --env mo-halfcheetah-v5 --budget 11e6 --points 11 --seeds 0 1 2 3 4 \
        --transform energy=1e3 --out runs/field/cheetah-energy-x1e3

Methods: `dibs`, `dibs-anchored`, `norm-sum`, `weighted-sum`, `sb3-ppo` and any other arm of `dibs-rl front`, which trains a
policy for each preference (steps of experts are taken off the budget first), with `-from-equal`, `-from-experts`,
`-from-expert-OBJECTIVE` or `-from-neighbour-OBJECTIVE` behind it for its `--warm-start`; and `pgmorl` and `capql` of
MORL-Baselines, whose policies are evaluated here as all others are, whatever their own numbers say (`field_learners.py` says
what is around them). One front is trained at a time, with one seed, and neighbours wait for each other: `--jobs` is nothing to
them.
These two need, in an environment of their own:

    pip install 'dibs-rl[field]' && pip install --no-deps morl-baselines==1.3.0

MORL-Baselines pins pycddlib, which may have to be built from source, and asks for more that these two never import: hence
--no-deps.

Discount and reference point are those of `configs/fronts.yaml`. With `--transform` the learners see other units than what is
scored. A budget's last fraction of a rollout or iteration is rounded: up by our learners, down by PGMORL.

In the folder: `rows/<method>-seed<k>.json` once a method and seed are done, and `field.md`, the table of those that are asked
for. The same command goes on where it was stopped: fronts where each policy was, MORL-Baselines' methods with what has no row.
CPU seconds are of the training's processes.
"""

import argparse
import dataclasses
import math
import signal
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from field_others import THEIRS, run_theirs
from field_rows import Contest, Row, begin, read_row, write_row, write_table

from dibs_rl.cli import front as front_command
from dibs_rl.cli.benchmark import objectives_of
from dibs_rl.cli.front_results import trained_with
from dibs_rl.cli.trainings import named_values
from dibs_rl.envs import resolve_id
from dibs_rl.errors import UserError, one_line
from dibs_rl.files import read_json
from dibs_rl.front_folder import points, read_front, read_result
from dibs_rl.front_study import FrontPlan
from dibs_rl.provenance import versions
from dibs_rl.yardstick import yardstick

DEFAULT_METHODS = (
    "dibs",
    "dibs-fading-from-equal",
    "norm-sum-fading-from-equal",
    "dibs-from-experts",
    "dibs-anchored",
    "weighted-sum",
    "sb3-ppo",
    *THEIRS,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what is missing and writes the table; returns the exit code."""
    flags = _flags(arguments)
    contest = read_contest(flags)
    settings = {method: _settings(flags, method) for method in flags.methods}
    check_methods(contest, flags.methods)
    shipped = {method: shipped_settings(contest, method, settings[method]) for method in flags.methods}
    flags.out.mkdir(parents=True, exist_ok=True)
    wanted = [(method, seed) for method in flags.methods for seed in flags.seeds]

    def row_of(method: str, seed: int) -> Row | None:
        return read_row(flags.out, contest, method, seed, settings[method], shipped[method])

    missing = [one for one in wanted if row_of(*one) is None]
    try:
        code = run_missing(contest, missing, settings, flags.out, flags.jobs)
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    rows = [row for one in wanted if (row := row_of(*one))]
    if rows:
        file = write_table(flags.out, contest, rows)
        print(f"{file.read_text()}\n{len(rows)} of {len(wanted)} rows. Table: {file}")
    if code >= 128:
        print("Stopped; the same command goes on.")
    return code


def _flags(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", default="mo-halfcheetah", help="environment id")
    parser.add_argument("--methods", nargs="+", default=list(DEFAULT_METHODS), help="what is compared")
    parser.add_argument("--budget", type=float, default=11e6, help="environment steps of a front")
    parser.add_argument("--points", type=int, default=11, help="preferences of a front")
    parser.add_argument("--refine", type=float, default=0.0, help="share of them that go where our fronts are sparse")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="each method is run once with each")
    parser.add_argument("--transform", default="", help="what the learners see: energy=1e3")
    parser.add_argument("--episodes", type=int, default=20, help="episodes of the evaluation of each policy")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time, each with one thread")
    parser.add_argument("--out", type=Path, default=Path("runs/field"), help="folder of the results")
    parser.add_argument("--settings", nargs="+", default=[], help="settings of dibs-rl train for our methods: n_epochs=5")
    for method in THEIRS:
        parser.add_argument(f"--{method}", nargs="+", default=[], help="arguments of its constructor: net_arch=[64,64]")
    return parser.parse_args(arguments)


def _settings(flags: argparse.Namespace, method: str) -> dict[str, Any]:
    """What is said of a method alone, by name.

    Raises:
        UserError: If it says what the contest says.
    """
    found = named_values(getattr(flags, method) if method in THEIRS else flags.settings, "settings")
    taken = sorted({"steps", "eval_episodes"} & found.keys()) if method not in THEIRS else []
    if taken:
        raise UserError(f"--budget and --episodes say what {' and '.join(taken)} are; leave them out of --settings.")
    return found


def read_contest(flags: argparse.Namespace) -> Contest:
    """What is the same for all.

    Raises:
        UserError: If there is no such environment or objective, or nobody has said what fronts of it are measured by.
    """
    env_id = resolve_id(flags.env)
    objectives = objectives_of(env_id, {})
    measure = yardstick(env_id, objectives)
    if measure.gamma is None or measure.reference is None:
        raise UserError(f"configs/fronts.yaml has no discount and reference point of {env_id}.")
    FrontPlan(env_id, objectives).check_points(flags.points)
    if not 1 <= flags.budget < math.inf:
        raise UserError(f"--budget is a number of environment steps, at least 1; found {flags.budget:g}.")
    reference = tuple(measure.reference[name] for name in objectives)
    how = (flags.transform, int(flags.budget), flags.points, flags.refine, measure.gamma, reference, flags.episodes)
    contest = Contest(env_id, objectives, *how)
    contest.seen_reference  # noqa: B018  (refuses what it cannot read)
    return contest


def check_methods(contest: Contest, methods: Sequence[str]) -> None:
    """Raises a UserError if there is no such method, or it cannot be run here or within the budget."""
    for method in methods:
        if method in THEIRS:
            if not find_spec("morl_baselines"):
                raise UserError(f"{method} needs MORL-Baselines: see the top of field.py, or leave it out of --methods.")
            continue
        plan_of(contest, method).check_points(contest.points)
        if not front_steps(contest, method):
            raise UserError(f"--budget {contest.budget} leaves the policies of {method} no step.")


def run_missing(
    contest: Contest, missing: Sequence[tuple[str, int]], settings: Mapping[str, dict[str, Any]], root: Path, jobs: int
) -> int:
    """Runs methods and seeds; returns 0, 1 if one has failed, or what the shell is told of a signal.

    Args:
        contest: What is the same for all.
        missing: Methods and seeds.
        settings: Of each method.
        root: Folder of the results.
        jobs: Trainings at a time.
    """
    code = 0
    for method, seed in missing:
        if method not in THEIRS:
            ended = run_front(contest, method, seed, settings[method], root, jobs)
            if ended >= 128:
                return ended
            code = max(code, ended)
    theirs = [(method, seed) for method, seed in missing if method in THEIRS]
    return max(code, run_theirs(contest, theirs, settings, root, jobs)) if theirs else code


def front_steps(contest: Contest, method: str) -> int:
    """Steps of each policy of a front, experts' among them."""
    plan = plan_of(contest, method)
    # a lattice may have fewer
    policies = contest.points if contest.refine else len(plan.first_preferences(contest.points, contest.refine))
    return contest.budget // (policies + len(plan.experts))


def shipped_settings(contest: Contest, method: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """All settings that the trainings of a front of ours have; nothing of another method."""
    if method in THEIRS:
        return {}
    given = {**settings, "steps": front_steps(contest, method), "eval_episodes": contest.episodes}
    plan = dataclasses.replace(plan_of(contest, method), settings=given, transform=contest.transform)
    _, jobs = plan.jobs(plan.first_preferences(contest.points, contest.refine), contest.gamma)
    return trained_with(jobs[-1].config)


def plan_of(contest: Contest, method: str) -> FrontPlan:
    """The front of a method: behind `-from-` stands what the arm's policies begin as, `experts` or one by its own name.

    Raises:
        UserError: If there is no such arm or warm start, or the arm takes no preference.
    """
    arm, _, what = method.partition("-from-")
    if what in ("none", "expert"):
        raise UserError(f"Unknown method {method!r}: it is {arm}, or {arm}-from-experts.")
    return FrontPlan(contest.env, contest.objectives, arm, warm_start={"": "none", "experts": "expert"}.get(what, what))


def run_front(contest: Contest, method: str, seed: int, settings: Mapping[str, Any], root: Path, jobs: int) -> int:
    """Trains a front, and writes its row if it is whole; returns the exit code of `dibs-rl front`."""
    folder, plan = root / method / f"seed{seed}", plan_of(contest, method)
    reference = zip(contest.objectives, contest.reference, strict=True)
    words = {
        "env": contest.env,
        "arm": plan.arm,
        "warm-start": plan.warm_start,
        "points": contest.points,
        "refine": contest.refine,
        "seeds": seed,
        "steps": front_steps(contest, method),
        "gamma": contest.gamma,
        "ref-point": ",".join(f"{name}={value}" for name, value in reference),
        "jobs": jobs,
        "out": folder,
        **({"transform": contest.transform} if contest.transform else {}),
    }
    begin(folder, contest, settings)
    of_runs = [f"{name}={value}" for name, value in {"eval_episodes": contest.episodes, **settings}.items()]
    flags = [text for name, value in words.items() for text in (f"--{name}", str(value))]
    code = front_command.run([*flags, "--settings", *of_runs])
    if code == 0:
        write_row(root, contest, {"method": method, "seed": seed, "settings": dict(settings), **front_row(folder)})
    return code


def front_row(folder: Path) -> Row:
    """What a front's folder says of it."""
    policies = read_front(folder)
    results = [read_result(folder, policy) for policy in policies]
    spent = {key: sum(result["cost"][key] for result in results) for key in ("seconds", "cpu_seconds")}
    steps = sum(result["steps"] for result in results)
    taken = {"steps": steps, "selection_steps": 0, **spent, "versions": versions()}
    known = read_json(folder / "front.json", "'dibs-rl front' writes it anew")["trained_with"]
    return {"returns": points(policies).tolist(), "trained_with": known, **taken}


if __name__ == "__main__":
    with one_line("field.py"):
        sys.exit(main())
