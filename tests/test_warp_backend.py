"""The warp backend on the processor: against the batch backend, against itself uncaptured, and with worlds that go wrong."""

import json

import gymnasium as gym
import numpy as np
import pytest
import torch
import yaml

from dibs_rl.cli.main import main
from dibs_rl.envs import WarpVecEnv, make
from dibs_rl.envs.batch_backend import batch_installed
from dibs_rl.envs.factories import factory_of
from dibs_rl.envs.tasks import TASKS
from dibs_rl.envs.warp_backend import _DeviceNoise, warp_installed
from dibs_rl.errors import UserError

pytestmark = pytest.mark.skipif(not warp_installed(), reason="needs MuJoCo Warp: pip install 'dibs-rl[gpu]'")
needs_batch = pytest.mark.skipif(not batch_installed(), reason="mujoco.batch came with MuJoCo 3.17")

WORLDS, SEED, SUBSTEPS = 8, 7, 50
# Greatest difference in qvel (m/s and rad/s) from MuJoCo's own after 50 substeps of random actions: five times that of today.
TOLERANCES = {
    "mo-halfcheetah-v5": 1e-3,
    "mo-hopper-v5": 5e-5,
    "mo-hopper-2obj-v5": 5e-5,
    "mo-walker2d-v5": 5e-4,
    "mo-ant-v5": 5e-4,
    "mo-ant-2obj-v5": 5e-4,
    "mo-swimmer-v5": 3e-5,
    "mo-humanoid-v5": 2e-4,
    "mo-reacher-v5": 5e-5,
}
ANTS = ["mo-ant-v5", "mo-ant-2obj-v5"]
KINDS = ["mo-halfcheetah-v5", "mo-ant-v5", "mo-humanoid-v5"]  # of fields: none that lag, positions and forces, all


def warp_env(env_id, worlds=WORLDS, seed=SEED, **kwargs):
    return WarpVecEnv(factory_of(env_id)(), TASKS[env_id], worlds, seed=seed, **kwargs)


def random_actions(space, steps, worlds=WORLDS, seed=1):
    draw = np.random.default_rng(seed)
    if isinstance(space, gym.spaces.Discrete):
        return torch.from_numpy(draw.integers(space.n, size=(steps, worlds)))
    return torch.from_numpy(draw.uniform(space.low, space.high, (steps, worlds, *space.shape)).astype(np.float32))


def same(a, b):
    """Equal in every bit."""
    return (a.dtype, a.shape, a.numpy().tobytes()) == (b.dtype, b.shape, b.numpy().tobytes())


def from_the_same_states(env_id, *, height=0.0):
    """Both backends' environments, in the states that the batch backend's episodes start from."""
    warp, batch = warp_env(env_id), make(env_id, WORLDS, backend="batch", seed=SEED, workers=1)
    batch.reset_tensors()
    qpos, qvel = batch._physics.qpos, batch._physics.qvel
    if height:
        qpos[:, 2] += height
        batch._batch.forward(np.arange(WORLDS))
    warp._worlds.reset(torch.ones(WORLDS, dtype=torch.bool), qpos.float(), qvel.float())
    return warp, batch


