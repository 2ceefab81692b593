"""The examples in `examples/custom`: at most 60 lines of code each, they run, follow DiBS, and learn where that is cheap."""

import ast

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import Env, spaces
from scripts import ROOT, load

from dibs_rl import DiBS
from dibs_rl.agents import DiBSPPO

FOLDER = ROOT / "examples" / "custom"
FILES = sorted(path.stem for path in FOLDER.glob("*.py"))


class TwoTargets(Env):
    """Two numbers to be hit by the action, one for each reward, in units that have nothing in common. Both can be had."""

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    reward_space = spaces.Box(-np.inf, 0.0, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action):
        self.t += 1
        misses = np.square(action - np.array([0.5, -0.5]))
        obs = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return obs, (-misses * [1.0, 1e6]).astype(np.float32), False, self.t == 5, {}


def lines_of_code(source):
    """Lines that are neither blank nor comment nor docstring."""
    lines = {number for number, line in enumerate(source.splitlines(), 1) if line.strip() and not line.strip().startswith("#")}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines -= set(range(node.lineno, node.end_lineno + 1))
    return len(lines)


@pytest.mark.parametrize("name", FILES)
def test_at_most_sixty_lines(name):
    assert lines_of_code((FOLDER / f"{name}.py").read_text()) <= 60


def bisector(rows):
    total = torch.nn.functional.normalize(rows.double(), dim=1).sum(0)
    return total / total.norm()


def watch_backward(monkeypatch, module):
    """Checks each step of an example: what `combined_backward` leaves is the bisector of the losses' own gradients."""
    real, cosines = module.combined_backward, []

    def watched(losses, params, *args, **kwargs):
        params = list(params)
        grads = [torch.autograd.grad(loss, params, retain_graph=True, allow_unused=True) for loss in losses]
        rows = torch.stack(
            [
                torch.cat(
                    [torch.zeros_like(p).flatten() if g is None else g.flatten() for p, g in zip(params, row, strict=True)]
                )
                for row in grads
            ]
        )
        record = real(losses, params, *args, **kwargs)
        found = torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in params])
        cosines.append(torch.dot(found.double() / found.double().norm(), bisector(rows)).item())
        return record

    monkeypatch.setattr(module, "combined_backward", watched)
    return cosines


def assert_both_improve(episodes, by=0.8, count=60):
    """What is missed of each target, in the mean over the last episodes, is at most this part of what it was at first."""
    returns = np.stack([[episode["return/reward_0"], episode["return/reward_1"]] for episode in episodes])
    missed = -returns[:count].mean(axis=0), -returns[-count:].mean(axis=0)
    assert (missed[1] < by * missed[0]).all(), missed


def test_own_algorithm(monkeypatch):
    module = load("examples/custom/own_algorithm.py")
    cosines = watch_backward(monkeypatch, module)
    model = module.main(TwoTargets, steps=2_400, n_steps=20, learning_rate=2e-2, stats_window_size=1_000)
    assert len(cosines) == 2_400 // 80
    assert min(cosines) > 1 - 1e-5
    assert_both_improve(model.ep_info_buffer)


def test_trpo(monkeypatch):
    """TRPO's own gradient, on the advantages that DiBS's weights have made, is along DiBS's direction."""
    module, jacobians, cosines = load("examples/custom/trpo.py"), [], []
    real_jacobian, real_gradient = module.objective_jacobian, module.TRPO._compute_actor_grad

    def jacobian(*args):
        jacobians.append(real_jacobian(*args))
        return jacobians[-1]

    def gradient(self, *args):
        answer = real_gradient(self, *args)
        cosines.append(torch.cosine_similarity(answer[1], DiBS()(jacobians[-1]), dim=0).item())
        return answer

    monkeypatch.setattr(module, "objective_jacobian", jacobian)
    monkeypatch.setattr(module.TRPO, "_compute_actor_grad", gradient)
    model = module.main(TwoTargets, steps=2_400, n_steps=20, batch_size=80, stats_window_size=1_000)
    assert len(cosines) == 2_400 // 80
    assert min(cosines) > 1 - 1e-4
    assert_both_improve(model.ep_info_buffer)


def test_torchjd_mtl():
    """Both errors fall, and the cost's unit changes nothing: neither the trunk nor the errors."""
    module = load("examples/custom/torchjd_mtl.py")
    _, first = module.main(steps=1)
    trunk, last = module.main(steps=150)
    assert last[0] < 0.3 * first[0]
    assert last[1] < 0.7 * first[1]
    scaled, errors = module.main(steps=150, cost_unit=2.0**20)
    assert errors == pytest.approx([last[0], last[1] * 2.0**20], rel=1e-4)
    for a, b in zip(trunk.parameters(), scaled.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


def test_reward_terms():
    """The two objectives add up to the reward of the plain environment, step by step; the learner counts them by name."""
    module = load("examples/custom/reward_terms.py")
    plain, terms = gymnasium.make("HalfCheetah-v5"), module.cheetah()
    plain.reset(seed=0)
    terms.reset(seed=0)
    for action in np.random.default_rng(0).uniform(-1, 1, (20, 6)).astype(np.float32):
        assert terms.step(action)[1].sum() == pytest.approx(plain.step(action)[1], rel=1e-5, abs=1e-6)
    model = module.main(steps=2_048, worlds=2, n_steps=512, batch_size=128, n_epochs=2)
    assert model.objectives == ("forward", "energy")
    assert len(model.ep_info_buffer) == 2
    assert all(-0.1 * 6 * 1_000 <= episode["r"][1] < 0 for episode in model.ep_info_buffer)


def test_minecart(tmp_path):
    model, callback = load("examples/custom/minecart.py").main(
        steps=1_024, worlds=4, eval_freq=128, episodes=4, folder=tmp_path, n_steps=64, batch_size=64, n_epochs=2
    )
    assert model.objectives == ("ore_1", "ore_2", "fuel")
    assert len(callback.evaluations) == 2
    assert callback.best_mean_reward >= 0
    kept = DiBSPPO.load(tmp_path / "best_model.zip", device="cpu")
    assert kept.action_space.n == 6
    assert np.load(tmp_path / "evaluations.npz")["results"].shape == (2, 4, 3)


def test_single_file_ppo(monkeypatch):
    module = load("examples/custom/single_file_ppo.py")
    cosines = watch_backward(monkeypatch, module)
    history = module.main(TwoTargets, worlds=4, rollouts=8, steps=30, batch=60, lr=5e-3)
    assert len(cosines) == 8 * 10 * 2
    assert min(cosines) > 1 - 1e-5
    missed = -np.array([mean for mean, _ in history])
    assert (missed[-1] < 0.8 * missed[0]).all()
    assert history[-1][1].keys() >= {"share/reward_0", "conflict_fraction"}
