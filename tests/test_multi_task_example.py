"""`examples/multi_task.py`, cut down."""

import numpy as np
import torch
from scripts import load


def test_it_runs_and_the_thousand_means_nothing_to_dibs(capsys, monkeypatch):
    """A table with a row an arm; with 1024 for the thousand, DiBS ends with the very policy that it has with 1."""
    module = load("examples/multi_task.py")
    monkeypatch.setattr(module, "WORLDS", 3)
    monkeypatch.setattr(module, "EPISODES", 1)
    found = module.main(steps=600)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["arm", "dibs", "norm-sum", "weighted-sum"]
    assert all(-2_500 < mean < 0 for arm in found.values() for mean in arm.values())
    policies = []
    for factor in (1, 1_024):
        monkeypatch.setattr(module, "THOUSAND", factor)
        policies.append(module.trained("dibs", 1_200, seed=0).policy)
    for name, parameter in policies[0].named_parameters():
        assert torch.equal(parameter, policies[1].get_parameter(name)), name


def test_the_reversed_pendulum_is_the_pendulum_with_the_other_torque():
    tasks = load("examples/multi_task.py").TASKS
    plain, other = tasks["moon"](), tasks["reversed"]()
    other.unwrapped.g = plain.unwrapped.g
    (a, _), (b, _) = plain.reset(seed=0), other.reset(seed=0)
    assert np.array_equal(a, b)
    for torque in (1.5, -0.3):
        a, b = plain.step(np.array([torque]))[0], other.step(np.array([-torque]))[0]
        assert np.array_equal(a, b)
