"""One training in two processes: the same as in one on both their worlds; and what happens when one of them is lost."""

import copy
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import rank_worker
import torch
import torch.multiprocessing as mp
from rank_worker import COUNTS, LEARNERS, RANKS, STEPS, WORLDS
from stable_baselines3.common.callbacks import BaseCallback

from dibs_rl import ranks
from dibs_rl.agents import DiBSPPO
from dibs_rl.files import load_yaml
from dibs_rl.returns import normalise_columns, spreads
from dibs_rl.run_folder import RunFolder

SAVED = ("obs", "actions", "log_probs", "rewards", "terminated", "truncated", "advantages", "value_targets", "active")


class Snapshot(BaseCallback):
    """What a learner is about to learn from."""

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        buffer = self.model.rollout_buffer
        self.rollout = {key: None if getattr(buffer, key) is None else getattr(buffer, key).clone() for key in SAVED}
        self.parameters = copy.deepcopy(self.model.get_parameters())


@pytest.fixture(scope="module")
def alone():
    """One process: for each learner what it learnt from, what it was before, and what it became."""
    found = {}
    for name in LEARNERS:
        model, snapshot = rank_worker.make(name, RANKS * WORLDS), Snapshot()
        model.learn(RANKS * WORLDS * STEPS, callback=snapshot)
        found[name] = snapshot.rollout, snapshot.parameters, (model._n_updates, model.policy.state_dict())
    return found


@pytest.fixture(scope="module")
def together(alone, tmp_path_factory):
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    cases = {name: found[:2] for name, found in alone.items()}
    mp.spawn(rank_worker.run, (folder / "meeting", folder, cases), nprocs=RANKS)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(RANKS)]


@pytest.mark.parametrize("name", LEARNERS)
def test_an_update_is_that_of_one_process_on_all_worlds(name, alone, together):
    updates, expected = alone[name][2]
    for found in together:
        assert found[name][0] == updates
        for key, value in expected.items():
            torch.testing.assert_close(
                found[name][1][key], value, rtol=1e-6, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}"
            )
    for key in expected:
        assert torch.equal(*(found[name][1][key] for found in together)), key


def test_rescaling_a_reward_changes_no_bit(together):
    """By powers of two; every rank ends with the same networks, has counted all steps, and knows of all episodes."""
    for key, value in together[0]["plain"]["policy"].items():
        for found in together:
            assert torch.equal(found["plain"]["policy"][key], value), key
            assert torch.equal(found["scaled"]["policy"][key], value), key
    for found in together:
        assert found["plain"]["steps"] == 2 * RANKS * WORLDS * STEPS
        assert found["plain"]["episodes"] == RANKS * WORLDS * (2 * STEPS // 9)


def test_a_combiner_that_draws_random_numbers_gives_all_ranks_one_direction(together):
    for key, value in together[0]["random"]["policy"].items():
        assert torch.equal(together[1]["random"]["policy"][key], value), key


def test_all_ranks_know_what_was_at_stake_before(together):
    for found in together:
        assert found["fades on"]["known"].rollouts.tolist() == [11, 11, 11]
    for key, value in together[0]["fades on"]["policy"].items():
        assert torch.equal(together[1]["fades on"]["policy"][key], value), key


def test_statistics_of_shares_are_those_of_the_whole(together):
    """Also where a rank has no samples."""
    whole = rank_worker.some_numbers()
    for found in (part["statistics"] for part in together):
        count, mean, variance = found["moments"]
        assert int(count) == len(whole)
        torch.testing.assert_close(mean, whole.mean(dim=0))
        torch.testing.assert_close(variance, whole.var(dim=0, correction=0))
        for got, expected in zip(found["std_mean"], torch.std_mean(whole, dim=0), strict=True):
            torch.testing.assert_close(got, expected)
        own = found["rank"]
        assert torch.allclose(found["normalised"], normalise_columns(whole).split(COUNTS)[own])
        expected = normalise_columns(whole, rank_worker.some_active()).split(COUNTS)[own]
        assert torch.allclose(found["normalised where active"], expected)
        torch.testing.assert_close(found["spreads"], whole.std(dim=0, correction=0))
        torch.testing.assert_close(found["spreads where active"], spreads(whole, rank_worker.some_active()))
        assert found["mean"].tolist() == [1.5, 3]
        assert found["largest"].tolist() == [2, -2]
        assert found["gathered"] == [[], [1]]
        assert found["from_lead"] == {"rank": 0}


def test_alone_nothing_changes():
    tensor = torch.randn(3)
    assert ranks.mean(tensor) is tensor
    assert ranks.largest(tensor) is tensor
    assert (ranks.number(), ranks.rank(), ranks.leads()) == (1, 0, True)


# ------------------------------------------------------------------------------------------------------- command line


def torchrun(folder, *flags, steps=10_000_000, program=("-m", "dibs_rl")):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *program, "train"]
    settings = ["--env", "mo-reacher", "--num-envs", 4, "--n-steps", 16, "--batch-size", 32, "--n-epochs", 1, "--threads", 1]
    more = ["--workers", 1, "--eval-episodes", 0, "--checkpoint-every", 512, "--steps", steps, "--out", folder, *flags]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, *map(str, [*settings, *more])], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    )


