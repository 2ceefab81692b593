"""How far the warp backend's physics is from MuJoCo's own after 50 substeps of random actions, from the same states.

    python benchmarks/warp_parity.py    # about a minute, on the processor

Prints a table for docs/environments.md: differences of velocities in m/s and rad/s.
"""

import numpy as np
import torch
from torch import Tensor

from dibs_rl.envs import make
from dibs_rl.envs.tasks import TASKS

SUBSTEPS, SEED = 50, 7
FEW, MANY = 8, 64  # worlds
HIGH = 10.0  # m above the ground, where an ant meets nothing in that time


def differences(env_id: str, worlds: int, height: float) -> tuple[Tensor, float]:
    """Greatest difference of a velocity in each world `[n]`, and the greatest velocity."""
    warp, batch = (make(env_id, worlds, backend=backend, seed=SEED, workers=1) for backend in ("warp", "batch"))
    batch.reset_tensors()
    state = batch._physics
    if height:
        state.qpos[:, 2] += height
    warp._worlds.reset(torch.ones(worlds, dtype=torch.bool), state.qpos.float(), state.qvel.float())
    draw, space = np.random.default_rng(1), batch.action_space
    for _ in range(SUBSTEPS // batch._frame_skip):
        if hasattr(space, "n"):
            actions = draw.integers(space.n, size=worlds)
        else:
            actions = draw.uniform(space.low, space.high, (worlds, *space.shape)).astype(np.float32)
        for env in (warp, batch):
            env._advance(torch.from_numpy(actions))
    apart = (warp._physics.qvel.double() - state.qvel).abs().amax(dim=1)
    return apart, float(state.qvel.abs().max())


def main() -> None:
    """Prints the table."""
    print(f"| robot | greatest of {FEW} worlds | greatest of {MANY} | median of {MANY} | greatest velocity |")
    print("|---|---|---|---|---|")
    for env_id in (name for name in TASKS if "2obj" not in name):
        for height in (HIGH, 0.0) if "ant" in env_id else (0.0,):
            few, _ = differences(env_id, FEW, height)
            many, velocity = differences(env_id, MANY, height)
            name = f"{env_id}, in the air" if height else env_id
            print(f"| {name} | {few.max():.1e} | {many.max():.1e} | {many.median():.1e} | {velocity:.0f} |", flush=True)


if __name__ == "__main__":
    main()
