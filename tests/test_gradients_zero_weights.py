"""Where p(x, z) = 0 for a draw: the value is the bound's, and the gradients those of its finite part."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gradient_tools import KEY, jit
from scipy.special import logsumexp

from lvm_jax import bounds, distributions, gradients
from lvm_jax.distributions import Bernoulli

PHI, THETA = np.array([0.3, -0.4, 0.2]), np.array([0.7, -0.2, 0.5])
STRINGS = np.array(list(itertools.product((0.0, 1.0), repeat=3)))
FORBIDDEN = STRINGS[2]  # q's mass of it is 0.11


def log_joint(theta):
    def joint(z):
        free = theta @ z + 0.8 * z[0] * z[1] * z[2] - 2.5
        return jnp.where((z == FORBIDDEN).all(), -jnp.inf, free)

    return joint


class Given:
    """Bits of logits phi, whose draws are the strings given."""

    reparameterized = False

    def __init__(self, phi, draws):
        self.bits, self.draws = Bernoulli(phi), draws

    def sample(self, *, seed, sample_shape=()):
        return self.draws if sample_shape else self.draws[0]

    def log_prob(self, z):
        return self.bits.log_prob(z)


def on_every_tuple(estimate, size):
    """Values and gradients (theta, phi) of a score estimator on every tuple of `size` draws."""
    index = np.array(list(itertools.product(range(8), repeat=size)))

    def one(draws):
        def surrogate(theta, phi):
            return estimate(KEY, log_joint(theta), lambda phi: Given(phi, draws), phi, size)

        return jax.value_and_grad(surrogate, (0, 1))(jnp.asarray(THETA), jnp.asarray(PHI))

    return index, jax.device_get(jit(jax.vmap(one))(jnp.asarray(STRINGS[index])))


def finite_part(index, theta, phi):
    """E[L; L > -inf] of IWAE over every tuple of draws."""
    log_q = jax.vmap(Bernoulli(phi).log_prob)(jnp.asarray(STRINGS))
    allowed = (FORBIDDEN[None] != STRINGS).any(1)
    free = STRINGS @ theta + 0.8 * STRINGS.prod(1) - 2.5 - log_q
    log_w = jnp.where(allowed, free, -1e3)[index]  # exp(-1e3) is 0
    some = allowed[index].any(1)
    value = jax.nn.logsumexp(log_w, axis=1) - np.log(index.shape[1])
    return jnp.exp(log_q[index].sum(1)) @ jnp.where(some, value, 0.0)


IWAE = {
    "vimco": gradients.vimco(),
    "vimco_arithmetic": gradients.vimco("arithmetic"),
    "score_function_iwae": gradients.score_function(bounds.iwae),
    "score_function_iwae_baseline": gradients.score_function(bounds.iwae, -3.0),
}


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("name", IWAE)
def test_iwae_with_zero_weights_is_unbiased_for_its_finite_part(x64, name, size):
    # Exact: the mean over all tuples of draws. 23 % (33 %) of them hold the forbidden string.
    index, (value, (theta, phi)) = on_every_tuple(IWAE[name], size)
    log_q = np.asarray(jax.vmap(Bernoulli(jnp.asarray(PHI)).log_prob)(jnp.asarray(STRINGS)))
    log_w = STRINGS @ THETA + 0.8 * STRINGS.prod(1) - 2.5 - log_q
    log_w[2] = -np.inf
    with np.errstate(divide="ignore"):
        expected = logsumexp(log_w[index], axis=1) - np.log(size)
    np.testing.assert_allclose(value, expected, rtol=1e-12, atol=1e-14)
    assert np.isneginf(value).sum() == 1
    mass = np.exp(log_q[index].sum(1))
    exact = jit(jax.grad(lambda *both: finite_part(index, *both), (0, 1)))(THETA, PHI)
    np.testing.assert_allclose(mass @ theta, exact[0], atol=1e-12)
    np.testing.assert_allclose(mass @ phi, exact[1], atol=1e-12)


def coefficients(log_w, mean):
    """VIMCO's credit of every draw, for numbers, by its formula; L of no weight at all is 0."""
    iwae = lambda w: 0.0 if np.isneginf(w).all() else logsumexp(w) - np.log(w.size)  # noqa: E731
    found = []
    for s in range(log_w.size):
        others = np.delete(log_w, s)
        r = others.mean() if mean == "geometric" else logsumexp(others) - np.log(others.size)
        changed = np.where(np.arange(log_w.size) == s, r, log_w)
        share = 0.0 if np.isneginf(log_w[s]) else np.exp(log_w[s] - logsumexp(log_w))
        found.append(iwae(log_w) - iwae(changed) - share)
    return np.array(found)


