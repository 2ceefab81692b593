"""Three tasks, one policy, an objective for each task: DiBS beside the plain sum, where one task counts in thousands.

The pendulum as it is, one on the moon, and one whose motor is wired the wrong way round. A policy that swings up the first
has learnt nothing for the third, and the first task's reward is a thousand times that of the others.

    python examples/multi_task.py            # three minutes on two cores
    python examples/multi_task.py --steps 2000 --seeds 1
"""

import argparse

import gymnasium as gym
import torch

from dibs_rl.agents import DiBSPPO
from dibs_rl.envs import MultiTask
from dibs_rl.evaluation import evaluate

TASKS = {
    "thousands": lambda: gym.wrappers.TransformReward(gym.make("Pendulum-v1"), lambda r: 1000 * r),
    "moon": lambda: gym.make("Pendulum-v1", g=1.6),
    "reversed": lambda: gym.wrappers.TransformAction(gym.make("Pendulum-v1"), lambda a: -a, None),
}
SETTINGS = {"n_steps": 100, "batch_size": 300, "n_epochs": 10, "learning_rate": 1e-3, "gamma": 0.95}
WORLDS = 24  # eight for each task


def trained(combiner: str, steps: int, seed: int) -> DiBSPPO:
    """A policy that has learnt the three tasks together."""
    env = MultiTask(TASKS, WORLDS, seed=seed)
    return DiBSPPO("MlpPolicy", env, combiner=combiner, seed=seed, **SETTINGS).learn(steps)


def main() -> None:
    """Trains each arm and prints each task's mean return over 24 episodes, in the pendulum's own units."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=300_000)
    parser.add_argument("--seeds", type=int, default=1)
    flags = parser.parse_args()
    torch.set_num_threads(1)
    print("arm".ljust(16), *(name.rjust(12) for name in TASKS))
    for seed in range(flags.seeds):
        for combiner in ("dibs", "norm-sum", "weighted-sum"):
            model = trained(combiner, flags.steps, seed)
            returns = evaluate(model, MultiTask(TASKS, WORLDS, seed=1000), 24).summary()["returns"]
            means = [returns[name]["mean"] / (1000 if name == "thousands" else 1) for name in TASKS]
            print(f"{combiner} ({seed})".ljust(16), *(f"{mean:12.0f}" for mean in means))


if __name__ == "__main__":
    main()
