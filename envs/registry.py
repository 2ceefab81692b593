"""Every MO-Gymnasium environment: its objectives by name, in the order of the reward vector, and how they are scaled.

Scale notes come from reading the sources; `dibs-rl envs` prints them.
"""

import difflib
import importlib
import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dibs_rl.envs.metaworld import MT10
from dibs_rl.envs.tasks import TASKS
from dibs_rl.errors import UserError
from dibs_rl.shipped import bare_name


@dataclass(frozen=True)
class EnvSpec:
    """One environment id.

    Attributes:
        id: MO-Gymnasium's id.
        objectives: Names of the reward's components, in order.
        scales: Rough per-step magnitudes, or what is special about them.
        needs: Module without which it cannot be made, beyond the base installation.
        install: How to get that module, or why it cannot be had.
        kwargs: What `make` passes by default.
    """

    id: str
    objectives: tuple[str, ...]
    scales: str
    needs: str = ""
    install: str = ""
    kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def installed(self) -> bool:
        """Whether the module it needs is there."""
        return not self.needs or importlib.util.find_spec(self.needs) is not None


_MUJOCO = {
    "halfcheetah": (TASKS["mo-halfcheetah-v5"].objectives, "0..15 m/s; -6..0 (v4: energy 10x smaller)"),
    "hopper": (TASKS["mo-hopper-v5"].objectives, "1..4; -4..10 (10 x height); -2..1; +1 alive in each"),
    "walker2d": (TASKS["mo-walker2d-v5"].objectives, "0..6; -5..1; +1 alive in each"),
    "ant": (TASKS["mo-ant-v5"].objectives, "+-6; +-6; -7..1; +1 alive in each"),
    "swimmer": (TASKS["mo-swimmer-v5"].objectives, "0..0.36; -2..0: equal weights stand still"),
    "humanoid": (TASKS["mo-humanoid-v5"].objectives, "signals on an offset of +5 alive in each"),
    "reacher": (TASKS["mo-reacher-v5"].objectives, "-0.4..1 each"),
}
_LANDER = ("landing", "shaping", "main_fuel", "side_fuel")
_TREASURE = ("treasure", "time")
_BOX2D: dict[str, Any] = {"needs": "Box2D", "install": "pip install 'dibs-rl[box2d]'"}
_HIGHWAY: dict[str, Any] = {"needs": "highway_env", "install": "pip install 'dibs-rl[highway]'"}
_MARIO: dict[str, Any] = {
    "needs": "gym_super_mario_bros",
    "install": "not with NumPy 2, which Gymnasium and torch are built for here",
}


def _mujoco_specs() -> list[EnvSpec]:
    specs = [
        EnvSpec(f"mo-{robot}-{version}", objectives, scales)
        for robot, (objectives, scales) in _MUJOCO.items()
        for version in ("v4", "v5")
    ]
    for robot in ("hopper", "ant"):
        objectives, scales = _MUJOCO[robot]
        specs += [EnvSpec(f"mo-{robot}-{kind}", objectives[:2], scales) for kind in ("2d-v4", "2obj-v5")]
    return specs


SPECS: dict[str, EnvSpec] = {
    spec.id: spec
    for spec in [
        *_mujoco_specs(),
        EnvSpec("mo-lunar-lander-v3", _LANDER, "+-100 once; +-10; 0..-1; 0..-1: landing is 100x a step", **_BOX2D),
        EnvSpec("mo-lunar-lander-continuous-v3", _LANDER, "as mo-lunar-lander-v3", **_BOX2D),
        EnvSpec("minecart-v0", ("ore_1", "ore_2", "fuel"), "0..1.5 an episode, sparse; fuel -20..-220 an episode"),
        EnvSpec("minecart-deterministic-v0", ("ore_1", "ore_2", "fuel"), "as minecart-v0"),
        EnvSpec("minecart-rgb-v0", ("ore_1", "ore_2", "fuel"), "as minecart-v0, from pixels (480 x 480 x 3)"),
        EnvSpec("deep-sea-treasure-v0", _TREASURE, "0.7..23.7 once; -1"),
        EnvSpec("deep-sea-treasure-concave-v0", _TREASURE, "1..124 once; -1; concave front"),
        EnvSpec("deep-sea-treasure-mirrored-v0", _TREASURE, "1..124 once; -1; concave front"),
        EnvSpec("breakable-bottles-v0", ("time", "bottles", "potential"), "-1; +25 a bottle; -1..0"),
        EnvSpec(
            "water-reservoir-v0",
            ("flooding", "irrigation_deficit"),
            "-110..0; -50..0; actions normalised to [0, 1]",
            kwargs={"normalized_action": True},
        ),
        EnvSpec("mo-supermario-v0", ("position", "time", "death", "coin", "enemy"), "0.1..3.3", **_MARIO),
        EnvSpec("mo-mountaincar-v0", ("time", "reverse", "forward"), "-1; -1; -1"),
        EnvSpec("mo-mountaincar-3d-v0", ("time", "move", "speed"), "-1; -1; 0..1.1"),
        EnvSpec("mo-mountaincar-timemove-v0", ("time", "move"), "-1; -1"),
        EnvSpec("mo-mountaincar-timespeed-v0", ("time", "speed"), "-1; 0..1.1"),
        EnvSpec("mo-mountaincarcontinuous-v0", ("time", "fuel"), "-1; -1..0"),
        EnvSpec("mo-highway-v0", ("speed", "right_lane", "collision"), "0..1; 0..1; -1, rare", **_HIGHWAY),
        EnvSpec("mo-highway-fast-v0", ("speed", "right_lane", "collision"), "as mo-highway-v0", **_HIGHWAY),
        EnvSpec("resource-gathering-v0", ("killed", "gold", "gem"), "-1; 1; 1, all sparse"),
        EnvSpec("four-room-v0", ("blue_square", "green_triangle", "red_circle"), "1 each, sparse"),
        EnvSpec(
            "fruit-tree-v0",
            ("protein", "carbs", "fats", "vitamins", "minerals", "water"),
            "0..10 each, once",
        ),
        EnvSpec("fishwood-v0", ("wood", "fish"), "0..1; 0..1"),
    ]
}

