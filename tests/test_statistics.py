"""Statistics over seeds against hand-computed numbers, exact resampling, and their own promises."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import trim_mean

from dibs_rl.statistics import (
    LEAST_SEEDS,
    band,
    estimate,
    estimate_of,
    invariance_gap,
    iqm,
    maximin,
    mean,
    mean_score,
    nash_welfare,
    ratio_of_means,
    scores,
    seed_noise,
)

NUMBERS = st.floats(-1e6, 1e6)
SAMPLES = st.lists(NUMBERS, min_size=1, max_size=40)
SCORES = arrays(float, st.tuples(st.integers(1, 6), st.integers(1, 5)), elements=st.floats(-3, 3))


def test_iqm_by_hand():
    assert iqm([1, 2, 3]) == 2  # a quarter of three is nothing
    assert iqm([100, 2, 3, -50]) == 2.5
    assert iqm([9, 1, 2, 3, 4, 5, 6, 7]) == pytest.approx((3 + 4 + 5 + 6) / 4)


@given(SAMPLES)
def test_iqm_is_the_mean_of_the_middle_half(values):
    cut = len(values) // 4
    middle = sorted(values)[cut : len(values) - cut]
    assert iqm(values) == pytest.approx(sum(middle) / len(middle), rel=1e-9, abs=1e-6)
    assert iqm(values) == pytest.approx(trim_mean(values, 0.25), rel=1e-12)


@given(SAMPLES, st.floats(0.01, 100), NUMBERS)
def test_iqm_moves_with_its_units(values, factor, shift):
    moved = [factor * value + shift for value in values]
    assert iqm(moved) == pytest.approx(factor * iqm(values) + shift, rel=1e-6, abs=1e-4)


def test_few_seeds_have_no_interval():
    assert LEAST_SEEDS == 3
    found = estimate([[1.0, 3.0]], mean)
    assert (found.value, found.seeds, found.has_interval) == (2.0, 2, False)
    assert not estimate([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0]]).has_interval  # one stratum is too small
    assert estimate([[1.0, 2.0, 3.0]]).has_interval


def test_estimates_of_nothing_are_refused():
    for strata in ([], [[]], [[1.0, 2.0, 3.0], []]):
        with pytest.raises(ValueError, match="at least one value"):
            estimate(strata)
    with pytest.raises(ValueError, match="at least 3 curves"):
        band(np.zeros((2, 5)))


@given(st.lists(NUMBERS, min_size=3, max_size=8), st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_intervals_lie_among_the_values_and_are_repeatable(values, seed):
    found = estimate([values], iqm, seed)
    slack = 1e-9 * (1 + max(map(abs, values)))
    assert min(values) - slack <= found.low <= found.high <= max(values) + slack
    assert found == estimate([values], iqm, seed)


def test_equal_values_have_an_interval_of_no_width():
    assert estimate([[0.25] * 5])[:3] == (0.25, 0.25, 0.25)
    assert estimate([np.zeros(4)])[:3] == (0, 0, 0)


def test_the_interval_is_that_of_all_resamples():
    """For few values all resamples can be written down: about a fortieth of them lies beyond each end."""
    strata = [np.array([0.1, 0.5, 2.3, 3.1]), np.array([10.0, 11.7, 12.9])]
    resamples = [
        (sum(first) + sum(second)) / 7
        for first in itertools.product(strata[0], repeat=4)
        for second in itertools.product(strata[1], repeat=3)
    ]
    found = estimate(strata, mean)
    assert found.value == pytest.approx(np.concatenate(strata).mean())
    assert np.mean(np.array(resamples) < found.low) == pytest.approx(0.025, abs=0.008)
    assert np.mean(np.array(resamples) > found.high) == pytest.approx(0.025, abs=0.008)


def test_strata_are_resampled_apart():
    """What differs between environments is not noise: it must not widen the interval."""
    rng = np.random.default_rng(0)
    near, far = rng.normal(0, 1, 6), rng.normal(1000, 1, 6)
    apart = estimate([near, far], mean)
    together = estimate([np.concatenate([near, far])], mean)
    assert apart.high - apart.low < 3
    assert together.high - together.low > 300


def test_coverage_with_many_seeds():
    """Of 400 samples of 20 normal values, the 95% interval of the mean holds the true mean in about 93 of 100."""
    samples = np.random.default_rng(1).normal(2.0, 3.0, (20, 400))
    low, high = band(samples)
    assert 0.88 < np.mean((low <= 2.0) & (high >= 2.0)) < 0.98


@pytest.mark.parametrize(("seeds", "said"), [(3, 0.75), (5, 0.90), (10, 0.94)])
def test_coverage_with_few_seeds_is_as_documented(seeds, said):
    rng = np.random.default_rng(2)
    found = [estimate([rng.normal(size=seeds)]) for _ in range(300)]
    assert np.mean([one.low <= 0 <= one.high for one in found]) == pytest.approx(said, abs=0.06)


def test_ratio_of_means():
    found = estimate_of(ratio_of_means, [[2.0, 4.0, 6.0], [1.0, 2.0, 3.0]])
    assert found.value == 2
    assert 4 / 6 < found.low < 2 < found.high < 6
    assert estimate_of(ratio_of_means, [[3.0, 3.0, 3.0], [2.0, 2.0, 2.0]])[:3] == (1.5, 1.5, 1.5)


def test_scores_by_hand():
    returns = [[950.0, -1550.0], [-100.0, 0.0]]
    found = scores(returns, random=[-100.0, -3100.0], expert=[2000.0, 0.0])
    assert found == pytest.approx(np.array([[0.5, 0.5], [0.0, 1.0]]))
    assert maximin(found).tolist() == [0.5, 0.0]
    assert mean_score(found).tolist() == [0.5, 0.5]
    assert nash_welfare(found).tolist() == [0.5, 0.0]
    assert nash_welfare(np.array([0.2, 0.4, 0.8])) == pytest.approx(0.4)
    assert nash_welfare(np.array([-0.2, 4.0])) == 0


def test_an_expert_no_better_than_random_gives_no_score():
    found = scores([[1.0, 1.0, 1.0]], random=[0.0, 2.0, 0.5], expert=[2.0, 2.0, 0.0])
    assert found[0, 0] == 0.5
    assert math.isnan(found[0, 1])
    assert math.isnan(found[0, 2])


@given(SCORES, st.floats(1e-3, 1e3), st.floats(-100, 100))
def test_scores_do_not_see_units(returns, factor, shift):
    m = returns.shape[1]
    random, expert = np.full(m, -4.0), np.linspace(1, 5, m)
    plain = scores(returns, random, expert)
    changed = scores(factor * returns + shift, factor * random + shift, factor * expert + shift)
    assert changed == pytest.approx(plain, rel=1e-6, abs=1e-6)


@given(SCORES)
def test_welfare_lies_between_the_worst_and_the_mean(score):
    positive = np.abs(score) + 0.01
    assert (maximin(positive) <= nash_welfare(positive) + 1e-12).all()
    assert (nash_welfare(positive) <= mean_score(positive) + 1e-12).all()
    assert (maximin(score) <= mean_score(score) + 1e-12).all()


def test_gap_and_noise_by_hand():
    plain = np.array([[0.5, 0.5], [0.2, 0.9], [0.4, 0.6]])
    scaled = np.array([[0.5, 0.5], [0.3, 0.5], [0.4, 0.7]])
    assert invariance_gap(scaled, plain) == pytest.approx([0, 0.4, 0.1])
    # Largest differences: 0.4 between the first and the second, 0.1 first and third, 0.3 second and third.
    assert seed_noise(plain) == pytest.approx([0.25, 0.35, 0.2])
    assert np.isnan(seed_noise(plain[:1])).all()


@given(SCORES)
def test_the_same_results_have_no_gap(score):
    assert (invariance_gap(score, score) == 0).all()
