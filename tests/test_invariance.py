"""The promise, end to end: multiply any objective's reward by a power of two, and training does not change in any bit.

What is compared is all that a training leaves behind: every action on the way, the episodes' returns, the last update's log,
and the saved model's networks and optimisers. Only PopArt's mean and standard deviation may differ, by exactly that factor.
A learner joins by a line in `LEARNERS`, a way of stepping environments by one in `HOSTS`.
"""

import io
import re
import runpy
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import mo_gymnasium
import pytest
import torch
from fake_envs import PointEnv
from fake_simulators import ManagedSimulator
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mo_gymnasium.wrappers import LinearReward
from stable_baselines3.common.vec_env import DummyVecEnv

from dibs_rl.agents import DiBSA2C, DiBSPPO, DiBSSAC
from dibs_rl.agents.side_by_side import torch_threads
from dibs_rl.envs import RewardManagerEnv, as_vector_env, make, transform_rewards
from dibs_rl.envs.warp_backend import warp_installed
from dibs_rl.popart import PopArt

WORLDS = 4


class Learner(NamedTuple):
    """A learner and settings under which it updates every `period` steps of the worlds."""

    kind: Any
    period: int
    settings: dict[str, Any]
    continuous: bool = False  # whether it has continuous actions alone


_PPO = {"n_steps": 16, "batch_size": 32, "n_epochs": 2}
_SAC = {"train_freq": 4, "gradient_steps": 4, "learning_starts": 8, "batch_size": 32, "policy_kwargs": {"net_arch": [16, 16]}}
LEARNERS = {
    "ppo": Learner(DiBSPPO, 16, _PPO),
    "ppo-by-minibatch": Learner(DiBSPPO, 16, {**_PPO, "bargain_every": "minibatch"}),
    "ppo-by-rollout": Learner(DiBSPPO, 16, {**_PPO, "bargain_every": "rollout"}),
    "fading": Learner(DiBSPPO, 16, {**_PPO, "fading": True}),
    "a2c": Learner(DiBSA2C, 8, {"n_steps": 8}),
    "sac": Learner(DiBSSAC, 4, _SAC, continuous=True),
}
SCALE_FREE = ("dibs", "norm-sum", "mgda", "imtl-g", "aligned-mtl")  # some of them; weighted-sum is not, which is its point

HOSTS = {
    "batch": lambda: make("mo-hopper", num_envs=WORLDS, backend="batch", seed=0),
    "gym": lambda: make("minecart-deterministic", num_envs=WORLDS, backend="gym", seed=0),  # two of three rewards are sparse
    "torch": lambda: make("minecart-deterministic", num_envs=WORLDS, backend="torch", seed=0),
    "simulator": lambda: RewardManagerEnv(ManagedSimulator(final="final_obs")),
    "workers": lambda: make("deep-sea-treasure", num_envs=WORLDS, backend="gym", workers=2, seed=0),
    "warp": lambda: make("mo-hopper", num_envs=WORLDS, backend="warp", seed=0),
    "sb3": lambda: as_vector_env(DummyVecEnv([lambda: LinearReward(mo_gymnasium.make("mo-reacher-v5"))] * WORLDS)),
}


@pytest.fixture(autouse=True)
def _one_thread():
    with torch_threads(1):  # short operations; the results do not depend on it
        yield


class Trained(NamedTuple):
    """What a training leaves behind."""

    actions: list[torch.Tensor]
    returns: torch.Tensor
    log: dict[str, float]
    saved: dict[str, torch.Tensor]
    units: dict[str, torch.Tensor]


