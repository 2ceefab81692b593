"""Anchors: the policies whose behaviour the objectives would each like best, and how far a policy is from them.

The original bargaining game (DiBS, arXiv 2505.14817) has fixed preferred states. Here these are policies, and distances are
taken between what policies *do*, never between parameters, which mean nothing under a permutation of neurons.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    Distribution,
    MultiCategoricalDistribution,
)
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from torch import Tensor

from dibs_rl import ranks, sync
from dibs_rl.buffers import chunks
from dibs_rl.errors import UserError
from dibs_rl.units import positive_or_one
from dibs_rl.vec_env import Obs


class Anchors:
    """The preferred state of each objective: a policy.

    Args:
        policies: A policy for each objective, by its name.
        objectives: The names, in the reward's order.
        observation_space: What all of them see.
        action_space: What all of them act in.
        device: Where they are asked; a policy that is elsewhere is copied there.

    Raises:
        UserError: If a policy is missing or too many, sees or acts in another space, or distances
            in this space are not defined.
    """

    def __init__(
        self,
        policies: Mapping[str, BasePolicy],
        objectives: Sequence[str],
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: torch.device | str = "cpu",
    ) -> None:
        if set(policies) != set(objectives):
            raise UserError(
                f"There must be an anchor for each of {', '.join(objectives)}; found {', '.join(policies) or 'none'}."
            )
        for name, policy in policies.items():
            for verb, theirs, ours in (
                ("sees", policy.observation_space, observation_space),
                ("acts in", policy.action_space, action_space),
            ):
                if theirs != ours:
                    raise UserError(f"The anchor of {name} {verb} {theirs}, and the environment has {ours}.")
        if isinstance(action_space, spaces.Box) and not action_space.is_bounded():
            raise UserError(
                "Distances between policies are in units of half the action range, and this action space has no bounds."
            )
        device = torch.device(device)
        self.policies = {name: _on(device, policies[name]) for name in objectives}
        self._measure: Callable[[BasePolicy, Sequence[BasePolicy], Obs], Tensor] = _hellinger_gaps
        if isinstance(action_space, spaces.Box):
            edges = action_space.low, action_space.high
            self._measure = partial(_box_gaps, [torch.as_tensor(e, dtype=torch.float64, device=device) for e in edges])

    @torch.no_grad()
    def distances(self, policy: BasePolicy, obs: Obs, active: Tensor | None = None) -> Tensor:
        """How far a policy is from each anchor on a batch of observations.

        Box actions: root mean square, over observations and entries, of the difference between the deterministic actions,
        in units of half the action range. Categories: root mean square Hellinger distance between the two distributions.

        Args:
            policy: The policy, in the anchors' spaces.
            obs: Observations `[b, ...]`, unnormalised: each policy has statistics of its own.
            active: Which observations count for which anchor, `[b, m]` bool; all if not given. Where none does, 0.

        Returns:
            Distances `[m]`, float64: 0 for the same behaviour; at most 2 for Box actions and 1 for categories.
        """
        anchors = list(self.policies.values())
        with sync.no_look(policy.device):
            squares = torch.cat([self._measure(policy, anchors, part) for part in chunks(obs)])
        if active is None:
            return ranks.mean(squares.mean(dim=0)).sqrt()
        total = ranks.mean(torch.where(active, squares, 0.0).sum(dim=0))
        count = ranks.mean(active.sum(dim=0).double())
        return torch.where(count > 0, total / count, 0.0).sqrt()


def _on(device: torch.device, policy: BasePolicy) -> BasePolicy:
    return policy if policy.device == device else copy.deepcopy(policy).to(device)


def _box_gaps(edges: Sequence[Tensor], policy: BasePolicy, anchors: Sequence[BasePolicy], obs: Obs) -> Tensor:
    """Mean squared differences of the entries of deterministic actions, `[b, m]`; `edges`: least and greatest action."""
    own = _box_actions(policy, obs, edges)
    return torch.stack([(_box_actions(anchor, obs, edges) - own).square().mean(dim=1) for anchor in anchors], dim=1)


def _box_actions(policy: BasePolicy, obs: Obs, edges: Sequence[Tensor]) -> Tensor:
    """Deterministic actions as the environment takes them, from -1 to 1 over the action range, `[b, ...]`, float64."""
    low, high = edges
    actions = policy._predict(obs, deterministic=True).double().reshape(-1, *low.shape)
    if policy.squash_output:
        return actions.flatten(1)
    return (2 * (actions.clamp(low, high) - low) / positive_or_one(high - low) - 1).flatten(1)


def _hellinger_gaps(policy: BasePolicy, anchors: Sequence[BasePolicy], obs: Obs) -> Tensor:
    """Squared Hellinger distances of the distributions of actions, `[b, m]`."""
    own = _root_probabilities(policy, obs)
    return torch.stack([_squared_hellinger(own, _root_probabilities(anchor, obs)) for anchor in anchors], dim=1)


def _squared_hellinger(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Of two products of categorical distributions whose roots are given, `[b]`: 1 minus the product of the choices' overlaps.

    An overlap is 1 minus the choice's own squared distance, taken from differences, so that equals are 0 apart exactly.
    """
    gaps = [(x - y).square().sum(dim=-1) / 2 for x, y in zip(a, b, strict=True)]
    return -torch.expm1(torch.log1p(-torch.stack(gaps).clamp_max(1)).sum(dim=0))


def _root_probabilities(policy: BasePolicy, obs: Obs) -> list[Tensor]:
    """Square roots of the probabilities of each choice, `[b, categories]` each, float64."""
    if not isinstance(policy, ActorCriticPolicy):
        raise UserError(f"Distances need the distribution of actions, which {type(policy).__name__} does not give.")
    return [p.double().sqrt() for p in _probabilities(policy.get_distribution(obs))]


def _probabilities(found: Distribution) -> list[Tensor]:
    if isinstance(found, CategoricalDistribution):
        return [found.distribution.probs]
    if isinstance(found, MultiCategoricalDistribution):
        return [part.probs for part in found.distribution]
    if isinstance(found, BernoulliDistribution):
        ones = found.distribution.probs
        return [torch.stack([1 - p, p], dim=-1) for p in ones.unbind(dim=-1)]
    raise UserError(f"Distances between distributions of the kind {type(found).__name__} are not defined.")
