"""Functions that make one environment each, here or in a worker process."""

from collections.abc import Mapping
from typing import Any

import gymnasium as gym

from dibs_rl.envs.hush import hushed
from dibs_rl.envs.registry import SPECS, resolve_id
from dibs_rl.envs.reward_terms import RewardTerms
from dibs_rl.envs.worlds import EnvFactory
from dibs_rl.errors import UserError


def factory_of(env_id: str, reward_terms: Mapping[str, str] | None = None, /, **kwargs: Any) -> EnvFactory:
    """A function that makes one environment of the id, with the registry's keyword arguments and these.

    Args:
        env_id: The id.
        reward_terms: Parts of its reward that make a vector (see `RewardTerms`); none leaves it as it is.
        **kwargs: The environment's.

    Raises:
        UserError: If the id is unknown or something it needs is not installed.
    """
    env_id = resolve_id(env_id)
    spec = SPECS.get(env_id)
    if spec and not spec.installed:
        raise UserError(f"{env_id} needs the module {spec.needs}, which is not installed: {spec.install}.")
    arguments = {**(spec.kwargs if spec else {}), **kwargs}

    def factory() -> gym.Env:
        import mo_gymnasium  # registers its ids, in worker processes too

        resolve_id(env_id)  # a worker process has not imported the module of `module:id` yet
        with hushed(env_id):
            env = mo_gymnasium.make(env_id, **arguments)
        return RewardTerms(env, reward_terms) if reward_terms else env

    return factory
