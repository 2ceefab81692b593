"""Environment steps a second: raw physics, Stable-Baselines3's PPO, and DiBS-PPO; and how DiBS-PPO grows.

    python benchmarks/throughput.py             # who is how fast, and where the time goes (about 6 minutes)
    python benchmarks/throughput.py --growth    # worlds, objectives, widths (about 4 minutes)

Every measurement is a fresh process, and the contenders take turns, so that a noisy machine is unfair to all alike. Ratios are
taken within a round; what is printed are medians over the rounds, with the least and the greatest in brackets.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

WORLDS, STEPS, BATCH, EPOCHS = 64, 64, 512, 10  # what DiBS-PPO and "SB3, same settings" have in common; networks are 64-64
ENVS = ("mo-halfcheetah-v5", "mo-hopper-v5", "mo-reacher-v5")
DEFAULTS, SAME, RAW = "SB3 PPO, its defaults", "SB3 PPO, same settings", "raw physics"
DIBS = f"DiBS-PPO, {ENVS[0]}, batch"
SHIPPED = f"DiBS-PPO, {ENVS[1]}, batch, its configuration's 5 epochs"


class Clock:
    """Adds up the seconds that calls of a function take.

    Args:
        owner: Whose function it is.
        name: The function's name.
        wait: Called before each look at the time: waits for a device.
    """

    def __init__(self, owner: Any, name: str, wait: Callable[[], Any] = lambda: None) -> None:
        self.seconds = 0.0
        call: Callable = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            wait()
            start = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                wait()
                self.seconds += time.perf_counter() - start

        setattr(owner, name, timed)


def raw_physics(env_id: str, worlds: int = WORLDS) -> dict[str, float]:
    """MuJoCo's thread pool on random controls, and nothing else: no worlds fall and none is reset."""
    import numpy as np

    from dibs_rl.envs import make

    env = make(env_id, worlds)
    env.reset_tensors()
    batch, substeps = env._batch, env._frame_skip
    controls = batch.bind("ctrl")
    noise = np.random.default_rng(0).uniform(-1, 1, (300, *controls.shape))
    for warm_up in noise[:30]:
        controls[:] = warm_up
        batch.step(nstep=substeps)
    start = time.perf_counter()
    for action in noise:
        controls[:] = action
        batch.step(nstep=substeps)
    return {"rate": len(noise) * worlds / (time.perf_counter() - start)}


