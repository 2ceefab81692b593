"""An SB3 `OnPolicyAlgorithm` of one's own: REINFORCE with one gradient for each reward, combined by DiBS.

SB3 collects the rollouts, on environments that sum their rewards and keep the vector in their infos. What is learnt from is
the vector: each reward's returns to go, centred and scaled on their own.
"""

from collections import deque
from typing import ClassVar

import mo_gymnasium
import numpy as np
import torch
from mo_gymnasium.wrappers import LinearReward
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv

from dibs_rl import DiBS, combined_backward
from dibs_rl.envs import MOVecMonitor
from dibs_rl.returns import generalized_advantages, normalise_columns


class Reinforce(OnPolicyAlgorithm):
    """REINFORCE: the gradient of log pi times the returns to go, over whole rollouts."""

    policy_aliases: ClassVar = {"MlpPolicy": ActorCriticPolicy}

    def __init__(self, policy, env, learning_rate=3e-3, n_steps=100, gamma=0.99, **kwargs):
        unused = {"gae_lambda": 1.0, "ent_coef": 0.0, "vf_coef": 0.0, "use_sde": False, "sde_sample_freq": -1}
        super().__init__(policy, env, learning_rate, n_steps, gamma, max_grad_norm=0.5, **unused, **kwargs)
        self.vectors, self.ends = deque(maxlen=n_steps), deque(maxlen=n_steps)
        self.combiner = DiBS(objectives=env.objectives)

    def _update_info_buffer(self, infos, dones=None):  # SB3 calls it at every step of a rollout
        super()._update_info_buffer(infos, dones)
        self.vectors.append([info["vector_reward"] for info in infos])
        self.ends.append(dones)

    def train(self):
        rewards, done = torch.tensor(np.array(self.vectors)), torch.tensor(np.array(self.ends))
        nothing = torch.zeros_like(rewards)  # no critic: advantages are returns to go
        advantages = generalized_advantages(rewards, nothing, nothing, done, done, self.gamma, self.gae_lambda)
        advantages = normalise_columns(advantages.flatten(0, 1))
        obs = torch.tensor(self.rollout_buffer.observations).flatten(0, 1)
        actions = torch.tensor(self.rollout_buffer.actions).flatten(0, 1)
        _, log_prob, _ = self.policy.evaluate_actions(obs, actions)
        losses = -(log_prob.unsqueeze(1) * advantages).mean(dim=0)  # one for each reward
        record = combined_backward(losses, self.policy.parameters(), self.combiner)
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
        self.policy.optimizer.step()
        for key, value in record.items():
            self.logger.record(f"train/{key}", value)


def main(make=lambda: mo_gymnasium.make("mo-hopper-v5"), worlds=4, steps=100_000, **kwargs):
    env = MOVecMonitor(DummyVecEnv([lambda: LinearReward(make())] * worlds))
    return Reinforce("MlpPolicy", env, seed=0, device="cpu", **kwargs).learn(steps)


if __name__ == "__main__":
    main(verbose=1)
