"""Nothing waits for a GPU while it steps and learns: checked on the processor, which is told to do as a GPU would.

`sync.waits` is the one place that tells the two apart, so a test that makes it say True runs what a GPU runs, on real numbers;
they must be those of the processor. What of this a real GPU must confirm, by torch's own debug mode, is skipped without one.
"""

import warnings

import numpy as np
import pytest
import torch
from fake_envs import point_envs
from fake_simulators import LENGTHS, Simulator
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback, StopTrainingOnMaxEpisodes
from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise
from sync_guard import HostSync, guard, guarded_parts, no_sync
from torch import nn
from torch.testing import assert_close

from dibs_rl import DiBS, combined_backward, dibs_weights, sync
from dibs_rl.agents import DiBSA2C, DiBSPPO, DiBSSAC
from dibs_rl.agents.adam import quick_step
from dibs_rl.agents.persistence import Snapshot
from dibs_rl.envs import TensorVecEnvAdapter, make
from dibs_rl.envs.batch_backend import batch_installed
from dibs_rl.envs.warp_backend import warp_installed
from dibs_rl.errors import NonFiniteError
from dibs_rl.lazy import LazyArray, as_array
from dibs_rl.popart import Moments, update_moments
from dibs_rl.returns import explained_variances, normalise_columns

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
N, PERIOD = len(LENGTHS), 16


class BranchlessSimulator(Simulator):
    """As it would be written for a GPU: no look at which episodes ended."""

    def __init__(self, device="cpu"):
        super().__init__()
        self.device = torch.device(device)
        self.obs = self.obs.to(device)
        self._lengths, self._second = torch.tensor(LENGTHS, device=device), torch.arange(N, device=device) == 1

    def move(self, actions):
        self.obs[:, 0] += 1
        self.obs[:, 1] += actions[:, 0]
        over = self.obs[:, 0] == self._lengths
        return torch.stack([self.obs[:, 1], -(actions[:, 0] ** 2)], dim=1), over & self._second, over & ~self._second

    def _begin(self, done):
        self.obs[:, :2].masked_fill_(done.to(self.device).unsqueeze(1), 0.0)


class DiscreteSimulator(BranchlessSimulator):
    """The same with a choice of two actions."""

    single_action_space = spaces.Discrete(2)

    def move(self, actions):
        return super().move(2.0 * actions.unsqueeze(1) - 1)


