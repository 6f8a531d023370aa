"""The discrete-gradients experiment, once, small, from end to end: derived values, and no bias."""

import numpy as np
import pytest
from experiment_cycle import check_whole

from experiments import discrete_gradients as experiment
from experiments import discrete_gradients_toy as toys
from experiments.discrete_gradients_measure import compare

SMALL = {
    "toy_repeats": 20_000,
    "toy_steps": 300,
    "toy_seeds": 40,
    "num_latents": 3,
    "num_points": 3,
    "num_repeats": 1000,
    "train_steps": 20,
    "temperatures": (0.1, 1.0),
    "adapt_steps": 10,
}


@pytest.fixture(scope="module")
def result(tmp_path_factory, compile_quickly):
    # Compiling some thirty programs is nearly all of the time.
    out = tmp_path_factory.mktemp("discrete") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toys, "descend", few_descents)
        return experiment.main(experiment.Config(out=out, **SMALL))


DESCEND = toys.descend


def few_descents(key, config):
    """The descents that are asserted; the figures show one of them for every other estimator."""
    few = {name: toys.ESTIMATORS[name] for name in ("enumeration", "DisARM", "straight-through")}
    everything = toys.ESTIMATORS
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toys, "ESTIMATORS", few)
        losses = DESCEND(key, config)
    return dict.fromkeys(everything, losses["enumeration"]) | losses


def test_the_run_directory_is_whole(result):
    found, lines = check_whole(result, "toy", "bias_variance", "temperature", "cost")
    assert len(found["digits"]["estimators"]) == 12
    # training; two groups of 12 estimators and of 3 relaxed ones at 2 temperatures
    assert len(lines) == 1 + 2 * (12 + 3 * 2)


@pytest.mark.parametrize(
    ("target", "gradient", "reinforce", "arm"),
    [(0.45, 0.025, 0.015939, 2.083e-4), (0.499, 5e-4, 0.015625, 8.33e-8)],
)
def test_the_toy_has_the_published_values(result, target, gradient, reinforce, arm):
    rows = result.toy[target]
    assert rows["score function"].variance == pytest.approx(reinforce, rel=1e-4)
    assert rows["ARM"].variance == pytest.approx(arm, rel=1e-3)
    for name in ("enumeration", "DisARM"):
        assert rows[name].measured_mean == pytest.approx(gradient, rel=1e-10)
        assert rows[name].measured_variance < 1e-25


def test_derived_and_measured_agree_on_the_toy(result):
    for rows in result.toy.values():
        for name, row in rows.items():
            assert abs(row.measured_mean - row.mean) < 5 * row.mean_error + 1e-12, name
            # errors of variances come from 10 blocks: 5 of them are 7 with 9 degrees of freedom
            assert abs(row.measured_variance - row.variance) < 7 * row.variance_error + 1e-18, name
            assert row.variance_error <= 0.05 * row.variance + 1e-30  # rounding, where it is 0


def test_the_descents_end_where_they_should(result):
    t = 0.45
    ends = {name: losses[:, -1].mean() for name, losses in result.losses.items()}
    by_hand = 0.0
    for _ in range(300):  # l <- l - sigmoid'(l) (1 - 2 t)
        p = 1 / (1 + np.exp(-by_hand))
        by_hand -= p * (1 - p) * (1 - 2 * t)
    p = 1 / (1 + np.exp(-by_hand))
    exact = p * (1 - t) ** 2 + (1 - p) * t**2
    for name in ("enumeration", "DisARM"):
        assert ends[name] == pytest.approx(exact, abs=3e-4)
    # straight-through minimises (p - t)^2 instead, and stays about p = t
    assert abs(ends["straight-through"] - t * (1 - t)) < 0.01


def test_bias_is_seen_where_there_is_one_and_nowhere_else(result):
    biased = {"concrete, τ = 0.5": {"theta", "phi"}, "straight-through": {"phi"}}
    for name, found in result.measured.items():
        for group, part in found.groups.items():
            if group in biased.get(name, ()):
                assert part.is_seen, (name, group)
                assert part.z > 5
            else:  # not one of these twenty beyond five of its standard errors
                assert part.z < 5 or part.bias < 1e-3, (name, group)
    phi = {name: found.groups["phi"].variance for name, found in result.measured.items()}
    assert phi["enumeration"] < 1e-8
    assert phi["DisARM"] < phi["ARM"] < phi["score function"]


def test_temperature_trades_bias_for_variance(result):
    cold, hot = (one.groups["phi"] for one in result.relaxed["concrete"])
    assert hot.bias > 2 * cold.bias
    assert hot.variance < 0.5 * cold.variance


def test_compare_recovers_a_known_bias_and_takes_the_noise_off():
    # 20 blocks of means with standard error 1 around a bias of length 5 in 50 dimensions
    rng = np.random.default_rng(0)
    exact, bias = np.full(50, 2.0), np.full(50, 5 / np.sqrt(50))
    scale = np.linalg.norm(exact)
    means = exact + bias + rng.normal(size=(20, 50))
    found = compare(means, np.full(20, 9.0), exact)
    assert found.is_seen
    # of an average of 20: sd along the bias 1 / sqrt(20)
    assert abs(found.bias * scale - 5) < 5 / np.sqrt(20)
    assert 0.5 / np.sqrt(20) < found.error * scale < 2 / np.sqrt(20)
    assert found.variance == pytest.approx(9 / scale**2, rel=1e-12)
    assert not compare(means - bias, np.full(20, 9.0), exact).is_seen
