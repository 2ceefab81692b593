"""Every MO-Gymnasium environment: its objectives by name, in the order of the reward vector, and how they are scaled.

Scale notes come from reading the sources; `dibs-rl envs` prints them.
"""

import importlib
import importlib.util
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dibs_rl.envs.metaworld import MT10
from dibs_rl.envs.tasks import TASKS
from dibs_rl.errors import UserError, did_you_mean
from dibs_rl.shipped import bare_name


@dataclass(frozen=True)
class EnvSpec:
    """One environment id.

    Attributes:
        id: MO-Gymnasium's id.
        scales: Rough magnitude per step of each of the reward's components, by the objective's name, in order.
        note: What else matters to a combination of them.
        needs: Module without which it cannot be made, beyond the base installation.
        install: How to get that module, or why it cannot be had.
        kwargs: What `make` passes by default.
    """

    id: str
    scales: Mapping[str, str]
    note: str = ""
    needs: str = ""
    install: str = ""
    kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names of the reward's components, in order."""
        return tuple(self.scales)

    @property
    def installed(self) -> bool:
        """Whether the module it needs is there."""
        return not self.needs or importlib.util.find_spec(self.needs) is not None

    @property
    def scales_text(self) -> str:
        """The magnitudes behind their objectives' names, and the note, on one line."""
        if len(set(self.scales.values())) == 1:
            text = f"{', '.join(self.scales)}: {next(iter(self.scales.values()))} each"
        else:
            text = "; ".join(f"{name} {scale}" for name, scale in self.scales.items())
        return f"{text} ({self.note})" if self.note else text


_ALIVE = "with +1 alive in each"
_MUJOCO: dict[str, tuple[tuple[str, ...], str]] = {  # scales in the order of the task's objectives, and a note
    "halfcheetah": (("0..15 m/s", "-6..0"), ""),
    "hopper": (("1..4", "-4..10 (10 x height)", "-2..1"), _ALIVE),
    "walker2d": (("0..6", "-5..1"), _ALIVE),
    "ant": (("-6..6", "-6..6", "-7..1"), _ALIVE),
    "swimmer": (("0..0.36 m/s", "-2..0"), "at equal weights the sum stands still"),
    "humanoid": (("5..10", "2.3..5"), "with +5 alive in each, which hides them"),
    "reacher": (("-0.4..1",) * 4, ""),
}
_OWN_SCALES = {"mo-halfcheetah-v4": ("0..15 m/s", "-0.6..0")}
_NO_COST = {  # variants without the objective of energy, which goes into the others at the robot's own weight
    "hopper": "with -0.003..0 of energy and +1 alive in each",
    "ant": "with -4..0 of energy and +1 alive in each",
}
_LANDER = {"landing": "+-100, once", "shaping": "-10..10", "main_fuel": "-1..0", "side_fuel": "-1..0"}
_MINECART = {"ore_1": "0..1.5 an episode, sparse", "ore_2": "0..1.5 an episode, sparse", "fuel": "-0.22..-0.02"}
_CONCAVE = {"treasure": "1..124, once", "time": "-1"}
_HIGHWAY = {"speed": "0..1", "right_lane": "0..1", "collision": "-1, rare"}
_NEEDS_BOX2D: dict[str, Any] = {"needs": "Box2D", "install": "pip install 'dibs-rl[box2d]'"}
_NEEDS_HIGHWAY: dict[str, Any] = {"needs": "highway_env", "install": "pip install 'dibs-rl[highway]'"}
_NEEDS_MARIO: dict[str, Any] = {
    "needs": "gym_super_mario_bros",
    "install": "not with NumPy 2, which Gymnasium and torch are built for here",
}


def _mujoco_specs() -> list[EnvSpec]:
    specs = []
    for robot, (scales, note) in _MUJOCO.items():
        names = TASKS[f"mo-{robot}-v5"].objectives
        for env_id in (f"mo-{robot}-v4", f"mo-{robot}-v5"):
            specs.append(EnvSpec(env_id, dict(zip(names, _OWN_SCALES.get(env_id, scales), strict=True)), note))
        if robot in _NO_COST:
            left = dict(zip(names[:2], scales[:2], strict=True))
            specs += [EnvSpec(f"mo-{robot}-{kind}", left, _NO_COST[robot]) for kind in ("2d-v4", "2obj-v5")]
    return specs


