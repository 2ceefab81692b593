"""The command line as a person meets it: runs, their folders, resuming, and mistakes."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import yaml

from dibs_rl.cli.main import main
from dibs_rl.config import ALGORITHMS
from dibs_rl.envs import resolve_id
from dibs_rl.errors import UserError
from dibs_rl.files import atomic_write, load_yaml
from dibs_rl.new_folders import made_numbered
from dibs_rl.run_folder import RunFolder
from dibs_rl.shipped import CONFIGS
from dibs_rl.study import STUDIES
from dibs_rl.validation import validated

ENV = "deep-sea-treasure-v0"
QUICK = ["--env", ENV, "--num-envs", "4", "--n-steps", "16", "--batch-size", "32", "--n-epochs", "2", "--eval-episodes", "2"]


def command(*arguments):
    """Runs `dibs-rl` in this process and returns its exit code."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code or 0


def weights(file):
    import io
    import zipfile

    with zipfile.ZipFile(file) as archive:
        return torch.load(io.BytesIO(archive.read("policy.pth")), weights_only=True)


def steps_of(folder):
    with open(folder / "progress.csv", newline="") as file:
        return [int(row["time/total_timesteps"]) for row in csv.DictReader(file)]


def test_train_evaluate_plot(tmp_path, capsys):
    """The whole of it: a run folder with everything in it, each objective by name."""
    run = tmp_path / "run"
    assert command("train", *QUICK, "--steps", 640, "--out", run) == 0
    said = capsys.readouterr().out
    assert "treasure, time" in said
    record = yaml.safe_load((run / "config.yaml").read_text())
    assert record["settings"]["env"] == ENV
    assert record["settings"]["n_steps"] == 16
    assert record["facts"]["backend"] == "gym"
    assert record["facts"]["versions"]["torch"] == torch.__version__
    assert steps_of(run) == list(range(64, 641, 64))
    assert list(run.glob("events.out.tfevents*"))
    result = json.loads((run / "result.json").read_text())
    assert set(result["returns"]) == set(result["discounted_returns"]) == {"treasure", "time"}
    steps = [result["returns"]["time"][end] for end in ("min", "max")]  # minus one for each
    assert result["gamma"] == 0.99
    assert [result["discounted_returns"]["time"][end] for end in ("min", "max")] == pytest.approx(
        [-(1 - 0.99**-length) / (1 - 0.99) for length in steps]
    )
    assert result["episodes"] == 2

    assert command("evaluate", run, "--episodes", 3, "--stochastic") == 0
    later = json.loads((run / "evaluation.json").read_text())
    assert (later["episodes"], later["deterministic"]) == (3, False)
    assert json.loads((run / "result.json").read_text()) == result, "what the training ended with stays"
    assert command("plot", run, "--out", tmp_path / "curves.png") == 0
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_same_seed_same_model(tmp_path):
    for name in "ab":
        command("train", *QUICK, "--steps", 256, "--seed", 5, "--out", tmp_path / name)
    a, b = weights(tmp_path / "a" / "model.zip"), weights(tmp_path / "b" / "model.zip")
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_bare_name_takes_the_newest_version(tmp_path, capsys):
    arguments = ["--env", "deep-sea-treasure", "--steps", 64, "--n-steps", 4, "--eval-episodes", 0, "--out", tmp_path / "run"]
    assert command("train", *arguments) == 0
    assert "deep-sea-treasure is deep-sea-treasure-v0" in capsys.readouterr().out
    assert RunFolder(tmp_path / "run").config().env == ENV


