"""Minibatches of rows against the sums over all rows, and fits of data against closed forms."""

from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import quick_jit
from scipy.stats import multivariate_normal

from lvm_jax import distributions, vi
from lvm_jax.gradients import sticking_the_landing
from lvm_jax.vi.rows import Posterior, expand, minibatch

KEY = jax.random.key(11)
RNG = np.random.default_rng(2)
X = RNG.normal(size=(6, 2)).astype(np.float32)
LABELS = np.array([0, 1, 1, 0, 1, 1], np.float32)
pytestmark = pytest.mark.usefixtures("unrefined_file")


def log_prior(z):
    return distributions.normal(jnp.zeros(2), jnp.full(2, 2.0)).log_prob(z)


def logistic(z, rows):
    logits = rows["x"] @ z
    return (rows["y"] * logits - jax.nn.softplus(logits)).sum()


def linear(z, rows):
    return -0.5 * ((rows["y"] - rows["x"] @ z) ** 2).sum() - 0.5 * rows["y"].size * np.log(
        2 * np.pi
    )


ROWS = {"x": X, "y": LABELS}
POSTERIOR = Posterior(logistic, log_prior, ROWS)
PAIRS = jnp.array(list(combinations(range(6), 2)))


@pytest.mark.parametrize("controlled", [False, True])
def test_the_mean_gradient_over_all_batches_is_the_full_gradient(controlled):
    """Of the ELBO by sticking the landing, whose -log q is not scaled: the same noise in both."""
    expansion = expand(POSTERIOR, jnp.array([0.3, -0.2])) if controlled else None
    build = lambda eta: distributions.normal(eta[0], jnp.exp(eta[1]))  # noqa: E731
    eta = jnp.array([[0.5, -1.0], [-0.3, 0.1]])

    def gradient(density):
        return jax.grad(lambda eta: sticking_the_landing()(KEY, density, build, eta, 4))(eta)

    @quick_jit
    def both(pairs):
        some = jax.vmap(lambda index: gradient(minibatch(index, POSTERIOR, expansion)))(pairs)
        return gradient(POSTERIOR), some

    full, some = jax.device_get(both(PAIRS))
    np.testing.assert_allclose(some.mean(0), full, atol=2e-5)
    assert some.std(0).min() > 1e-3


def test_the_control_variate_removes_most_noise_near_its_centre():
    z = jnp.array([0.4, -0.1])
    expansion = expand(POSTERIOR, jnp.array([0.3, -0.2]))

    @quick_jit
    def values(pairs):
        plain = jax.vmap(lambda index: minibatch(index, POSTERIOR)(z))(pairs)
        controlled = jax.vmap(lambda index: minibatch(index, POSTERIOR, expansion)(z))(pairs)
        return plain, controlled, POSTERIOR(z)

    plain, controlled, whole = jax.device_get(values(PAIRS))
    assert controlled.std() < 0.01 * plain.std()
    np.testing.assert_allclose(controlled.mean(), whole, rtol=1e-5)


def test_a_quadratic_likelihood_has_no_noise():
    posterior = Posterior(linear, None, ROWS)
    expansion = expand(posterior, jnp.array([1.0, 2.0]))

    @quick_jit
    def values(pairs, z):
        some = jax.vmap(lambda index: minibatch(index, posterior, expansion)(z))(pairs)
        return some, posterior(z)

    np.testing.assert_allclose(*values(PAIRS, jnp.ones(2)), rtol=1e-5)


@pytest.mark.parametrize("method", ["natural_gradient", vi.adam(batch_size=2)])
def test_a_fit_of_data_has_the_evidence_of_the_linear_model(method):
    truth = multivariate_normal(cov=4 * X @ X.T + np.eye(6)).logpdf(LABELS)
    found = vi.fit(
        KEY, linear, jnp.zeros(2), log_prior=log_prior, data=ROWS, method=method,
        family="full_rank", max_evaluations=3_000,
    )  # fmt: skip
    assert found.log_evidence.log_evidence == pytest.approx(truth, abs=0.02)
    assert found.elbo.value == pytest.approx(truth, abs=0.02)


REFUSED = {
    "prior alone": ({"log_prior": log_prior}, ValueError, "log_prior: expected None without"),
    "ragged": (
        {"data": {"x": X, "y": LABELS[:3]}}, ValueError, r"data: expected arrays \[N, ...\] .*one N"
    ),
    "scalar": ({"data": 3.0}, ValueError, r"data: expected arrays \[N"),
    "nothing": ({"data": {}}, ValueError, r"data: expected arrays \[N"),
    "no prior": ({"data": ROWS, "log_prior": 3.0}, TypeError, "log_prior: expected a function"),
    "batch": (
        {"data": ROWS, "method": vi.adam(batch_size=7)}, ValueError,
        "batch_size: expected `data` of >= 7 rows, got 6 rows",
    ),
    "batch of nothing": (
        {"log_density": log_prior, "method": vi.adam(batch_size=7)}, ValueError,
        "batch_size: expected `data` of >= 7 rows, got none",
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrong", REFUSED)
def test_bad_data_are_refused_by_name(wrong):
    change, error, words = REFUSED[wrong]
    given = {"log_density": logistic, "max_evaluations": 100} | change
    with pytest.raises(error, match=f"^{words}"):
        vi.fit(KEY, given.pop("log_density"), jnp.zeros(2), **given)
