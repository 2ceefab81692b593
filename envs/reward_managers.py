"""Isaac Lab's and mjlab's environments: the terms of their reward managers as objectives.

In both, `env.reward_manager` holds the last step's terms in `_step_reward`, `[n, terms]`, in the order of their names in
`active_terms`. A term there is `function * weight`, a rate in reward per second: the manager multiplies it by the step's
length, `env.step_dt`, when it adds it to the scalar reward (Isaac Lab: `compute` in `isaaclab/managers/reward_manager.py`
stores `value / dt`), unless mjlab's `scale_rewards_by_dt` is off (mjlab: `managers/reward_manager.py`, `_scale_by_dt`;
`_step_reward` "always contains the unscaled reward rate"). Here a reward is what the term adds to the scalar reward of the
step, so that the objectives add up to it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from dibs_rl.envs.tensor_adapter import TensorVecEnvAdapter
from dibs_rl.errors import UserError
from dibs_rl.vec_env import Obs, map_obs

_POLICY_GROUPS = ("policy", "actor")  # what the policy observes: Isaac Lab's name and older mjlab's, and newer mjlab's


class RewardManagerEnv(TensorVecEnvAdapter):
    """Wraps a manager-based environment of Isaac Lab's or mjlab's; its scalar reward is not used.

    A weight of the manager's scales a term. Between objectives a combiner like DiBS does not see it; within an objective of
    several terms it counts, and its sign says whether a term is a reward or a cost. A term of weight 0 is not computed there.

    Both reset worlds within a step. Where the last observation comes from:

    - Isaac Lab with `cfg.compute_final_obs = True`: from `extras["final_obs"]`.
    - mjlab with `cfg.auto_reset = False`: the step returns it, and this class resets the worlds whose episode ended. Terms
      with a history then see the same state twice in the other worlds, since mjlab observes all worlds at a reset.
    - else the observation before the last action takes its place (see `TensorVecEnvAdapter`).

    With `cfg.is_finite_horizon` running out of time is a termination, as in the wrappers of both for other learners.

    Args:
        env: The environment, under Gymnasium's wrappers or not.
        objectives: Terms of each objective, by the objective's name; without it each term is an objective.
        action_space: Of one world, if not the environment's own, which has no bounds (see `TensorVecEnvAdapter`).
        group: The group of observations that the policy sees; `policy` or `actor` if not given.
        device: Where the tensors are wanted; the environment's own if not given.

    Raises:
        UserError: If there is no reward manager, or an objective's terms are not there; if a term is in no objective, or in
            two; if there is no such group of observations.
    """

    def __init__(
        self,
        env: Any,
        objectives: Mapping[str, Sequence[str]] | None = None,
        *,
        action_space: spaces.Space | None = None,
        group: str = "",
        device: torch.device | str | None = None,
    ) -> None:
        base = getattr(env, "unwrapped", env)
        if not has_reward_manager(env):
            raise UserError(
                f"{type(base).__name__} has no reward manager with terms: if its step() returns rewards [n, m], take "
                "TensorVecEnvAdapter(env, [...])."
            )
        terms = list(base.reward_manager.active_terms)
        named = {term: [term] for term in terms} if objectives is None else objectives
        self._columns = _columns(terms, named)
        self._seconds = float(base.step_dt) if getattr(base.reward_manager, "_scale_by_dt", True) else 1.0
        self._resets_itself = bool(getattr(base.cfg, "auto_reset", True))
        group = group or next((name for name in _POLICY_GROUPS if name in base.single_observation_space.spaces), "policy")
        super().__init__(env, tuple(named), action_space=action_space, group=group, device=device)

    def _ends(self, terminated: Tensor, truncated: Tensor) -> tuple[Tensor, Tensor]:
        if getattr(self._base.cfg, "is_finite_horizon", False):
            return terminated | truncated, torch.zeros_like(truncated)
        return terminated, truncated

    def _vector_rewards(self, rewards: Tensor) -> Tensor:
        found = self._base.reward_manager._step_reward * self._seconds
        return super()._vector_rewards(torch.stack([found[:, columns].sum(dim=1) for columns in self._columns], dim=1))

    def _seen_at_ends(self, obs: Any, done: Tensor, before: Obs, extras: dict[str, Any]) -> tuple[Obs, Obs]:
        if self._resets_itself:
            return super()._seen_at_ends(obs, done, before, extras)
        final = map_obs(torch.clone, self._seen(obs))
        ended = done.nonzero().flatten()
        if not len(ended):
            return final, final
        begun = self._to_device(self._part(self._base.reset(env_ids=ended)[0]))
        self._last_obs = now = map_obs(lambda new, old: self._at_ends(done, new, old), begun, final)
        return now, final


def has_reward_manager(env: Any) -> bool:
    """Whether an environment says the terms of its reward, step by step."""
    manager = getattr(getattr(env, "unwrapped", env), "reward_manager", None)
    return all(hasattr(manager, name) for name in ("active_terms", "_step_reward"))


def _columns(terms: Sequence[str], objectives: Mapping[str, Sequence[str]]) -> list[list[int]]:
    """The columns of the terms of each objective."""
    given = [term for names in objectives.values() for term in names]
    for problem, found in (
        ("are not the environment's", [term for term in given if term not in terms]),
        ("are in more than one objective", sorted({term for term in given if given.count(term) > 1})),
        ("are in no objective", [term for term in terms if term not in given]),
    ):
        if found:
            raise UserError(
                f"Each reward term belongs to one objective, and these {problem}: {', '.join(found)}. Terms: {terms}."
            )
    if empty := [name for name, names in objectives.items() if not names]:
        raise UserError(f"An objective has at least one reward term; found none for {', '.join(empty)}.")
    return [[terms.index(term) for term in names] for names in objectives.values()]