def play_both(warp, batch):
    """Steps both by the same random actions, on through whatever would end an episode; their velocities."""
    for actions in random_actions(warp.action_space, SUBSTEPS // batch._frame_skip):
        for env in (warp, batch):
            env._advance(actions)
    return warp._physics.qvel.double(), batch._physics.qvel


@needs_batch
@pytest.mark.parametrize("env_id", TASKS)
def test_physics_is_mujocos_to_float32(env_id):
    """Velocities after 50 substeps, and all that follows from them; an ant stays in the air, without contacts."""
    tolerance = TOLERANCES[env_id]
    warp, batch = from_the_same_states(env_id, height=10.0 if env_id in ANTS else 0.0)
    torch.testing.assert_close(warp._observe(), batch._observe(), rtol=1e-5, atol=1e-5)
    found, expected = play_both(warp, batch)
    assert expected.abs().max() > 1  # there was motion
    assert (found - expected).abs().max() < tolerance
    for name in warp._rules.fields:
        given = getattr(batch._physics, name)
        # Forces and inertias are large numbers; an ant in the air feels no contacts.
        assert given.abs().max() > 1e-2 or (env_id, name) in {(ant, "cfrc_ext") for ant in ANTS}
        assert (getattr(warp._physics, name) - given).abs().max() < tolerance * max(1.0, float(given.abs().max())), name
    assert warp.lost_worlds == {"overflow": 0, "unstable": 0}


@needs_batch
@pytest.mark.parametrize("env_id", ANTS)
def test_an_ant_on_the_ground_is_another_task(env_id):
    """The pyramids of friction of its legs' contacts are turned about their normals: it is not float32 that makes this."""
    warp, batch = from_the_same_states(env_id)
    found, expected = play_both(warp, batch)
    assert 0.05 < (found - expected).abs().max() < 20
    assert warp.lost_worlds == {"overflow": 0, "unstable": 0}


@needs_batch
@pytest.mark.parametrize("env_id", TASKS)
def test_tasks_see_the_same_in_equal_states(env_id):
    """Observation, reward and termination on Warp's memory, which holds the batch backend's state rounded to float32."""
    warp, batch = from_the_same_states(env_id)
    task = TASKS[env_id]
    for actions in random_actions(warp.action_space, 20):
        before = task.remember(batch._model, batch._physics)
        batch._advance(actions)
        for name, field in warp._worlds.fields.items():
            if name != "ctrl" or "ctrl" in task.fields:
                field.copy_(getattr(batch._physics, name))
        expected, found = batch._outcome(before, actions), warp._outcome(before.float(), actions)
        torch.testing.assert_close(found[0], expected[0], rtol=1e-6, atol=1e-6)
        # A velocity is the difference of two positions, near each other, over a short time.
        torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=1e-4)
        assert torch.equal(found[2], expected[2])


@pytest.mark.parametrize("env_id", KINDS)
def test_a_reset_touches_no_other_world(env_id):
    """Nor what is hidden in it: it goes on as where there was none."""
    reset, untouched = warp_env(env_id), warp_env(env_id)
    actions = random_actions(reset.action_space, 16)
    for env in (reset, untouched):
        env.reset_tensors()
        for given in actions[:6]:
            env._advance(given)
    ended = torch.zeros(WORLDS, dtype=torch.bool)
    ended[[0, 3]] = True
    reset._start_episodes(ended)
    for given in actions[6:]:
        for name, field in reset._worlds.fields.items():
            assert same(field[~ended], untouched._worlds.fields[name][~ended]), name
            if name in {"qpos", "qvel"}:
                assert not torch.equal(field[ended], untouched._worlds.fields[name][ended])
        for env in (reset, untouched):
            env._advance(given)


@pytest.mark.parametrize("env_id", KINDS)
def test_where_an_episode_starts_nothing_lags(env_id):
    """Every field is that of a world that has always stood there: as a reset of all worlds to the same states leaves it."""
    env, fresh = warp_env(env_id), warp_env(env_id)
    env.reset_tensors()
    for given in random_actions(env.action_space, 6):
        env._advance(given)
    env._start_episodes(torch.ones(WORLDS, dtype=torch.bool))
    fresh._worlds.reset(torch.ones(WORLDS, dtype=torch.bool), env._physics.qpos, env._physics.qvel)
    for name, field in env._worlds.fields.items():
        assert same(field, fresh._worlds.fields[name]), name


@pytest.mark.parametrize("env_id", KINDS)
def test_captured_is_eager_bit_for_bit(env_id, monkeypatch):
    import warp as wp

    captured, eager = warp_env(env_id), warp_env(env_id)

    def launch(work):
        with wp.ScopedDevice("cpu"):
            work()

    monkeypatch.setattr(eager._worlds, "_launch", launch)
    assert same(captured.reset_tensors(), eager.reset_tensors())
    captured._elapsed[2] = eager._elapsed[2] = captured._time_limit - 4  # a reset is between the steps
    for given in random_actions(captured.action_space, 8):
        for a, b in zip(captured.step_tensors(given), eager.step_tensors(given), strict=True):
            assert same(a, b)