TASK_SETS: dict[str, Mapping[str, str]] = {"metaworld-mt10": MT10}
"""Sets of tasks with one reward each that have an id of their own: the tasks' ids by their names."""

# What the return of an objective adds up, where a few words say it; the rest are rewards without a unit.
_SPEED, _ENERGY = "sum of m/s", "minus squared actions"
_ALIVE = ", + 1 a step"
_UNITS: dict[str, tuple[str, ...]] = {
    "mo-halfcheetah-v5": (_SPEED, _ENERGY),
    "mo-hopper-v5": (f"{_SPEED}{_ALIVE}", f"sum of decimetres{_ALIVE}", f"{_ENERGY}{_ALIVE}"),
    "mo-walker2d-v5": (f"{_SPEED}{_ALIVE}", f"{_ENERGY}{_ALIVE}"),
    "mo-swimmer-v5": (_SPEED, _ENERGY),
    "deep-sea-treasure-v0": ("treasure found", "minus steps"),
    "minecart-v0": ("ore brought home", "ore brought home", "minus fuel"),
    "minecart-deterministic-v0": ("ore brought home", "ore brought home", "minus fuel"),
}

_VERSION = re.compile(r"-v(\d+)$")


def resolve_id(name: str, known: Sequence[str] | None = None) -> str:
    """Finds the id that a name means: itself, or the newest version of a bare name.

    Args:
        name: An id or a bare name, such as `mo-halfcheetah`; as in Gymnasium, `module:id` imports the module first, which
            registers the id. Several of them, joined by `+`, are found one by one.
        known: Ids to choose from; MO-Gymnasium's, and all that are registered with Gymnasium, if not given.

    Raises:
        UserError: If there is no such id; the message has the nearest names.
    """
    if "+" in name:
        return "+".join(resolve_id(part, known) for part in name.split("+"))
    module, colon, name = name.rpartition(":")
    if module:
        _import_for_ids(module)
    ids = list(known) if known is not None else _all_ids()
    if name in ids:
        return f"{module}{colon}{name}"
    versions = [env_id for env_id in ids if bare_name(env_id) == name]
    if versions:
        return module + colon + max(versions, key=lambda env_id: int(_VERSION.findall(env_id)[0]))
    names = sorted({*ids, *(bare_name(env_id) for env_id in ids)})
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else "'dibs-rl envs' lists them."
    raise UserError(f"Unknown environment {name!r}; {hint}")


def objective_names(env_id: str | None, reward_dim: int) -> tuple[str, ...]:
    """Names of an environment's objectives: the registry's if it knows them, else reward_0, reward_1, ..."""
    spec = SPECS.get(env_id or "")
    if spec and len(spec.objectives) == reward_dim:
        return spec.objectives
    return tuple(f"reward_{i}" for i in range(reward_dim))


def return_unit(env_id: str, objective: str) -> str:
    """What an episode's untransformed return of an objective adds up: its unit where it has one, else that it is a sum."""
    units = dict(zip(SPECS[env_id].objectives, _UNITS[env_id], strict=True)) if env_id in _UNITS else {}
    return units.get(objective, "sum of rewards")


def _import_for_ids(module: str) -> None:
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"Cannot import the module {module!r} of the environment: {error}.") from None


def _all_ids() -> list[str]:
    import gymnasium as gym
    import mo_gymnasium  # noqa: F401  (registers its ids)

    return [*TASK_SETS, *SPECS, *(env_id for env_id in gym.registry if env_id not in SPECS)]
