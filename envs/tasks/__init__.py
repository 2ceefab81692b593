"""MO-Gymnasium's MuJoCo tasks as functions of the physics state: one robot, one file."""

from dibs_rl.envs.tasks.ant import Ant
from dibs_rl.envs.tasks.half_cheetah import HalfCheetah
from dibs_rl.envs.tasks.hopper import Hopper
from dibs_rl.envs.tasks.humanoid import Humanoid
from dibs_rl.envs.tasks.reacher import Reacher
from dibs_rl.envs.tasks.swimmer import Swimmer
from dibs_rl.envs.tasks.task import Noise, Physics, Robot, Rules, Task, UniformNoise
from dibs_rl.envs.tasks.walker2d import Walker2d

__all__ = ["TASKS", "Noise", "Physics", "Robot", "Rules", "Task", "UniformNoise"]

TASKS: dict[str, Task] = {
    "mo-halfcheetah-v5": HalfCheetah(),
    "mo-hopper-v5": Hopper(),
    "mo-hopper-2obj-v5": Hopper(energy=False),
    "mo-walker2d-v5": Walker2d(),
    "mo-ant-v5": Ant(),
    "mo-ant-2obj-v5": Ant(energy=False),
    "mo-swimmer-v5": Swimmer(),
    "mo-humanoid-v5": Humanoid(),
    "mo-reacher-v5": Reacher(),
}
