"""The discrete-gradients experiment, once, small, from end to end: derived values, and no bias."""

import numpy as np
import pytest
from experiment_cycle import check_whole, run_once

from experiments.discrete_gradients import measure, toy
from experiments.discrete_gradients.config import Config

SMALL = Config(
    toy_repeats=20_000, toy_steps=300, toy_seeds=40, num_latents=3, num_points=3, num_repeats=1000,
    train_steps=20, temperatures=(0.1, 1.0), adapt_steps=10,
)  # fmt: skip
# Compiling some twenty programs is nearly all of the time.
DIGITS = (
    *("enumeration", "score function", "RLOO", "ARM", "DisARM"),
    *("concrete, τ = 0.5", "straight-through", "VIMCO"),
)
DESCEND, ESTIMATORS = toy.descend, measure.estimators


def few_estimators(config, setting):
    """Those of the digits that are asserted."""
    everything = ESTIMATORS(config, setting)
    return {name: everything[name] for name in DIGITS}


def few_descents(key, config):
    """The descents that are asserted; the figures show one of them for every other estimator."""
    everything = toy.ESTIMATORS
    few = {name: everything[name] for name in ("enumeration", "DisARM", "straight-through")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy, "ESTIMATORS", few)
        losses = DESCEND(key, config)
    return dict.fromkeys(everything, losses["enumeration"]) | losses


finished = run_once(
    "discrete_gradients", SMALL, (toy, "descend", few_descents),
    (measure, "estimators", few_estimators),
    (measure, "RELAXED", {"concrete": measure.RELAXED["concrete"]}),
)  # fmt: skip


def test_the_folder_is_whole(finished):
    found, lines = check_whole(finished, "toy", "bias_variance", "temperature", "cost")
    assert found["digits"]["estimators"].keys() == set(DIGITS)
    assert len(lines) == 2 * (len(DIGITS) + 2)  # groups; concrete at 2 temperatures


def test_derived_and_measured_agree_on_the_toy(result):
    for rows in result.toy.values():
        assert rows["DisARM"].measured_variance < 1e-25
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


def test_bias_is_seen_where_there_is_one(result):
    assert result.measured["straight-through"].groups["phi"].z > 5
    for part in result.measured["concrete, τ = 0.5"].groups.values():
        assert part.is_seen
        assert part.z > 5
    phi = {name: found.groups["phi"].variance.value for name, found in result.measured.items()}
    assert phi["enumeration"] < 1e-8
    assert phi["DisARM"] < phi["ARM"] < phi["score function"]


def test_a_biased_estimator_fails_the_check(result):
    result.measured["RLOO"], kept = result.measured["straight-through"], result.measured["RLOO"]
    failed = [check.name for check in measure.checks(result) if not check.holds]
    result.measured["RLOO"] = kept
    assert failed == ["largest z of an unbiased estimator (RLOO, phi)"]


def test_temperature_trades_bias_for_variance(result):
    cold, hot = (one.groups["phi"] for one in result.relaxed["concrete"])
    assert hot.bias.value > 2 * cold.bias.value
    assert hot.variance.value < 0.5 * cold.variance.value
