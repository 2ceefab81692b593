"""Small environments: how many times as fast the `torch` backend steps them as the `gym` backend, by number of worlds.

    python benchmarks/backends.py           # about two minutes

One thread, random actions, processor time; the two take turns, and what is printed is the median of the ratios, with the least
and the greatest in brackets. More than 1: torch is faster.
"""

import argparse
import statistics
import time

import torch

from dibs_rl.envs import VectorRewardVecEnv, make

ENVS = (
    "deep-sea-treasure-v0",
    "mo-mountaincar-v0",
    "mo-mountaincarcontinuous-v0",
    "resource-gathering-v0",
    "minecart-deterministic-v0",
)
WORLDS = (1, 16, 32, 64, 128, 1024)
WORLD_STEPS = 4_096  # of all worlds together, in a round


def seconds(env: VectorRewardVecEnv, steps: int) -> float:
    """Processor time of so many steps of every world, with actions that are drawn before."""
    space = env.action_space
    actions = [torch.as_tensor([space.sample() for _ in range(env.num_envs)]) for _ in range(min(steps, 16))]
    start = time.process_time()
    for t in range(steps):
        env.step_tensors(actions[t % len(actions)])
    return time.process_time() - start


def ratios(env_id: str, worlds: int, rounds: int) -> list[float]:
    """Time of the gym backend over that of the torch backend, round by round."""
    envs = [make(env_id, worlds, backend=backend, seed=0) for backend in ("gym", "torch")]
    steps = max(4, WORLD_STEPS // worlds)
    for env in envs:
        env.reset_tensors()
        seconds(env, 4)
    found = [[seconds(env, steps) for env in envs] for _ in range(rounds)]
    for env in envs:
        env.close()
    return [gym / own for gym, own in found]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print(f"| environment | {' | '.join(f'{n:,} worlds' for n in WORLDS)} |\n|---{'|---' * len(WORLDS)}|")
    for env_id in ENVS:
        cells = []
        for worlds in WORLDS:
            found = ratios(env_id, worlds, rounds)
            cells.append(f"{statistics.median(found):.2g} ({min(found):.2g}..{max(found):.2g})")
        print(f"| {env_id} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
