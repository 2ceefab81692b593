"""What is recorded and played back is what would have been done, in every bit."""

import contextlib
import copy
import gc
import io

import pytest
import torch
from pretend_recordings import pretend
from test_sync import ON_POLICY, PERIOD, N, learner, needs_gpu

from dibs_rl import DiBS, sync
from dibs_rl.agents import DiBSPPO
from dibs_rl.agents.recordings import Recordings, capture
from dibs_rl.agents.side_by_side import beside

CPU = torch.device("cpu")
RECORDED = {  # what is, of each case
    "perceptrons": {"bargain", "policy", "critic"},
    "every-minibatch": {"policy", "critic"},
    "preference": {"policy", "critic"},  # combined once a rollout
    "choices": {"bargain", "policy", "critic"},
    "autograd": set(),  # networks that may look
    "normalised-sum": {"bargain", "policy", "critic"},
    "tasks": {"bargain", "policy", "critic"},
    "tasks-every-minibatch": {"policy", "critic"},
    "sde": set(),
    "anchored": {"bargain", "policy", "critic"},
    "fading": {"bargain", "policy", "critic"},
    "anchored-choices": {"bargain", "policy", "critic"},
    "a2c": set(),  # nothing is done twice
}
ROLLOUTS = 3


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(sync, "waits", lambda device: True)


@pytest.fixture
def recorded(monkeypatch):
    return pretend(monkeypatch)


def trained(case, device="cpu", recorded=None, **changes):
    """A learner's numbers after some rollouts; on a GPU the names of what must have been recorded can be given."""
    kind, adapter, simulator, settings = ON_POLICY[case]
    model = learner(kind, adapter, simulator, {**settings, **changes}, device)
    torch.manual_seed(1)
    for _ in range(ROLLOUTS):
        model.learn(PERIOD * N, reset_num_timesteps=False, log_interval=None)
    assert recorded is None or set(model._recordings.last) == recorded
    log = {key: value for key, value in model.logger.name_to_value.items() if not key.startswith("time/")}
    return [part.clone() for part in (*model.policy.parameters(), *model.policy.buffers())], log


def assert_same(ours, theirs):
    assert all(map(torch.equal, ours[0], theirs[0]))
    assert ours[1].keys() == theirs[1].keys()
    for key, value in ours[1].items():
        assert value == pytest.approx(theirs[1][key], nan_ok=True), key


@pytest.mark.parametrize("case", ON_POLICY)
def test_a_learner_that_records_learns_the_same(case, monkeypatch):
    plain = trained(case)
    made = pretend(monkeypatch)
    assert_same(trained(case), plain)
    assert set(made) == RECORDED[case]
    assert len(made) == ROLLOUTS * len(RECORDED[case])  # each anew in each update


@pytest.mark.parametrize("limit", [1e-4, 1e-2])
def test_a_stop_reaches_what_is_recorded(limit, monkeypatch):
    plain = trained("perceptrons", target_kl=limit)
    pretend(monkeypatch)
    assert_same(trained("perceptrons", target_kl=limit), plain)


@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size:UserWarning")
def test_minibatches_of_another_size_are_learnt_from_too(monkeypatch):
    plain = trained("perceptrons", batch_size=24)
    assert (PERIOD * N) % 24
    pretend(monkeypatch)
    assert_same(trained("perceptrons", batch_size=24), plain)


def test_any_combiner_may_look(recorded):
    trained("perceptrons", combiner="upgrad")
    assert set(recorded) == {"policy", "critic"}


def test_an_optimizer_that_looks_is_not_recorded(recorded):
    trained("perceptrons", policy_kwargs={"optimizer_kwargs": {"amsgrad": True}})
    assert set(recorded) == {"bargain"}


def test_losses_of_a_subclass_may_look(recorded):
    seen = []

    class Looking(DiBSPPO):
        def _policy_losses(self, log_ratio, batch):
            seen.append(log_ratio.mean().item())
            return super()._policy_losses(log_ratio, batch)

    _, adapter, simulator, settings = ON_POLICY["perceptrons"]
    learner(Looking, adapter, simulator, settings).learn(PERIOD * N)
    assert seen
    assert recorded == []


def test_on_the_processor_nothing_is_recorded():
    def work():
        return 1

    assert Recordings().of("work", work, CPU) is work


def test_a_playback_takes_what_it_is_given_and_leaves_what_it_gave(recorded):
    state = torch.zeros(3)

    def work(pair, factor):
        state.add_(pair[0])
        return {"state": state * factor, "all": (pair[1], None, "text")}

    played = Recordings().of("work", work, CPU)
    found, total = [], torch.zeros(3)
    for i in range(5):
        first, second = torch.randn(3), torch.randn(2, 2)
        total += first
        found.append((played((first, second), torch.tensor(float(i))), total * i, second))
    for result, wanted, second in found:
        assert torch.equal(result["state"], wanted)
        assert torch.equal(result["all"][0], second)
        assert result["all"][1:] == (None, "text")
    assert recorded == ["work"]


