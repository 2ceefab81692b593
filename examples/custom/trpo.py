"""sb3-contrib's TRPO with one gradient for each reward: DiBS weighs the rewards anew at each rollout.

The gradient of TRPO's surrogate is linear in the advantages. So the rewards' own gradients are combined first, and then the
advantages are summed with the weights that came out: what TRPO does from there (conjugate gradients, line search) follows
DiBS's direction, and none of it is changed. The same way leads into any on-policy algorithm with one scalar advantage.
"""

from collections import deque

import mo_gymnasium
import numpy as np
import torch
from mo_gymnasium.wrappers import LinearReward
from sb3_contrib import TRPO
from stable_baselines3.common.vec_env import DummyVecEnv

from dibs_rl import DiBS, objective_jacobian
from dibs_rl.envs import MOVecMonitor
from dibs_rl.returns import generalized_advantages, normalise_columns


class DiBSTRPO(TRPO):
    """TRPO whose one advantage is the sum of the rewards' advantages with DiBS's weights."""

    def __init__(self, policy, env, **kwargs):
        super().__init__(policy, env, normalize_advantage=False, **kwargs)
        self.vectors, self.ends = deque(maxlen=self.n_steps), deque(maxlen=self.n_steps)
        self.combiner = DiBS(objectives=env.objectives)

    def _update_info_buffer(self, infos, dones=None):  # SB3 calls it at every step of a rollout
        super()._update_info_buffer(infos, dones)
        self.vectors.append([info["vector_reward"] for info in infos])
        self.ends.append(dones)

    def train(self):
        rewards, done = torch.tensor(np.array(self.vectors)), torch.tensor(np.array(self.ends))
        nothing = torch.zeros_like(rewards)  # TRPO's critic knows the sum only: advantages are returns to go
        advantages = generalized_advantages(rewards, nothing, nothing, done, done, self.gamma, 1.0)
        advantages = normalise_columns(advantages.flatten(0, 1))
        buffer = self.rollout_buffer
        obs, actions = torch.tensor(buffer.observations).flatten(0, 1), torch.tensor(buffer.actions).flatten(0, 1)
        log_prob = self.policy.get_distribution(obs).log_prob(actions)
        params = [p for name, p in self.policy.named_parameters() if "value" not in name]  # as TRPO tells them
        jacobian = objective_jacobian((log_prob.unsqueeze(1) * advantages).mean(dim=0), params)
        weights = self.combiner.weighting(jacobian)
        buffer.advantages[:] = (advantages @ weights).view(buffer.advantages.shape).numpy()
        for name, weight in zip(self.combiner.objectives, weights.tolist(), strict=True):
            self.logger.record(f"train/weight/{name}", weight)
        super().train()


def main(make=lambda: mo_gymnasium.make("mo-hopper-v5"), worlds=4, steps=100_000, **kwargs):
    env = MOVecMonitor(DummyVecEnv([lambda: LinearReward(make())] * worlds))
    return DiBSTRPO("MlpPolicy", env, seed=0, device="cpu", **kwargs).learn(steps)


if __name__ == "__main__":
    main(verbose=1)
