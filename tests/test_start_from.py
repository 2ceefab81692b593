"""A training that begins with the networks of another run: what it takes over, in whose units, and what it refuses."""

import csv
import io
import json
import shutil
import zipfile

import pytest
import torch
import yaml
from fake_envs import point_envs
from real_jobs import command

from dibs_rl.agents import DiBSPPO, DiBSSAC
from dibs_rl.errors import UserError
from dibs_rl.popart import PopArt

QUICK = ["--num-envs", 4, "--n-steps", 16, "--batch-size", 32, "--n-epochs", 2, "--hidden", 8, "--eval-episodes", 2]
TREASURE = ["--env", "deep-sea-treasure-v0", *QUICK]
RUNS = {
    "ppo": TREASURE,
    "a2c": ["--env", "deep-sea-treasure-v0", "--algo", "a2c", "--num-envs", 4, "--hidden", 8, "--eval-episodes", 2],
    "sb3-ppo": [*TREASURE, "--algo", "sb3-ppo"],
}


def tensors(file, part="policy.pth"):
    with zipfile.ZipFile(file) as archive:
        return torch.load(io.BytesIO(archive.read(part)), weights_only=True)


def train(folder, flags, *more, steps):
    assert command("train", *flags, "--threads", 1, "--steps", steps, "--out", folder, *more) == 0
    return folder


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A run that others begin with."""
    return train(tmp_path_factory.mktemp("start") / "run", TREASURE, steps=256)


def assert_equal(found, expected, but=()):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if name not in but:
            assert torch.equal(found[name], value), name


def test_only_the_beginning_speaks_of_it(start, tmp_path, capsys):
    run = train(tmp_path / "run", TREASURE, "--start-from", start, steps=64)
    assert "begin as those of" in capsys.readouterr().out
    assert command("train", "--resume", run, "--steps", 128) == 0
    assert "begin as those of" not in capsys.readouterr().out


@pytest.mark.parametrize("algo", ["ppo", "a2c", "sb3-ppo"])
def test_at_its_first_step_it_is_the_other_run(algo, tmp_path, capsys):
    first = train(tmp_path / "first", RUNS[algo], steps=256)
    assert "begin as those of" not in capsys.readouterr().out
    begun = train(tmp_path / "begun", RUNS[algo], "--start-from", first, "--seed", 5, steps=0)
    assert f"The networks begin as those of {first / 'model.zip'}." in capsys.readouterr().out
    scratch = train(tmp_path / "scratch", RUNS[algo], "--seed", 5, steps=0)
    expected = tensors(first / "model.zip")
    assert_equal(tensors(begun / "model.zip"), expected)
    assert any(not torch.equal(value, expected[name]) for name, value in tensors(scratch / "model.zip").items())
    assert tensors(begun / "model.zip", "policy.optimizer.pth")["state"] == {}  # a new one
    assert tensors(first / "model.zip", "policy.optimizer.pth")["state"] != {}
    assert yaml.safe_load((begun / "config.yaml").read_text())["facts"]["started_from"] == str(first / "model.zip")
    # It acts as the other run does, observations' statistics included.
    assert command("evaluate", begun, "--episodes", 3, "--seed", 7) == command("evaluate", first, "--episodes", 3, "--seed", 7)
    found, expected = (json.loads((run / "evaluation.json").read_text())["returns"] for run in (begun, first))
    assert found == expected


@pytest.mark.parametrize("algo", ["ppo", "a2c", "sb3-ppo"])
def test_it_begins_with_noise_to_learn_with(algo, tmp_path):
    """At least so much in each action, whatever the other run has left of it; the networks are that run's."""
    flags = ["mo-swimmer-v5" if flag == "deep-sea-treasure-v0" else flag for flag in RUNS[algo]]
    first = train(tmp_path / "first", flags, "--log-std-init=-3", steps=128)
    expected = tensors(first / "model.zip")
    left = expected["log_std"]
    assert -3.1 < left[0] != left[1] < -2.9
    between = left.mean().item()
    for name, flag, least in (
        ("default", [], -2.0),
        ("more", ["--start-log-std-min=-0.5"], -0.5),
        ("between", [f"--start-log-std-min={between}"], between),
        ("less", ["--start-log-std-min=-4"], -4.0),
    ):
        begun = train(tmp_path / name, flags, "--start-from", first, *flag, steps=0)
        found = tensors(begun / "model.zip")
        assert torch.equal(found["log_std"], left.clamp(min=least))
        assert_equal(found, expected, but=["log_std"])


