"""The table of combiners: each makes a direction, none of TorchJD's is missing, and the sums add as they say."""

import inspect
import pickle

import pytest
import torch
import torchjd.aggregation
from torch import Tensor
from torch.testing import assert_close
from torchjd.aggregation import Aggregator, Sum

from dibs_rl import DiBS, make_combiner
from dibs_rl.combiners import COMBINERS, AdvantageSum, split_scalarisation
from dibs_rl.errors import UserError

F32, F64 = torch.float32, torch.float64
OURS = {"dibs", "norm-sum", "weighted-sum"}
TAKE_PREFERENCE = OURS | {"aligned-mtl", "config", "dualproj", "upgrad"}


def normal(*shape: int, dtype: torch.dtype = F32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def assert_finite_direction(combiner: Aggregator, jacobian: Tensor) -> None:
    direction = combiner(jacobian)
    assert direction.shape == jacobian.shape[1:]
    assert direction.isfinite().all()


@pytest.mark.parametrize("scale", [1e-10, 1.0, 1e10])
@pytest.mark.parametrize("shape", [(1, 7), (4, 7), (9, 3)])
@pytest.mark.parametrize("name", COMBINERS)
def test_every_combiner_makes_a_direction(name: str, shape: tuple[int, int], scale: float) -> None:
    assert_finite_direction(make_combiner(name), scale * normal(*shape))


@pytest.mark.parametrize("name", COMBINERS)
def test_every_combiner_survives_zero_parallel_and_opposite_rows(name: str) -> None:
    row = normal(1, 7)
    for jacobian in (torch.zeros(3, 7), row.repeat(3, 1), torch.cat([row, -row])):
        assert_finite_direction(make_combiner(name), jacobian)


def test_none_of_torchjds_aggregators_is_missing() -> None:
    """When TorchJD gains one, it is to be added to the table."""
    members = inspect.getmembers(torchjd.aggregation, inspect.isclass)
    there = {name for name, kind in members if issubclass(kind, Aggregator) and not inspect.isabstract(kind)}
    made = {type(make_combiner(name)).__name__.removeprefix("_") for name in COMBINERS if name not in OURS}
    assert made <= there
    bases = {"WeightedAggregator", "GramianWeightedAggregator"}
    assert there - made - bases == {"Constant", "Krum", "TrimmedMean"}  # fixed weights, and two against hostile workers


def test_names_are_unique() -> None:
    assert len(set(COMBINERS)) == len(COMBINERS)
    assert set(COMBINERS) >= OURS


def test_dibs_gets_its_settings() -> None:
    jacobian = normal(3, 5, dtype=F64)
    assert torch.equal(make_combiner("dibs")(jacobian), DiBS()(jacobian))
    made = make_combiner("dibs", preference=[1, 2, 3], objectives=["a", "b", "c"], steps=2)
    assert torch.equal(made(jacobian), DiBS(steps=2, preference=[1.0, 2.0, 3.0])(jacobian))
    assert not torch.equal(made(jacobian), DiBS(preference=[1.0, 2.0, 3.0])(jacobian))
    jacobian[1] = torch.nan
    with pytest.raises(UserError, match="of b"):
        made(jacobian)


# -------------------------------------------------------------------------- those that TorchJD wants arguments for


def test_cagrad_takes_the_best_worst_case_within_half_the_mean_gradient() -> None:
    """CAGrad (arXiv 2110.14048), c = 0.5: the most that the worst-off objective can gain with |d - g_0| <= |g_0| / 2."""
    jacobian = normal(3, 5, dtype=F64) + 0.3
    direction, mean = make_combiner("cagrad")(jacobian), jacobian.mean(dim=0)
    assert_close((direction - mean).norm(), 0.5 * mean.norm(), rtol=1e-4, atol=0)
    around = torch.randn(20_000, 5, generator=torch.Generator().manual_seed(1), dtype=F64)
    in_ball = mean + 0.5 * mean.norm() * around / around.norm(dim=1, keepdim=True)
    best_found = (in_ball @ jacobian.T).amin(dim=1).max()
    assert (jacobian @ direction).min() > best_found - 1e-3


@pytest.mark.parametrize("name", ["nash-mtl", "fairgrad"])
def test_nash_and_fairgrad_divide_gains_in_inverse_proportion_to_weights(name: str) -> None:
    """Nash-MTL and FairGrad with alpha = 1 both ask for `G w = 1 / w`, Nash-MTL up to a factor for its greatest norm."""
    jacobian = normal(3, 20, dtype=F64)
    combiner = make_combiner(name)
    weights = combiner.weighting(jacobian) if name == "nash-mtl" else combiner.gramian_weighting(jacobian @ jacobian.T)
    products = weights * (jacobian @ jacobian.T @ weights)
    assert_close(products / products.mean(), torch.ones(3, dtype=F64), atol=1e-2, rtol=0)
    assert name == "nash-mtl" or abs(products.mean() - 1) < 1e-3
    assert name == "fairgrad" or combiner(jacobian).norm() <= 1 + 1e-9


def test_nash_of_two_is_the_bisector() -> None:
    """With two objectives every method on unit gradients takes their bisector, however long the gradients are."""
    jacobian = torch.tensor([[30.0, 0.0, 0.0], [0.1, 0.2, -0.2]], dtype=F64)
    units = jacobian / jacobian.norm(dim=1, keepdim=True)
    direction, bisector = make_combiner("nash-mtl")(jacobian), units.sum(dim=0)
    assert_close(direction / direction.norm(), bisector / bisector.norm(), atol=1e-3, rtol=0)


def test_nash_takes_as_many_objectives_as_have_a_gradient() -> None:
    """The number may change from call to call; one alone gets its unit gradient, and none nothing."""
    combiner, jacobian = make_combiner("nash-mtl"), normal(3, 7, dtype=F64)
    without = make_combiner("nash-mtl")(jacobian[:2])
    jacobian[2] = 0
    assert_close(combiner(jacobian), without)
    assert combiner.weighting(jacobian)[2] == 0
    assert_close(combiner(jacobian[1:]), jacobian[1] / jacobian[1].norm())
    assert torch.equal(combiner(jacobian[2:]), torch.zeros(7, dtype=F64))
    assert combiner(normal(4, 7)).isfinite().all()


# ------------------------------------------------------------------------------------------------------- the two sums


@pytest.mark.parametrize("preference", [None, [1.0, 2.0, 0.5]])
def test_weighted_sum_adds_columns_and_rows(preference: list[float] | None) -> None:
    """By hand: (1, 2, 4) is 7 plainly and 1 + 4 + 2 = 7 weighted; (1, 0, 2) is 3 plainly and 1 + 0 + 1 = 2 weighted."""
    advantages = torch.tensor([[1.0, 2.0, 4.0], [1.0, 0.0, 2.0]])
    combiner = make_combiner("weighted-sum", preference=preference)
    expected = [7.0, 3.0] if preference is None else [7.0, 2.0]
    assert combiner.scalarise(advantages).tolist() == [[value] for value in expected]
    assert combiner(advantages.T).tolist() == expected


@pytest.mark.parametrize("dtype", [F32, F64])
def test_weighted_sum_of_one_objective_is_the_identity(dtype: torch.dtype) -> None:
    advantages = normal(20, 1, dtype=dtype)
    assert torch.equal(make_combiner("weighted-sum").scalarise(advantages), advantages)


def test_weighted_sum_is_linear_in_the_scale_of_a_reward() -> None:
    """What it is a baseline for: a reward in other units is another problem."""
    advantages, combiner = normal(20, 2), make_combiner("weighted-sum")
    alone = combiner.scalarise(advantages * torch.tensor([1024.0, 0.0]))
    both = combiner.scalarise(advantages * torch.tensor([1024.0, 1.0]))
    assert_close(both - alone, advantages[:, 1:], atol=1e-3, rtol=0)


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("preference", [None, [3.0, 1.0, 2.0]])
def test_norm_sum_ignores_powers_of_two_bit_for_bit(dtype: torch.dtype, preference: list[float] | None) -> None:
    advantages, combiner = normal(50, 3, dtype=dtype), make_combiner("norm-sum", preference=preference)
    factors = torch.tensor([2.0**-40, 1.0, 2.0**40], dtype=dtype)
    assert torch.equal(combiner.scalarise(advantages * factors), combiner.scalarise(advantages))


@pytest.mark.parametrize("preference", [None, [3.0, 1.0, 2.0]])
def test_norm_sum_is_the_sum_of_standard_scores(preference: list[float] | None) -> None:
    advantages = normal(50, 3, dtype=F64) * torch.tensor([1e-6, 1.0, 1e6]) + torch.tensor([1.0, 2.0, 3.0])
    scores = (advantages - advantages.mean(dim=0)) / advantages.std(dim=0)
    expected = (scores * torch.tensor(preference or [1.0] * 3)).sum(dim=1, keepdim=True)
    found = make_combiner("norm-sum", preference=preference).scalarise(advantages)
    assert_close(found, expected, atol=1e-8, rtol=0)


def test_norm_sum_leaves_out_an_objective_that_never_varied() -> None:
    advantages = normal(50, 2)
    combiner = make_combiner("norm-sum")
    padded = torch.cat([advantages, torch.full((50, 1), 0.1)], dim=1)
    assert torch.equal(combiner.scalarise(padded), combiner.scalarise(advantages))


@pytest.mark.parametrize("name", ["norm-sum", "weighted-sum"])
def test_sums_act_on_advantages_and_then_on_one_row(name: str) -> None:
    combiner = make_combiner(name)
    total, rest = split_scalarisation(combiner)
    assert isinstance(combiner, AdvantageSum)
    assert total is combiner
    assert isinstance(rest, Sum)


def test_sums_weigh_values_that_are_counted_in_their_own_units() -> None:
    """Units divide out of a normalised sum, but for an objective that has none yet; a plain sum counts in rewards."""
    units = torch.tensor([10.0, 0.0, 0.5])
    assert_close(make_combiner("norm-sum", preference=[1.0, 2.0, 3.0]).weights_in(units), torch.tensor([1.0, 0.0, 3.0]))
    assert_close(make_combiner("weighted-sum", preference=[1.0, 2.0, 3.0]).weights_in(units), torch.tensor([10.0, 0.0, 1.5]))


def test_other_combiners_act_on_gradients_alone() -> None:
    combiner = make_combiner("dibs")
    assert split_scalarisation(combiner) == (None, combiner)


# ------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("name", COMBINERS)
def test_preference_is_taken_or_refused(name: str) -> None:
    """A preference that is silently ignored would be worse than an error."""
    if name in TAKE_PREFERENCE:
        assert_finite_direction(make_combiner(name, preference=[1.0, 2.0]), normal(2, 5))
        return
    with pytest.raises(UserError, match=f"{name} takes no preference; .*dibs.*upgrad do"):
        make_combiner(name, preference=[1.0, 2.0])


@pytest.mark.parametrize("name", sorted(TAKE_PREFERENCE))
def test_preference_changes_the_direction(name: str) -> None:
    jacobian = torch.tensor([[1.0, 0.0, 0.2], [0.0, 1.0, 0.3]])
    plain = make_combiner(name, steps=1)(jacobian)
    preferred = make_combiner(name, preference=[1.0, 5.0], steps=1)(jacobian)
    assert not torch.allclose(plain / plain.norm(), preferred / preferred.norm(), atol=1e-3)


@pytest.mark.parametrize("name", ["dibs", "weighted-sum", "upgrad"])
@pytest.mark.parametrize(
    ("preference", "rule"),
    [
        ([1.0], r"for each of the 2 objectives \(speed, energy\); found 1"),
        ([1.0, 2.0, 3.0], r"for each of the 2 objectives \(speed, energy\); found 3"),
        ([1.0, 0.0], "positive numbers; found 1, 0"),
        ([-1.0, 2.0], "positive numbers; found -1, 2"),
        ([float("nan"), 2.0], "positive numbers; found nan, 2"),
        ([1.0, float("inf")], "positive numbers; found 1, inf"),
    ],
)
def test_bad_preferences(name: str, preference: list[float], rule: str) -> None:
    with pytest.raises(UserError, match=rule):
        make_combiner(name, preference=preference, objectives=["speed", "energy"])


def test_a_preference_is_a_vector() -> None:
    with pytest.raises(UserError, match="One preference weight for each objective"):
        make_combiner("dibs", preference=torch.ones(2, 2))


@pytest.mark.parametrize(
    ("name", "hint"),
    [("dib", "Did you mean dibs?"), ("norm_sum", "Did you mean norm-sum?"), ("upgrade", "Did you mean upgrad?")],
)
def test_unknown_names_get_a_hint(name: str, hint: str) -> None:
    with pytest.raises(UserError) as raised:
        make_combiner(name)
    assert hint in str(raised.value)
    assert all(known in str(raised.value) for known in COMBINERS)


def test_a_name_like_no_other_gets_the_list() -> None:
    with pytest.raises(UserError, match=r"Unknown combiner 'xyzzy'\. There is dibs,"):
        make_combiner("xyzzy")


@pytest.mark.parametrize("name", ["upgrad", "cagrad", "nash-mtl", "fairgrad"])
def test_a_missing_package_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """TorchJD raises ImportError where there is no solver; the user is told what to install."""

    def fail(*_: object, **__: object) -> None:
        raise ImportError("no solver")

    monkeypatch.setattr(torchjd.aggregation, type(make_combiner(name)).__name__.removeprefix("_"), fail)
    with pytest.raises(UserError, match=rf"{name} needs more packages: pip install 'dibs-rl\[combiners\]' \(no sol"):
        make_combiner(name)


@pytest.mark.parametrize("name", ["dibs", "norm-sum", "weighted-sum"])
def test_a_combiner_is_pickled_for_the_processor(name):
    """What lies on a GPU, for which a kind of tensor stands in, would not open elsewhere."""
    combiner = make_combiner(name, preference=[3.0, 1.0])
    holder = getattr(combiner, "gramian_weighting", combiner)
    asked = []

    class OnGPU(torch.Tensor):
        def cpu(self):
            asked.append(True)
            return self.as_subclass(torch.Tensor)

    held = ["preference"]
    if name == "dibs":
        combiner.distances = torch.tensor([1.0, 2.0])
        held.append("distances")
    expected = {part: getattr(holder, part) for part in held}
    for part, value in expected.items():
        setattr(holder, part, value.as_subclass(OnGPU))
    again = pickle.loads(pickle.dumps(combiner))
    assert len(asked) == len(held)
    for part, value in expected.items():
        found = getattr(getattr(again, "gramian_weighting", again), part)
        assert type(found) is torch.Tensor
        assert torch.equal(found, value)
