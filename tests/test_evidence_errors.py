"""Errors of chains and streams against the spread of many runs; NaN proposals, ties, odd sizes.

The relative standard error of a spread of R runs is 1 / sqrt(2 R): 2.0 % for 1,201.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import quick_jit
from scipy.stats import norm

from lvm_jax import annealing, distributions, evidence

RUNS = 1_201
NORMAL = distributions.normal(jnp.zeros(2), jnp.ones(2))
PLAN = annealing.fixed(
    annealing.Schedule(annealing.linear(3), jnp.array([0.9, 0.7, 0.6]), jnp.ones(2)),
    annealing.random_walk(1),
)


LONG = annealing.fixed(
    annealing.Schedule(annealing.linear(16), jnp.linspace(0.9, 0.6, 16), jnp.ones(2)),
    annealing.random_walk(2),
)  # The log-weights spread little, so that the lower limit of the error is not above it.


def joint(z):  # log p(x) = log 0.7
    return distributions.normal(jnp.full(2, 0.4), jnp.full(2, 0.6)).log_prob(z) + jnp.log(0.7)


def check(values, errors, name):
    spread, stated = np.std(values, ddof=1), np.sqrt(np.mean(np.square(errors)))
    np.testing.assert_allclose(stated, spread, rtol=0.1, err_msg=name)


def test_every_standard_error_is_the_spread():
    def one(key):
        keys = jax.random.split(key, 4)
        both = evidence.sandwich(keys[0], joint, NORMAL, jnp.array([0.7, -0.1]), 61, LONG)
        draws = 0.3 * jax.random.normal(keys[3], (29,))
        number = jnp.ones(29, jnp.int32)
        found = {
            "annealed": evidence.annealed(keys[1], joint, NORMAL, 61, LONG, num_scouts=0).evidence,
            "sequential": evidence.sequential(
                keys[2], joint, NORMAL, 7, PLAN, num_runs=31, threshold=0.8, num_scouts=0
            ).evidence,
            "lower": both.lower,
            "upper": both.upper,
            "stream": evidence.importance(keys[3], joint, NORMAL, 211, chunk_size=67),
            "average": evidence.average(evidence.Telescope(draws, number, number)),
        }
        # Without k-hat, which would be compiled as well.
        return {name: each._replace(k_hat=None, failed=None) for name, each in found.items()}

    found = jax.device_get(quick_jit(jax.vmap(one))(jax.random.split(jax.random.key(0), RUNS)))
    for name, each in found.items():
        check(each.log_evidence, each.standard_error, name)
        if name in ("annealed", "lower", "sequential", "stream"):
            ratio = np.exp(each.log_evidence) / 0.7
            assert abs(ratio.mean() - 1) < 5 * ratio.std() / RUNS**0.5, name
        half = each.nominal_interval()[1] - each.log_evidence
        assert (half > 1.95 * each.standard_error).all(), name


def one_move(transition, key, density, z, step_size=1.0):
    """The z after one move on a density, and the acceptance probability."""
    path = annealing.Path(lambda z: jnp.zeros(()), density)
    place = path.place(z, transition.slopes)
    numbers = jnp.float32(1), place, jnp.ones(z.shape), jnp.float32(step_size)
    place, accepted = transition.apply(key, path, *numbers)
    return place.z, accepted


def inside(z):
    """Uniform on (-1, 0], NaN above 0 and below -1."""
    return jnp.where((z > -1) & (z <= 0), 0.0, jnp.nan).sum()


def test_a_proposal_of_density_nan_is_rejected_and_counted():
    # One step from -0.3: accepted where it lands in (-1, 0], and with probability 0 elsewhere.
    walk, step = annealing.random_walk(1), 0.8
    keys = jax.random.split(jax.random.key(1), 4_001)
    move = lambda key: one_move(walk, key, inside, jnp.full(1, -0.3), step)  # noqa: E731
    z, accepted = map(np.asarray, quick_jit(jax.vmap(move))(keys))
    chance = norm.cdf(0.3 / step) - norm.cdf(-0.7 / step)
    error = (chance * (1 - chance) / len(keys)) ** 0.5
    assert abs(accepted.mean() - chance) < 5 * error
    assert set(np.unique(accepted)) == {0.0, 1.0}
    np.testing.assert_array_equal(z[:, 0] != np.float32(-0.3), accepted == 1)
    assert ((z > -1) & (z <= 0)).all()


@pytest.mark.parametrize("make", [annealing.gibbs, annealing.flip])
@pytest.mark.parametrize("one_hot", [False, True])
def test_discrete_moves_avoid_values_of_density_nan(make, one_hot):
    # Three values of density 1, 3 and NaN: the chain is at the second with probability 3/4.
    log_f = jnp.array([0.0, jnp.log(3.0), jnp.nan])

    def density(z):
        return log_f[z[0].argmax() if one_hot else z[0]]

    start = jnp.eye(3)[:1] if one_hot else jnp.zeros(1, jnp.int32)
    move = make(3, 23, one_hot)
    run = quick_jit(jax.vmap(lambda key, z: one_move(move, key, density, z), in_axes=(0, None)))
    keys = jax.random.split(jax.random.key(2), 4_001)
    z, accepted = run(keys, start)
    values = np.asarray(z[:, 0].argmax(-1) if one_hot else z[:, 0])
    assert set(values) == {0, 1}
    assert abs((values == 1).mean() - 0.75) < 5 * (0.75 * 0.25 / len(values)) ** 0.5
    # A flip to NaN, half of the proposals, has chance 0; of the others it is 1 up and 1/3 down. The
    # chain is at the first value with probability 1/4 + 3/4 (1/3)^t before step t + 1.
    first = 0.25 + 0.75 * (1 / 3) ** np.arange(23)
    chance = 1.0 if make is annealing.gibbs else (first / 2 + (1 - first) / 6).mean()
    assert abs(np.mean(accepted) - chance) <= 5 * np.std(accepted) / len(values) ** 0.5 + 1e-6


def test_where_every_density_is_zero_chains_stay():
    nowhere = lambda z: -jnp.inf * jnp.ones(())  # noqa: E731
    z = jnp.array([2, 1, 0])
    for make in (annealing.gibbs, annealing.flip):
        ends, _ = one_move(make(3, 5), jax.random.key(3), nowhere, z)
        np.testing.assert_array_equal(ends, z)


def test_resampling_at_a_threshold():
    # At the posterior every weight is equal: the ESS is S, never below a share of it.
    @quick_jit
    def run(key):
        found = [
            evidence.sequential(key, lambda z: NORMAL.log_prob(z) - 1.5, NORMAL, 7, PLAN,
                                num_runs=3, threshold=threshold)
            for threshold in (0.0, 0.99, 1.0)
        ]  # fmt: skip
        return [(each.ess, each.resampled, each.log_evidences) for each in found]

    (_, never, _), (_, seldom, _), (ess, always, log_evidences) = run(jax.random.key(4))
    np.testing.assert_allclose(ess, np.full((3, 3), 7.0), rtol=1e-5)
    assert not never.any()
    assert not seldom.any()
    assert always.all()
    np.testing.assert_allclose(log_evidences, np.full(3, -1.5), rtol=1e-6)


def test_particles_of_weight_zero():
    # Half of the particles have no weight; a run of zero weights alone is -inf, and stays.
    def half(z):
        return NORMAL.log_prob(z) + jnp.where(z[0] > 0, 0.3, -jnp.inf)

    @quick_jit
    def run(key):
        found = evidence.sequential(key, half, NORMAL, 3, PLAN, num_runs=401, threshold=0.9)
        return found.log_evidences, found.log_weights, found.evidence.num_negative_infinite

    log_evidences, log_weights, num_zero = jax.device_get(run(jax.random.key(5)))
    zero = np.isneginf(log_evidences)
    assert abs(zero.mean() - 1 / 8) < 5 * (7 / 64 / 401) ** 0.5
    assert num_zero == zero.sum()
    assert not np.isnan(log_evidences).any()
    assert np.isneginf(log_weights[zero]).all()
    off = np.exp(log_evidences) - 0.5 * np.exp(0.3)
    assert abs(off.mean()) < 5 * off.std() / 401**0.5
