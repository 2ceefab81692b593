"""What a GPU is good for: physics, rollouts and training in environment steps a second, by the number of worlds.

    python benchmarks/gpu.py                                           # on a CUDA device; made to end within 8 minutes
    python benchmarks/gpu.py --worlds 8192 --epochs 5 --minibatches 4  # as massively parallel PPO does (arXiv 2109.11978)
    python benchmarks/gpu.py --device cpu --worlds 4 8 --minutes 2     # all of its code on the processor; figures mean nothing

Needs `pip install 'dibs-rl[gpu]'`. Prints its tables last. What does not fit into the time is named as left out, and so is
what does not fit into the device's memory. Everything is measured in one process, which is ended when the time is over. The
physics' kernels are compiled before they are timed, which takes a minute where Warp has not kept them from the last time.
Minibatches are a sixteenth of a rollout, since a GPU is idle on smaller ones; networks are 64-64, epochs 10. Shares of time
are from rollouts in which each step waits for the device, rates from others in which none does.

That training is at least 10 times as fast as on a processor is wanted over one of 2 cores: the learner on the processor, and
its physics, get 2 threads on every machine. How many cores this one has is printed beside. The learner on the device has all
of them for physics on the processor.
"""

import argparse
import contextlib
import gc
import importlib.util
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from throughput import EPOCHS, Clock, mixed

from dibs_rl.cli.trainings import processors
from dibs_rl.errors import fail

ROBOTS = ("mo-halfcheetah-v5", "mo-hopper-v5", "mo-humanoid-v5")
WORLDS = (256, 1_024, 4_096, 8_192, 16_384, 65_536)
STEPS, MINIBATCHES = 32, 16  # steps of a world in a rollout; minibatches in an epoch
HOST_WORLDS, MANY_WORLDS = 64, 8_192  # of the batch backend beside a learner on the processor; where updates are compared
OBJECTIVES = (1, 2, 4, 8)
ROLLOUTS = 4  # that are timed
COLUMNS = "robot", "way", "worlds", "raw physics", "rollouts", "training", "physics", "policy", "update", "device MiB"
_ENDING = 15  # seconds that a process takes to end which has a GPU's memory, and the tables
HOST_THREADS = 2  # the cores that the goal is stated against
HOST_LEARNER, GPU_LEARNER = f"batch, CPU learner, {HOST_THREADS} threads", "batch, GPU learner"
TABLES = {  # its columns, in the rows' order
    "Environment steps a second, and shares of the time": COLUMNS,
    "An update by the number of objectives": ("objectives m", "worlds", "ms per update", "over m = 1"),
    "mo-halfcheetah to a forward return": ("way", "worlds", "wanted", "seconds", "environment steps", "reached"),
}
SPEED, COST, RACE = TABLES


