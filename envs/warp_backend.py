"""The `warp` backend: MuJoCo Warp steps all worlds, on a GPU or on the processor, and a task's torch functions do the rest.

The functions are those of the `batch` backend, on the physics' own memory. The physics is computed in float32, so trajectories
part from MuJoCo's own after a while: results of the two backends do not belong into one comparison.
"""

import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor

from dibs_rl.envs.batch_backend import robot_of
from dibs_rl.envs.rules_vec_env import RulesVecEnv
from dibs_rl.envs.tasks import Physics, Task
from dibs_rl.errors import UserError
from dibs_rl.vec_env import Step

_LOOK_EVERY = 256  # steps between two looks at the counts of lost worlds: a look waits for the device
_LOST = ("overflow", "unstable")


def warp_installed() -> bool:
    """Whether MuJoCo Warp is installed."""
    return importlib.util.find_spec("mujoco_warp") is not None


class WarpVecEnv(RulesVecEnv):
    """A MuJoCo task in n worlds, stepped by MuJoCo Warp.

    A world is lost where its contacts or constraints did not fit into the memory that was set aside, or where a number is not
    finite. Its episode is then terminated, with a reward of 0 and the observation that was acted on last, and the next one
    starts; `lost_worlds` counts them, and a warning is given once.

    Args:
        env: One of MO-Gymnasium's environments of the task: its model, spaces, frame skip and time limit are taken.
        task: What is observed and rewarded.
        num_envs: Worlds n.
        device: Where the physics is computed and the tensors live: a CUDA device, or `"cpu"`.
        seed: Of the one generator that draws the starts of all worlds; None draws at random.
        max_constraints: See `WarpPhysics`.

    Raises:
        UserError: If Warp does not have the device.
    """

    backend = "warp"
    _rules: Task

    def __init__(
        self,
        env: gym.Env,
        task: Task,
        num_envs: int,
        *,
        device: torch.device | str = "cpu",
        seed: int | None = None,
        max_constraints: int | None = None,
    ) -> None:
        from dibs_rl.envs.warp_physics import WarpPhysics

        device = _usable(torch.device(device))
        base: Any = env.unwrapped
        self._model = robot_of(base, torch.float32, device)
        self._worlds = WarpPhysics(
            base.model, num_envs, device, task.fields, substeps=base.frame_skip, max_constraints=max_constraints
        )
        self._physics = Physics(**{name: self._worlds.fields[name] for name in task.fields})
        self._controls = self._worlds.fields["ctrl"]
        self._noise = _DeviceNoise(num_envs, device)
        self._lost = torch.zeros(len(_LOST), dtype=torch.int64, device=device)
        self._steps, self._warned = 0, False
        super().__init__(env, task, num_envs, task.objectives, device=device, home=device, seed=seed)
        self._acted_on = self._observe()

    @property
    def lost_worlds(self) -> dict[str, int]:
        """How many episodes ended since the start because of an `overflow`, and because a world was `unstable`."""
        return dict(zip(_LOST, self._lost.tolist(), strict=True))

    def _state(self, worlds: Tensor | None = None) -> Physics:
        return self._physics if worlds is None else self._physics.worlds(worlds)

    def _seed_worlds(self, seeds: list[int | None]) -> None:
        if seeds[0] is not None:
            self._noise.generator.manual_seed(seeds[0])

    def _advance(self, actions: Tensor) -> None:
        self._controls.copy_(self._rules.controls(actions))
        self._worlds.advance()

    def _start_episodes(self, done: Tensor) -> None:
        # Drawn for all worlds, with no branch on `done`.
        self._worlds.reset(done, *self._rules.start(self._model, self._noise))

    def _observe(self, worlds: Tensor | None = None) -> Tensor:
        return super()._observe(worlds).double()  # as the observation space says

    def _next_obs(self, done: Tensor, final_obs: Tensor) -> Tensor:
        return torch.where(done.unsqueeze(1), self._observe(), final_obs)  # no branch here either

    def _outcome(self, before: Any, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        obs, reward, terminated = super()._outcome(before, actions)
        overflown = self._worlds.overflown()
        finite = obs.isfinite().all(dim=1) & reward.isfinite().all(dim=1)
        unstable = ~overflown & (self._worlds.unstable() | ~finite)
        self._lost += torch.stack([overflown.sum(), unstable.sum()])
        lost = overflown | unstable
        column = lost.unsqueeze(1)
        return torch.where(column, self._acted_on, obs), reward.masked_fill(column, 0.0), terminated | lost

    def _reset_worlds(self, seeds: list[int | None], options: list[dict]) -> Tensor:
        self._acted_on = super()._reset_worlds(seeds, options)
        return self._acted_on

    def _step_worlds(self, actions: Tensor) -> Step:
        step = super()._step_worlds(actions)
        self._acted_on = step.obs  # type: ignore[assignment]  # tasks observe no dictionaries
        self._steps += 1
        if self._steps % _LOOK_EVERY == 0:
            self._warn_of_lost_worlds()
        return step

    def close(self) -> None:
        """Says if worlds were lost, and closes the environment whose model this is."""
        self._warn_of_lost_worlds()
        super().close()

    def _warn_of_lost_worlds(self) -> None:
        if not self._warned and any(self.lost_worlds.values()):
            self._warned = True
            counts = ", ".join(f"{count} by {what}" for what, count in self.lost_worlds.items() if count)
            warnings.warn(
                f"Worlds of the warp backend were lost and started anew ({counts}, in {self._steps} steps of {self.num_envs} "
                "worlds); env.lost_worlds goes on counting.",
                RuntimeWarning,
                stacklevel=2,
            )


class _DeviceNoise:
    """Numbers for all worlds from one generator on their device."""

    def __init__(self, num_worlds: int, device: torch.device) -> None:
        self.generator = torch.Generator(device)
        self.generator.seed()
        self._num_worlds = num_worlds

    def __len__(self) -> int:
        return self._num_worlds

    def uniform(self, low: float, high: float, size: int) -> Tensor:
        return low + (high - low) * self._draw(torch.rand, size)

    def standard_normal(self, size: int) -> Tensor:
        return self._draw(torch.randn, size)

    def _draw(self, kind: Callable[..., Tensor], size: int) -> Tensor:
        return kind(self._num_worlds, size, generator=self.generator, dtype=torch.float32, device=self.generator.device)


def _usable(device: torch.device) -> torch.device:
    if device.type == "cpu":
        return device
    if device.type == "cuda" and (device.index or 0) < torch.cuda.device_count():
        return torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
    raise UserError(
        f"The warp backend steps on the processor (device='cpu') or on a CUDA device; found {str(device)!r}, and torch sees "
        f"{torch.cuda.device_count()} CUDA devices."
    )