class SplitTasks(TensorVecEnvAdapter):
    """The first objective is of the first half of the worlds alone."""

    def __init__(self, simulator):
        super().__init__(simulator)
        self.active = torch.ones(N, 2, dtype=torch.bool, device=self.device)
        self.active[N // 2 :, 0] = False


def anchors(kind, adapter, simulator):
    """A policy that each objective would like best, of a learner of this kind."""
    return {name: kind("MlpPolicy", adapter(simulator()), seed=i).policy for i, name in enumerate(simulator.objectives)}


PPO = {"n_steps": PERIOD, "batch_size": 16, "n_epochs": 3, "learning_rate": 3e-3}
UPDATES = 6  # of SAC, behind each rollout
SAC = {"train_freq": PERIOD, "gradient_steps": UPDATES, "learning_starts": PERIOD * N - 1, "batch_size": 32}
SAC["policy_kwargs"] = {"net_arch": [16, 16]}
ADAPTED, SIMULATOR = TensorVecEnvAdapter, BranchlessSimulator
ON_POLICY = {
    "perceptrons": (DiBSPPO, ADAPTED, SIMULATOR, PPO),
    "every-minibatch": (DiBSPPO, ADAPTED, SIMULATOR, {**PPO, "bargain_every": "minibatch", "ent_coef": 0.01}),
    "fading": (DiBSPPO, ADAPTED, SIMULATOR, {**PPO, "fading": True}),
    "preference": (DiBSPPO, ADAPTED, SIMULATOR, {**PPO, "preference": [3.0, 1.0], "bargain_every": "rollout"}),
    "choices": (DiBSPPO, ADAPTED, DiscreteSimulator, PPO),
    "autograd": (DiBSPPO, ADAPTED, SIMULATOR, {**PPO, "policy_kwargs": {"activation_fn": nn.SiLU}}),
    "normalised-sum": (DiBSPPO, ADAPTED, SIMULATOR, {**PPO, "combiner": "norm-sum", "preference": [3.0, 1.0]}),
    "tasks": (DiBSPPO, SplitTasks, SIMULATOR, PPO),
    "tasks-every-minibatch": (DiBSPPO, SplitTasks, SIMULATOR, {**PPO, "bargain_every": "minibatch"}),
    "sde": (DiBSPPO, ADAPTED, SIMULATOR, {**PPO, "use_sde": True, "sde_sample_freq": 4}),
    "anchored": (DiBSPPO, ADAPTED, SIMULATOR, {**PPO, "anchors": anchors}),
    "anchored-choices": (DiBSPPO, ADAPTED, DiscreteSimulator, {**PPO, "anchors": anchors}),
    "a2c": (DiBSA2C, ADAPTED, SIMULATOR, {"n_steps": PERIOD}),
}
OFF_POLICY = {
    "sac": (DiBSSAC, ADAPTED, SIMULATOR, SAC),
    "sac-sde": (DiBSSAC, ADAPTED, SIMULATOR, {**SAC, "use_sde": True, "sde_sample_freq": 4}),
    "sac-preference": (DiBSSAC, ADAPTED, SIMULATOR, {**SAC, "preference": [3.0, 1.0]}),
    "sac-weighted-sum": (DiBSSAC, ADAPTED, SIMULATOR, {**SAC, "combiner": "weighted-sum", "preference": [3.0, 1.0]}),
    "sac-normalised-sum": (DiBSSAC, ADAPTED, SIMULATOR, {**SAC, "combiner": "norm-sum"}),
    "sac-anchored": (DiBSSAC, ADAPTED, SIMULATOR, {**SAC, "anchors": anchors}),
    "sac-temperature": (DiBSSAC, ADAPTED, SIMULATOR, {**SAC, "ent_coef": 0.2}),
    "sac-tasks": (DiBSSAC, SplitTasks, SIMULATOR, SAC),
}
CASES = ON_POLICY | OFF_POLICY


ORDER = torch.from_numpy(np.random.RandomState(0).permutation(np.arange(PERIOD * N)))


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(sync, "waits", lambda device: True)


@pytest.fixture(autouse=True)
def _one_order(monkeypatch):
    """Minibatches are dealt out the same way on both, whose random permutations differ."""
    monkeypatch.setattr(np.random, "permutation", lambda n: np.random.RandomState(0).permutation(np.arange(n)))
    own = torch.randperm
    monkeypatch.setattr(torch, "randperm", lambda n, device: ORDER if device.type == "cpu" else own(n, device=device))


def learner(kind, adapter, simulator, settings, device="cpu"):
    settings = {key: value(kind, adapter, simulator) if value is anchors else value for key, value in settings.items()}
    return kind("MlpPolicy", adapter(simulator(device)), seed=0, device=device, **settings)


def learnt(model, guarded=False):
    """Parameters, buffers, last log, and the episodes; what is made once is made in the first rollout and update."""
    model.learn(PERIOD * N, log_interval=None)
    counts = guard(model) if guarded else {}
    model.learn(2 * PERIOD * N, log_interval=None, reset_num_timesteps=False)
    off_policy = isinstance(model, DiBSSAC)
    if off_policy:
        model._record_updates(model._log)
    assert not guarded or tuple(counts.values()) == ((2 * PERIOD, 2 * UPDATES) if off_policy else (2, 2))
    log = {key: value for key, value in model.logger.name_to_value.items() if not key.startswith("time/")}
    state = [*model.policy.parameters(), *model.policy.buffers()]
    state += [model.log_ent_coef] if off_policy and model.log_ent_coef is not None else []
    endings = [(episode["r"].tolist(), episode["l"]) for episode in model.ep_info_buffer]
    return [part.detach().clone() for part in state], log, endings


SYNCS = {
    "item": lambda x: x[0].item(),
    "branch": lambda x: 1 if x[0] > 0 else 2,
    "any": lambda x: bool((x > 0).any()),
    "mask": lambda x: x[x > 0],
    "masked write": lambda x: x.__setitem__(x > 0, x[:1]),
    "nonzero": lambda x: x.nonzero(),
    "tolist": lambda x: x.tolist(),
    "numpy": lambda x: x.numpy(),
    "np.asarray": lambda x: np.asarray(x),
    "cpu": lambda x: x.cpu(),
    "equal": lambda x: torch.equal(x, x),
    "unique": lambda x: x.unique(),
    "multinomial": lambda x: torch.multinomial(x, 1),
    "normal": lambda x: torch.normal(x, x),
    "validated distribution": lambda x: torch.distributions.Normal(x, x, validate_args=True),  # torch._dynamo sets it off
    "host's number": lambda x: torch.tensor(1.0),
    "host's array": lambda x: torch.as_tensor(np.ones(2)),
}


@pytest.mark.parametrize("look", SYNCS)
def test_the_guard_notices(look):
    x = torch.ones(3)
    with no_sync(), pytest.raises(HostSync):
        SYNCS[look](x)


@pytest.mark.parametrize("case", CASES)
def test_no_step_and_no_update_waits_and_the_numbers_are_the_processors(case, request):
    expected, expected_log, expected_endings = learnt(learner(*CASES[case]))
    request.getfixturevalue("as_on_a_gpu")
    found, log, endings = learnt(learner(*CASES[case]), guarded=True)
    assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert log.keys() == expected_log.keys()
    assert log == pytest.approx(expected_log, rel=1e-3, abs=1e-4, nan_ok=True)
    assert len(endings) > 20
    assert [length for _, length in endings] == [length for _, length in expected_endings]
    assert_close(torch.tensor([r for r, _ in endings]), torch.tensor([r for r, _ in expected_endings]), equal_nan=True)


@pytest.mark.parametrize("target_kl", [1e-9, 2e-4])  # stops at the second minibatch, and somewhere on the way
@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD])
def test_a_stop_is_a_mask(optimizer, target_kl, request):
    """A policy that has moved too far, and its critic, are left as they are; for SGD, whose step has no mask, with a look."""
    settings = {**PPO, "target_kl": target_kl, "bargain_every": "rollout", "policy_kwargs": {"optimizer_class": optimizer}}
    settings["learning_rate"] = 3e-3 if optimizer is torch.optim.Adam else 0.5
    case = (*CASES["perceptrons"][:3], settings)
    stopped = learner(*case)
    expected, expected_log, _ = learnt(stopped)
    assert stopped._n_updates < 9  # of three rollouts with three epochs each
    request.getfixturevalue("as_on_a_gpu")
    model = learner(*case)
    found, log, _ = learnt(model, guarded=optimizer is torch.optim.Adam)
    assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert log.pop("train/n_updates") == 9  # all were gone through
    expected_log.pop("train/n_updates")
    assert log == pytest.approx(expected_log, rel=1e-3, abs=1e-4, nan_ok=True)


