"""What the examples of the theory claim, at a smaller size, and that each draws its picture."""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from oracles import geometric_median
from scripts import ROOT, load
from torch.testing import assert_close

from dibs_rl.diagnostics import stationarity_residual
from dibs_rl.units import cosines, unit_rows

FOLDER = ROOT / "examples"
F64 = torch.float64


NAMES = ("toy", "quadratic", "convergence", "supervised")
toy, quadratic, convergence, supervised = (load(f"examples/{name}.py") for name in NAMES)


def run(module: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["example", *map(str, arguments)])
    threads = torch.get_num_threads()
    module.main()
    torch.set_num_threads(threads)


# ---------------------------------------------------------------------------------------------------- the toy problem


@pytest.mark.parametrize("start", toy.STARTS)
@pytest.mark.parametrize("method", ["DiBS, local", "DiBS, anchored"])
def test_toy_dibs_walks_the_same_path_under_the_transform(method: str, start: tuple[float, float]) -> None:
    paths = [toy.trajectory(start, toy.METHODS[method](), transformed=transformed, steps=80) for transformed in (False, True)]
    assert_close(paths[1], paths[0], atol=1e-8, rtol=0)
    assert (paths[0][-1] - paths[0][0]).norm() > 0.5  # it went somewhere


@pytest.mark.parametrize("start", toy.STARTS[1:4])
@pytest.mark.parametrize("method", ["sum", "MGDA", "PCGrad"])
def test_toy_others_do_not(method: str, start: tuple[float, float]) -> None:
    paths = [toy.trajectory(start, toy.METHODS[method](), transformed=transformed, steps=80) for transformed in (False, True)]
    assert (paths[1] - paths[0]).norm(dim=1).max() > 0.05


def test_toy_front_is_pareto_stationary_and_optimal_at_its_ends() -> None:
    front = toy.front(9)
    for point in front[1:-1]:
        units, _ = unit_rows(toy.objective_jacobian(toy.losses(x := point.clone().requires_grad_()), [x]))
        assert stationarity_residual(cosines(units)) < 1e-4
    grid = torch.linspace(-11, 11, 221, dtype=F64)
    everywhere = toy.losses(torch.stack(torch.meshgrid(grid, grid, indexing="ij"), -1)).flatten(0, 1)
    ends = toy.losses(front[[-1, 0]])
    assert (ends.diagonal() <= everywhere.min(dim=0).values).all()


def test_toy_anchored_game_ends_in_the_middle_and_the_local_game_where_it_meets_the_front() -> None:
    start = (-7.5, -0.5)
    anchored = toy.trajectory(start, toy.METHODS["DiBS, anchored"](), transformed=False)[-1]
    assert_close(anchored, torch.tensor([0.0, -8.3551], dtype=F64), atol=1e-3, rtol=0)
    local = toy.trajectory(start, toy.METHODS["DiBS, local"](), transformed=False)[-1]
    assert (local - toy.front(401)).norm(dim=1).min() < 0.02
    assert local[0] < -3


# ------------------------------------------------------------------------------------------- losses of a distance


def end(*arguments: object) -> torch.Tensor:
    return quadratic.descend(quadratic.isotropic_losses, *arguments, steps=200, length=0.5)[-1]


@pytest.mark.parametrize("start", quadratic.STARTS)
@pytest.mark.parametrize("preference", [None, quadratic.PREFERENCE, (5.0, 1.0, 2.0, 1.0, 1.0)])
def test_quadratic_anchored_game_ends_at_the_centroid(start: tuple[float, float], preference: tuple | None) -> None:
    points, weights = quadratic.PREFERRED.numpy(), np.array(preference or [1.0] * 5)
    centroid = torch.as_tensor((weights[:, None] * points).sum(axis=0) / weights.sum())
    found = end(torch.tensor(start, dtype=F64), quadratic.PREFERRED, preference)
    assert_close(found, centroid, atol=1e-8, rtol=0)
    assert_close(quadratic.weighted_centroid(preference), centroid)


@pytest.mark.parametrize("start", quadratic.STARTS)
def test_quadratic_one_step_local_game_ends_at_the_geometric_median(start: tuple[float, float]) -> None:
    median = torch.as_tensor(geometric_median(quadratic.PREFERRED.numpy()))
    assert_close(quadratic.geometric_median(), median, atol=1e-5, rtol=0)
    assert_close(end(torch.tensor(start, dtype=F64)), median, atol=1e-5, rtol=0)
    assert (median - quadratic.weighted_centroid()).norm() > 1  # the two games could be told apart


def test_quadratic_two_parabolas() -> None:
    start, minima = torch.tensor([0.2], dtype=F64), torch.tensor([[0.0], [1.0]], dtype=F64)
    local = quadratic.descend(quadratic.two_parabolas, start, steps=50, length=0.1)
    assert (local == 0.2).all()
    anchored = quadratic.descend(quadratic.two_parabolas, start, minima, steps=200, length=0.1)
    assert_close(anchored[-1], torch.tensor([0.5], dtype=F64), atol=1e-8, rtol=0)


