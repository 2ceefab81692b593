"""Reward terms of a plain Gymnasium environment: what `HalfCheetah-v5` adds up, with weights of its own, as two objectives."""

import gymnasium

from dibs_rl.agents import DiBSPPO
from dibs_rl.envs import RewardTerms


def cheetah():
    env = gymnasium.make("HalfCheetah-v5")
    return RewardTerms(env, {"forward": "reward_forward", "energy": "reward_ctrl"})


def main(steps=1_000_000, worlds=8, **kwargs):
    return DiBSPPO("MlpPolicy", [cheetah] * worlds, seed=0, device="cpu", **kwargs).learn(steps)


if __name__ == "__main__":
    main(verbose=1)
