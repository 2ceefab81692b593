"""MO-Gymnasium's small environments as torch functions of their state: one domain, one file."""

from dibs_rl.envs.torch_tasks.continuous_mountain_car import ContinuousMountainCar
from dibs_rl.envs.torch_tasks.deep_sea_treasure import DeepSeaTreasure
from dibs_rl.envs.torch_tasks.minecart import Minecart
from dibs_rl.envs.torch_tasks.mountain_car import MountainCar
from dibs_rl.envs.torch_tasks.resource_gathering import ResourceGathering
from dibs_rl.envs.torch_tasks.torch_task import TorchTask, WorldNoise

__all__ = ["TORCH_TASKS", "TorchTask", "WorldNoise"]

TORCH_TASKS: dict[str, TorchTask] = {
    **dict.fromkeys(
        ("deep-sea-treasure-v0", "deep-sea-treasure-concave-v0", "deep-sea-treasure-mirrored-v0"), DeepSeaTreasure()
    ),
    "minecart-deterministic-v0": Minecart(),
    **dict.fromkeys(
        ("mo-mountaincar-v0", "mo-mountaincar-3d-v0", "mo-mountaincar-timemove-v0", "mo-mountaincar-timespeed-v0"),
        MountainCar(),
    ),
    "mo-mountaincarcontinuous-v0": ContinuousMountainCar(),
    "resource-gathering-v0": ResourceGathering(),
}
