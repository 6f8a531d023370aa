"""Evidence at its ends: weights that are all 0, the deepest level of a telescope, SUMO's far terms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import quick_jit
from scipy.special import logsumexp
from scipy.stats import t

from lvm_jax import diagnostics, distributions, evidence
from lvm_jax.evidence import pareto
from lvm_jax.evidence.debiased import RATIO, _chance, _draw_level
from lvm_jax.evidence.importance import from_first
from lvm_jax.evidence.sumo import _growth

NORMAL = distributions.normal(jnp.zeros(2), jnp.ones(2))
ZERO = -jnp.inf


def nowhere(z):
    return jnp.where(z[0] > 100, 0.0, ZERO)


def test_weights_that_are_all_zero_answer_minus_infinity():
    def every(key, key_telescope):
        found = [
            evidence.from_log_weights(jnp.full(7, ZERO)),
            evidence.importance(key, nowhere, NORMAL, 7, chunk_size=3),
            evidence.jackknife(key, nowhere, NORMAL, 7),
            evidence.jackknife(key, nowhere, NORMAL, 7, order=2),
        ]
        telescopes = [
            telescope(key_telescope, nowhere, NORMAL).log_evidence
            for telescope in (evidence.sumo, evidence.multilevel)
        ]
        return found, telescopes, diagnostics.effective_sample_size(jnp.full(7, ZERO))

    found, telescopes, ess = quick_jit(every)(jax.random.key(0), jax.random.key(1))
    for one in found:
        assert one.log_evidence == -np.inf
        assert one.ess == 0
        assert one.num_negative_infinite == 7
        assert one.interval() == (-np.inf, np.inf)  # seven zeros do not prove a zero
    assert ess == 0
    assert telescopes == [-np.inf, -np.inf]


def test_intervals_where_something_is_not_known():
    # Of four points: known, no spread known, no weight at all, and NaN. Two weights are too few for
    # an interval to be reliable.
    rows = jnp.array([[0.0, 1.0], [0.3, jnp.inf], [ZERO, ZERO], [0.0, jnp.nan]])
    found = quick_jit(jax.vmap(evidence.from_log_weights))(rows)
    low, high = found.nominal_interval(0.9)
    half = t.ppf(0.95, 1) * float(found.standard_error[0])
    centre = logsumexp([0.0, 1.0]) - np.log(2)
    np.testing.assert_allclose([low[0], high[0]], [centre - half, centre + half], rtol=1e-5)
    np.testing.assert_array_equal(low[1:], [-np.inf, -np.inf, np.nan])
    np.testing.assert_array_equal(high[1:], [np.inf, np.inf, np.nan])
    low, high = evidence.from_log_weights(jnp.zeros(1)).interval()
    assert (low, high) == (-np.inf, np.inf)


@pytest.mark.parametrize("telescope", [evidence.sumo, evidence.multilevel])
def test_a_telescope_is_minus_infinity_where_a_term_is_and_never_nan(telescope):
    # Zero with probability 1/2: the first block, of 2 weights, is zero a quarter of the time.
    def half(z):
        return jnp.where(z[0] > 0, 0.0, ZERO)

    size = {"start": 2} if telescope is evidence.sumo else {"base": 2}
    keys = jax.random.split(jax.random.key(0), 200)
    draw = quick_jit(lambda keys: jax.lax.map(lambda k: telescope(k, half, NORMAL, **size), keys))
    values = np.asarray(draw(keys).log_evidence)
    assert np.isneginf(values).sum() > 30
    assert np.isfinite(values[~np.isneginf(values)]).all()


def test_the_deepest_level_of_multilevel():
    # This key's float32 uniform was 0, which stood for level 85.
    run = quick_jit(lambda key: evidence.multilevel(key, NORMAL.log_prob, NORMAL))
    found = run(jax.random.key(2667181))
    assert found.log_evidence == 0  # exact at the posterior
    assert found.num_samples == 8 * (1 + 2**found.num_terms)
    with pytest.raises(ValueError, match="base: expected at most 268,435,456 weights, got 268,435,457"):  # fmt: skip
        evidence.multilevel(jax.random.key(0), NORMAL.log_prob, NORMAL, base=2**28 + 1)


def test_the_law_of_the_levels():
    keys, last = jax.random.split(jax.random.key(5), 40_000), 5
    levels = np.asarray(quick_jit(jax.vmap(lambda key: _draw_level(key, last)))(keys))
    law = np.array([(1 - RATIO) * RATIO**l for l in range(last - 1)] + [RATIO ** (last - 1)])
    np.testing.assert_allclose(law.sum(), 1, rtol=1e-12)
    np.testing.assert_allclose(_chance(jnp.arange(1, last + 1), last), law, rtol=1e-6)
    seen = (levels[:, None] == np.arange(1, last + 1)[None]).mean(0)
    assert (np.abs(seen - law) < 5 * np.sqrt(law * (1 - law) / len(keys))).all()
    # Deep levels: 26 coins all show heads with the chance of the last.
    assert _chance(jnp.int32(27), 27) == pytest.approx(RATIO**26, rel=1e-5)


@pytest.mark.parametrize("excess", [-np.inf, -50.0, -0.3, 0.0, 29.9, 30.1, 200.0])
@pytest.mark.parametrize("size", [2, 3, 17])
def test_sumo_growth_near_and_far(x64, excess, size):
    # L_j - L_(j-1) with log w_j = L_(j-1) + excess: log((j - 1 + e^excess) / j).
    expected = np.logaddexp(np.log(size - 1), excess) - np.log(size)
    found = _growth(jnp.asarray(excess), jnp.int32(size))
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)


SIZE, NUMBER = 64, 41
first_rows = quick_jit(
    lambda log_w: from_first(
        log_w, jnp.arange(SIZE) < NUMBER, jnp.int32(NUMBER), jnp.int32(pareto.tail_size(NUMBER))
    )
)
from_log_weights = quick_jit(evidence.from_log_weights)


@pytest.mark.parametrize("beyond", [50.0, np.nan, np.inf])
def test_weights_beyond_the_number_in_use_do_not_count(beyond):
    log_w = np.random.default_rng(3).normal(size=SIZE).astype(np.float32)
    log_w[NUMBER:] = beyond
    found, want = first_rows(log_w), from_log_weights(log_w[:NUMBER])
    for name, value in want._asdict().items():
        np.testing.assert_allclose(getattr(found, name), value, rtol=1e-6, err_msg=name)