def sb3(same: bool) -> dict[str, float]:
    """SB3's own PPO on the scalar task, with torch's default number of threads."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env

    if same:
        env = make_vec_env("HalfCheetah-v5", WORLDS)
        settings = {"n_steps": STEPS, "batch_size": BATCH, "n_epochs": EPOCHS}
        return timed_training(PPO("MlpPolicy", env, device="cpu", **settings), "step", WORLDS * STEPS, 5)
    return timed_training(PPO("MlpPolicy", make_vec_env("HalfCheetah-v5", 1), device="cpu"), "step", 2048, 3)


def dibs(env_id: str, backend: str, epochs: int = EPOCHS) -> dict[str, float]:
    """DiBS-PPO with the threads that `dibs-rl train` takes."""
    import torch

    from dibs_rl.agents import DiBSPPO
    from dibs_rl.config import PPOConfig
    from dibs_rl.envs import make

    torch.set_num_threads(PPOConfig().threads)
    env = make(env_id, WORLDS, backend=backend)
    model = DiBSPPO("MlpPolicy", env, n_steps=STEPS, batch_size=BATCH, n_epochs=epochs, seed=0, device="cpu")
    return timed_training(model, "step_tensors", WORLDS * STEPS, 8 if backend == "batch" else 5)


def timed_training(model: Any, step: str, rollout: int, rollouts: int) -> dict[str, float]:
    """Trains one rollout to warm up, then times some; seconds are per 1,000 environment steps."""
    model.learn(rollout)
    physics, update = Clock(model.env, step), Clock(model, "train")
    start = time.perf_counter()
    model.learn(rollouts * rollout, reset_num_timesteps=False)
    seconds, steps = time.perf_counter() - start, rollouts * rollout
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    policy = seconds - physics.seconds - update.seconds
    shares = {"physics": physics.seconds, "policy": policy, "update": update.seconds}
    return {"rate": steps / seconds, "peak": peak, **{name: 1e6 * part / steps for name, part in shares.items()}}


CONTENDERS: dict[str, Callable[[], dict[str, float]]] = {
    **{f"{RAW}, {env_id}": partial(raw_physics, env_id) for env_id in ENVS},
    DEFAULTS: partial(sb3, same=False),
    SAME: partial(sb3, same=True),
    **{f"DiBS-PPO, {env_id}, {backend}": partial(dibs, env_id, backend) for env_id in ENVS for backend in ("batch", "gym")},
    SHIPPED: partial(dibs, ENVS[1], "batch", epochs=5),
}
RATIOS = [  # (what, over what, what it must be)
    (DIBS, DEFAULTS, "at least 10"),
    (DIBS, SAME, "at least 1.8"),
    *((f"DiBS-PPO, {env_id}, batch", f"{RAW}, {env_id}", "at least 0.35") for env_id in ENVS),
    (SHIPPED, f"{RAW}, {ENVS[1]}", "at least 0.35"),
]


def mixed(inner: Any, objectives: int) -> Any:
    """An environment whose m rewards are random mixtures of another's."""
    import torch

    from dibs_rl.vec_env import VectorRewardVecEnv

    class Mixed(VectorRewardVecEnv):
        backend = inner.backend

        def __init__(self) -> None:
            draw = torch.randn(inner.reward_dim, objectives, generator=torch.Generator().manual_seed(0))
            self.mixture = draw.to(inner.device)
            names = [f"mixture_{i}" for i in range(objectives)]
            super().__init__(inner.num_envs, inner.observation_space, inner.action_space, names, inner.device)

        def _reset_worlds(self, seeds, options):
            return inner.reset_tensors()

        def _step_worlds(self, actions):
            step = inner.step_tensors(actions)
            return step._replace(reward=step.reward @ self.mixture)

        def get_attr(self, attr_name, indices=None):
            return inner.get_attr(attr_name, indices)

        def close(self):
            inner.close()

        set_attr = env_method = env_is_wrapped = None

    return Mixed()


def synthetic(objectives: int, hidden: int = 64, worlds: int = WORLDS) -> Any:
    """A learner on mo-halfcheetah-v5 whose rewards are random mixtures of its two, with one rollout in its buffer."""
    import torch

    from dibs_rl.agents import DiBSPPO
    from dibs_rl.envs import make

    torch.set_num_threads(2)
    layers = {"net_arch": [hidden, hidden]}
    env = mixed(make("mo-halfcheetah-v5", worlds), objectives)
    model = DiBSPPO(
        "MlpPolicy", env, n_steps=STEPS, batch_size=BATCH, n_epochs=EPOCHS, policy_kwargs=layers, seed=0, device="cpu"
    )
    return model.learn(worlds * STEPS)


