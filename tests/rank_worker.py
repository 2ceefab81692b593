"""What each process of `tests/test_ranks.py` does; spawned, so it imports no test."""

import numpy as np
import torch
import torch.distributed as dist
from fake_envs import PointEnv, point_envs
from stable_baselines3.common.logger import Logger

from dibs_rl import ranks
from dibs_rl.agents import DiBSA2C, DiBSPPO
from dibs_rl.envs import MultiTask
from dibs_rl.returns import normalise_columns, spreads
from dibs_rl.stakes import StakeHistory

RANKS, WORLDS, STEPS = 2, 2, 40
LEARNERS = {
    "once an epoch": (DiBSPPO, {"n_epochs": 3, "ent_coef": 0.01}),
    "once a rollout": (DiBSPPO, {"n_epochs": 3, "bargain_every": "rollout"}),
    "every minibatch": (DiBSPPO, {"n_epochs": 3, "bargain_every": "minibatch", "ent_coef": 0.01}),
    "until the policy has moved too far": (DiBSPPO, {"n_epochs": 20, "target_kl": 1e-3, "learning_rate": 3e-3}),
    "fading": (DiBSPPO, {"n_epochs": 3, "fading": True}),
    "a2c": (DiBSA2C, {}),
    "two tasks": (DiBSPPO, {"n_epochs": 3}),
}
COUNTS = (5, 0)  # samples of each rank


def make(name, worlds, seed=0):
    """A learner whose minibatch is the whole rollout, in so many worlds."""
    learner, settings = LEARNERS[name]
    batch = {"batch_size": worlds * STEPS} if learner is DiBSPPO else {}
    tasks = {"near": lambda: PointEnv(scales=(1.0,)), "far": lambda: PointEnv(scales=(1e3,), length=7)}
    env = MultiTask(tasks, num_envs=worlds, seed=0) if name == "two tasks" else point_envs(worlds, scales=(1.0, 1e3, 1e-3))
    model = learner("MlpPolicy", env, n_steps=STEPS, seed=seed, device="cpu", **batch, **settings)
    model.set_logger(Logger(None, []))
    if name == "fading":
        model._stake_history = some_history()
    return model


def some_history():
    """What nine rollouts may have said of the stakes."""
    return StakeHistory(torch.full((3,), 9.0).double(), torch.tensor([1e2, 1e4, 1e-6]).double())


def update_on_a_share(name, rollout, parameters):
    """Updates on this rank's worlds of a rollout; the parameters and statistics that it ends with."""
    model = make(name, WORLDS)
    model.set_parameters(parameters)
    mine = slice(ranks.rank() * WORLDS, (ranks.rank() + 1) * WORLDS)
    buffer = model.rollout_buffer
    for key, value in rollout.items():
        setattr(buffer, key, None if value is None else value[:, mine].clone())
    buffer.pos = STEPS
    model.train()
    return model._n_updates, model.policy.state_dict()


def some_numbers():
    """The samples of all ranks, `[N, 3]`, in very different units."""
    draw = np.random.default_rng(0)
    return torch.as_tensor(draw.normal(3, 2, (sum(COUNTS), 3)) * [1.0, 1e6, 1e-6])


def some_active():
    """Which of `some_numbers` count for which column: rank 0's second objective has no sample, the third a single one."""
    active = torch.ones(sum(COUNTS), 3, dtype=torch.bool)
    active[:, 1:] = False
    active[0, 2] = True
    return active


def statistics():
    """What the ranks say together of `some_numbers`, of which each has a share."""
    own = some_numbers().split(COUNTS)[ranks.rank()]
    count, shown = torch.tensor(len(own)), own if len(own) else torch.zeros(1, 3, dtype=torch.float64)
    mean, variance = shown.mean(dim=0), shown.var(dim=0, correction=0)
    return {
        "rank": ranks.rank(),
        "moments": ranks.moments(count, mean, variance),
        "std_mean": ranks.std_mean(own),
        "normalised": normalise_columns(own),
        "normalised where active": normalise_columns(own, some_active().split(COUNTS)[ranks.rank()]),
        "spreads": spreads(own),
        "spreads where active": spreads(own, some_active().split(COUNTS)[ranks.rank()]),
        "mean": ranks.mean(torch.tensor([1.0, 2.0]) * (ranks.rank() + 1)),
        "largest": ranks.largest(torch.tensor([1.0, -2.0]) * (ranks.rank() + 1)),
        "gathered": ranks.gathered([ranks.rank()] * ranks.rank()),
        "from_lead": ranks.from_lead({"rank": ranks.rank()}),
    }


def learn_scaled(factors, history=None, **settings):
    """Learns from rollouts of this rank's own; the policy, and what the rank knows of all episodes.

    Args:
        factors: Of the rewards.
        history: What the first rank alone knows of the stakes, as where a run goes on.
        settings: The learner's.
    """
    worlds = [lambda: PointEnv(scales=factors, length=9) for _ in range(WORLDS)]
    settings = {"n_steps": STEPS, "batch_size": 20, "n_epochs": 2, **settings}
    model = DiBSPPO("MlpPolicy", worlds, seed=ranks.rank() * WORLDS, device="cpu", **settings)
    if history is not None and ranks.leads():
        model._stake_history = history
    model.learn(2 * RANKS * WORLDS * STEPS)
    parameters = {key: value for key, value in model.policy.state_dict().items() if not key.startswith("value_net.")}
    return {
        "policy": parameters,
        "steps": model.num_timesteps,
        "episodes": len(model.ep_info_buffer),
        "known": model._stake_history,
    }


def run(rank, meeting, folder, cases):
    """One rank: everything that is asked of it, into a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=RANKS)
    found = {"statistics": statistics()}
    for name, (rollout, parameters) in cases.items():
        found[name] = update_on_a_share(name, rollout, parameters)
    found["plain"], found["scaled"] = learn_scaled((1.0, 1.0, 1.0)), learn_scaled((2.0**20, 1.0, 2.0**-30))
    found["random"] = learn_scaled((1.0, 1.0, 1.0), combiner="random", bargain_every="minibatch")
    found["fades on"] = learn_scaled((1.0, 1.0, 1.0), some_history(), fading=True, bargain_every="minibatch")
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()
