"""What of the anchored game matters: ablations of its experts, of its distances, and of where training starts.

    python benchmarks/anchors.py --env mo-halfcheetah --seeds 0 1 2 3 4
    python benchmarks/anchors.py --env mo-hopper --steps 500000 --variants local anchored frozen
    python benchmarks/anchors.py --variants local fading --preferences 1:1 1:16 --seeds 0

Each variant trains one policy for equal preferences, and one for each objective with three times the others' weight, or
one for each of the preferences given, from the same experts, which are trained first. A finished training is a JSON file in
the folder (`--out`), and is not repeated: the same command goes on where it was stopped. Printed last, over seeds, with 95%
bootstrap intervals: returns for equal preferences, the hypervolume of the policies together (discount and reference point
from configs/fronts.yaml), the rank correlation of weight and return, and, paired by seed, how much the hypervolume is above
the first variant's. The experts' steps are not counted here: `half` needs half of the others', and `local`, `fading` and
`random` none.

Variants:
    local              the local game, without experts
    local-from-expert  the local game, begun as from-expert
    anchored           the anchored game as `dibs-rl train --anchors` plays it
    frozen             distances as they are in the first rollout, ever after
    random             untrained policies in the place of the experts
    half               experts of half the training
    kl                 distances by the Kullback-Leibler divergence from the expert, root of twice its mean, noise included
    from-expert        begins with the networks of the expert that the preference favours (the first one where all are equal)
    noise-floor        no rollout begins with a standard deviation of actions below 0.2, in the actions' own units
    fading             the local game as `dibs-rl train --fading` plays it
"""

import argparse
import contextlib
import dataclasses
import itertools
import json
import math
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from dibs_rl.agents import DiBSPPO
from dibs_rl.agents.anchors import Anchors
from dibs_rl.agents.experts import expert_facts
from dibs_rl.by_objective import preference_label
from dibs_rl.cli.benchmark import objectives_of
from dibs_rl.cli.evaluate import evaluated
from dibs_rl.cli.experts import ExpertsConfig, make_experts
from dibs_rl.cli.model import build_model, make_env
from dibs_rl.cli.starts import new_model
from dibs_rl.cli.train_config import read_config
from dibs_rl.config import RunConfig
from dibs_rl.envs import as_vector_env, resolve_id
from dibs_rl.envs.tasks import TASKS
from dibs_rl.errors import UserError, check_same, one_line
from dibs_rl.files import read_json, write_json
from dibs_rl.games import positive_weights
from dibs_rl.metrics import hypervolume, weight_control
from dibs_rl.reporting.tables import shown
from dibs_rl.statistics import estimate, mean
from dibs_rl.vec_env import Obs, VectorRewardVecEnv
from dibs_rl.yardstick import yardstick

FAVOUR = 3.0  # weight of the favoured objective to 1 of each other
LEAST_NOISE = 0.2
_REMEDY = "move it away and its training is done again"


class Frozen(Anchors):
    """Keeps the distances of the first rollout."""

    found: Tensor | None = None

    def distances(self, policy: BasePolicy, obs: Obs, active: Tensor | None = None) -> Tensor:
        """Those that were measured first."""
        if self.found is None:
            self.found = super().distances(policy, obs, active)
        return self.found


class ByKL(Anchors):
    """Measures distances between the two Gaussian distributions of actions, noise included."""

    @torch.no_grad()
    def distances(self, policy: BasePolicy, obs: Obs, active: Tensor | None = None) -> Tensor:
        """Root of twice the mean divergence of an entry: for equal noise, root mean square differences in units of it."""
        if active is not None:
            raise UserError("The variant kl is for one task: all objectives are everywhere.")
        own = gaussian(policy, obs)
        gaps = [kl_divergence(own, gaussian(anchor, obs)).mean() for anchor in self.policies.values()]
        return (2 * torch.stack(gaps)).sqrt()


def gaussian(policy: BasePolicy, obs: Obs) -> Normal:
    """The distribution of actions, in float64."""
    found = policy.get_distribution(obs).distribution
    return Normal(found.loc.double(), found.scale.double())


class NoiseFloor(BaseCallback):
    """Keeps the action noise alive."""

    def _on_rollout_start(self) -> None:
        with torch.no_grad():
            self.model.policy.log_std.clamp_(min=math.log(LEAST_NOISE))

    def _on_step(self) -> bool:
        return True


FADING = "fading"
VARIANTS = ("local", "local-from-expert", "anchored", "frozen", "random", "half", "kl", "from-expert", "noise-floor", FADING)
WITHOUT_EXPERTS = {"local", "random", FADING}
WITHOUT_ANCHORS = {*WITHOUT_EXPERTS, "local-from-expert"}  # those of `random` are no experts
FROM_EXPERT = {"from-expert", "local-from-expert"}
OF_NOISE = {"kl", "noise-floor"}
ANCHORS: dict[str, type[Anchors]] = {"frozen": Frozen, "kl": ByKL}  # of all others, those that ship


