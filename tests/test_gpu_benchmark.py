"""The GPU benchmark on the processor: every measure with few worlds, its plan within its time, and its tables."""

import json
import sys

import pytest
import torch
from scripts import ROOT, load

from dibs_rl.agents.side_by_side import torch_threads
from dibs_rl.envs import make
from dibs_rl.envs.warp_backend import warp_installed

FOLDER = ROOT / "benchmarks"
needs_warp = pytest.mark.skipif(not warp_installed(), reason="needs MuJoCo Warp: pip install 'dibs-rl[gpu]'")


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    module = load("benchmarks/gpu.py")
    for name, few in (("STEPS", 4), ("ROLLOUTS", 1)):
        monkeypatch.setattr(module, name, few)
    return module


def said(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@needs_warp
@pytest.mark.filterwarnings("ignore:.*truncated mini-batch")
def test_every_measure_measures(gpu, monkeypatch):
    bench = gpu.Bench("cpu", 1e-3, [8], 1_000.0, epochs=1, minibatches=2)
    robot, way, worlds, *rates, physics, policy, update, memory = bench.speed("mo-halfcheetah-v5", "warp", 8)
    assert (robot, way, worlds, memory) == ("mo-halfcheetah-v5", "warp", 8, None)
    assert all(rate > 0 for rate in rates)
    assert physics + policy + update < 1.001  # parts of one time, none of them within another
    assert min(physics, policy, update) > 0
    # Warp takes seconds to be made ready on a processor: once is enough.
    made, closed = [], []

    def made_quickly(*args, backend, **kwargs):
        env = make(*args, backend="batch", **kwargs)
        monkeypatch.setattr(env, "close", lambda: closed.append(env))
        made.append(kwargs["workers"])
        return env

    monkeypatch.setattr("dibs_rl.envs.make", made_quickly)
    m, worlds, milliseconds, _ = bench.update_of(4, 8)
    assert (m, worlds) == (4, 8)
    assert milliseconds > 0
    way, worlds, goal, seconds, steps, reached = bench.race(gpu.HOST_LEARNER, 8, 1)
    assert (way, worlds, goal, steps, reached) == (gpu.HOST_LEARNER, 8, 1_000.0, 5 * 8, "not in this time")
    assert seconds > 0
    assert made == [0, 2]  # the processor's has the threads of the goal
    assert len(closed) == 2


def test_kernels_are_compiled_while_there_is_time_and_trouble_is_left_to_the_measures(gpu, monkeypatch):
    asked = []

    def no_memory(robot, worlds, **kwargs):
        asked.append(robot)
        raise MemoryError

    monkeypatch.setattr("dibs_rl.envs.make", no_memory)
    gpu.Bench("cpu", 0.0, [8], 1e3)._compile(*gpu.ROBOTS)
    assert asked == []
    bench = gpu.Bench("cpu", 1.0, [8], 1e3)
    bench._until = 0.0  # the races before may have taken all of their share
    bench._compile(*gpu.ROBOTS)
    assert tuple(asked) == gpu.ROBOTS


def test_epochs_and_minibatches_can_be_others(gpu):
    bench = gpu.Bench("cpu", 1.0, [8], 1e3, epochs=3, minibatches=4)
    with bench.learner("mo-halfcheetah-v5", gpu.HOST_LEARNER, 8) as model:
        assert (model.n_epochs, model.batch_size) == (3, 8 * gpu.STEPS // 4)


def test_the_learner_on_the_processor_has_the_cores_of_the_goal(gpu):
    before = torch.get_num_threads()
    with torch_threads(1), gpu.Bench("cpu", 1e-3, [8], 1e3).learner("mo-halfcheetah-v5", gpu.HOST_LEARNER, 8):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == before


def test_the_plan_measures_everything_and_says_what_it_leaves_out(gpu, capsys, monkeypatch):
    monkeypatch.setattr(gpu.Bench, "speed", lambda self, robot, way, n: [robot, way, n, 9e5, 8e5, 7e5 + n, 0.5, 0.2, 0.3, 1e4])
    monkeypatch.setattr(gpu.Bench, "update_of", lambda self, m, n: [m, n, 100.0 + m, None])
    monkeypatch.setattr(gpu.Bench, "race", lambda self, way, n, shares: [way, n, 1e3, 5.0, 1e6, "yes"])

    compiled = []
    monkeypatch.setattr(gpu.Bench, "_compile", lambda self, *robots: compiled.extend(robots))

    gpu.Bench("cpu", 1.0, [256, 8_192], 1e3).run()
    assert tuple(compiled) == gpu.ROBOTS
    text = "\n".join(gpu.tables(said(capsys)))
    for robot in gpu.ROBOTS:
        for way, n in [("warp", "256"), ("warp", "8,192"), (gpu.HOST_LEARNER, "64"), ("batch, GPU learner", "8,192")]:
            assert f"| {robot} | {way} | {n} |" in text
    assert "| 4 | 8,192 | 104 | 1.03 |" in text
    assert "| warp | 8,192 | 1,000 | 5.00 | 1,000,000 | yes |" in text
    for robot in gpu.ROBOTS:
        assert f"at 8,192 worlds of {robot}: 0.30 (wanted: at most 0.30)" in text
    assert f"CPU learner, 2 threads, on a machine of {gpu.processors()} cores: 1.0 (wanted: at least 10)" in text
    assert "Left out" not in text

    def full(self, *arguments):
        raise RuntimeError("CUDA out of memory\nTried to allocate")

    monkeypatch.setattr(gpu.Bench, "speed", full)
    gpu.Bench("cpu", 1.0, [256], 1e3).run()
    assert {line["why"] for line in said(capsys) if "left_out" in line} == {"CUDA out of memory"}

    gpu.Bench("cpu", 0.0, [256], 1e3).run()
    late = said(capsys)
    assert {line["why"] for line in late} == {"time"}
    text = "\n".join(gpu.tables(late))
    assert "nothing was measured" in text
    assert "- race, batch, GPU learner (time)" in text


def test_what_is_over_one_objective_is_left_empty_without_it(gpu):
    rows = [[2, 8, 120.0, None], [1, 8, 100.0, None], [4, 8, 130.0, None]]
    found = [{"table": gpu.COST, "row": row} for row in rows]
    text = "\n".join(gpu.tables(found))
    assert "| 2 | 8 | 120 | 1.20 |" in text
    assert "m = 4 over one of m = 1: 1.30" in text
    for row in rows:
        row[-1] = None
    text = "\n".join(gpu.tables([line for line in found if line["row"][0] > 1]))
    assert "| 4 | 8 | 130 |  |" in text
    assert "over one of" not in text


def test_a_race_leaves_the_others_their_share(gpu, capsys, monkeypatch):
    monkeypatch.setattr(gpu.Bench, "speed", lambda self, robot, way, n: [])
    monkeypatch.setattr(gpu.Bench, "update_of", lambda self, m, n: [])

    def as_long_as_it_may(self, way, n, shares):
        self._start -= self._left() / shares
        return [way]

    monkeypatch.setattr(gpu.Bench, "race", as_long_as_it_may)
    monkeypatch.setattr(gpu.Bench, "_compile", lambda self, *robots: None)
    gpu.Bench("cpu", 3_600.0, [256, 8_192], 1e3).run()
    raced = [line["row"][0] for line in said(capsys) if line.get("table") == gpu.RACE]
    assert raced == ["warp", gpu.HOST_LEARNER, gpu.GPU_LEARNER]


def test_a_process_that_takes_too_long_is_ended(gpu):
    row = json.dumps({"table": gpu.COST, "row": [1, 2, 3.0, None]})
    found = gpu.watched([sys.executable, "-c", f"import time; print('''{row}''', flush=True); time.sleep(60)"], 3.0)
    assert found == [json.loads(row), {"left_out": "what came after the last row", "why": "the time was over"}]
    found = gpu.watched([sys.executable, "-c", f"print('''{row}'''); raise SystemExit(3)"], 30.0)
    assert found[1]["why"] == "the process ended with code 3"


@needs_warp
def test_without_a_gpu_it_says_so_in_a_line(gpu, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "CUDA device" in err