def train(learner, env, factors, *, updates, **more):
    """Trains with each objective's reward multiplied by a factor; without factors, with the rewards as they are."""
    transform_rewards(env, ",".join(f"{name}={factor!r}" for name, factor in zip(env.objectives, factors, strict=False)))
    actions, step = [], env.step_tensors
    env.step_tensors = lambda given: (actions.append(given.clone()), step(given))[1]
    try:
        model = learner.kind("MlpPolicy", env, seed=0, device="cpu", **{**learner.settings, **more})
        model.learn(updates * learner.period * env.num_envs)
    finally:
        env.close()
    log = {key: value for key, value in model.logger.name_to_value.items() if not key.startswith("time/")}
    heads = [name for name, part in model.policy.named_modules() if isinstance(part, PopArt)]
    units = {f"policy.pth/{head}.{moment}" for head in heads for moment in ("mean", "std")}
    saved = saved_tensors(model)
    assert units
    assert units <= saved.keys()
    returns = torch.tensor([episode["r"].tolist() for episode in model.ep_info_buffer], dtype=torch.float64)
    return Trained(
        actions, returns, log, {key: saved[key] for key in saved.keys() - units}, {key: saved[key] for key in units}
    )


def saved_tensors(model):
    """Every tensor of the saved model, by the name of its file and its place in it."""
    file = io.BytesIO()
    model.save(file)
    with zipfile.ZipFile(file) as archive:
        parts = [name for name in archive.namelist() if name.endswith(".pth")]
        return {
            f"{name}/{key}": value
            for name in parts
            for key, value in flat(torch.load(io.BytesIO(archive.read(name)), weights_only=True))
        }


def flat(tree):
    """Leaves of nested dictionaries and lists, by their path."""
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list | tuple) else None
    if pairs is None:
        yield "", tree.detach() if isinstance(tree, torch.Tensor) else torch.tensor(tree if tree is not None else torch.nan)
        return
    for key, part in pairs:
        for path, leaf in flat(part):
            yield f"{key}.{path}".rstrip("."), leaf


def assert_same_but_for_units(plain, scaled, factors):
    """Every bit the same, but for PopArt's moments, which are in the rewards' units to the last bit."""
    assert len(plain.actions) == len(scaled.actions) > 0
    for step, (a, b) in enumerate(zip(plain.actions, scaled.actions, strict=True)):
        assert same(a, b), f"the actions of step {step}"
    assert same(plain.returns, scaled.returns)
    assert plain.log.keys() == scaled.log.keys()
    for key, value in plain.log.items():
        assert same(torch.tensor(value), torch.tensor(scaled.log[key])), key
    assert plain.saved.keys() == scaled.saved.keys()
    for key, value in plain.saved.items():
        assert same(value, scaled.saved[key]), key
    for key, value in plain.units.items():
        assert torch.equal(value * torch.tensor(factors, dtype=torch.float64), scaled.units[key]), key


def same(a, b):
    """Equal in every bit."""
    return (a.dtype, a.shape, a.numpy().tobytes()) == (b.dtype, b.shape, b.numpy().tobytes())


@pytest.mark.parametrize(
    ("learner", "host", "combiner"),
    [*((learner, "batch", "dibs") for learner in LEARNERS), *(("ppo", host, "dibs") for host in HOSTS if host != "batch")]
    + [(learner, "batch", "norm-sum") for learner in LEARNERS if not learner.startswith("ppo-")],
)
def test_powers_of_two_change_no_bit_in_twenty_updates(learner, host, combiner):
    """Every learner on MuJoCo's batches, and every other way of stepping environments with one of them."""
    if host == "warp" and not warp_installed():
        pytest.skip("needs MuJoCo Warp: pip install 'dibs-rl[gpu]'")
    plain_env, scaled_env = HOSTS[host](), HOSTS[host]()
    m = plain_env.reward_dim
    factors = [2.0**k for k in (40, -40, 7, -1)[:m]]
    more = {"updates": 20, "combiner": combiner, "preference": [1.0, 3.0, 0.5, 2.0][:m]}
    plain = train(LEARNERS[learner], plain_env, [1.0] * m, **more)
    assert_same_but_for_units(plain, train(LEARNERS[learner], scaled_env, factors, **more), factors)


def points(**kwargs):
    return as_vector_env([lambda: PointEnv(**kwargs)] * WORLDS)


