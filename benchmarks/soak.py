"""Steps the worlds of the warp backend for a long time, and looks for memory that grows and worlds that are lost.

    python benchmarks/soak.py --env mo-halfcheetah --worlds 4096 --device cuda --minutes 60
    python benchmarks/soak.py --env mo-halfcheetah --worlds 256 --minutes 5    # on the processor

Actions are random. Ends with exit code 1 if a world was lost or memory grew after the first tenth of the time.
"""

import argparse
import sys
import time
from pathlib import Path

import torch

from dibs_rl.envs import WarpVecEnv, make

_STATUS = Path("/proc/self/status")  # Linux
_GROWTH = 1.01  # of resident memory, which breathes a little


def memory(device: str) -> tuple[float, float]:
    """Resident memory of this process, and what is taken of the device's (0 for the processor), in MiB."""
    resident = next(line.split()[1] for line in _STATUS.read_text().splitlines() if line.startswith("VmRSS"))
    free, total = torch.cuda.mem_get_info(device) if torch.device(device).type == "cuda" else (0, 0)
    return float(resident) / 2**10, (total - free) / 2**20


def random_actions(env: WarpVecEnv) -> torch.Tensor:
    """Actions `[n, k]` in the bounds that all MuJoCo robots have, or one of the numbers `[n]` where they are discrete."""
    n, space = env.num_envs, env.action_space
    if hasattr(space, "n"):
        return torch.randint(int(space.n), (n,), device=env.device)
    low, high = (torch.as_tensor(edge, device=env.device) for edge in (space.low, space.high))
    return low + (high - low) * torch.rand(n, *space.shape, device=env.device)


def soak(env: WarpVecEnv, minutes: float) -> bool:
    """Steps until the time is over, prints ten rows; whether no world was lost and memory did not grow after the first."""
    env.reset_tensors()
    device, start, steps, episodes = str(env.device), time.monotonic(), 0, 0
    rows: list[tuple[float, float]] = []
    print(f"{'seconds':>8} {'env steps':>12} {'episodes':>9} {'resident MiB':>13} {'device MiB':>11}  lost worlds")
    while len(rows) < 10:
        env.step_tensors(random_actions(env))
        steps += env.num_envs
        episodes += len(env.pop_episodes()[1])
        seconds = time.monotonic() - start
        if seconds >= 6 * minutes * (len(rows) + 1):
            rows.append(memory(device))
            resident, taken = rows[-1]
            print(f"{seconds:8.0f} {steps:12,} {episodes:9,} {resident:13.1f} {taken:11.1f}  {env.lost_worlds}", flush=True)
    grown = any(last > _GROWTH * first for first, last in zip(rows[0], rows[-1], strict=True))
    lost = any(env.lost_worlds.values())
    print(f"memory {'grew' if grown else 'did not grow'}; {'worlds were' if lost else 'no world was'} lost")
    return not grown and not lost


def main() -> None:
    """Reads the flags, soaks, says what stepped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="mo-halfcheetah")
    parser.add_argument("--worlds", type=int, default=256)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--minutes", type=float, default=60.0)
    flags = parser.parse_args()
    env = make(flags.env, flags.worlds, backend="warp", device=flags.device, seed=0)
    assert isinstance(env, WarpVecEnv)
    where = torch.cuda.get_device_name(env.device) if env.device.type == "cuda" else "the processor"
    print(f"{flags.env}, {flags.worlds} worlds, on {where}, {flags.minutes:g} minutes")
    sys.exit(not soak(env, flags.minutes))


if __name__ == "__main__":
    main()