@pytest.mark.parametrize("kind", ["adam", "amsgrad", "sgd"])
def test_a_masked_step_moves_nothing(kind):
    def run(masks):
        weight = nn.Parameter(torch.linspace(-1, 1, 6))
        adam = {"lr": 0.1, "fused": True, "amsgrad": kind == "amsgrad"}
        optimizer = torch.optim.SGD([weight], 0.1) if kind == "sgd" else torch.optim.Adam([weight], **adam)
        weight.grad = torch.empty(6)
        step = quick_step(optimizer)
        for i, mask in enumerate(masks):
            weight.grad.copy_(torch.sin(torch.arange(6.0) + (i if mask is None or not mask else 99)))
            step(mask)
        return weight, optimizer.state_dict()["state"]

    off, on = torch.zeros(()), torch.ones(())
    assert_close(run([off, on, off]), run([None, on, None]), rtol=0, atol=0)
    assert_close(run([off, off, on, on]), run([None, None]), rtol=0, atol=0)


class Asking(BaseCallback):
    """What a callback of SB3's sees of each step."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def _on_step(self):
        dones, infos = self.locals["dones"], self.locals["infos"]
        lengths = {i: (infos[i]["episode"]["l"], infos[i]["TimeLimit.truncated"]) for i in np.flatnonzero(dones).tolist()}
        self.seen.append((np.array(dones).tolist(), int(dones.sum()), (~dones).tolist(), dones[1], len(infos), lengths))
        return True


@pytest.mark.parametrize("case", ["perceptrons", "sac"])
def test_a_callback_that_asks_is_told(case, request):
    def run():
        asking = Asking()
        model = learner(*CASES[case])
        model.learn(2 * PERIOD * N, callback=[asking, StopTrainingOnMaxEpisodes(3)])
        return asking.seen, model.num_timesteps, len(model.ep_info_buffer)

    expected = run()
    request.getfixturevalue("as_on_a_gpu")
    assert run() == expected
    assert len(expected[0]) < 2 * PERIOD  # it was stopped
    assert any(lengths for *_, lengths in expected[0])


def test_an_array_is_brought_over_when_it_is_looked_at(as_on_a_gpu):
    with no_sync():
        lazy = as_array(torch.arange(2) > 0)
        assert len(lazy) == 2
        with pytest.raises(HostSync):
            lazy.any()
    assert lazy.any()
    assert np.sum(lazy) == 1
    assert list(lazy) == [False, True]
    assert (lazy & np.array([True, True])).tolist() == [False, True]
    assert np.asarray(lazy).dtype == bool


def test_what_does_not_count_is_left_out_without_a_look(request):
    """Also for a column of which one sample counts, or none."""
    generator = torch.Generator().manual_seed(0)
    columns = torch.randn(40, 4, generator=generator) * torch.tensor([1.0, 1e-12, 1e12, 1.0])
    residuals = torch.randn(40, 4, generator=generator) * torch.tensor([0.1, 1e-12, 1e11, 1.0])
    active = torch.rand(40, 4, generator=generator) < torch.tensor([0.5, 0.7, 1.0, 0.0])
    active[0, 3] = True
    marked = active, active & (torch.arange(4) != 3)
    old = Moments(torch.zeros(4).double(), torch.tensor([1.0, 0.0, 1.0, 2.0]).double(), torch.ones(()).double())

    def run():
        normalised = [normalise_columns(columns, marks) for marks in marked]
        moments = [update_moments(old, columns, 0.05, marks) for marks in marked]
        return [*normalised, explained_variances(columns, residuals, active)], moments

    expected, moments = run()
    request.getfixturevalue("as_on_a_gpu")
    with no_sync():
        found, found_moments = run()
    assert_close(found, expected, rtol=1e-4, atol=1e-6, equal_nan=True)
    for a, b in zip(found_moments, moments, strict=True):
        assert_close(a, b, rtol=1e-9, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("preference", [None, [1.0, 2.0, 3.0, 4.0]])
def test_a_bargain_is_the_processors(dtype, preference, request):
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(4, 30, generator=generator, dtype=dtype)
    scales = [[1, 1, 1, 1], [1e-12, 1e12, 1, 1e-3], [1, 0, 1, 1], [0, 0, 0, 0], [1e-40, 1, 1, 1]]
    jacobians = [base * torch.tensor(scale, dtype=torch.float64).to(dtype).unsqueeze(1) for scale in scales]
    cosine, distances = torch.corrcoef(base.double()), torch.tensor([1.0, 0.0, 2.0, 0.5], dtype=torch.float64)

    def run():
        combiner, anchored = DiBS(preference=preference), DiBS(preference=preference)
        anchored.distances = distances
        games = [combiner(jacobian) for jacobian in jacobians] + [anchored(jacobian) for jacobian in jacobians]
        return games, (dibs_weights(cosine, steps=9), dibs_weights(cosine, distances=distances))

    expected = run()
    request.getfixturevalue("as_on_a_gpu")
    with no_sync() if preference is None else torch.no_grad():
        found = run()
    assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("anchored", [False, True])
def test_of_a_gradient_that_is_not_finite_comes_no_direction(bad, anchored, request):
    jacobian = torch.randn(3, 10)
    jacobian[1, 4] = bad
    combiner = DiBS()
    combiner.distances = torch.ones(3) if anchored else None
    with pytest.raises(NonFiniteError, match="row 1"):
        combiner(jacobian)
    request.getfixturevalue("as_on_a_gpu")
    with no_sync():
        direction = combiner(jacobian)
    assert direction.isnan().all()
    weight = nn.Parameter(torch.zeros(10))
    with pytest.raises(NonFiniteError, match="loss_1"):  # this one's record is waited for anyway
        combined_backward([row @ weight for row in jacobian], [weight])
    assert weight.grad is None


@pytest.mark.parametrize("case", ["perceptrons", "sac"])
@pytest.mark.parametrize(("broken", "where"), [("reward", 3), ("observation", 4)])
def test_a_number_that_is_not_finite_is_found_after_the_rollout(case, broken, where, as_on_a_gpu):
    class Broken(BranchlessSimulator):
        steps = 0

        def move(self, actions):
            reward, *ends = super().move(actions)
            self.steps += 1
            if self.steps == 4:
                (reward if broken == "reward" else self.obs)[2, -1] = torch.nan
            return reward, *ends

    kind, adapter, _, settings = CASES[case]
    model = learner(kind, adapter, Broken, settings)
    with pytest.raises(NonFiniteError, match=rf"{broken}.*environment 2 .*step {where}"):
        model.learn(PERIOD * N)
    assert kind is DiBSPPO or not len(model.replay_buffer)  # nothing of that rollout is learnt from later


@pytest.mark.parametrize("case", ["perceptrons", "sac"])
def test_a_divergence_is_found_after_the_update(case, as_on_a_gpu):
    model = learner(*CASES[case]).learn(PERIOD * N)
    with torch.no_grad():
        (model.actor.mu if case == "sac" else model.policy.action_net).weight[0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match="diverged"):
        model.train(*[2] * (case == "sac"))


@pytest.mark.parametrize("train_freq", [1, 5])
def test_episodes_are_counted_and_logged_after_each_rollout(train_freq, request):
    """With a rollout of one step, as on the processor; with more, when it is over."""

    def run():
        model = learner(*OFF_POLICY["sac"][:3], {**SAC, "train_freq": train_freq})
        found = []
        model.dump_logs = lambda: found.append((model.num_timesteps, model._episode_num, len(model.ep_info_buffer)))
        model.learn(30 * N, log_interval=3)
        return found, model._episode_num

    expected, episodes = run()
    request.getfixturevalue("as_on_a_gpu")
    logs, found = run()
    assert found == episodes > 20
    assert logs == expected if train_freq == 1 else all(steps % (train_freq * N) == 0 for steps, *_ in logs)


@pytest.mark.parametrize(
    ("worlds", "settings"),
    [(4, {"action_noise": OrnsteinUhlenbeckActionNoise(np.zeros(2), np.ones(2))}), (1, {"train_freq": (2, "episode")})],
)
def test_ends_of_episodes_are_looked_at_where_the_next_step_depends_on_them(worlds, settings, request):
    def run():
        small = {**SAC, "learning_starts": 20, "seed": 0, "device": "cpu", **settings}
        model = DiBSSAC("MlpPolicy", point_envs(worlds, length=7), **small).learn(160)
        return [*model.policy.parameters()], model._episode_num, model._n_updates

    expected, *counts = run()
    request.getfixturevalue("as_on_a_gpu")
    found, *found_counts = run()
    assert found_counts == counts
    assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_temperature_from_the_processor_is_tuned_without_a_look(tmp_path, request):
    learner(*OFF_POLICY["sac"]).learn(PERIOD * N).save(tmp_path / "model.zip")
    request.getfixturevalue("as_on_a_gpu")
    model = DiBSSAC.load(tmp_path / "model.zip", env=ADAPTED(SIMULATOR()), device="cpu")
    (count,) = (state["step"] for state in model.ent_coef_optimizer.state.values())
    learnt(model, guarded=True)
    assert count == 4 * UPDATES  # the same tensor, counted on


@pytest.mark.skipif(not batch_installed(), reason="mujoco.batch came with MuJoCo 3.17")
def test_the_processors_physics_looks_at_nothing_that_it_has_sent():
    """A device without numbers takes the learner's place."""
    env, plain = (make("mo-hopper", 4, backend="batch", device=device, seed=0) for device in ("meta", "cpu"))
    assert env.reset_tensors().device.type == plain.reset_tensors().device.type.replace("cpu", "meta")
    for _ in range(60):
        step, expected = env.step_tensors(torch.ones(4, 3)), plain.step_tensors(torch.ones(4, 3))
        assert all(a.device.type == "meta" and a.shape == b.shape for a, b in zip(step, expected, strict=True))
    assert len(plain.pop_episodes()[1])  # episodes did end
    assert torch.equal(env._physics.qpos, plain._physics.qpos)