@pytest.mark.parametrize("learner", LEARNERS)
def test_an_environment_may_scale_its_rewards_itself(learner):
    """Without a transform; the returns of episodes are then in its units as well."""
    factors = [2.0**40, 2.0**-40, 2.0**7]
    plain, scaled = (train(LEARNERS[learner], points(scales=scales), [], updates=6) for scales in ([1.0] * 3, factors))
    scaled = scaled._replace(returns=scaled.returns / torch.tensor(factors, dtype=torch.float64))
    assert_same_but_for_units(plain, scaled, factors)


def tiny_env(kind, action, scales, length):
    """An environment of the tests' own, with rewards of any size, or one of MO-Gymnasium's."""
    return points(action=action, scales=scales, length=length) if kind == "point" else make(kind, num_envs=WORLDS, seed=0)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    learner=st.sampled_from(sorted(LEARNERS)),
    kind=st.sampled_from(["point", "point", "point", "deep-sea-treasure", "resource-gathering", "mo-swimmer"]),
    action=st.sampled_from(["box", "discrete", "multidiscrete", "multibinary"]),
    scales=st.lists(st.sampled_from([1e-8, 1e-3, 0.3, 1.0, 5.0, 1e6, 0.0]), min_size=1, max_size=3),
    length=st.integers(1, 40),
    exponents=st.tuples(*[st.integers(-40, 40)] * 3),
    combiner=st.sampled_from(SCALE_FREE),
)
@example("ppo", "point", "box", [1e-8, 1e6, 0.0], 7, (-40, 40, -40), "dibs")
def test_powers_of_two_change_no_bit_whatever_is_trained(learner, kind, action, scales, length, exponents, combiner):
    if LEARNERS[learner].continuous:
        kind, action = ("mo-swimmer" if kind == "mo-swimmer" else "point"), "box"
    plain_env, scaled_env = (tiny_env(kind, action, scales, length) for _ in range(2))
    m = plain_env.reward_dim
    factors = [2.0**k for k in exponents[:m]]
    plain = train(LEARNERS[learner], plain_env, [1.0] * m, updates=3, combiner=combiner)
    assert_same_but_for_units(plain, train(LEARNERS[learner], scaled_env, factors, updates=3, combiner=combiner), factors)


@pytest.mark.parametrize("exponents", [(6, -6, 3), (-5, 1, -1), (-4, -3, 5), (-2, 2, 4)])
@pytest.mark.parametrize("learner", [name for name in LEARNERS if not name.startswith("ppo-")])
def test_powers_of_ten_change_rounding_alone(learner, exponents):
    """After two updates, in which parameters move by about 1e-3, each is the same to 1e-6 (6e-8 when this was written)."""
    plain, scaled = (
        train(LEARNERS[learner], HOSTS["batch"](), factors, updates=2) for factors in ([1.0] * 3, [10.0**k for k in exponents])
    )
    for key, value in plain.saved.items():
        if key.startswith("policy.pth/"):
            torch.testing.assert_close(scaled.saved[key], value, rtol=1e-6, atol=1e-6, msg=key)


def test_a_weighted_sum_is_not_invariant():
    """The control: what users have today does change."""
    plain, scaled = (
        train(LEARNERS["ppo"], HOSTS["batch"](), factors, updates=2, combiner="weighted-sum")
        for factors in ([1.0] * 3, [1.0, 1024.0, 1.0])
    )
    assert any(not torch.equal(a, b) for a, b in zip(plain.actions, scaled.actions, strict=True))


EXAMPLE = ["--env", "mo-swimmer", "--num-envs", "4", "--n-steps", "16", "--batch-size", "64", "--steps", "192"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--transform", "energy=1024"], "identical in every bit"),
        (["--transform", "energy=1e3"], r"differ by up to [\d.]+e-0[78]"),
        (["--transform", "energy=1e3", "--combiner", "weighted-sum"], r"differ by up to [\d.]+e-0[123]"),
    ],
)
def test_the_example_says_what_differs(flags, said, capsys):
    example = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "invariance.py"))
    example["main"]([*EXAMPLE, *flags])
    assert re.search(said, capsys.readouterr().out)