# -------------------------------------------------------------------------------------------------- nonconvex problems

CONVEX_ENOUGH = [name for name in convergence.PROBLEMS if name not in convergence.HELD_UP]


@pytest.mark.parametrize("name", convergence.PROBLEMS)
def test_convergence_preferred_states_are_global_minima_of_losses_that_are_not_all_convex(name: str) -> None:
    problem = convergence.PROBLEMS[name]
    samples = convergence.random_starts(problem, 20_000, seed=1)
    losses = problem.losses(samples)
    assert (problem.losses(problem.preferred).diagonal() <= losses.min(dim=0).values).all()
    aside = 0.2 * torch.randn(samples.shape, generator=torch.Generator().manual_seed(2), dtype=F64)
    chord = (problem.losses(samples + aside) + problem.losses(samples - aside)) / 2
    assert (losses > chord + 1e-6).any()  # above a chord: not convex


@pytest.mark.parametrize("name", convergence.PROBLEMS)
def test_convergence_gradients_of_many_states_at_once_are_each_state_s_own(name: str) -> None:
    problem = convergence.PROBLEMS[name]
    starts = convergence.random_starts(problem, 3)
    for start, jacobian in zip(starts, convergence.jacobians(problem.losses, starts), strict=True):
        expected = torch.autograd.functional.jacobian(lambda x: problem.losses(x.unsqueeze(0))[0], start)
        assert_close(jacobian, expected)


@pytest.mark.parametrize("game", convergence.GAMES)
@pytest.mark.parametrize("name", CONVEX_ENOUGH)
def test_convergence_every_walk_comes_below_the_tolerance(name: str, game: str) -> None:
    problem = convergence.PROBLEMS[name]
    walks = convergence.walk(problem, convergence.random_starts(problem, 8, seed=2), 350, game)
    assert walks.arrived.all()
    assert (walks.residual[0] > convergence.TOLERANCE).all()  # none started there
    assert (walks.residual.diff(dim=0) <= 0).all()


@pytest.mark.parametrize(("name", "game"), [("Viennet", "local"), ("Poloni", "anchored"), ("Socha-Kisiel", "anchored")])
def test_convergence_walks_that_are_held_up_stand_where_one_objective_is_at_a_minimum(name: str, game: str) -> None:
    """Some walks stay above the tolerance, others do not; the gradient of one objective has all but gone for those."""
    problem = convergence.PROBLEMS[name]
    walks = convergence.walk(problem, convergence.random_starts(problem, 16), 250, game)
    held_up = ~walks.arrived
    assert held_up.any()
    nearest = walks.own[held_up]
    assert (nearest < 0.1).float().mean() > 0.6  # the rest is on its way
    assert walks.arrived.any()


# ------------------------------------------------------------------------------------------------ a multi-task network


@pytest.fixture(scope="module")
def runs() -> dict[tuple[str, str], tuple]:
    data = supervised.load_data()
    jobs = [(method, transform) for method in supervised.METHODS for transform in supervised.TRANSFORMS]
    return {job: supervised.train(*job, data, steps=30) for job in jobs}


def parameters(network: torch.nn.Module) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(network.parameters())


@pytest.mark.parametrize("transform", ["its logarithm", "its fourth power"])
def test_supervised_dibs_does_not_see_the_transform(runs: dict, transform: str) -> None:
    network, scores = runs["DiBS", "as it is"]
    transformed, transformed_scores = runs["DiBS", transform]
    assert_close(parameters(transformed), parameters(network), atol=1e-9, rtol=0)
    assert_close(transformed_scores, scores, atol=1e-9, rtol=0)


@pytest.mark.parametrize("transform", ["its logarithm", "its fourth power"])
def test_supervised_the_sum_does(runs: dict, transform: str) -> None:
    change = runs["sum", transform][1][-1] - runs["sum", "as it is"][1][-1]
    assert change.abs().max() > 0.1  # a share of the test images told right, or grey levels


def test_supervised_dibs_learns_both_tasks(runs: dict) -> None:
    _, scores = runs["DiBS", "as it is"]
    assert scores[-1, 0] > 0.6
    assert scores[-1, 1] < 0.5 * scores[0, 1]


# -------------------------------------------------------------------------------------------------------- the pictures


@pytest.mark.parametrize(
    ("module", "arguments"),
    [(quadratic, []), (convergence, ["--steps", 3, "--starts", 2]), (supervised, ["--steps", 2]), (toy, ["--steps", 1])],
    ids=["quadratic", "convergence", "supervised", "toy"],
)
def test_examples_draw_their_picture(
    module: ModuleType, arguments: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "picture.png"
    run(module, monkeypatch, "--out", out, *arguments)
    assert out.read_bytes().startswith(b"\x89PNG")
    assert str(out) in capsys.readouterr().out
