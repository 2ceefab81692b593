"""What users of SB3 rely on: save, load, set_env, callbacks, progress bar, logger."""

import numpy as np
import pytest
import torch
from fake_envs import point_envs
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    ConvertCallback,
    EveryNTimesteps,
    LogEveryNTimesteps,
    StopTrainingOnMaxEpisodes,
)
from stable_baselines3.common.logger import configure

from dibs_rl import DiBS
from dibs_rl.agents import DiBSA2C, DiBSPPO, DiBSSAC
from dibs_rl.envs import as_vector_env
from dibs_rl.errors import UserError
from dibs_rl.evaluation import evaluate

SMALL = {"n_steps": 16, "batch_size": 16, "n_epochs": 2, "seed": 0, "device": "cpu"}


def assert_equal_states(a, b):
    for part, state in a.get_parameters().items():
        _assert_equal(state, b.get_parameters()[part], part)


def _assert_equal(a, b, where):
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            _assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


@pytest.mark.parametrize("combiner", ["dibs", DiBS(steps=3, preference=[1.0, 2.0])])
def test_save_and_load_everything(tmp_path, combiner):
    """PopArt, observation statistics, both optimisers and the generators come back: training goes on bit for bit."""
    model = DiBSPPO("MlpPolicy", point_envs(), combiner=combiner, **SMALL).learn(128)
    model.save(tmp_path / "model")
    loaded = DiBSPPO.load(tmp_path / "model.zip", env=point_envs(), device="cpu")
    assert_equal_states(model, loaded)
    assert loaded.objectives == model.objectives
    for learner in (model, DiBSPPO.load(tmp_path / "model.zip", env=point_envs(), device="cpu")):
        torch.manual_seed(0)
        np.random.seed(0)
        learner.set_env(point_envs())
        learner.env.seed(5)
        learner.learn(64, reset_num_timesteps=False)
        loaded = learner
    assert_equal_states(model, loaded)


def test_load_restores_the_generators(tmp_path):
    model = DiBSPPO("MlpPolicy", point_envs(), **SMALL).learn(64)
    model.save(tmp_path / "model.zip")
    expected = torch.rand(3), np.random.rand(3)
    DiBSPPO.load(tmp_path / "model.zip", env=point_envs(), device="cpu")
    assert torch.equal(torch.rand(3), expected[0])
    assert np.array_equal(np.random.rand(3), expected[1])