SPECS: dict[str, EnvSpec] = {
    spec.id: spec
    for spec in [
        *_mujoco_specs(),
        EnvSpec("mo-lunar-lander-v3", _LANDER, "a landing is 100 x a step", **_NEEDS_BOX2D),
        EnvSpec("mo-lunar-lander-continuous-v3", _LANDER, "a landing is 100 x a step", **_NEEDS_BOX2D),
        EnvSpec("minecart-v0", _MINECART),
        EnvSpec("minecart-deterministic-v0", _MINECART),
        EnvSpec("minecart-rgb-v0", _MINECART, "from pixels, 480 x 480 x 3"),
        EnvSpec("deep-sea-treasure-v0", {"treasure": "0.7..23.7, once", "time": "-1"}),
        EnvSpec("deep-sea-treasure-concave-v0", _CONCAVE, "its front is concave"),
        EnvSpec("deep-sea-treasure-mirrored-v0", _CONCAVE, "its front is concave"),
        EnvSpec("breakable-bottles-v0", {"time": "-1", "bottles": "+25 a bottle", "potential": "-1..0"}),
        EnvSpec(
            "water-reservoir-v0",
            {"flooding": "-110..0", "irrigation_deficit": "-50..0"},
            "actions normalised to [0, 1]",
            kwargs={"normalized_action": True},
        ),
        EnvSpec(
            "mo-supermario-v0",
            {
                "position": "1/30 a pixel",
                "time": "-1/30 a tick",
                "death": "-0.83, once",
                "coin": "+3.3 a coin",
                "enemy": "+3.3 or more an enemy",
            },
            **_NEEDS_MARIO,
        ),
        EnvSpec("mo-mountaincar-v0", {"time": "-1", "reverse": "-1 or 0", "forward": "-1 or 0"}),
        EnvSpec("mo-mountaincar-3d-v0", {"time": "-1", "move": "-1 or 0", "speed": "0..1.1"}),
        EnvSpec("mo-mountaincar-timemove-v0", {"time": "-1", "move": "-1 or 0"}),
        EnvSpec("mo-mountaincar-timespeed-v0", {"time": "-1", "speed": "0..1.1"}),
        EnvSpec("mo-mountaincarcontinuous-v0", {"time": "-1", "fuel": "-1..0"}),
        EnvSpec("mo-highway-v0", _HIGHWAY, **_NEEDS_HIGHWAY),
        EnvSpec("mo-highway-fast-v0", _HIGHWAY, **_NEEDS_HIGHWAY),
        EnvSpec("resource-gathering-v0", {"killed": "-1", "gold": "1", "gem": "1"}, "all sparse"),
        EnvSpec("four-room-v0", dict.fromkeys(("blue_square", "green_triangle", "red_circle"), "1"), "sparse"),
        EnvSpec(
            "fruit-tree-v0",
            dict.fromkeys(("protein", "carbs", "fats", "vitamins", "minerals", "water"), "0..10"),
            "once an episode",
        ),
        EnvSpec("fishwood-v0", {"wood": "0 or 1", "fish": "0 or 1"}),
    ]
}

TASK_SETS: dict[str, Mapping[str, str]] = {"metaworld-mt10": MT10}
"""Sets of tasks with one reward each that have an id of their own: the tasks' ids by their names."""

# What the return of an objective adds up, where a few words say it; the rest are rewards without a unit.
_SPEED, _ENERGY = "sum of m/s", "minus squared actions"
_ALIVE_UNIT = ", + 1 a step"
_UNITS: dict[str, tuple[str, ...]] = {
    "mo-halfcheetah-v5": (_SPEED, _ENERGY),
    "mo-hopper-v5": (f"{_SPEED}{_ALIVE_UNIT}", f"sum of decimetres{_ALIVE_UNIT}", f"{_ENERGY}{_ALIVE_UNIT}"),
    "mo-walker2d-v5": (f"{_SPEED}{_ALIVE_UNIT}", f"{_ENERGY}{_ALIVE_UNIT}"),
    "mo-swimmer-v5": (_SPEED, _ENERGY),
    "deep-sea-treasure-v0": ("treasure found", "minus steps"),
    "minecart-v0": ("ore brought home", "ore brought home", "minus fuel"),
    "minecart-deterministic-v0": ("ore brought home", "ore brought home", "minus fuel"),
}

_VERSION = re.compile(r"-v(\d+)$")


def resolve_id(name: str) -> str:
    """Finds the id that a name means: itself, or the newest version of a bare name.

    Args:
        name: An id or a bare name, such as `mo-halfcheetah`; as in Gymnasium, `module:id` imports the module first, which
            registers the id. Several of them, joined by `+`, are found one by one.

    Raises:
        UserError: If there is no such id; the message has the nearest names.
    """
    if "+" in name:
        return "+".join(resolve_id(part) for part in name.split("+"))
    module, colon, name = name.rpartition(":")
    if module:
        _import_for_ids(module)
    ids = _all_ids()
    found = name if name in ids else _newest(name, ids)
    if found:
        return f"{module}{colon}{found}"
    names = sorted({*ids, *(bare_name(env_id) for env_id in ids)})
    hint = did_you_mean(name, names, most=3, alike=0.5) or " 'dibs-rl envs' lists them."
    raise UserError(f"Unknown environment {name!r}.{hint}")


def _newest(name: str, ids: Iterable[str]) -> str | None:
    """The newest version of a bare name."""
    versions = [env_id for env_id in ids if bare_name(env_id) == name]
    return max(versions, key=lambda env_id: int(_VERSION.findall(env_id)[0]), default=None)


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
