"""Natural-gradient steps against closed forms: fixed points, expectations, distances."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lvm_jax import distributions
from lvm_jax.distributions import FullRankNormal
from lvm_jax.vi import natural
from lvm_jax.vi.natural import Averaged, Gaussian

KEY = jax.random.key(3)
RNG = np.random.default_rng(2)
ROOT = np.tril(RNG.normal(size=(3, 3))) + 2 * np.eye(3)
PRECISION, MEAN = ROOT @ ROOT.T, np.array([0.5, -1.0, 2.0])
OTHER = np.tril(RNG.normal(size=(3, 3))) * 0.3 + np.eye(3)
pytestmark = pytest.mark.usefixtures("x64")


def gaussian(z):
    """log N(z; MEAN, PRECISION^-1) + 4."""
    away = z - MEAN
    return 4.0 - 0.5 * away @ PRECISION @ away


def quartic(z):
    """Its expected Hessian under N(m, s^2) is -3 (m^2 + s^2) on the diagonal."""
    return -(z**4).sum() / 4


def state_of(mean, factor):
    return Gaussian(jnp.asarray(mean), jnp.asarray(factor))


def mean_step(step, log_density, state, rate, num_samples=16, repeats=4_000):
    """The averages of mean and precision over many steps from one state."""
    steps = jax.jit(
        jax.vmap(lambda key: step(num_samples, log_density, key, state, jnp.asarray(rate)).state)
    )
    after = steps(jax.random.split(KEY, repeats))
    precision = jnp.einsum("rij,rkj->rik", after.factor, after.factor)
    return np.asarray(after.mean), np.asarray(precision)


def test_a_step_at_the_posterior_changes_nothing():
    """Every residual is zero, so there is no noise either; each log-weight is log Z."""
    start = state_of(MEAN, np.linalg.cholesky(PRECISION))
    done = natural.full_rank_step(16, gaussian, KEY, start, jnp.asarray(0.4))
    np.testing.assert_allclose(done.state.mean, MEAN, atol=1e-12)
    np.testing.assert_allclose(done.state.factor, start.factor, atol=1e-12)
    log_z = 4 + 1.5 * np.log(2 * np.pi) - np.log(np.diag(start.factor)).sum()
    np.testing.assert_allclose(done.log_weights, log_z, atol=1e-12)


def test_the_mean_of_a_full_rank_step_is_the_natural_gradient():
    """m moves by rate A^-1 P (mu - m), and A by rate (P - A), to first order in the rate."""
    state, rate = state_of(MEAN + 0.2, OTHER), 1e-6
    means, precisions = mean_step(natural.full_rank_step, gaussian, state, rate)
    before = OTHER @ OTHER.T
    expected = np.linalg.solve(before, PRECISION @ np.full(3, -0.2))
    error = np.std(means, 0) / np.sqrt(len(means))
    np.testing.assert_array_less(
        abs(means.mean(0) - MEAN - 0.2 - rate * expected), 5 * error + 1e-9
    )
    change = (precisions - before).mean(0)
    error = np.std(precisions, 0) / np.sqrt(len(means))
    second_order = 20 * rate**2
    np.testing.assert_array_less(
        abs(change - rate * (PRECISION - before)), 5 * error + second_order
    )


def test_the_expected_curvature_of_a_quartic_is_that_under_q():
    factor = np.diag([1.5, 0.8])
    mean, rate = np.array([0.4, -0.3]), 1e-6
    _, precisions = mean_step(natural.full_rank_step, quartic, state_of(mean, factor), rate)
    before = factor**2
    expected = np.diag(3 * (mean**2 + 1 / np.diag(before))) - before
    change = (precisions - before).mean(0) / rate
    error = np.std(precisions, 0) / np.sqrt(len(precisions)) / rate
    np.testing.assert_array_less(abs(change - expected), 5 * error + 0.05)


def test_mean_field_moves_the_precision_to_the_diagonal_of_the_curvature():
    state = state_of(MEAN, OTHER)
    _, precisions = mean_step(natural.mean_field_step, gaussian, state, 1e-6)
    own = np.diag(OTHER @ OTHER.T)
    change = (np.diagonal(precisions, axis1=1, axis2=2) - own).mean(0) / 1e-6
    error = np.std(np.diagonal(precisions, axis1=1, axis2=2), 0) / np.sqrt(len(precisions)) / 1e-6
    np.testing.assert_array_less(abs(change - (np.diag(PRECISION) - own)), 5 * error + 0.02)


@pytest.mark.parametrize("name", ["full_rank", "mean_field"])
def test_steps_end_at_the_best_gaussian(name):
    """The best mean-field normal has the posterior mean and the diagonal of its precision."""
    step = partial(getattr(natural, f"{name}_step"), 16, gaussian)

    def body(index, state):
        return step(jax.random.fold_in(KEY, index), state, 0.4 / (1 + 0.2 * index)).state

    start = state_of(MEAN + 1.0, np.eye(3))
    if name == "mean_field":
        start = natural.refresh_curvature(gaussian, KEY, start)
        np.testing.assert_allclose(np.diag(start.factor @ start.factor.T), 1.0, atol=1e-12)
    end = jax.jit(lambda: natural.average_of(jax.lax.fori_loop(0, 2_000, body, start)))()
    np.testing.assert_allclose(end.mean, MEAN, atol=2e-3)
    if name == "full_rank":
        np.testing.assert_allclose(end.precision, PRECISION, rtol=1e-4)
    else:
        np.testing.assert_allclose(np.diag(end.precision), np.diag(PRECISION), rtol=5e-3)


def test_any_step_leaves_a_proper_gaussian():
    """A rate of 30 on a start that is 1,000 times too narrow."""
    start = state_of(MEAN, 1e3 * np.eye(3))
    done = natural.full_rank_step(16, gaussian, KEY, start, jnp.asarray(30.0))
    assert (np.diag(done.state.factor) > 0).all()
    ratio = np.linalg.eigvalsh(done.state.factor @ done.state.factor.T) / 1e6
    assert (ratio > 0.49).all()
    assert (ratio < 2.51).all()


def test_a_gradient_that_is_not_finite_halves_the_deviations():
    def half_line(z):
        return jnp.log(z).sum()

    start = state_of(np.array([0.1]), np.eye(1))
    done = natural.full_rank_step(16, half_line, KEY, start, jnp.asarray(0.4))
    np.testing.assert_array_equal(done.state.mean, start.mean)
    np.testing.assert_array_equal(done.state.factor, 2 * np.eye(1))


def test_averages_are_gaussians_with_their_distance():
    first = Averaged(jnp.asarray(MEAN), jnp.asarray(PRECISION))
    second = Averaged(jnp.asarray(MEAN - 0.3), jnp.asarray(OTHER @ OTHER.T))
    p, q = natural.full_rank(first), natural.full_rank(second)
    np.testing.assert_allclose(np.linalg.inv(PRECISION), p.cholesky @ p.cholesky.T, atol=1e-12)
    assert (np.triu(p.cholesky, 1) == 0).all()
    both = distributions.kl_divergence(p, q) + distributions.kl_divergence(q, p)
    assert natural.full_rank_distance(first, second) == pytest.approx(float(both) / 2, rel=1e-10)
    diagonal = first._replace(precision=jnp.diag(jnp.diag(first.precision)))
    other = second._replace(precision=jnp.diag(jnp.diag(second.precision)))
    p, q = natural.mean_field(diagonal), natural.mean_field(other)
    both = distributions.kl_divergence(p, q) + distributions.kl_divergence(q, p)
    assert natural.mean_field_distance(diagonal, other) == pytest.approx(float(both) / 2, rel=1e-10)


def test_the_root_of_a_curvature():
    root = natural.root_of_curvature(jnp.asarray(PRECISION))
    np.testing.assert_allclose(root @ root.T, PRECISION, rtol=1e-10)
    saddle = natural.root_of_curvature(jnp.asarray([[1.0, 0.0], [0.0, -4.0]]))
    np.testing.assert_allclose(saddle @ saddle.T, np.diag([1.0, 4.0]), rtol=1e-10)
    flat = natural.root_of_curvature(jnp.asarray([[1.0, 1.0], [1.0, 1.0]]))
    assert (np.linalg.eigvalsh(flat @ flat.T) > 1e-7).all()


def test_an_affine_distribution_is_the_base_in_other_coordinates():
    base = FullRankNormal(jnp.asarray([0.3, -0.2, 0.1]), jnp.asarray(OTHER))
    q = distributions.Affine(base, jnp.asarray(MEAN), jnp.asarray(ROOT))
    back = np.linalg.inv(ROOT).T
    same = FullRankNormal(
        MEAN + back @ base.mean, jnp.linalg.cholesky(back @ OTHER @ OTHER.T @ back.T)
    )
    z, log_q = q.sample_and_log_prob(seed=KEY, sample_shape=(2, 5))
    assert z.shape == (2, 5, 3)
    np.testing.assert_allclose(z, q.sample(seed=KEY, sample_shape=(2, 5)))
    expected = np.vectorize(same.log_prob, signature="(d)->()")(z)
    np.testing.assert_allclose(log_q, expected, rtol=1e-10)
    np.testing.assert_allclose(q.log_prob(z[1, 3]), expected[1, 3], rtol=1e-10)


@pytest.mark.parametrize("family", ["full_rank", "mean_field"])
def test_products_are_those_of_the_fisher_information(family):
    """|x - y|^2 is twice the distance in nats, to first order; products are bilinear."""
    distance = getattr(natural, f"{family}_distance")
    products = getattr(natural, f"{family}_products")
    centre = Averaged(jnp.asarray(MEAN), jnp.asarray(PRECISION))
    away = [Averaged(RNG.normal(size=3), (raw := RNG.normal(size=(3, 3))) + raw.T) for _ in "ab"]
    size = 1e-4
    near = [jax.tree.map(lambda c, a: c + size * a, centre, one) for one in away]
    both = jax.tree.map(lambda a, b: a + b - centre_of(a, centre), *near)
    averages = jax.tree.map(lambda *leaves: jnp.stack(leaves), *near, both)
    found = np.asarray(jax.jit(products)(averages, centre))
    apart = [float(distance(one, centre)) for one in (*near, both)]
    np.testing.assert_allclose(np.diag(found), 2 * np.array(apart), rtol=2e-3)
    np.testing.assert_allclose(found[2, :2], found[:2, :2].sum(0), rtol=1e-3)


def centre_of(leaf, centre):
    return centre.mean if leaf.ndim == 1 else centre.precision


def test_a_diagonal_factor_is_the_diagonal_matrix():
    """Steps, averages, distances and products with [D] numbers are those with a [D, D] matrix."""
    root = np.array([0.5, 2.0, 1.2])
    factors = (root, np.diag(root))
    states = [
        natural.mean_field_step(16, quartic, KEY, state_of(MEAN, factor), jnp.asarray(0.3)).state
        for factor in factors
    ]
    one, two = (natural.average_of(state) for state in states)
    np.testing.assert_allclose(one.mean, two.mean, rtol=1e-12)
    np.testing.assert_allclose(np.diag(one.precision), two.precision, rtol=1e-12, atol=1e-15)
    starts = [natural.average_of(state_of(MEAN, factor)) for factor in factors]
    apart = [
        float(natural.mean_field_distance(*pair)) for pair in zip((one, two), starts, strict=True)
    ]
    assert apart[0] == pytest.approx(apart[1], rel=1e-12)
    stacked = [
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *pair)
        for pair in zip((one, two), starts, strict=True)
    ]
    products = [
        natural.mean_field_products(averages, start)
        for averages, start in zip(stacked, starts, strict=True)
    ]
    np.testing.assert_allclose(*products, rtol=1e-12)
    assert float(products[0][0, 0]) == pytest.approx(2 * apart[0], rel=0.5)