def test_yaml_gives_defaults_and_flags_win(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(f"env: {ENV}\nsteps: 64\nn_steps: 4\nnum_envs: 4\nbatch_size: 16\npreference: {{treasure: 3, time: 1}}\n")
    command("train", "--config", file, "--n-steps", 8, "--eval-episodes", 0, "--out", tmp_path / "run")
    settings = RunFolder(tmp_path / "run").config()
    assert (settings.n_steps, settings.num_envs, settings.preference) == (8, 4, "treasure=3,time=1")


def test_a_transform_reaches_the_learner_and_no_statistic(tmp_path):
    """A policy that stays as it is: its runs are logged and evaluated in the environment's own units."""
    returns = {}
    for name, transform in (("plain", ""), ("seen", "treasure=1e6,time=2@episode")):
        flags = ["--steps", 256, "--learning-rate", 1e-30, "--transform", transform, "--out", tmp_path / name]
        assert command("train", *QUICK, *flags) == 0
        assert RunFolder(tmp_path / name).config().transform == transform
        returns[name] = json.loads((tmp_path / name / "result.json").read_text())["returns"]
        with open(tmp_path / name / "progress.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        returns[name, "log"] = [row["rollout/return/treasure"] for row in rows], [row["rollout/return/time"] for row in rows]
    assert returns["plain"] == returns["seen"]
    assert returns["plain", "log"] == returns["seen", "log"]


def test_yaml_may_hold_a_transform_as_a_mapping(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(f"env: {ENV}\nsteps: 16\nn_steps: 4\nnum_envs: 4\nbatch_size: 16\ntransform: {{treasure: 1e3, time: 0}}\n")
    command("train", "--config", file, "--eval-episodes", 0, "--out", tmp_path / "run")
    assert RunFolder(tmp_path / "run").config().transform == "treasure=1e3,time=0"


def test_every_shipped_configuration_is_valid():
    """A new file is tested for free."""
    files = sorted(path for path in CONFIGS.glob("*/*.yaml") if path.parent != STUDIES)
    assert {"mo-halfcheetah", "mo-hopper", "minecart"} <= {path.stem for path in files}
    for path in files:
        assert path.parent.name in ALGORITHMS
        config = validated(path.parent.name, load_yaml(path), str(path))
        assert resolve_id(config.env).startswith(path.stem)
        if config.algo == "ppo":
            assert config.num_envs * config.n_steps % config.batch_size == 0, path


def test_resume_goes_on_where_it_stopped(tmp_path):
    """Steps, learning-rate schedule and log go on; the finished model becomes a checkpoint until the new one is there."""
    run = tmp_path / "run"
    command("train", *QUICK, "--steps", 256, "--schedule", "linear", "--out", run)
    before = weights(run / "model.zip")
    assert command("train", "--resume", run, "--steps", 512) == 0
    assert steps_of(run) == list(range(64, 513, 64))
    after = weights(run / "model.zip")
    assert any(not torch.equal(before[key], after[key]) for key in before)
    with open(run / "progress.csv", newline="") as file:
        rates = [float(row["train/learning_rate"]) for row in csv.DictReader(file) if row["train/learning_rate"]]
    # A row has the rate of the update before it: of 128 steps in all for the second of the first run's four.
    assert rates[0] == pytest.approx(3e-4 * (1 - 64 / 256))
    assert rates[-1] == pytest.approx(3e-4 * (1 - 448 / 512))


def test_a_run_that_is_made_longer_has_no_result_until_it_has_come_to_its_new_end(tmp_path, monkeypatch):
    run = tmp_path / "run"
    command("train", *QUICK, "--steps", 128, "--eval-episodes", 1, "--out", run)
    assert RunFolder(run).finished
    monkeypatch.setattr("dibs_rl.cli.train.evaluate_and_print", lambda *_, **__: pytest.fail("stopped here"))
    with pytest.raises(pytest.fail.Exception):
        command("train", "--resume", run, "--steps", 256)
    assert (run / "model.zip").is_file()
    assert not RunFolder(run).finished


def test_resuming_a_finished_run_changes_nothing(tmp_path, capsys):
    run = tmp_path / "run"
    command("train", *QUICK, "--steps", 128, "--out", run)
    before = (run / "model.zip").read_bytes()
    assert command("train", "--resume", run) == 0
    assert "has its 128 steps already" in capsys.readouterr().out
    assert (run / "model.zip").read_bytes() == before


def start(*arguments):
    """Starts `dibs-rl` in a process of its own, as a shell would."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "dibs_rl", *map(str, arguments)]
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(condition, process):
    for _ in range(1200):
        if condition():
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    raise AssertionError("it did not happen within a minute")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("workers", [0, 2])
def test_signal_leaves_a_checkpoint(tmp_path, number, code, workers):
    """Ctrl-C and SIGTERM end with a checkpoint, the exit code of the signal, and a run that goes on."""
    run = tmp_path / "run"
    process = start("train", *QUICK, "--workers", workers, "--steps", 10**7, "--out", run)
    wait_for(lambda: (run / "progress.csv").is_file() and (run / "progress.csv").stat().st_size > 3000, process)
    process.send_signal(number)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == code, said
    assert f"--resume {run}" in said
    assert "Traceback" not in said
    done = int(RunFolder(run).newest_model().stem.removeprefix("step_"))
    assert done % 64 == 0
    assert command("train", "--resume", run, "--workers", 0, "--steps", done + 128) == 0
    assert steps_of(run)[-1] == done + 128
    assert steps_of(run) == sorted(set(steps_of(run)))


def test_killed_runs_resume(tmp_path):
    """SIGKILL at arbitrary moments, again and again: what has the model's name is whole, and the run comes to its end."""
    run = tmp_path / "run"
    keep = ["--checkpoint-every", 64, "--eval-episodes", 0]
    arguments = ["train", *QUICK, *keep, "--steps", 10**7, "--out", run]
    for moment in (0.3, 0.05, 0.6):
        process = start(*arguments)
        newest = max((p.name for p in (run / "checkpoints").glob("step_*.zip")), default=f"step_{0:012d}.zip")
        wait_for(lambda newest=newest: any(p.name > newest for p in (run / "checkpoints").glob("step_*.zip")), process)
        time.sleep(moment)
        process.kill()
        process.communicate()
        done = int(RunFolder(run).newest_model().stem.removeprefix("step_"))
        arguments = ["train", "--resume", run, *keep, "--steps", 10**7]
    assert command("train", "--resume", run, *keep, "--steps", done + 640) == 0
    assert steps_of(run)[-1] == done + 640
    assert (run / "model.zip").is_file()


@pytest.fixture
def poisoned_env():
    import gymnasium as gym
    from fake_envs import PointEnv

    gym.register("Poisoned-v0", PointEnv, kwargs={"poison": 200})
    yield "Poisoned-v0"
    gym.registry.pop("Poisoned-v0")


def test_nan_reward_ends_with_one_line_and_what_was_learnt(tmp_path, capsys, poisoned_env):
    run = tmp_path / "run"
    assert command("train", *QUICK, "--env", poisoned_env, "--out", run) == 2
    said = capsys.readouterr().err
    assert "'reward_0' is nan in environment 0 at its step 199" in said
    assert said.count("\n") == 1
    assert RunFolder(run).newest_model().name == "step_000000000768.zip"  # 12 rollouts of 16 steps of 4 worlds were sound


def test_a_resumed_run_remembers_what_was_changed(tmp_path):
    """Made longer and stopped again, it goes on to its new end with the command that it prints."""
    run = tmp_path / "run"
    command("train", *QUICK, "--steps", 128, "--out", run)
    command("train", "--resume", run, "--steps", 256)
    assert RunFolder(run).config().steps == 256
    assert yaml.safe_load((run / "config.yaml").read_text())["facts"]["resumed"][0]["step"] == 128


def test_linear_schedule_never_goes_below_zero(tmp_path):
    """A last rollout that goes past the end would otherwise climb the loss."""
    run = tmp_path / "run"
    command("train", *QUICK, "--steps", 70, "--schedule", "linear", "--out", run)
    with open(run / "progress.csv", newline="") as file:
        rates = [float(row["train/learning_rate"]) for row in csv.DictReader(file) if row["train/learning_rate"]]
    assert rates
    assert min(rates) >= 0
    assert RunFolder(run).newest_model() == run / "model.zip"


def test_module_prefix_finds_environments_outside_the_registry(tmp_path, monkeypatch):
    """As in Gymnasium: `module:id` imports the module that registers the id; worker processes find it too."""
    (tmp_path / "their_worlds.py").write_text(
        "import gymnasium as gym\nfrom fake_envs import PointEnv\ngym.register('Theirs-v3', PointEnv)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    run = tmp_path / "run"
    assert command("train", *QUICK, "--env", "their_worlds:Theirs", "--workers", 2, "--steps", 64, "--out", run) == 0
    assert RunFolder(run).config().env == "their_worlds:Theirs-v3"
    assert command("train", "--env", "nowhere_to_be_found:Theirs-v3") == 2


def test_full_disk_ends_with_one_line(tmp_path, monkeypatch, capsys):
    """What was saved before stays whole."""
    run = tmp_path / "run"
    command("train", *QUICK, "--steps", 128, "--out", run)

    def full_disk(file_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    capsys.readouterr()
    assert command("train", "--resume", run, "--steps", 256) == 2
    said = capsys.readouterr().err
    assert "No space left on device" in said
    assert said.count("\n") == 1
    assert RunFolder(run).newest_model().is_file()


def test_a_corrupt_model_is_put_aside_and_never_over_a_checkpoint(tmp_path, capsys):
    run = tmp_path / "run"
    command("train", *QUICK, "--steps", 256, "--checkpoint-every", 64, "--out", run)
    (run / "model.zip").write_bytes(b"half a fi")
    good = {path: path.read_bytes() for path in (run / "checkpoints").glob("step_*.zip")}
    assert command("train", "--resume", run, "--checkpoint-every", 10**6) == 0
    assert "model.zip is corrupt" in capsys.readouterr().out
    assert (run / "model.zip.corrupt").is_file()
    assert all(path.read_bytes() == content for path, content in good.items() if path.is_file())
    assert RunFolder(run).newest_model() == run / "model.zip"


def test_a_broken_checkpoint_is_passed_over(tmp_path):
    """The newest whole one is taken."""
    run = tmp_path / "run"
    command("train", *QUICK, "--steps", 256, "--checkpoint-every", 64, "--out", run)
    (run / "model.zip").write_bytes(b"half a fi")
    assert RunFolder(run).newest_model().parent.name == "checkpoints"
    assert command("evaluate", run, "--episodes", 1) == 0


def test_a_file_that_cannot_be_read_or_made_is_named(tmp_path):
    """Whatever is in it, or in its way."""
    for text in ("{", "[1]", "\x00"):
        (tmp_path / "result.json").write_text(text)
        (tmp_path / "cost.json").write_text(text)
        for read, name in ((RunFolder(tmp_path).result, "result.json"), (RunFolder(tmp_path).cost, "cost.json")):
            with pytest.raises(UserError, match=f"{name}.*delete it"):
                read()
    with pytest.raises(UserError, match=r"Cannot write .*page\.html"), atomic_write(tmp_path / "cost.json" / "page.html"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cost.json", "result.json"]


def mistakes(tmp_path):
    not_a_run = tmp_path / "empty"
    not_a_run.mkdir()
    unknown_key = tmp_path / "key.yaml"
    unknown_key.write_text("learning_rat: 1\n")
    of_others = tmp_path / "others.yaml"
    of_others.write_text("algo: sac\nenv: mo-hopper\nfading: true\n")
    bad_value = tmp_path / "value.yaml"
    bad_value.write_text("n_steps: 0\n")
    no_yaml = tmp_path / "no.yaml"
    no_yaml.write_text("a: [")
    return {
        "unknown command": (["trian"], "train, experts, evaluate"),
        "unknown env": (["train", "--env", "mo-halfcheeta"], "Did you mean mo-halfcheetah"),
        "unknown flag": (["train", "--foo", "1"], "--foo"),
        "not a number": (["train", "--steps", "many"], "--steps: 'many' is not a whole number"),
        "not one of these": (["train", "--schedule", "cosine"], "'constant', 'linear'"),
        "temperature": (
            ["train", "--env", "mo-hopper", "--algo", "sac", "--ent-coef", "foo"],
            "--ent-coef: it is a number of 0 or",
        ),
        "no value": (["train", "--env"], "--env needs a value"),
        "a flag for a value": (["train", "--config", "--steps", 3], "--config needs a value"),
        "out of bounds": (["train", "--gamma", "2"], "gamma"),
        "unknown key": (["train", "--config", unknown_key], "key.yaml. Did you mean learning_rate?\n"),
        "bad value": (["train", "--config", bad_value], "n_steps"),
        "no YAML": (["train", "--config", no_yaml], "not valid YAML"),
        "no file": (["train", "--config", tmp_path / "nowhere.yaml"], "Cannot read"),
        "unknown combiner": (["train", *QUICK, "--combiner", "dips"], "Did you mean dibs"),
        "direction only": (["train", *QUICK, "--combiner", "config"], "bargain_every='minibatch'"),
        "unknown backend": (["train", *QUICK, "--backend", "bath"], "auto, batch, gym"),
        "rate no number": (["train", "--learning-rate", "inf"], "--learning-rate: input should be a finite number"),
        "seed too large": (["train", "--seed", str(2**40)], "seed"),
        "no picture": (["plot", not_a_run, "--out", tmp_path / "x.txt"], "PNG"),
        "preference too long": (["train", *QUICK, "--preference", "1,2,3"], "treasure, time"),
        "preference zero": (["train", *QUICK, "--preference", "0,1"], "positive"),
        "preference negative": (["train", *QUICK, "--preference", "1,-1"], "positive"),
        "preference by wrong name": (["train", *QUICK, "--preference", "gold=1,time=2"], "treasure, time"),
        "preference named twice": (["train", *QUICK, "--preference", "treasure=1,treasure=2,time=1"], "a name twice"),
        "preference no number": (["train", *QUICK, "--preference", "a,b"], "reads like"),
        "preference not taken": (["train", *QUICK, "--combiner", "mgda", "--preference", "1,2"], "takes no preference"),
        "transform of nothing": (["train", *QUICK, "--transform", "gold=1e3"], "There is treasure, time"),
        "transform misspelt": (["train", *QUICK, "--transform", "treasur=1e3"], "Did you mean treasure?"),
        "transform of everything": (["train", *QUICK, "--transform", "treasure=0,time=0"], "Nothing is left to learn from"),
        "transform unknown": (["train", *QUICK, "--transform", "time=cube"], "power4, exp, sqrt"),
        "anchors without a game": (["train", *QUICK, "--combiner", "mgda", "--anchors", "auto"], "the game of DiBS"),
        "scalar reward": (["train", "--env", "CartPole-v1"], "scalar reward"),
        "not installed": (["train", "--env", "mo-supermario-v0"], "NumPy"),
        "folder exists": (["train", *QUICK, "--out", not_a_run], "exists"),
        "not a run": (["train", "--resume", not_a_run], "not a run folder"),
        "evaluate not a run": (["evaluate", not_a_run], "not a run folder"),
        "no run": (["evaluate"], "error: Missing: PATH. 'dibs-rl evaluate --help'"),
        "flag of another algorithm": (
            ["train", "--env", "mo-hopper", "--algo", "sac", "--no-fading"],
            "setting of ppo, a2c, sb3-ppo",
        ),
        "key of another algorithm": (["train", "--config", of_others], "It is a setting of ppo, a2c, sb3-ppo, not of sac.\n"),
        "flag misspelt": (["train", "--stesp", "3"], "options: --stesp, 3. Did you mean --steps? 'dibs-rl train"),
        "evaluate nothing": (["evaluate", tmp_path / "none"], "none does not exist."),
        "nothing of a front": (["evaluate", tmp_path / "none", "--preference", "1,1"], "none does not exist."),
        "plot nothing": (["plot", tmp_path / "none"], "none does not exist."),
        "report nothing": (["report", tmp_path / "none"], "none does not exist."),
        "anchors of nothing": (["train", *QUICK, "--anchors", tmp_path / "none"], "none does not exist."),
        "unknown device": (["train", *QUICK, "--device", "gpu"], "auto, cpu, cuda"),
    }


def test_mistakes_get_one_line_and_exit_code_2(tmp_path, capsys, monkeypatch):
    """One clear line, nothing written."""
    monkeypatch.chdir(tmp_path)
    for name, (arguments, message) in mistakes(tmp_path).items():
        before = sorted(tmp_path.rglob("*"))
        assert command(*arguments) == 2, name
        said = capsys.readouterr().err
        assert said.startswith("dibs-rl: error: "), (name, said)
        assert said.count("\n") == 1, (name, said)
        assert message in said, (name, said)
        assert sorted(tmp_path.rglob("*")) == before, name


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_where_there_is_none(capsys):
    assert command("train", *QUICK, "--device", "cuda") == 2
    assert "not on this machine" in capsys.readouterr().err


def test_a_resumed_run_keeps_its_settings(tmp_path, capsys):
    command("train", *QUICK, "--steps", 64, "--out", tmp_path / "run")
    assert command("train", "--resume", tmp_path / "run", "--gamma", 0.5) == 2
    assert "keeps its gamma" in capsys.readouterr().err


def test_corrupt_model_file(tmp_path, capsys):
    run = tmp_path / "run"
    command("train", *QUICK, "--steps", 64, "--out", run)
    (run / "model.zip").write_bytes(b"no zip")
    for checkpoint in (run / "checkpoints").iterdir():
        checkpoint.write_bytes(b"no zip either")
    capsys.readouterr()
    assert command("evaluate", run) == 2
    assert "corrupt" in capsys.readouterr().err
    assert command("train", "--resume", run, "--steps", 128) == 2
    assert "corrupt" in capsys.readouterr().err


def test_help_and_list(capsys):
    assert command("--help") == 0
    assert "evaluate" in capsys.readouterr().out
    assert command("train", "--help") == 0
    assert "--bargain-every" in capsys.readouterr().out
    assert command("envs", "--match", "Lunar") == 0
    assert "landing" in capsys.readouterr().out


def test_a_run_that_is_evaluated_by_sampled_actions_is_so_later_too(tmp_path, capsys):
    """As a study's random policy is: its most likely actions are not random."""
    run = tmp_path / "run"
    command("train", *QUICK, "--steps", 0, "--eval-stochastic", "--eval-episodes", 3, "--out", run)
    command("evaluate", run, "--episodes", 3)
    assert "stochastic episodes" in capsys.readouterr().out.split("Evaluation:")[0].rsplit("return over", 1)[1]
    found, again = (json.loads((run / f"{name}.json").read_text()) for name in ("result", "evaluation"))
    assert found["returns"] == again["returns"]
    assert again["deterministic"] is False


def test_the_folder_of_a_study_is_said_to_be_one(tmp_path, capsys):
    for text in ("", "name: mine\n", "a: ["):
        (tmp_path / "study.yaml").write_text(text)
        assert command("evaluate", tmp_path) == 2
        assert "a study's, whose runs are" in capsys.readouterr().err


def test_runs_that_begin_at_once_have_folders_of_their_own(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: made_numbered(tmp_path / "run"), range(8)))
    assert {path.name for path in made} == {"run", *(f"run-{i}" for i in range(2, 9))}