BREAKAGES = {
    "a velocity that is not a number": lambda env, given: env._physics.qvel[1].fill_(torch.nan),
    "an infinite position": lambda env, given: env._physics.qpos[1, 0].fill_(torch.inf),
    "a position beyond MuJoCo's bounds": lambda env, given: env._physics.qpos[1, 0].fill_(3e10),  # x, which nobody observes
    "an action that is not a number": lambda env, given: given[1].fill_(torch.nan),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
@pytest.mark.parametrize("env_id", KINDS)
def test_an_unstable_world_starts_anew_and_the_others_do_not_notice(env_id, breakage):
    broken, whole = warp_env(env_id), warp_env(env_id)
    acted_on = broken.reset_tensors()
    assert same(acted_on, whole.reset_tensors())
    others = torch.arange(WORLDS) != 1
    for t, given in enumerate(random_actions(broken.action_space, 12)):
        expected = whole.step_tensors(given)
        if t == 4:
            BREAKAGES[breakage](broken, given)
        step = broken.step_tensors(given)
        for a, b in zip(step, expected, strict=True):
            assert same(a[others], b[others])
            assert a.isfinite().all()
        if t == 4:
            assert step.terminated[1]
            assert not step.truncated[1]
            assert same(step.final_obs[1], acted_on[1])
            assert not step.reward[1].any()
            assert not same(step.obs[1], acted_on[1])
        acted_on = step.obs
    assert broken.lost_worlds == {"overflow": 0, "unstable": 1}
    assert whole.lost_worlds == {"overflow": 0, "unstable": 0}
    with pytest.warns(RuntimeWarning, match=r"lost .*1 by unstable, in 12 steps of 8 worlds"):
        broken.close()
    broken.close()  # once is enough
    whole.close()


def test_a_world_whose_contacts_do_not_fit_starts_anew_and_the_others_do_not_notice():
    env, whole = (warp_env("mo-halfcheetah-v5", max_constraints=room) for room in (16, None))
    for each in (env, whole):
        each.reset_tensors()
        each._physics.qpos[0, 1] -= 0.4  # deep in the floor with all its limbs
        each._physics.qpos[1:, 1] += 5.0  # in the air
    for given in random_actions(env.action_space, 5):
        step, expected = env.step_tensors(given), whole.step_tensors(given)
        for a, b in zip(step, expected, strict=True):
            assert same(a[1:], b[1:])
            assert a.isfinite().all()
        if env._steps == 1:
            assert step.terminated.tolist() == [True] + [False] * (WORLDS - 1)
            assert not step.reward[0].any()
    assert env.lost_worlds == {"overflow": 1, "unstable": 0}
    assert whole.lost_worlds == {"overflow": 0, "unstable": 0}
    with pytest.warns(RuntimeWarning, match="1 by overflow"):
        env.close()


def test_a_long_run_is_warned_about_once(monkeypatch):
    monkeypatch.setattr("dibs_rl.envs.warp_backend._LOOK_EVERY", 2)
    env = warp_env("mo-halfcheetah-v5")
    env.reset_tensors()
    step = torch.zeros(WORLDS, 6)
    env.step_tensors(step * torch.nan)
    with pytest.warns(RuntimeWarning, match="8 by unstable"):
        env.step_tensors(step)
    for _ in range(4):  # warnings are errors
        env.step_tensors(step * torch.nan)
    assert env.lost_worlds["unstable"] == 5 * WORLDS
    env.close()


def test_the_time_limit_cuts_off():
    env = make("mo-reacher-v5", WORLDS, backend="warp", seed=0)
    env.reset_tensors()
    for t, given in enumerate(random_actions(env.action_space, 101), start=1):
        step = env.step_tensors(given)
        assert step.truncated.all() == step.truncated.any() == (t % 50 == 0)
        assert not step.terminated.any()
        assert torch.equal(step.obs, step.final_obs) == (t % 50 != 0)
    assert env.pop_episodes()[1].tolist() == [50] * 2 * WORLDS


def test_a_seed_repeats_and_none_goes_on():
    """Through ends of episodes, which draw further starts."""

    def run(seed):
        env = make("mo-hopper-v5", WORLDS, backend="warp", seed=seed)
        return env, env.reset_tensors(), [env.step_tensors(given) for given in random_actions(env.action_space, 60)]

    (env, starts, steps), (_, same_starts, same_steps), (_, other_starts, _) = run(3), run(3), run(4)
    assert sum(int(step.terminated.sum()) for step in steps) > 5
    assert same(starts, same_starts)
    for a, b in zip(steps, same_steps, strict=True):
        assert all(same(x, y) for x, y in zip(a, b, strict=True))
    assert not torch.equal(starts, other_starts)
    assert len(starts.unique(dim=0)) == WORLDS
    assert not torch.equal(env.reset_tensors(), starts)
    assert torch.equal(env.reset_tensors(seed=3), starts)
    assert not torch.equal(make("mo-hopper-v5", WORLDS, backend="warp", seed=None).reset_tensors(), starts)


def test_starts_are_distributed_as_gymnasiums():
    env = warp_env("mo-halfcheetah-v5")
    qpos, qvel = TASKS["mo-halfcheetah-v5"].start(env._model, _DeviceNoise(4_096, torch.device("cpu")))
    noise = qpos - env._model.init_qpos
    assert noise.abs().max() <= 0.1
    torch.testing.assert_close(noise.std(dim=0), torch.full((9,), 0.2 / 12**0.5), rtol=0.05, atol=0)
    torch.testing.assert_close(qvel.std(dim=0), torch.full((9,), 0.1), rtol=0.05, atol=0)
    assert noise.mean().abs() < 2e-3
    assert qvel.mean().abs() < 2e-3


def test_observations_are_of_the_spaces_type():
    env = make("mo-humanoid-v5", 2, backend="warp", seed=0)
    obs = env.reset_tensors()
    assert env.observation_space.contains(obs[0].numpy())
    step = env.step_tensors(torch.zeros(2, 17))
    assert step.reward.dtype == torch.float32
    assert env.observation_space.contains(step.final_obs[1].numpy())


def test_a_device_that_warp_has_not_is_refused():
    with pytest.raises(UserError, match="on the processor"):
        make("mo-hopper-v5", 1, backend="warp", device="meta")


def command(*arguments):
    """Runs `dibs-rl` in this process and returns its exit code."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code or 0


def test_the_command_line_trains_and_says_what_stepped(tmp_path, capsys):
    run = tmp_path / "run"
    flags = ["--env", "mo-hopper", "--backend", "warp", "--num-envs", 4, "--n-steps", 16, "--batch-size", 32]
    assert command("train", *flags, "--steps", 128, "--eval-episodes", 2, "--out", run) == 0
    facts = yaml.safe_load((run / "config.yaml").read_text())["facts"]
    assert (facts["backend"], facts["device"]) == ("warp", "cpu")
    assert facts["versions"]["mujoco-warp"] != "not installed"
    result = json.loads((run / "result.json").read_text())
    assert (result["backend"], result["episodes"]) == ("warp", 2)
    said = yaml.safe_load((run / "config.yaml").read_text())
    said["settings"]["backend"] = "auto"  # as where a GPU was named
    (run / "config.yaml").write_text(yaml.safe_dump(said))
    assert command("evaluate", run, "--episodes", 3) == 0
    result = json.loads((run / "evaluation.json").read_text())
    assert (result["backend"], result["episodes"]) == ("warp", 3)
    assert command("train", "--resume", run, "--steps", 192) == 0
    said["facts"]["backend"], said["settings"]["backend"] = "batch", "warp"
    (run / "config.yaml").write_text(yaml.safe_dump(said))
    assert command("train", "--resume", run, "--steps", 256) == 2
    assert "began on the batch backend" in " ".join(capsys.readouterr().err.split())
