"""PPO in one file, in the manner of CleanRL: a critic head for each reward, a policy gradient for each, combined by DiBS."""

import mo_gymnasium
import torch
from mo_gymnasium.wrappers.vector import MOSyncVectorEnv
from torch import nn
from torch.distributions import Normal

from dibs_rl import DiBS, combined_backward
from dibs_rl.envs import as_vector_env
from dibs_rl.popart import PopArtHead
from dibs_rl.returns import generalized_advantages, normalise_columns


class Agent(nn.Module):
    """A Gaussian policy, and a critic of its own with a head for each reward, which keeps the head's unit."""

    def __init__(self, inputs, outputs, m):
        super().__init__()
        self.actor = nn.Sequential(nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, outputs))
        self.log_std = nn.Parameter(torch.zeros(outputs))
        self.critic, self.head = nn.Sequential(nn.Linear(inputs, 64), nn.Tanh()), PopArtHead(64, m)

    def distribution(self, obs):
        return Normal(self.actor(obs), self.log_std.exp())


@torch.no_grad()
def rollout(envs, agent, obs, steps):
    rows = []
    for _ in range(steps):
        action = agent.distribution(obs).sample()
        step = envs.step_tensors(action.clamp(-1, 1))
        log_prob = agent.distribution(obs).log_prob(action).sum(dim=1)
        values, next_values = (agent.head(agent.critic(seen)) for seen in (obs, step.final_obs.float()))
        rows.append((obs, action, log_prob, step.reward.clone(), values, next_values, step.terminated.clone(), step.done))
        obs = step.obs.float().clone()
    obs_seen, actions, log_probs, rewards, values, next_values, terminated, done = map(torch.stack, zip(*rows, strict=True))
    advantages = generalized_advantages(rewards, values, next_values, terminated, done, 0.99, 0.95)
    return obs, [part.flatten(0, 1) for part in (obs_seen, actions, log_probs, advantages, advantages + values)]


def main(make=lambda: mo_gymnasium.make("mo-halfcheetah-v5"), worlds=8, rollouts=200, steps=256, batch=256, lr=3e-4):
    torch.manual_seed(0)
    envs = as_vector_env(MOSyncVectorEnv([make] * worlds))  # no step after an episode's end is a reset
    agent = Agent(envs.observation_space.shape[0], envs.action_space.shape[0], envs.reward_dim)
    policy, critic = [*agent.actor.parameters(), agent.log_std], [*agent.critic.parameters(), *agent.head.parameters()]
    policy_optimizer, value_optimizer = torch.optim.Adam(policy, lr), torch.optim.Adam(critic, 3 * lr)
    combiner, history, obs = DiBS(objectives=envs.objectives), [], envs.reset_tensors(seed=0).float().clone()
    for _ in range(rollouts):
        obs, (obs_seen, actions, old_log_prob, advantages, targets) = rollout(envs, agent, obs, steps)
        advantages = normalise_columns(advantages)
        agent.head.absorb(targets)
        for rows in [rows for _ in range(10) for rows in torch.randperm(len(targets)).split(batch)]:
            log_prob = agent.distribution(obs_seen[rows]).log_prob(actions[rows]).sum(dim=1)
            ratio = (log_prob - old_log_prob[rows]).exp().unsqueeze(1)
            surrogate = torch.min(ratio * advantages[rows], ratio.clamp(0.8, 1.2) * advantages[rows])
            record = combined_backward(-surrogate.mean(dim=0), policy, combiner)
            policy_optimizer.step()
            values = agent.head.normalised(agent.critic(obs_seen[rows]))
            value_optimizer.zero_grad()
            (values - agent.head.normalise(targets[rows])).square().mean().backward()
            value_optimizer.step()
        history.append((envs.pop_episodes()[0].mean(dim=0).tolist(), record))
    return history


if __name__ == "__main__":
    for returns, record in main():
        print([round(value, 1) for value in returns], f"conflict {record['conflict_fraction']:.0f}")