@pytest.mark.skipif(not warp_installed(), reason="needs MuJoCo Warp: pip install 'dibs-rl[gpu]'")
def test_training_on_warp_does_not_wait(as_on_a_gpu):
    model = DiBSPPO("MlpPolicy", make("mo-hopper", 4, backend="warp", seed=0), seed=0, device="cpu", **PPO)
    assert learnt(model, guarded=True)[2]


@pytest.mark.parametrize("case", ON_POLICY)
def test_a_copy_to_go_back_to_is_made_without_a_look(case, as_on_a_gpu):
    """And is not touched by what is learnt then."""
    model = learner(*CASES[case]).learn(PERIOD * N)
    before = [part.clone() for part in model.policy.state_dict().values()]
    with no_sync():
        snapshot = Snapshot(model)
    model.learn(PERIOD * N, reset_num_timesteps=False)
    snapshot.put_back()
    assert all(map(torch.equal, model.policy.state_dict().values(), before))
    assert model.num_timesteps == PERIOD * N
    model.learn(PERIOD * N, reset_num_timesteps=False)


def strictly(call):
    """The call, in which torch refuses to wait."""

    def refusing(*args, **kwargs):
        _refuse_to_wait("error")
        try:
            return call(*args, **kwargs)
        finally:
            _refuse_to_wait("default")

    return refusing


