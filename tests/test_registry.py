"""The registry: every MO-Gymnasium id is in it, under the right names, and a user's name finds its id."""

import re

import gymnasium as gym
import mo_gymnasium  # noqa: F401  (registers its ids)
import pytest
import torch

from dibs_rl.envs import SPECS, EnvSpec, _choose_backend, make, objective_names, registry, resolve_id
from dibs_rl.errors import UserError

INSTALLED = sorted(env_id for env_id, spec in SPECS.items() if spec.installed)


def test_the_registry_is_mo_gymnasiums_list():
    registered = {env_id for env_id, spec in gym.registry.items() if str(spec.entry_point).startswith("mo_gymnasium.")}
    assert set(SPECS) == registered


def test_every_entry_stands_under_its_own_id():
    assert all(env_id == spec.id for env_id, spec in SPECS.items())


def test_most_of_it_can_be_tried_here():
    # The walk below would be green with nothing installed.
    base = {env_id for env_id, spec in SPECS.items() if not spec.needs}
    assert base <= set(INSTALLED)
    assert len(base) >= 33


@pytest.mark.parametrize("env_id", SPECS)
def test_names_are_fit_for_keys_of_a_log(env_id):
    names = SPECS[env_id].objectives
    assert len(set(names)) == len(names) >= 2
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in names)
    assert all(SPECS[env_id].scales.values())


@pytest.mark.parametrize("env_id", INSTALLED)
def test_one_name_for_each_reward(env_id):
    env = make(env_id, num_envs=1)
    env.reset_tensors()
    action = torch.as_tensor(env.action_space.sample()).unsqueeze(0)
    reward = env.step_tensors(action).reward
    assert reward.shape == (1, len(SPECS[env_id].objectives))
    assert env.objectives == SPECS[env_id].objectives
    env.close()


@pytest.mark.parametrize(
    ("env_id", "action", "nonzero"),
    [
        ("mo-mountaincar-v0", 0, "time reverse"),
        ("mo-mountaincar-v0", 2, "time forward"),
        ("mo-mountaincar-timemove-v0", 0, "time move"),
        ("mo-mountaincar-timemove-v0", 1, "time"),
        ("mo-mountaincar-3d-v0", 1, "time speed"),
        ("mo-mountaincar-timespeed-v0", 1, "time speed"),
        ("deep-sea-treasure-v0", 1, "treasure time"),
        ("deep-sea-treasure-v0", 3, "time"),
        ("mo-lunar-lander-v3", 1, "shaping side_fuel"),
        ("mo-lunar-lander-v3", 2, "shaping main_fuel"),
        ("minecart-v0", 3, "fuel"),
    ],
)
def test_names_stand_in_the_rewards_order(env_id, action, nonzero):
    """The components that one action from the start must and must not touch."""
    if not SPECS[env_id].installed:
        pytest.skip(SPECS[env_id].install)
    env = make(env_id, num_envs=1, seed=0)
    env.reset_tensors()
    (reward,) = env.step_tensors(torch.tensor([action])).reward
    assert [name for name, value in zip(env.objectives, reward, strict=True) if value != 0] == nonzero.split()
    env.close()


@pytest.mark.parametrize("env_id", [env_id for env_id, spec in SPECS.items() if "energy" in spec.objectives])
def test_energy_is_the_reward_that_is_a_square_of_the_action(env_id):
    env = make(env_id, num_envs=1)
    start = torch.as_tensor(env.action_space.high * 0.5).unsqueeze(0)
    rewards = []
    for scale in (0, 1, 2):
        env.reset_tensors(seed=0)
        rewards.append(env.step_tensors(scale * start).reward.squeeze(0).double())
    env.close()
    at_rest, half, full = rewards
    square = torch.isclose(4 * (at_rest - half), at_rest - full, rtol=1e-5, atol=1e-6) & (full < at_rest)
    assert [name for name, is_square in zip(env.objectives, square, strict=True) if is_square] == ["energy"]


def test_a_bare_name_is_its_newest_version():
    assert resolve_id("mo-halfcheetah") == "mo-halfcheetah-v5"
    assert resolve_id("mo-hopper-2d") == "mo-hopper-2d-v4"
    assert resolve_id("minecart") == "minecart-v0"
    assert resolve_id("CartPole") == "CartPole-v1"  # not MO-Gymnasium's, but registered


def test_versions_are_compared_as_numbers():
    assert registry._newest("robot", ["robot-v9", "robot-v10", "robot-v2", "robot-arm-v11"]) == "robot-v10"