def until_it_learns(folder, process):
    """Waits for a second checkpoint."""
    start = time.monotonic()
    while len(list(folder.glob("checkpoints/*.zip"))) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() - start < 120
        time.sleep(0.05)


def workers_of(process):
    """Process numbers of torchrun's ranks, in their order."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            environ, parent = path.read_bytes(), int(path.with_name("stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        match = re.search(rb"\0RANK=(\d)\0", environ)
        if match and parent == process.pid:
            found[int(match[1])] = int(path.parent.name)
    return [found[rank] for rank in sorted(found)]


def go_on(folder, flags):
    """Resumes a run in one process."""
    command = [sys.executable, "-m", "dibs_rl", "train", "--resume", str(folder), *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds torchrun's processes in /proc")
@pytest.mark.parametrize("who", ["a rank is killed", "Ctrl-C"])
def test_a_training_that_ends_early_leaves_a_checkpoint(who, tmp_path):
    """All ranks end, the lead has said why, and one process can go on with the run."""
    folder = tmp_path / "run"
    process = torchrun(folder)
    until_it_learns(folder, process)
    if who == "Ctrl-C":
        process.send_signal(signal.SIGINT)
    else:
        os.kill(workers_of(process)[1], signal.SIGKILL)
    out, err = process.communicate(timeout=90)
    assert process.returncode != 0
    assert ("Stopped at" in out) if who == "Ctrl-C" else ("Another process of this training has ended" in err)
    assert load_yaml(folder / "config.yaml")["facts"]["processes"] == 2
    newest = max(int(path.stem.removeprefix("step_")) for path in folder.glob("checkpoints/*.zip"))
    assert newest % (RANKS * 4 * 16) == 0  # whole rollouts of all ranks
    found = go_on(folder, ["--steps", newest + 64])
    assert found.returncode == 0, found.stderr
    assert f"Going on from step {newest:,}" in found.stdout


def test_a_rank_lost_in_an_update_costs_a_rollout(tmp_path):
    """The checkpoint is that of the last rollout that was learnt from, and one process can go on with the run."""
    whole, lost, rollout = tmp_path / "whole", tmp_path / "lost", RANKS * 4 * 16
    process = torchrun(whole, "--checkpoint-every", 1, steps=3 * rollout)
    _, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    # An update is two steps of the policy, then two of the critic: the first rank waits for the third update's first of these.
    process = torchrun(lost, "--checkpoint-every", 10**9, program=(Path(__file__).with_name("lost_rank.py"), "10"))
    _, err = process.communicate(timeout=180)
    assert process.returncode != 0
    assert "Another process of this training has ended" in err
    assert sorted(path.name for path in lost.glob("checkpoints/*.zip")) == [f"step_{n:012d}.zip" for n in (0, 2 * rollout)]
    found, expected = (DiBSPPO.load(RunFolder(run).checkpoint_file(2 * rollout)) for run in (lost, whole))
    assert found.num_timesteps == expected.num_timesteps
    for part, values in expected.get_parameters().items():
        torch.testing.assert_close(found.get_parameters()[part], values, rtol=0, atol=0)
    gone_on = go_on(lost, ["--steps", 3 * rollout])
    assert gone_on.returncode == 0, gone_on.stderr
    assert f"Going on from step {2 * rollout:,}" in gone_on.stdout


def test_what_trains_in_one_process_only_says_so(tmp_path):
    process = torchrun(tmp_path / "run", "--algo", "sb3-ppo")
    _, err = process.communicate(timeout=90)
    assert process.returncode != 0
    assert "--algo sb3-ppo trains in one process" in err
    assert not (tmp_path / "run").exists()
