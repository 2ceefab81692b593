"""n worlds of a model in MuJoCo Warp, as torch tensors on its own memory. To be imported only where that is installed."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import mujoco
import torch
import warp as wp
from torch import Tensor

wp.config.log_level = wp.LOG_WARNING  # else it greets on standard output, where results go
wp.init()

import mujoco_warp as mjw  # noqa: E402

_OF_POSITIONS = ("xpos", "xipos", "cinert", "cvel")  # what follows from qpos and qvel, and lags behind them
_FORCES = ("qfrc_actuator", "cfrc_ext")  # none act where an episode starts
_GEOM_CONTACTS = 2  # of a capsule with the floor
_CONTACT_ROWS = 4  # of the pyramid of friction
# That the solver stopped early is no overflow: MuJoCo does the same, and the state is as good as the tolerance was.
_OVERFLOWS = int(mjw.OverflowType.ALL) & ~int(mjw.OverflowType.ITERATIONS | mjw.OverflowType.LS_ITERATIONS)


class WarpPhysics:
    """Worlds whose step and reset are captured once, as graphs, and then launched on torch's stream.

    Args:
        model: MuJoCo's; it is left as it is. Warp lacks its PGS solver, instead of which Newton's takes over.
        num_worlds: Worlds n.
        device: A CUDA device, or the processor.
        fields: Names of the fields of MuJoCo's `mjData` that are wanted beside `qpos`, `qvel` and `ctrl`.
        substeps: Steps of the physics in a step.
        max_constraints: Rows of constraints that a world has room for; what every geom on the floor and every joint at its
            limit come to if not given.

    Attributes:
        fields: Live views of the fields, `[n, ...]` float32.
        overflow: Live view of what no longer fitted since the last reset, by bits, `[n]` int32.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        num_worlds: int,
        device: torch.device,
        fields: Iterable[str],
        *,
        substeps: int,
        max_constraints: int | None = None,
    ) -> None:
        self._device = wp.device_from_torch(device)
        self._substeps = substeps
        with wp.ScopedDevice(self._device):
            self._model = _put(model)
            contacts = _GEOM_CONTACTS * model.ngeom
            rows = _CONTACT_ROWS * contacts + int(model.jnt_limited.sum()) if max_constraints is None else max_constraints
            self._data = mjw.make_data(model, nworld=num_worlds, nconmax=contacts, njmax=rows)
        names = dict.fromkeys(("qpos", "qvel", "ctrl", *fields))
        self.fields: dict[str, Tensor] = {name: wp.to_torch(getattr(self._data, name)) for name in names}
        self.overflow: Tensor = wp.to_torch(self._data.overflow)
        self._with_forces = "cfrc_ext" in names
        self._resets = torch.ones(num_worlds, dtype=torch.bool, device=device)
        self._resets_in_warp = wp.from_torch(self._resets)
        self._graphs = {work: self._capture(work) for work in (self.step, self.clear, self.derive)}

    def advance(self) -> None:
        """Steps every world."""
        self._launch(self.step)

    def reset(self, worlds: Tensor, qpos: Tensor, qvel: Tensor) -> None:
        """Starts anew in some worlds; in the others every field keeps every bit.

        Args:
            worlds: Which, `[n]` bool.
            qpos: Positions that they start from, `[n, nq]`.
            qvel: Velocities that they start from, `[n, nv]`.
        """
        fields = self.fields
        self._resets.copy_(worlds)
        self._launch(self.clear)
        _overwrite(worlds, fields["qpos"], qpos)
        _overwrite(worlds, fields["qvel"], qvel)
        kept = {name: fields[name].clone() for name in _OF_POSITIONS if name in fields}
        if kept:
            self._launch(self.derive)  # in all worlds: the fields of the others would no longer lag behind
        for name, old in kept.items():
            _overwrite(~worlds, fields[name], old)
        for name in _FORCES:
            if name in fields:
                fields[name].masked_fill_(_rows(worlds, fields[name]), 0.0)

    def unstable(self) -> Tensor:
        """Where a position or velocity is not finite, or greater than MuJoCo allows, `[n]` bool."""
        sizes = (self.fields[name].abs().amax(dim=1) for name in ("qpos", "qvel"))
        return ~torch.stack([size <= mujoco.mjMAXVAL for size in sizes]).all(dim=0)

    def overflown(self) -> Tensor:
        """Where contacts or constraints did not fit, so that what was computed means nothing, `[n]` bool."""
        return (self.overflow & _OVERFLOWS) != 0

    # What is captured.

    def step(self) -> None:
        """Steps every world, one kernel after the other."""
        for _ in range(self._substeps):
            mjw.step(self._model, self._data)
        if self._with_forces:
            mjw.rne_postconstraint(self._model, self._data)

    def clear(self) -> None:
        """Forgets what was in the worlds to be reset: controls, the solver's last answer, overflows."""
        mjw.reset_data(self._model, self._data, reset=self._resets_in_warp)

    def derive(self) -> None:
        """Computes what follows from positions and velocities."""
        mjw.kinematics(self._model, self._data)
        mjw.com_pos(self._model, self._data)
        mjw.com_vel(self._model, self._data)

    def _capture(self, work: Callable[[], None]) -> Any:
        with wp.ScopedDevice(self._device):
            wp.synchronize_device()  # torch may still be filling what is read here
            work()  # compiles kernels, which a capture cannot
            with wp.ScopedCapture() as capture:
                work()
            wp.synchronize_device()
        return capture.graph

    def _launch(self, work: Callable[[], None]) -> None:
        stream = wp.stream_from_torch(wp.device_to_torch(self._device)) if self._device.is_cuda else None
        wp.capture_launch(self._graphs[work], stream=stream)


def _put(model: mujoco.MjModel) -> mjw.Model:
    if model.opt.solver == mujoco.mjtSolver.mjSOL_PGS:
        model = copy.copy(model)
        model.opt.solver = mujoco.mjtSolver.mjSOL_NEWTON
    put = mjw.put_model(model)
    put.opt.warn_overflow = 0  # kernels would print a line for each world
    return put


def _overwrite(worlds: Tensor, field: Tensor, values: Tensor) -> None:
    field.copy_(torch.where(_rows(worlds, field), values, field))


def _rows(worlds: Tensor, field: Tensor) -> Tensor:
    """`[n]` as `[n, 1, ...]`."""
    return worlds.view(-1, *[1] * (field.dim() - 1))
