"""Three tasks, one policy, an objective for each task: DiBS beside the plain sum, where one task counts in thousands.

The pendulum as it is, one on the moon, and one whose motor is wired the wrong way round. A policy that swings up the first
has learnt nothing for the third, and the first task's reward is a thousand times that of the others.

    python examples/multi_task.py            # about three minutes
    python examples/multi_task.py --seed 1
"""

import argparse

import gymnasium as gym
import torch

from dibs_rl.agents import DiBSPPO
from dibs_rl.envs import MultiTask
from dibs_rl.evaluation import evaluate

THOUSAND = 1_000
TASKS = {
    "thousands": lambda: gym.wrappers.TransformReward(gym.make("Pendulum-v1"), lambda r: THOUSAND * r),
    "moon": lambda: gym.make("Pendulum-v1", g=1.6),
    "reversed": lambda: gym.wrappers.TransformAction(gym.make("Pendulum-v1"), lambda a: -a, None),
}
SETTINGS = {"n_steps": 200, "batch_size": 600, "learning_rate": 1e-3, "gamma": 0.95}
WORLDS, EPISODES = 24, 24  # eight worlds a task, and so many episodes of each
ARMS = ("dibs", "norm-sum", "weighted-sum")


def trained(combiner: str, steps: int, seed: int) -> DiBSPPO:
    """A policy that has learnt the three tasks together."""
    env = MultiTask(TASKS, WORLDS, seed=seed)
    return DiBSPPO("MlpPolicy", env, combiner=combiner, seed=seed, **SETTINGS).learn(steps)


def mean_returns(model: DiBSPPO) -> dict[str, float]:
    """Each task's mean return, in the pendulum's own units: -1200 where it is never swung up, -150 where it is learnt."""
    returns = evaluate(model, MultiTask(TASKS, WORLDS, seed=1_000), EPISODES).summary()["returns"]
    return {name: found["mean"] / (THOUSAND if name == "thousands" else 1) for name, found in returns.items()}


def main(steps: int = 400_000, seed: int = 0) -> dict[str, dict[str, float]]:
    """Trains each arm and prints what it has reached."""
    torch.set_num_threads(1)
    print("arm".ljust(12), *(name.rjust(10) for name in TASKS))
    reached = {}
    for combiner in ARMS:
        reached[combiner] = mean_returns(trained(combiner, steps, seed))
        print(combiner.ljust(12), *(f"{mean:10.0f}" for mean in reached[combiner].values()))
    return reached


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=400_000)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
