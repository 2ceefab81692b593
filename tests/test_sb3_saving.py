"""What SB3's own tests ask of saving, loading, parameters and environments, asked of the learners here."""

import io
import tempfile
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_envs import point_envs

from dibs_rl.agents import CnnPolicy, DiBSA2C, DiBSPPO, DiBSSAC, MlpPolicy
from dibs_rl.agents.side_by_side import torch_threads
from dibs_rl.envs import as_vector_env

PARTS = {
    DiBSPPO: {"policy", "policy.optimizer", "policy.value_optimizer"},
    DiBSA2C: {"policy", "policy.optimizer", "policy.value_optimizer"},
    DiBSSAC: {"policy", "actor.optimizer", "critic.optimizer", "ent_coef_optimizer"},
}
SMALL = {
    DiBSPPO: {"n_steps": 16, "batch_size": 16, "n_epochs": 1},
    DiBSA2C: {"n_steps": 16},
    DiBSSAC: {"buffer_size": 200, "learning_starts": 16, "batch_size": 16, "gradient_steps": 1},
}


class Learner:
    """Makes and loads learners of one kind, small ones."""

    def __init__(self, kind):
        self.kind = kind

    def __call__(self, policy="MlpPolicy", env=None, **kwargs):
        settings = {"seed": 0, "device": "cpu", "policy_kwargs": {"net_arch": [16]}, **SMALL[self.kind], **kwargs}
        return self.kind(policy, point_envs(2) if env is None else env, **settings)

    def load(self, path, **kwargs):
        return self.kind.load(path, device="cpu", **kwargs)


@pytest.fixture(params=PARTS, ids=lambda kind: kind.__name__)
def learner(request):
    with torch_threads(1):  # short operations
        yield Learner(request.param)


ppo = Learner(DiBSPPO)


def observations(obs="box"):
    return as_vector_env(point_envs(8, obs=obs)).reset(seed=1)


# ------------------------------------------------------------------------------------------------------------ parameters


def test_parameters_come_out_by_part(learner):
    assert set(learner().get_parameters()) == PARTS[learner.kind]


def test_unknown_and_missing_parts_are_refused(learner):
    model = learner()
    parts = deepcopy(model.get_parameters())
    with pytest.raises(ValueError, match="nobody"):
        model.set_parameters({**parts, "nobody": parts["policy"]}, exact_match=False)
    with pytest.raises(ValueError, match="optimizer"):
        model.set_parameters({"policy": parts["policy"]}, exact_match=True)
    name, *rest = parts["policy"]
    with pytest.raises(RuntimeError, match=name):
        model.set_parameters({**parts, "policy": {key: parts["policy"][key] for key in rest}}, exact_match=True)


def test_some_parameters_may_be_set_alone(learner):
    """What is named changes, the rest stays, and the actions follow; where `get_parameters` came from does not change."""
    model, other = learner(), learner(seed=1)
    before, given = deepcopy(model.get_parameters()), other.get_parameters()
    policy = ("mlp_extractor.policy_net", "actor.latent_pi")
    weights = {key: value for key, value in given["policy"].items() if key.startswith(policy)}
    assert weights
    model.set_parameters({"policy": weights}, exact_match=False)
    for key, value in model.policy.state_dict().items():
        assert torch.equal(value, (weights if key in weights else before["policy"])[key]), key
    model.set_parameters(given, exact_match=True)
    seen = observations()
    assert np.array_equal(model.predict(seen, deterministic=True)[0], other.predict(seen, deterministic=True)[0])


# -------------------------------------------------------------------------------------------------------- save and load


@pytest.mark.parametrize("name", ["model.zip", "model"])
@pytest.mark.parametrize("kind", [str, Path])
def test_paths_of_every_kind(learner, kind, name, tmp_path):
    model = learner()
    model.save(kind(tmp_path / name))
    assert [path.name for path in tmp_path.iterdir()] == ["model.zip"]
    loaded = learner.load(kind(tmp_path / name))
    seen = observations()
    assert np.array_equal(loaded.predict(seen, deterministic=True)[0], model.predict(seen, deterministic=True)[0])


@pytest.mark.parametrize("make", [io.BytesIO, tempfile.TemporaryFile], ids=["memory", "file"])
def test_open_files_stay_open(learner, make):
    model = learner()
    with make() as file:
        model.save(file)
        file.seek(0)
        loaded = learner.load(file)
        assert not file.closed
    seen = observations()
    assert np.array_equal(loaded.predict(seen, deterministic=True)[0], model.predict(seen, deterministic=True)[0])


def test_what_is_left_out_and_put_in(learner, tmp_path):
    model = learner(verbose=0)
    model.verbose = 2
    model.save(tmp_path / "out.zip", exclude=["verbose"])
    assert learner.load(tmp_path / "out.zip").verbose == 0  # the default
    model.save(tmp_path / "in.zip", exclude=["verbose"], include=["verbose"])
    replaced = {"learning_rate": 2e-5, "never_heard_of": 1.0}
    loaded = learner.load(tmp_path / "in.zip", custom_objects=replaced, print_system_info=True)
    assert (loaded.verbose, loaded.learning_rate) == (2, 2e-5)
    assert not hasattr(loaded, "never_heard_of")