@pytest.mark.parametrize("mean", ["geometric", "arithmetic"])
def test_vimco_is_its_formula_draw_by_draw(x64, mean):
    index, (_, (_, phi)) = on_every_tuple(gradients.vimco(mean), 3)
    log_q = np.asarray(jax.vmap(Bernoulli(jnp.asarray(PHI)).log_prob)(jnp.asarray(STRINGS)))
    log_w = STRINGS @ THETA + 0.8 * STRINGS.prod(1) - 2.5 - log_q
    log_w[2] = -np.inf
    scores = STRINGS[index] - 1 / (1 + np.exp(-PHI))[None, None]
    with np.errstate(divide="ignore"):
        credit = np.array([coefficients(row, mean) for row in log_w[index]])
    np.testing.assert_allclose(phi, np.einsum("ms,msk->mk", credit, scores), atol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_wake_sleep_with_zero_weights(x64, size):
    # phi: sum_s v_s (z_s - sigmoid(phi)), v = w / sum w; nothing where all weights are 0.
    index, (value, (_, phi)) = on_every_tuple(gradients.reweighted_wake_sleep(), size)
    log_q = np.asarray(jax.vmap(Bernoulli(jnp.asarray(PHI)).log_prob)(jnp.asarray(STRINGS)))
    w = np.exp(STRINGS @ THETA + 0.8 * STRINGS.prod(1) - 2.5 - log_q) * (np.arange(8) != 2)
    share = w[index] / np.maximum(w[index].sum(1, keepdims=True), 1e-300)
    scores = STRINGS[index] - 1 / (1 + np.exp(-PHI))[None, None]
    np.testing.assert_allclose(phi, np.einsum("ms,msk->mk", share, scores), atol=1e-12)
    assert np.isneginf(value).sum() == 1


ELBO = ["score_function", "leave_one_out"]


@pytest.mark.parametrize("name", ELBO)
def test_the_elbo_beside_a_zero_weight_is_minus_infinity(x64, name):
    index, (value, (theta, phi)) = on_every_tuple(gradients.ESTIMATORS[name].estimate, 2)
    hit = (index == 2).any(1)
    np.testing.assert_array_equal(np.isneginf(value), hit)
    assert np.isfinite(value[~hit]).all()
    assert np.isfinite(phi[~hit]).all()
    assert not np.isfinite(phi[hit]).any()  # there is none to give
    # The zero is there whatever theta: the mean of z over the draws that are allowed.
    allowed = (index != 2)[:, :, None]
    np.testing.assert_allclose(theta, (STRINGS[index] * allowed).mean(1), atol=1e-12)


@pytest.mark.parametrize("name", ["arm", "disarm", "rebar", "relax", "straight_through"])
def test_discrete_elbos_of_a_zero_weight(name):
    estimate = gradients.ESTIMATORS[name].estimate

    def one(key):
        def surrogate(theta, phi):
            return estimate(key, log_joint(theta), Bernoulli, phi, 3)

        return jax.value_and_grad(surrogate, (0, 1))(jnp.asarray(THETA), jnp.asarray(PHI))

    value, (theta, phi) = jax.device_get(jit(jax.vmap(one))(jax.random.split(KEY, 100)))
    hit = np.isneginf(value)
    assert 10 < hit.sum() < 90
    for leaf in (value, theta, phi):
        assert np.isfinite(leaf[~hit]).all()
    assert np.isfinite(theta).all()
    assert not np.isnan(value).any()


def test_enumeration_of_a_zero_weight():
    value = gradients.enumerated()(KEY, log_joint(THETA), Bernoulli, jnp.asarray(PHI), 1)
    assert value == -np.inf


def test_nan_is_never_masked():
    def slope(row, phi):
        def guide(phi):
            pathwise = row.latent == "reparameterized"
            return distributions.normal(phi, jnp.ones(3)) if pathwise else Bernoulli(phi)

        def surrogate(phi):
            return row.estimate(KEY, lambda z: jnp.nan * z.sum(), guide, phi, 4)

        return jax.value_and_grad(surrogate)(phi)

    @jit
    def run(phi):
        return {name: slope(row, phi) for name, row in gradients.ESTIMATORS.items()}

    for name, (value, slopes) in run(jnp.asarray(PHI)).items():
        assert np.isnan(value), name
        assert np.isnan(slopes).all(), name


@pytest.mark.parametrize("name", ["arm", "disarm"])
def test_a_pair_of_two_forbidden_strings_says_nothing(x64, name):
    # Everything with z_1 = 0 is forbidden: a pair that has it twice is no reason to move.
    def joint(z):
        return jnp.where(z[1] == 0, -jnp.inf, z @ THETA)

    def slope(key):
        estimate = gradients.ESTIMATORS[name].estimate
        return jax.grad(lambda phi: estimate(key, joint, Bernoulli, phi, 1))(jnp.asarray(PHI))

    keys = jax.random.split(KEY, 50)
    found = np.asarray(jit(jax.vmap(slope))(keys))
    uniforms = jax.vmap(lambda key: jax.random.uniform(key, (1, 3)))(keys)[:, 0]
    mean = 1 / (1 + np.exp(-PHI))[None]
    above, below = np.asarray(uniforms > 1 - mean)[:, 1], np.asarray(uniforms < mean)[:, 1]
    neither, split = ~above & ~below, above != below
    assert neither.sum() > 3
    np.testing.assert_array_equal(found[neither], np.zeros((neither.sum(), 3)))
    assert np.isposinf(found[split, 1]).all()  # towards the strings that are allowed
    assert not np.isnan(found).any()