def test_gone_on_with_it_keeps_what_noise_it_has(tmp_path):
    """The bound is of the beginning: a run that is resumed may have less by then."""
    flags = ["--env", "mo-swimmer-v5", *QUICK, "--log-std-init=-3"]
    first = train(tmp_path / "first", flags, steps=64)
    begun = train(tmp_path / "begun", flags, "--start-from", first, "--start-log-std-min=-3.5", steps=64)
    noise = tensors(begun / "model.zip")["log_std"]
    config = (begun / "config.yaml").read_text()
    (begun / "config.yaml").write_text(config.replace("start_log_std_min: -3.5", "start_log_std_min: -1"))
    assert command("train", "--resume", begun, "--steps", 128) == 0
    assert (tensors(begun / "model.zip")["log_std"] < noise + 0.5).all()


def test_a_training_from_scratch_has_the_noise_of_its_own_setting(tmp_path):
    scratch = train(tmp_path / "scratch", ["--env", "mo-mountaincarcontinuous-v0", *QUICK], "--log-std-init=-3", steps=0)
    assert tensors(scratch / "model.zip")["log_std"].tolist() == [-3.0]


def test_random_numbers_are_those_of_its_own_seed(start, tmp_path):
    """What is drawn does not depend on what the other run has drawn: the same seed gives the same training."""
    once, again = (train(tmp_path / name, TREASURE, "--start-from", start, steps=128) for name in ("once", "again"))
    assert_equal(tensors(again / "model.zip"), tensors(once / "model.zip"))
    expected = tensors(start / "model.zip")
    assert any(not torch.equal(value, expected[name]) for name, value in tensors(once / "model.zip").items())  # it learnt


def test_powers_of_two_change_no_bit(start, tmp_path):
    """The critic is taken over in the units of the new run."""
    plain = train(tmp_path / "plain", TREASURE, "--start-from", start, steps=256)
    scaled = train(
        tmp_path / "scaled", TREASURE, "--start-from", start, "--transform", f"treasure={2.0**40},time={2.0**-12}", steps=256
    )
    units = ("value_net.mean", "value_net.std")
    expected, found = tensors(plain / "model.zip"), tensors(scaled / "model.zip")
    assert_equal(found, expected, but=units)
    for name in units:
        assert torch.equal(found[name], expected[name] * torch.tensor([2.0**40, 2.0**-12], dtype=torch.float64))


def test_powers_of_two_change_no_bit_in_sac():
    settings = {"learning_starts": 20, "batch_size": 16, "gradient_steps": 4, "device": "cpu"}
    first = DiBSSAC("MlpPolicy", point_envs(2), seed=0, **settings).learn(80)
    models, scales = [], ((1.0, 1.0), (2.0**30, 2.0**-9))
    for factors in scales:
        model = DiBSSAC("MlpPolicy", point_envs(2, scales=factors), seed=1, **settings)
        model.start_from(first, factors)
        assert all(torch.equal(a, b) for a, b in zip(model.actor.parameters(), first.actor.parameters(), strict=True))
        models.append(model.learn(80))
    heads = [name for name, part in models[0].policy.named_modules() if isinstance(part, PopArt)]
    assert len(heads) == 2  # the critics and their targets
    but = [f"{head}.{moment}" for head in heads for moment in ("mean", "std")]
    assert_equal(models[1].policy.state_dict(), models[0].policy.state_dict(), but)