def test_learning_goes_on_with_more_worlds(learner, tmp_path):
    learner().learn(32).save(tmp_path / "model.zip")
    loaded = learner.load(tmp_path / "model.zip", env=point_envs(3))
    loaded.learn(48, reset_num_timesteps=False)
    assert (loaded.n_envs, loaded.num_timesteps) == (3, 32 + 48)


def test_policy_arguments_may_be_given_again(learner, tmp_path):
    """SB3 refuses others than the model was made with; what is put in between must not make the same ones look other."""
    model = learner()
    sb3s = {"optimizer_class", "optimizer_kwargs", "use_sde"}  # its A2C and SAC put in themselves
    assert {key: value for key, value in model.policy_kwargs.items() if key not in sb3s} == {"net_arch": [16]}
    model.save(tmp_path / "model.zip")
    for again in ({}, {"policy_kwargs": model.policy_kwargs}):
        loaded = learner.load(tmp_path / "model.zip", env=point_envs(2), **again)
        assert loaded.policy_kwargs == model.policy_kwargs
        loaded.learn(32)
    with pytest.raises(ValueError, match="policy kwargs do not equal"):
        learner.load(tmp_path / "model.zip", policy_kwargs={"net_arch": [8]})


def test_the_default_architecture_may_be_asked_for(learner, tmp_path):
    learner(policy_kwargs={"net_arch": None}).save(tmp_path / "model.zip")
    assert learner.load(tmp_path / "model.zip").policy.net_arch is not None


def test_schedules_come_back(tmp_path):
    model = ppo(learning_rate=lambda left: left * np.sin(1.0), clip_range=lambda _: 0.3)
    model.save(tmp_path / "model.zip")
    loaded = ppo.load(tmp_path / "model.zip")
    assert type(loaded.lr_schedule(1.0)) is float
    assert loaded.lr_schedule(0.5) == pytest.approx(0.5 * np.sin(1.0))
    assert loaded.clip_range(0.5) == 0.3


def test_images_go_on(tmp_path):
    """The environment is turned to channels first once, not once more at every load."""
    env = point_envs(2, obs="image")
    ppo("CnnPolicy", env, n_steps=8, batch_size=8).learn(16).save(tmp_path / "model.zip")
    ppo.load(tmp_path / "model.zip", env=env).learn(16)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler uses what torch has deprecated
def test_a_compiled_policy_is_saved_as_the_policy(tmp_path):
    model = ppo()
    model.policy = torch.compile(model.policy, backend="eager")
    model.save(tmp_path / "model.zip")
    loaded = ppo.load(tmp_path / "model.zip")
    assert torch.equal(loaded.policy.log_std, model.policy.log_std)


@pytest.mark.parametrize(("name", "kind", "obs"), [("MlpPolicy", MlpPolicy, "box"), ("CnnPolicy", CnnPolicy, "image")])
@pytest.mark.parametrize("use_sde", [False, True])
def test_a_policy_alone(tmp_path, name, kind, obs, use_sde):
    """Saved and loaded without its learner, with its critic's heads and the statistics of observations."""
    model = ppo(name, point_envs(2, obs=obs), n_steps=8, batch_size=8, use_sde=use_sde).learn(16)
    model.policy.save(tmp_path / "policy.pkl")
    loaded = kind.load(tmp_path / "policy.pkl", device="cpu")
    for key, value in model.policy.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    seen = observations(obs)
    assert np.array_equal(loaded.predict(seen, deterministic=True)[0], model.policy.predict(seen, deterministic=True)[0])


# ---------------------------------------------------------------------------------------------------------- environments


def test_another_environment(learner):
    model = learner().learn(32)
    second = as_vector_env(point_envs(2))
    model.set_env(second, force_reset=True)
    assert model._last_obs is None
    assert model.get_env() is second
    assert model.learn(32).num_timesteps == 32
    model.set_env(model.get_env(), force_reset=False)
    assert model._last_obs is not None
    assert model.learn(32, reset_num_timesteps=False).num_timesteps == 64
    with pytest.raises(AssertionError, match="number of environments"):
        model.set_env(point_envs(3))


def test_a_loaded_model_starts_with_a_reset(learner, tmp_path):
    """The one difference: SB3 keeps the last observation in the file, so that a running environment can go on."""
    model = learner().learn(32)
    model.save(tmp_path / "model.zip")
    loaded = learner.load(tmp_path / "model.zip", env=model.get_env(), force_reset=False)
    assert loaded._last_obs is None
    assert loaded.learn(32, reset_num_timesteps=False).num_timesteps == 64


def test_a_replay_buffer_goes_into_an_open_file():
    model = Learner(DiBSSAC)().learn(64)
    with tempfile.TemporaryFile() as file:
        model.save_replay_buffer(file)
        file.seek(0)
        other = Learner(DiBSSAC)()
        other.load_replay_buffer(file)
        assert not file.closed
    for key, value in model.replay_buffer.state_dict().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(other.replay_buffer.state_dict()[key], value), key
