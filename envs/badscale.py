"""The badly scaled suite: known environments, one of whose rewards is in units that a weighted sum cannot live with.

The optimum of each objective is where it was, and returns are logged and evaluated untransformed: only what a learner sees is
in bad units. Each id is `<name>-badscale-<version>`, for this package and, once `dibs_rl.envs` is imported, for Gymnasium.
"""

from dataclasses import dataclass
from typing import Any

import gymnasium as gym

from dibs_rl.envs.factories import factory_of
from dibs_rl.envs.registry import SPECS
from dibs_rl.envs.scaling import TransformedEnv
from dibs_rl.shipped import BADSCALE_SUFFIX


@dataclass(frozen=True)
class Badscale:
    """One environment of the suite.

    Attributes:
        base: Id of the environment it is.
        transform: What its rewards are turned into.
        reason: Why a weighted sum breaks.
    """

    base: str
    transform: str
    reason: str

    @property
    def id(self) -> str:
        """The base's id with `-badscale` before the version."""
        name, version = self.base.rsplit("-", 1)
        return f"{name}{BADSCALE_SUFFIX}-{version}"


_NO_ENGINE = "one step of the main engine costs five landings or more: the sum is all but never firing it"

BADSCALE: dict[str, Badscale] = {
    variant.id: variant
    for variant in [
        Badscale("mo-halfcheetah-v5", "energy=1e3", "up to -6,000 a step beside 15 of speed: the sum all but stands still"),
        Badscale("mo-hopper-v5", "forward=1e3", "speed a thousand times louder: the sum is all but diving forward"),
        Badscale("mo-walker2d-v5", "energy=1e3", "up to -5,000 a step beside 6 of speed: the sum all but stands still"),
        Badscale("mo-ant-v5", "energy=1e3", "up to -7,000 a step beside 6 of speed: the sum all but stands still"),
        Badscale("mo-swimmer-v5", "forward=1e-3", "at most 0.0004 a step beside -2 of energy: the sum all but lies still"),
        Badscale(
            "mo-humanoid-v5",
            "forward=1e-3",
            "at most 0.01 a step beside -2.7 of energy: the sum all but stands still",
        ),
        Badscale("mo-reacher-v5", "target_1=1e3", "one of four equal targets, a thousand times louder: the others drown"),
        Badscale("mo-lunar-lander-v3", "main_fuel=1e3", _NO_ENGINE),
        Badscale("mo-lunar-lander-continuous-v3", "main_fuel=1e3", _NO_ENGINE),
        Badscale("minecart-v0", "fuel=1e3", "fuel outweighs ore at scale 1 already: now no ore is worth its way"),
        Badscale("deep-sea-treasure-v0", "treasure=1e-3", "a step costs 1, the best treasure pays 0.024: the nearest will do"),
    ]
}


def base_and_transform(env_id: str) -> tuple[str, str]:
    """The id that is stepped and what its rewards are turned into: of an id outside the suite, itself and nothing."""
    variant = BADSCALE.get(env_id.rpartition(":")[2])
    return (variant.base, variant.transform) if variant else (env_id, "")


def make_badscale(variant: str, **kwargs: Any) -> gym.Env:
    """Gymnasium's entry point.

    Args:
        variant: Id in the suite.
        **kwargs: Of the environment it is.
    """
    found = BADSCALE[variant]
    return TransformedEnv(factory_of(found.base, **kwargs)(), found.transform, SPECS[found.base].objectives)


for _id in BADSCALE:
    if _id not in gym.registry:  # this module may be reloaded
        gym.register(
            _id,
            entry_point="dibs_rl.envs.badscale:make_badscale",
            kwargs={"variant": _id},
            disable_env_checker=True,  # as MO-Gymnasium's own make: it wants a scalar reward
        )