@pytest.mark.parametrize("env_id", [*SPECS, "CartPole-v1"])
def test_an_exact_id_is_itself(env_id):
    assert resolve_id(env_id) == env_id


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("mo-halfcheeta", "mo-halfcheetah"),
        ("mo-half-cheetah-v5", "mo-halfcheetah-v5"),
        ("mo-halfcheetah-v6", "mo-halfcheetah-v5"),
        ("halfcheetah", "mo-halfcheetah"),
        ("minecraft", "minecart"),
        ("deep-see-treasure", "deep-sea-treasure"),
        ("mo-lunarlander", "mo-lunar-lander"),
    ],
)
def test_a_typo_gets_the_nearest_names(typo, meant):
    with pytest.raises(UserError, match="Did you mean") as caught:
        resolve_id(typo)
    assert typo in str(caught.value)
    assert meant in str(caught.value).split("Did you mean")[1]
    assert "\n" not in str(caught.value)


def test_a_name_like_no_other_gets_the_list():
    with pytest.raises(UserError, match="'dibs-rl envs' lists them"):
        resolve_id("qqqqqqqq")


@pytest.mark.parametrize("env_id", sorted(set(SPECS) - set(INSTALLED)))
def test_what_is_not_installed_says_why(env_id):
    with pytest.raises(UserError, match=re.escape(SPECS[env_id].install)) as caught:
        make(env_id)
    assert SPECS[env_id].needs in str(caught.value)


def test_a_missing_module_is_named_with_the_way_to_get_it(monkeypatch):
    spec = EnvSpec("mo-moon-v0", {"dust": "1"}, needs="no_such_module", install="pip install 'moon'")
    monkeypatch.setitem(SPECS, "mo-moon-v0", spec)
    assert not spec.installed
    with pytest.raises(UserError, match=r"mo-moon-v0 needs the module no_such_module.*pip install 'moon'"):
        make("mo-moon")


def test_objective_names_fall_back_to_numbers():
    assert objective_names("minecart-v0", 3) == ("ore_1", "ore_2", "fuel")
    assert objective_names("minecart-v0", 2) == ("reward_0", "reward_1")  # made with other arguments than the registry's
    assert objective_names("somebodys-own-v0", 3) == ("reward_0", "reward_1", "reward_2")
    assert objective_names(None, 1) == ("reward_0",)


def test_the_registrys_arguments_are_defaults():
    assert make("water-reservoir-v0", num_envs=1).action_space.is_bounded()
    assert not make("water-reservoir-v0", num_envs=1, normalized_action=False).action_space.is_bounded()


def test_the_note_on_water_reservoirs_actions_is_true():
    space = make("water-reservoir-v0", num_envs=1).action_space
    assert f"[{space.low.item():g}, {space.high.item():g}]" in SPECS["water-reservoir-v0"].note


def test_other_arguments_may_bring_other_rewards():
    env = make("water-reservoir-v0", num_envs=1, nO=3)
    assert env.objectives == ("reward_0", "reward_1", "reward_2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"backend": "warp9"}, "Unknown backend 'warp9'"), ({"num_envs": 0}, "at least one environment; found num_envs=0")],
)
def test_make_refuses_what_it_cannot_do(arguments, message):
    with pytest.raises(UserError, match=message):
        make("deep-sea-treasure-v0", **arguments)


@pytest.mark.parametrize("warp", [True, False])
@pytest.mark.parametrize("batch", [True, False])
def test_auto_takes_what_is_fastest_on_the_device(monkeypatch, warp, batch):
    monkeypatch.setattr("dibs_rl.envs.warp_installed", lambda: warp)
    monkeypatch.setattr("dibs_rl.envs.batch_installed", lambda: batch)
    on_cpu = "batch" if batch else "gym"
    assert _choose_backend("auto", "mo-hopper-v5", [], 64, torch.device("cpu")) == on_cpu
    assert _choose_backend("auto", "mo-hopper-v5", [], 64, torch.device("cuda")) == ("warp" if warp else on_cpu)
    assert _choose_backend("auto", "mo-hopper-v5", ["ctrl_cost_weight"], 64, torch.device("cuda")) == "gym"
    assert _choose_backend("auto", "minecart-v0", [], 64, torch.device("cuda")) == "gym"


def test_without_mujoco_warp_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("dibs_rl.envs.warp_installed", lambda: False)
    with pytest.raises(UserError, match=r"^The warp backend needs MuJoCo Warp \(pip install 'dibs-rl\[gpu\]'\)"):
        make("mo-hopper", num_envs=1, backend="warp")
    with pytest.raises(UserError, match="warp backend does not step minecart-v0"):
        make("minecart", num_envs=1, backend="warp")