def test_networks_that_do_not_fit_leave_the_learner_as_it_was():
    small, large = (
        DiBSPPO("MlpPolicy", point_envs(2), n_steps=8, batch_size=16, device="cpu", policy_kwargs={"net_arch": [8, width]})
        for width in (8, 9)
    )
    before = {name: value.clone() for name, value in small.policy.state_dict().items()}
    with pytest.raises(
        UserError,
        match=r"do not fit: mlp_extractor\.policy_net\.2\.weight is of shape \[8, 8\], and theirs is of shape \[9, 8\]",
    ):
        small.start_from(large, (1.0, 1.0))
    assert_equal(small.policy.state_dict(), before)


def test_what_was_off_is_learnt_anew(tmp_path):
    """An expert's critic knows nothing of the other objectives: their units begin with the first rewards seen."""
    expert = train(tmp_path / "expert", TREASURE, "--transform", "time=0", steps=128)
    assert tensors(expert / "model.zip")["value_net.std"][1] == 0
    begun = train(tmp_path / "begun", TREASURE, "--start-from", expert, "--transform", "time=1e3", steps=128)
    assert tensors(begun / "model.zip")["value_net.std"][1] > 1


@pytest.mark.parametrize("before", ["time=3", "time=exp"])
def test_what_is_off_now_has_no_say(before, tmp_path):
    """Not even by what the critic knew of it: its values are 0 from the first step, and so are its advantages."""
    first = train(tmp_path / "first", TREASURE, "--transform", before, steps=128)
    assert tensors(first / "model.zip")["value_net.std"][1] > 0
    begun = train(tmp_path / "begun", TREASURE, "--start-from", first, "--transform", "time=0", steps=256)
    found = tensors(begun / "model.zip")
    assert all(value.isfinite().all() for value in found.values())
    assert found["value_net.mean"][1] == found["value_net.std"][1] == 0
    with open(begun / "progress.csv") as file:
        shares = [row["train/share/time"] for row in csv.DictReader(file) if row["train/share/time"]]
    assert len(shares) > 1
    assert {float(share) for share in shares} == {0.0}


def test_what_is_off_now_has_no_say_in_sac():
    settings = {"learning_starts": 20, "batch_size": 16, "gradient_steps": 4, "device": "cpu"}
    first = DiBSSAC("MlpPolicy", point_envs(2), seed=0, **settings).learn(80)
    model = DiBSSAC("MlpPolicy", point_envs(2, scales=(1.0, 0.0)), seed=1, **settings)
    model.start_from(first, (1.0, 0.0))
    model.learn(80)
    assert all(value.isfinite().all() for value in model.policy.state_dict().values())
    assert all(part.std[1] == 0 < part.std[0] for part in model.policy.modules() if isinstance(part, PopArt))
    assert model.logger.name_to_value["train/share/reward_1"] == 0


def test_killed_before_it_had_saved_anything_it_begins_there_again(start, tmp_path):
    run = train(tmp_path / "run", TREASURE, "--start-from", start, steps=0)
    (run / "model.zip").unlink()
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
    assert command("train", "--resume", run) == 0
    assert_equal(tensors(run / "model.zip"), tensors(start / "model.zip"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--env", "deep-sea-treasure-concave-v0", *QUICK], "its env is 'deep-sea-treasure-v0'"),
        ([*TREASURE, "--algo", "sb3-ppo"], "its algo is 'ppo'"),
        ([*TREASURE, "--hidden", 8, 8], "its hidden is (8,), and this run's (8, 8)"),
        ([*TREASURE, "--no-popart"], "its popart is True"),
        ([*TREASURE, "--transform", "time=exp"], "its critic knows time=1, and this run learns from time=exp"),
        ([*TREASURE, "--transform", "time=2@episode"], "learns from time=2@episode"),
    ],
)
def test_a_foreign_run_gets_one_line(start, flags, message, tmp_path, capsys):
    assert command("train", *flags, "--start-from", start, "--out", tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert f"Cannot start from {start}" in said
    assert message in said
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_no_run_gets_one_line(tmp_path, capsys):
    assert command("train", *TREASURE, "--start-from", tmp_path, "--out", tmp_path / "run") == 2
    assert "is not a run folder" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