def growth(rounds: int) -> None:
    """Time per update by objectives and widths; steps a second by worlds."""
    wanted = {2: "at most 1.25", 4: "at most 1.6", 16: "at most 3"}
    print("| objectives m | ms per update | over m = 1 | wanted |\n|---|---|---|---|")
    for m, (median, ratio) in time_updates({m: synthetic(m) for m in (1, 2, 4, 8, 16)}, rounds, 1).items():
        print(f"| {m} | {median:,.0f} | {ratio} | {wanted.get(m, '')} |", flush=True)
    print("\n| hidden, m = 2 | ms per update | over 64-64 |\n|---|---|---|")
    widths = time_updates({width: synthetic(2, width) for width in (64, 128, 256, 512)}, max(3, rounds // 4), 64)
    for width, (median, ratio) in widths.items():
        print(f"| {width}-{width} | {median:,.0f} | {ratio} |", flush=True)
    print("\n| worlds, 64 steps each | steps a second | over 16 worlds |\n|---|---|---|")
    learners = {worlds: synthetic(2, worlds=worlds) for worlds in (16, 64, 256, 1024, 4096)}
    rates: dict[int, list[float]] = {worlds: [] for worlds in learners}
    for _ in range(3):
        for worlds, model in learners.items():
            rates[worlds].append(rate_of(model, max(1, 256 // worlds) * worlds * STEPS))
    for worlds, (median, ratio) in summary(rates, 16).items():
        print(f"| {worlds:,} | {median:,.0f} | {ratio} |", flush=True)


def rate_of(model: Any, steps: int) -> float:
    """Steps a second of some more training."""
    start = time.perf_counter()
    model.learn(steps, reset_num_timesteps=False)
    return steps / (time.perf_counter() - start)


def time_updates(models: dict[int, Any], rounds: int, base: int) -> dict[int, tuple[float, str]]:
    """Milliseconds of each learner's updates on fresh rollouts; the learners take turns."""
    clocks = {key: Clock(model, "train") for key, model in models.items()}
    found: dict[int, list[float]] = {key: [] for key in models}
    for _ in range(rounds):
        for key, model in models.items():
            before = clocks[key].seconds
            model.learn(WORLDS * STEPS, reset_num_timesteps=False)
            found[key].append(1e3 * (clocks[key].seconds - before))
    return summary(found, base)


def summary(found: dict[int, list[float]], base: int) -> dict[int, tuple[float, str]]:
    """Medians, and ratios to one of them taken round by round."""
    ratios = {key: [value / of for value, of in zip(values, found[base], strict=True)] for key, values in found.items()}
    return {key: (statistics.median(values), spread(ratios[key])) for key, values in found.items()}


def spread(values: list[float]) -> str:
    """Median, least and greatest."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}..{max(values):.2f})"


def compare(rounds: int) -> None:
    """Runs all contenders in turn and prints the tables."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
    for number in range(rounds):
        for name in CONTENDERS:
            command = [sys.executable, __file__, "--measure", name]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{name} failed:\n{done.stderr}")
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"round {number + 1}/{rounds}: {name}: {found[name][-1]['rate']:,.0f}", file=sys.stderr, flush=True)
    print(
        "| contender | steps a second | microseconds a step: physics | policy | update | peak MiB |\n|---|---|---|---|---|---|"
    )
    for name, measured in found.items():
        medians = {key: statistics.median(one[key] for one in measured) for key in measured[0]}
        parts = [f"{medians[key]:,.1f}" if key in medians else "" for key in ("physics", "policy", "update", "peak")]
        print(f"| {name} | {medians['rate']:,.0f} | {' | '.join(parts)} |")
    print("\n| ratio of steps a second | median (least..greatest) | wanted |\n|---|---|---|")
    for what, over, wanted in RATIOS:
        ratios = [a["rate"] / b["rate"] for a, b in zip(found[what], found[over], strict=True)]
        print(f"| {what} / {over} | {spread(ratios)} | {wanted} |")
    peaks = [a["peak"] / b["peak"] for a, b in zip(found[DIBS], found[SAME], strict=True)]
    print(f"| peak memory: {DIBS} / {SAME} | {spread(peaks)} | at most 1.3 |")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--growth", action="store_true", help="worlds, objectives and widths instead")
    parser.add_argument("--measure", choices=CONTENDERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        warnings.simplefilter("ignore")
        print(json.dumps(CONTENDERS[arguments.measure]()))
    elif arguments.growth:
        growth(3 * arguments.rounds)
    else:
        compare(arguments.rounds)


if __name__ == "__main__":
    main()