@dataclass(frozen=True, eq=False)
class Training:
    """One training.

    Attributes:
        variant: What is left out or changed.
        preference: Weights in the objectives' order.
        config: All settings.
        file: Where the result goes.
        experts: The folder of the experts that it has as anchors, or begins as one of; None for none.
    """

    variant: str
    preference: tuple[float, ...]
    config: RunConfig
    file: Path
    experts: Path | None = None


def train(training: Training) -> None:
    """Trains, evaluates and writes the result."""
    torch.set_num_threads(1)
    config = training.config
    with contextlib.closing(make_env(config, config.num_envs, config.seed)) as env:
        model = make_model(training, env)
        model.learn(config.steps, callback=NoiseFloor() if training.variant == "noise-floor" else None)
    found = evaluated(config, model, config.eval_episodes)
    known = {"settings": plain_settings(config), "experts": models_of(training.experts)}
    write_json(training.file, {**found, "preference": training.preference, **known})


def make_model(training: Training, env: VectorRewardVecEnv) -> DiBSPPO:
    """The learner of a training, with the settings that are shipped for the environment."""
    model = new_model(training.config, env, "cpu")
    assert isinstance(model, DiBSPPO)
    experts, kind = model.anchors, ANCHORS.get(training.variant)
    if training.variant == "random":
        experts, kind = {name: untrained(training.config, env, i) for i, name in enumerate(model.objectives)}, Anchors
    if kind is not None:
        assert experts is not None
        model._preferred = kind(experts, model.objectives, model.observation_space, model.action_space, model.device)
    return model


def untrained(config: RunConfig, env: VectorRewardVecEnv, i: int) -> BasePolicy:
    """A policy that has learnt nothing, another one for each objective."""
    other_start = dataclasses.replace(config, seed=1_000 * (config.seed + 1) + i)
    return build_model(other_start, env, "cpu").policy


def check_variants(flags: argparse.Namespace) -> None:
    """Raises a UserError if there is no such environment, or a variant or a preference is not for it."""
    with contextlib.closing(as_vector_env(flags.env)) as env:
        of_noise = sorted(OF_NOISE.intersection(flags.variants))
        if of_noise and not isinstance(env.action_space, spaces.Box):
            raise UserError(f"{of_noise[0]} is for Gaussian noise; the actions of {flags.env} are {env.action_space}.")
        for weights in flags.preferences or ():
            positive_weights(weights, len(env.objectives), env.objectives)