def _refuse_to_wait(mode):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype feature", UserWarning)
        torch.cuda.set_sync_debug_mode(mode)


@needs_gpu
@pytest.mark.parametrize("case", CASES)
def test_on_a_gpu_nothing_waits(case):
    """By torch's own account; the first rollout and update make what is made once."""
    model = learner(*CASES[case], device="cuda")
    model.learn(PERIOD * N)
    for name in guarded_parts(model):
        setattr(model, name, strictly(getattr(model, name)))
    if case in ON_POLICY:
        strictly(Snapshot)(model)
    else:
        model.replay_buffer.sample = strictly(model.replay_buffer.sample)
    model.learn(2 * PERIOD * N, reset_num_timesteps=False)
    assert len(model.ep_info_buffer) > 20


@needs_gpu
def test_what_is_sent_to_a_gpu_arrives():
    for part in (torch.randn(1000, 7), torch.arange(9), torch.rand(5) < 0.5):
        sent = sync.send(part, torch.device("cuda"))
        assert sent.is_cuda
        assert torch.equal(sync.read([sent])[0], part)


@pytest.mark.parametrize("values", [[False], [True]])
def test_an_array_of_one_is_as_true_as_what_it_holds(values):
    assert bool(LazyArray(torch.tensor(values))) is values[0]