class Bench:
    """Measures one thing after another while there is time, and says each as a line of JSON.

    Args:
        device: Where physics and learner are; the processor only to try the code.
        minutes: Time for everything.
        worlds: Numbers of worlds.
        goal: The forward return to be reached.
        epochs: Of an update.
        minibatches: In an epoch.
    """

    def __init__(
        self, device: str, minutes: float, worlds: list[int], goal: float, epochs: int = EPOCHS, minibatches: int = MINIBATCHES
    ) -> None:
        self._start, self._seconds = time.monotonic(), 60 * minutes
        self._until = self._seconds
        import torch

        self.device, self.worlds, self.goal = torch.device(device), worlds, goal
        self.epochs, self.minibatches = epochs, minibatches

    def run(self) -> None:
        """Everything, what matters most first; each part leaves time to the next ones."""
        first, *others = ROBOTS
        many = min(MANY_WORLDS, max(self.worlds))
        ways = [(HOST_LEARNER, min(HOST_WORLDS, many)), (GPU_LEARNER, many)]
        self._compile(first)
        self._each(0.4, [(f"{first}, {n:,} worlds", SPEED, lambda n=n: self.speed(first, "warp", n)) for n in self.worlds])
        self._each(0.45, [(f"m = {m}", COST, lambda m=m: self.update_of(m, many)) for m in OBJECTIVES])
        hosts = [(robot, way, n) for robot in ROBOTS for way, n in ways]
        self._each(0.55, [(f"{r}, {way}", SPEED, lambda r=r, w=way, n=n: self.speed(r, w, n)) for r, way, n in hosts])
        race = [(3, "warp", many), *((2 - i, *way) for i, way in enumerate(ways))]
        races = [(f"race, {way}", RACE, lambda w=way, n=n, k=k: self.race(w, n, k)) for k, way, n in race]
        self._each(0.75, races, shared=True)
        self._compile(*others)
        more = [(robot, n) for n in self.worlds for robot in others]
        self._each(1.0, [(f"{r}, {n:,} worlds", SPEED, lambda r=r, n=n: self.speed(r, "warp", n)) for r, n in more])

    def _compile(self, *robots: str) -> None:
        """Lets Warp compile the physics' kernels; where it cannot, measuring will say so."""
        from dibs_rl.envs import make

        self._until = self._seconds
        for robot in robots if self._left() > 0 else ():
            print(f"{robot}, kernels", file=sys.stderr, flush=True)
            with contextlib.suppress(MemoryError, RuntimeError):
                make(robot, 8, backend="warp", device=self.device).close()

    def _each(self, until: float, measures: Iterable[tuple[str, str, Callable[[], list[Any]]]], shared: bool = False) -> None:
        """Measures until so much of the time is over; a measure that would take longer, unless they share it, is left out."""
        self._until, took = until * self._seconds, 0.0
        for name, table, measure in measures:
            if self._left() <= (0.0 if shared else 1.5 * took):  # the next one takes no less than the last
                say(left_out=name, why="time")
                continue
            print(name, file=sys.stderr, flush=True)
            start = time.monotonic()
            try:
                say(table=table, row=measure())
            except (MemoryError, RuntimeError) as error:  # torch's and Warp's, of memory
                say(left_out=name, why=str(error).strip().splitlines()[0][:100])
            took = time.monotonic() - start
            self._forget()

    def _left(self) -> float:
        return self._until - (time.monotonic() - self._start)

    def _forget(self) -> None:
        if self.device.type == "cuda":
            import torch

            gc.collect()
            torch.cuda.empty_cache()

    def wait(self) -> None:
        """Until the device has done what it was asked for."""
        if self.device.type == "cuda":
            import torch

            torch.cuda.synchronize(self.device)

    @contextlib.contextmanager
    def learner(self, robot: str, way: str, worlds: int, objectives: int = 0, **settings: Any) -> Iterator[Any]:
        """DiBS-PPO, its worlds stepped and its networks kept as the way says; with random mixtures of rewards if asked."""
        import torch

        from dibs_rl.agents import DiBSPPO
        from dibs_rl.agents.side_by_side import torch_threads
        from dibs_rl.envs import make

        on_host = way == HOST_LEARNER
        device, threads = ("cpu", HOST_THREADS) if on_host else (self.device, torch.get_num_threads())
        env = make(robot, worlds, backend=way.partition(",")[0], device=device, workers=HOST_THREADS if on_host else 0)
        batch = {"batch_size": max(2, worlds * STEPS // self.minibatches), "n_epochs": self.epochs}
        with torch_threads(threads), contextlib.closing(mixed(env, objectives) if objectives else env) as env:
            yield DiBSPPO("MlpPolicy", env, n_steps=STEPS, seed=0, device=device, **batch, **settings)

    def speed(self, robot: str, way: str, worlds: int) -> list[Any]:
        """A row of the first table."""
        with self.learner(robot, way, worlds) as model:
            raw, rates, shares = self._speed(model, way, worlds * STEPS)
            return [robot, way, worlds, raw, *rates, *shares, self.memory()]

    def _speed(self, model: Any, way: str, rollout: int) -> tuple[float | None, list[float], list[float]]:
        """Steps a second of raw physics, of rollouts and of training; shares of physics, policy and update."""
        steps, more = ROLLOUTS * rollout, {"reset_num_timesteps": False}
        model.learn(2 * rollout)
        free, whole = Clock(model, "collect_rollouts", self.wait), Clock(model, "learn", self.wait)
        model.learn(steps, **more)
        rates = [steps / clock.seconds for clock in (free, whole)]
        free.seconds = whole.seconds = 0.0
        update, physics = Clock(model, "train", self.wait), Clock(model.env, "step_tensors", self.wait)
        model.learn(steps, **more)
        parts = physics.seconds, free.seconds - physics.seconds, update.seconds
        raw = self.raw_physics(model.env) if way == "warp" else None
        return raw, rates, [part / whole.seconds for part in parts]

    def raw_physics(self, env: Any) -> float:
        """Steps a second of the physics alone, under random controls."""
        import torch

        noise = 2 * torch.rand(STEPS, *env._controls.shape, device=env.device) - 1
        self.wait()
        start = time.perf_counter()
        for controls in noise:
            env._controls.copy_(controls)
            env._worlds.advance()
        self.wait()
        return STEPS * env.num_envs / (time.perf_counter() - start)

    def memory(self) -> float | None:
        """What is taken of the device's memory, by torch and Warp, in MiB."""
        if self.device.type != "cuda":
            return None
        import torch

        free, total = torch.cuda.mem_get_info(self.device)
        return (total - free) / 2**20

    def update_of(self, objectives: int, worlds: int) -> list[Any]:
        """A row of the second table; what it is over is filled in when all are there."""
        with self.learner(ROBOTS[0], "warp", worlds, objectives) as model:
            model.learn(2 * worlds * STEPS)
            update = Clock(model, "train", self.wait)
            model.learn(ROLLOUTS * worlds * STEPS, reset_num_timesteps=False)
        return [objectives, worlds, 1e3 * update.seconds / ROLLOUTS, None]

    def race(self, way: str, worlds: int, shares: int) -> list[Any]:
        """A row of the third table: training until the last 100 episodes have that mean, or a share of the time is over."""
        from stable_baselines3.common.callbacks import BaseCallback

        goal, start, until = self.goal, time.monotonic(), time.monotonic() + self._left() / shares

        class Goal(BaseCallback):
            reached = over = False

            def _on_step(self) -> bool:
                return not (self.reached or self.over)

            def _on_rollout_end(self) -> None:
                returns = [float(episode["r"][0]) for episode in self.model.ep_info_buffer or ()]
                self.reached = bool(returns) and sum(returns) / len(returns) >= goal
                self.over = time.monotonic() > until

        watch = Goal()
        with self.learner(ROBOTS[0], way, worlds, ent_coef=0.02) as model:  # as was shipped when this was first measured
            model.learn(10**12, callback=watch)
        seconds, reached = time.monotonic() - start, "yes" if watch.reached else "not in this time"
        return [way, worlds, goal, seconds, model.num_timesteps, reached]


def say(**what: Any) -> None:
    """A line of what was found."""
    print(json.dumps(what), flush=True)


def tables(found: list[dict[str, Any]]) -> list[str]:
    """The tables as text, of the lines said, and what was left out."""
    rows: dict[str, list[list[Any]]] = {name: [line["row"] for line in found if line.get("table") == name] for name in TABLES}
    of_one = [row[2] for row in rows[COST] if row[0] == 1]
    for row in rows[COST] if of_one else ():
        row[-1] = row[2] / of_one[0]
    lines = []
    for name, columns in TABLES.items():
        lines += ["", f"{name}:", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        lines += [f"| {' | '.join(_cell(value) for value in row)} |" for row in rows[name]] or ["| nothing was measured |"]
    left_out = [f"- {line['left_out']} ({line['why']})" for line in found if "left_out" in line]
    return [*lines, *(["", "Left out:", *left_out] if left_out else []), "", *_wanted(rows)]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return f"{value:,.2f}" if isinstance(value, float) and value < 100 else f"{value:,.0f}"


def _wanted(rows: dict[str, list[list[Any]]]) -> list[str]:
    """What was asked of the figures, beside what they are."""
    of_first = [row for row in rows[SPEED] if row[0] == ROBOTS[0]]
    ours = {worlds: values for _, way, worlds, *values in of_first if way == "warp"}
    host = [values[2] for _, way, _, *values in of_first if way == HOST_LEARNER]
    over_one = [row[3] for row in rows[COST] if row[0] == 4 and row[3] is not None]
    lines = []
    for robot, way, worlds, *values in rows[SPEED]:
        if (way, worlds) == ("warp", MANY_WORLDS):
            lines.append(f"- share of the update at {worlds:,} worlds of {robot}: {values[5]:.2f} (wanted: at most 0.30)")
    if ours and host:
        best = max(values[2] for values in ours.values())
        of_host = f"{HOST_LEARNER}, on a machine of {processors()} cores"
        lines.append(f"- {ROBOTS[0]}, training over that of {of_host}: {best / host[0]:.1f} (wanted: at least 10)")
    if over_one:
        lines.append(f"- an update of m = 4 over one of m = 1: {over_one[0]:.2f} (wanted: at most 1.3)")
    return ["What was wanted:", *lines] if lines else []


def watched(command: list[str], seconds: float) -> list[dict[str, Any]]:
    """What a process says, which is ended after so many seconds."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, timeout=seconds)
        output, ending = done.stdout, f"the process ended with code {done.returncode}" if done.returncode else ""
    except subprocess.TimeoutExpired as expired:
        said = expired.stdout or b""  # bytes, whatever was asked for
        output, ending = said.decode() if isinstance(said, bytes) else said, "the time was over"
    whole = [line for line in output.splitlines() if line.startswith("{") and line.endswith("}")]
    found = [json.loads(line) for line in whole]
    return [*found, {"left_out": "what came after the last row", "why": ending}] if ending else found


def machine(device: str) -> str:
    """What computed, with the versions that matter."""
    import mujoco
    import torch
    import warp

    name = torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else "the processor"
    return f"{name}; torch {torch.__version__}, Warp {warp.__version__}, MuJoCo {mujoco.__version__}"


def main() -> None:
    """Reads the flags; measures in a process of its own, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--worlds", type=int, nargs="+", default=list(WORLDS))
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--goal", type=float, default=1_000.0, help="forward return of mo-halfcheetah")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of an update")
    parser.add_argument("--minibatches", type=int, default=MINIBATCHES, help="in an epoch")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    start = time.monotonic()
    if flags.measure:
        warnings.simplefilter("ignore")
        Bench(flags.device, flags.minutes, flags.worlds, flags.goal, flags.epochs, flags.minibatches).run()
        return
    why = missing(flags.device)
    if why:
        fail("gpu.py", why)
    print(machine(flags.device), flush=True)
    left = 60 * flags.minutes - (time.monotonic() - start) - _ENDING
    command = [sys.executable, __file__, "--measure", *sys.argv[1:], "--minutes", str(left / 60)]
    print("\n".join(tables(watched(command, left))))


def missing(device: str) -> str:
    """What is not there that is needed, in one line; empty if nothing."""
    import torch

    if importlib.util.find_spec("mujoco_warp") is None:
        return "This needs MuJoCo Warp: pip install 'dibs-rl[gpu]'."
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        return "This needs a CUDA device, and torch sees none; --device cpu runs the same code on the processor."
    return ""


if __name__ == "__main__":
    main()