def test_load_without_env_predicts(tmp_path):
    model = DiBSPPO("MultiInputPolicy", point_envs(obs="dict"), **SMALL).learn(64)
    obs = model.env.reset()
    model.save(tmp_path / "model.zip")
    loaded = DiBSPPO.load(tmp_path / "model.zip", device="cpu")
    assert np.array_equal(loaded.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0])


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    """A disk that fills up in the middle: the name keeps its whole file, and no part is left beside it."""
    model = DiBSPPO("MlpPolicy", point_envs(), **SMALL)
    model.save(tmp_path / "model.zip")
    before = (tmp_path / "model.zip").read_bytes()

    def full_disk(file_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        model.save(tmp_path / "model.zip")
    assert (tmp_path / "model.zip").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.zip"]


def test_other_objectives_are_refused(tmp_path):
    model = DiBSPPO("MlpPolicy", point_envs(), **SMALL)
    model.save(tmp_path / "model.zip")
    three = point_envs(scales=(1.0, 1.0, 1.0))
    with pytest.raises(UserError, match="made for the objectives reward_0, reward_1"):
        model.set_env(three)
    with pytest.raises(UserError, match="made for the objectives reward_0, reward_1"):
        DiBSPPO.load(tmp_path / "model.zip", env=three, device="cpu")


def test_sb3s_callbacks(tmp_path):
    """Checkpoints, event callbacks, a plain function, and a limit on episodes, which reads `dones` from the locals."""
    seen = []
    callbacks = CallbackList(
        [
            CheckpointCallback(save_freq=16, save_path=str(tmp_path)),
            EveryNTimesteps(64, StopTrainingOnMaxEpisodes(max_episodes=10**9)),
            StopTrainingOnMaxEpisodes(max_episodes=8),
            ConvertCallback(_Watch(seen)),
        ]
    )
    model = DiBSPPO("MlpPolicy", point_envs(length=10), **SMALL)
    model.learn(10_000, callback=callbacks)
    assert len(model.ep_info_buffer) == 8 * 4  # SB3 counts the limit once for each of the 4 worlds
    assert model.num_timesteps == 8 * 10 * 4
    assert len(list(tmp_path.glob("*.zip"))) >= 1
    assert seen
    DiBSPPO.load(next(tmp_path.glob("*.zip")), device="cpu")


KINDS = pytest.mark.parametrize("kind", [DiBSPPO, DiBSA2C, DiBSSAC])


def small(kind):
    return SMALL if kind is DiBSPPO else {"seed": 0, "device": "cpu", "policy_kwargs": {"net_arch": [8]}}


@KINDS
def test_callbacks_share_sb3s_names(kind, tmp_path):
    """Children see their parents' locals; the new observations are in the environment's space; counters agree."""
    checkpoint = CheckpointCallback(save_freq=1, save_path=str(tmp_path))
    every = EveryNTimesteps(64, checkpoint)
    callback = CallbackList([every, LogEveryNTimesteps(64)])
    model = kind("MlpPolicy", point_envs(), **small(kind)).learn(320, callback=callback)  # whole rollouts of each
    assert every.locals["new_obs"] is callback.locals["new_obs"] is checkpoint.locals["new_obs"]
    assert callback.locals["new_obs"].shape == (4, *model.observation_space.shape)
    assert every.num_timesteps == model.num_timesteps == 320
    assert every.n_calls == 320 // 4
    assert len(list(tmp_path.glob("*.zip"))) == 5


def test_callbacks_of_every_kind():
    seen = []
    model = DiBSPPO("MlpPolicy", point_envs(), **SMALL)
    model.learn(64, callback=None)
    model.learn(64, callback=[StopTrainingOnMaxEpisodes(max_episodes=10**9), ConvertCallback(_Watch(seen))])
    model.learn(64, callback=lambda local, _global: seen.append(local["infos"]) or True)
    assert len(seen) == 2 * 16


@KINDS
@pytest.mark.parametrize("no", [False, np.bool_(False), torch.tensor(False)], ids=["Python", "NumPy", "torch"])
def test_a_callback_may_end_the_run_at_once(kind, no):
    class Stop(BaseCallback):
        def _on_step(self):
            return no

    callback = Stop()
    model = kind("MlpPolicy", point_envs(), **small(kind)).learn(64, callback=callback)
    assert (callback.n_calls, model.num_timesteps) == (1, 4)


def _Watch(seen):
    def callback(local, _global):
        seen.append((local["dones"].shape, len(local["infos"]), tuple(local["rewards"].shape)))
        assert seen[-1] == ((4,), 4, (4, 2))
        return True

    return callback


@pytest.mark.filterwarnings("ignore:rich is experimental")  # tqdm says so of the bar that SB3 uses
def test_progress_bar_and_verbose_output(capsys):
    DiBSPPO("MlpPolicy", point_envs(length=8), verbose=1, **SMALL).learn(128, progress_bar=True)
    printed = capsys.readouterr().out
    assert "return/reward_0" in printed
    assert "ep_rew_mean" not in printed  # a mean over objectives would mean nothing


def test_csv_logger_has_returns_by_name(tmp_path):
    model = DiBSPPO("MlpPolicy", point_envs(length=8), **SMALL)
    model.set_logger(configure(str(tmp_path), ["csv", "tensorboard"]))
    model.learn(192)
    model.logger.close()
    header = (tmp_path / "progress.csv").read_text().splitlines()[0]
    assert "rollout/return/reward_0" in header
    assert "rollout/return/reward_1" in header
    assert list(tmp_path.glob("events*"))


def test_episode_statistics_are_the_sums_of_the_rewards():
    model = DiBSPPO("MlpPolicy", point_envs(1, length=16), **SMALL).learn(16)
    episode = model.ep_info_buffer[0]
    assert episode["l"] == 16
    np.testing.assert_allclose(episode["r"], model.rollout_buffer.rewards.sum(0)[0].double().numpy(), rtol=1e-6)


def test_evaluate_counts_each_worlds_episodes():
    """Short episodes do not crowd out long ones: each world plays its share."""
    from fake_envs import PointEnv

    env = as_vector_env([lambda: PointEnv(length=2), lambda: PointEnv(length=9)])
    model = DiBSPPO("MlpPolicy", point_envs(), **SMALL)
    episodes = evaluate(model, env, 5)
    assert sorted(episodes.lengths.tolist()) == [2, 2, 2, 9, 9]
    assert episodes.summary()["episodes"] == 5
    assert set(episodes.summary()["returns"]) == {"reward_0", "reward_1"}


def test_evaluate_policy_style_loop():
    """The loop that SB3's users write: predict, step, sum."""
    model = DiBSPPO("MlpPolicy", point_envs(length=6), **SMALL).learn(64)
    env = model.get_env()
    obs = env.reset()
    total = np.zeros((env.num_envs, 2))
    for _ in range(6):
        actions, _ = model.predict(obs, deterministic=True)
        obs, rewards, dones, infos = env.step(actions)
        total += rewards
    assert dones.all()
    np.testing.assert_allclose(total, [info["episode"]["r"] for info in infos], rtol=1e-6)