def test_other_shapes_are_done_as_they_are(recorded):
    played = Recordings().of("work", lambda x: x.sum(), CPU)
    for size in (3, 3, 2, 3, 4, 4, 3):
        numbers = torch.randn(size)
        assert played(numbers) == numbers.sum()
    assert recorded == ["work"]


def test_the_next_recording_needs_no_first_call(recorded):
    kept = Recordings()
    for _ in range(3):
        played = kept.of("work", lambda x: 2 * x, CPU)
        assert torch.equal(played(torch.ones(2)), torch.full((2,), 2.0))
    assert recorded == ["work"] * 2


def test_work_that_failed_is_not_recorded_before_it_was_done(recorded):
    fails = [True]

    def work(x):
        if fails.pop():
            raise ArithmeticError
        return 2 * x

    played = Recordings().of("work", work, CPU)
    with pytest.raises(ArithmeticError):
        played(torch.ones(2))
    fails.append(False)
    played(torch.ones(2))
    assert recorded == []


def test_recordings_are_neither_saved_nor_copied(recorded):
    kind, adapter, simulator, settings = ON_POLICY["perceptrons"]
    model = learner(kind, adapter, simulator, settings).learn(PERIOD * N)
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    for other in (DiBSPPO.load(file, env=model.env), copy.deepcopy(model)):
        assert not other._recordings.last
        recorded.clear()
        other.learn(PERIOD * N, reset_num_timesteps=False)
        assert recorded


class OwnDiBS(DiBS):
    """A subclass, which may look."""


def test_a_combiner_that_somebody_listens_to_is_not_recorded(recorded):
    heard = []
    listened = DiBS()
    listened.weighting.register_forward_hook(lambda _module, _inputs, output: heard.append(output.tolist()))
    trained("perceptrons", combiner=listened)
    assert len(heard) == ROLLOUTS * 3  # each bargain
    trained("perceptrons", combiner=OwnDiBS())
    assert set(recorded) == {"policy", "critic"}


def test_schedules_reach_what_is_recorded(monkeypatch):
    changes = {"learning_rate": lambda left: 1e-3 * left, "clip_range": lambda left: 0.05 + 0.2 * left, "ent_coef": 0.01}
    plain = trained("perceptrons", **changes)
    pretend(monkeypatch)
    assert_same(trained("perceptrons", **changes), plain)


@pytest.fixture
def stub(monkeypatch):
    """What torch.cuda is asked to do, in order, without a GPU."""
    said = []

    class Stream:
        device = torch.device("cuda", 0)

        def __init__(self, name):
            self.name = name

        def wait_stream(self, other):
            said.append(f"{self.name} waits for {other.name}")

    class Graph:
        def capture_begin(self, **settings):
            said.append("begin")

        def capture_end(self):
            said.append("end")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream("main"))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    return said, Stream("second")


def test_a_capture_ends_also_where_the_work_fails(stub):
    said, second = stub
    collects = []

    def work():
        collects.append(gc.isenabled())
        return 7

    def fails():
        raise ArithmeticError

    assert capture(work, second, None)[1] == 7
    assert said == ["second waits for main", "begin", "end", "main waits for second"]
    with pytest.raises(ArithmeticError):
        capture(fails, second, None)
    assert said[4:] == ["second waits for main", "begin", "end"]
    assert collects == [False]
    assert gc.isenabled()


def test_what_was_asked_of_a_second_stream_is_waited_for_also_where_something_fails(stub, monkeypatch):
    said, second = stub
    monkeypatch.setattr("dibs_rl.agents.side_by_side.stream_for", lambda purpose, device: second)

    def alone(fails):
        with beside(True, True, second.device) as call:
            given = call(lambda x: x + 1, 1)
            if fails:
                raise ArithmeticError
            assert given() == 2

    alone(False)
    assert said == ["second waits for main", "main waits for second", "main waits for second"]
    said.clear()
    with pytest.raises(ArithmeticError):
        alone(True)
    assert said == ["second waits for main", "main waits for second"]


@needs_gpu
@pytest.mark.parametrize("case", ON_POLICY)
def test_on_a_gpu_a_learner_that_records_learns_the_same(case, monkeypatch):
    ours = trained(case, "cuda", RECORDED[case])
    monkeypatch.setattr(Recordings, "of", lambda self, name, work, device: work)
    assert_same(ours, trained(case, "cuda"))


@needs_gpu
def test_on_a_gpu_a_stop_reaches_what_is_recorded(monkeypatch):
    ours = trained("perceptrons", "cuda", RECORDED["perceptrons"], target_kl=1e-3)
    monkeypatch.setattr(Recordings, "of", lambda self, name, work, device: work)
    assert_same(ours, trained("perceptrons", "cuda", target_kl=1e-3))


@needs_gpu
def test_on_a_gpu_updates_take_no_more_and_more_memory():
    model = learner(*ON_POLICY["perceptrons"], "cuda").learn(5 * PERIOD * N)
    before = torch.cuda.memory_reserved()
    model.learn(50 * PERIOD * N, reset_num_timesteps=False)
    assert torch.cuda.memory_reserved() == before