def train_experts(flags: argparse.Namespace) -> dict[tuple[int, int], Path]:
    """The folders of all experts, trained if they are not there yet, by seed and by what their steps are divided by."""
    shares = {2 if variant == "half" else 1 for variant in flags.variants if variant not in WITHOUT_EXPERTS}
    return {
        (seed, share): experts(flags, seed, read_config(words_of(flags, seed)).steps // share)
        for seed, share in itertools.product(flags.seeds, sorted(shares))
    }


def words_of(flags: argparse.Namespace, seed: int) -> list[str]:
    """Flags of `dibs-rl train` that all trainings of a seed have."""
    gamma = yardstick(flags.env, objectives_of(flags.env, {})).gamma
    discount = [] if gamma is None else ["--eval-gamma", str(gamma)]
    steps = [] if flags.steps is None else ["--steps", str(flags.steps)]
    worker = str(int(flags.env in TASKS))
    return ["--env", flags.env, "--seed", str(seed), "--threads", "1", "--workers", worker, *steps, *discount]


def plan(flags: argparse.Namespace, folders: Mapping[tuple[int, int], Path]) -> list[Training]:
    """All trainings, the first seed's first, with the experts in their folders."""
    objectives = objectives_of(flags.env, {})
    found = []
    for seed in flags.seeds:
        words = words_of(flags, seed)
        for variant, preference in itertools.product(flags.variants, flags.preferences or preferences(len(objectives))):
            weights = ",".join(f"{name}={weight:g}" for name, weight in zip(objectives, preference, strict=True))
            own = [*words, "--preference", weights, *(["--fading"] if variant == FADING else [])]
            folder = None if variant in WITHOUT_EXPERTS else folders[seed, 2 if variant == "half" else 1]
            if folder:
                own += [] if variant in WITHOUT_ANCHORS else ["--anchors", str(folder)]
                if variant in FROM_EXPERT:
                    own += ["--start-from", str(run_of(folder, objectives[int(np.argmax(preference))]))]
            name = f"{variant}-{preference_label(preference)}"
            file = flags.out / flags.env / name / f"seed{seed}.json"
            found.append(Training(variant, preference, read_config(own), file, folder))
    return found


def run_of(experts: Path, objective: str) -> Path:
    """The run folder of an expert."""
    return experts / Path(expert_facts(experts)["models"][objective]["file"]).parent


def preference(text: str) -> tuple[float, ...]:
    """Weights of a preference that is written as 1:16."""
    return tuple(float(weight) for weight in text.split(":"))


def positive(text: str) -> int:
    """A number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number of at least 1 is wanted; found {text}")
    return int(text)


def preferences(m: int) -> list[tuple[float, ...]]:
    """Equal weights, then each objective favoured."""
    return [(1.0,) * m, *(tuple(FAVOUR if i == j else 1.0 for j in range(m)) for i in range(m))]


def experts(flags: argparse.Namespace, seed: int, steps: int) -> Path:
    """The folder of the experts, trained if they are not there yet."""
    folder = flags.out / "experts" / f"{flags.env}-{steps}-seed{seed}"
    code, folder = make_experts(ExpertsConfig(env=flags.env, steps=steps, seed=seed, out=folder, jobs=flags.jobs))
    if code:
        raise SystemExit(code)
    return folder


def run_all(trainings: Sequence[Training], jobs: int) -> None:
    """Runs what is not done yet, so many at a time, each with one thread."""
    todo = [training for training in trainings if not is_done(training)]
    print(f"{len(trainings)} trainings, {len(trainings) - len(todo)} of them done", flush=True)
    # A process for each: what a library keeps in a process then never reaches the next training.
    with ProcessPoolExecutor(jobs, get_context("spawn"), max_tasks_per_child=1) as pool:
        running = {pool.submit(train, training): training for training in todo}
        try:
            for k, done in enumerate(as_completed(running), 1):
                done.result()
                print(f"{k}/{len(todo)}  {running[done].file} done", flush=True)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            sys.stderr.write("anchors.py: stopped; the same command goes on\n")
            sys.exit(130)


def is_done(training: Training) -> bool:
    """Whether there is a result; one of other settings ends the command."""
    if not training.file.is_file():
        return False
    found = read_json(training.file, _REMEDY)
    check_same(f"{training.file} has", found["settings"], plain_settings(training.config), "choose another --out")
    if "experts" in found:  # the first results did not say which they were
        what, models = f"{training.file} was trained with the expert of", models_of(training.experts)
        check_same(what, found["experts"], models, "choose another --out")
    return True


def models_of(experts: Path | None) -> dict[str, str]:
    """The hashes of experts by objective: a training's settings say the folder alone."""
    return {name: model["sha256"] for name, model in expert_facts(experts)["models"].items()} if experts else {}


def plain_settings(config: RunConfig) -> dict[str, Any]:
    """Settings as a file of JSON holds them."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def table(trainings: Sequence[Training]) -> list[list[str]]:
    """Rows of cells, the first one of headings."""
    results = {training: read_json(training.file, _REMEDY) for training in trainings}
    objectives = list(next(iter(results.values()))["returns"])
    first = trainings[0].variant
    rows = [["variant", *objectives, "hypervolume", "weight control", f"hypervolume above {first}"]]
    volumes: dict[str, np.ndarray] = {}
    for variant in dict.fromkeys(training.variant for training in trainings):
        own = {training: result for training, result in results.items() if training.variant == variant}
        equal = [result["returns"] for training, result in own.items() if len(set(training.preference)) == 1]
        seeds = dict.fromkeys(training.config.seed for training in own)
        worth = [worth_of({t: result for t, result in own.items() if t.config.seed == seed}, objectives) for seed in seeds]
        columns = [[returns[name]["mean"] for returns in equal] for name in objectives]
        volumes[variant] = np.array([volume for volume, _ in worth])
        above = [] if variant == first else volumes[variant] - volumes[first]  # paired: the same seeds
        cells = [*columns, *zip(*worth, strict=True), above]
        rows.append([variant, *(shown(estimate([values], mean) if len(values) else None) for values in cells)])
    return rows


def worth_of(results: Mapping[Training, Mapping[str, Any]], objectives: Sequence[str]) -> tuple[float, float]:
    """Hypervolume and mean weight control of one seed's policies."""
    reference = yardstick(next(iter(results)).config.env, objectives).reference
    returns = [[result["discounted_returns"][name]["mean"] for name in objectives] for result in results.values()]
    volume = math.nan if reference is None else hypervolume(returns, [reference[name] for name in objectives])
    shares = [np.divide(training.preference, sum(training.preference)) for training in results]
    return volume, float(weight_control(shares, returns).mean())


def main() -> None:
    """Reads the flags, trains, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="mo-halfcheetah")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--preferences", nargs="+", type=preference, help="weights in the objectives' order: 1:1 1:16")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=positive, help="of each training; those shipped for the environment if not given")
    parser.add_argument("--jobs", type=positive, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/anchors"))
    flags = parser.parse_args()
    with one_line("anchors.py"):
        flags.env = resolve_id(flags.env)
        check_variants(flags)
        flags.out.mkdir(parents=True, exist_ok=True)
        trainings = plan(flags, train_experts(flags))
        run_all(trainings, flags.jobs)
        rows = table(trainings)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    main()
