"""Global and local latents: gradients of the bound, and the evidence of a whole data set."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from model_cases import quick_jit
from scipy.stats import multivariate_normal

from lvm_jax import annealing, bounds, distributions, evidence, gradients, guides, models, training
from lvm_jax.distributions import Successive, normal
from lvm_jax.training.objective import BATCH

T, S, R = 1.5, 0.8, 0.6  # the deviations of beta, of z given beta, and of x given z
N = 12
X = np.asarray(0.9 + np.random.default_rng(3).normal(size=(N, 1)), np.float32)
THETA = {"log_r": jnp.log(jnp.float32(R))}
PHI = {"m": 0.3, "l": -1.0, "a": 0.4, "b": 0.3, "c": 0.1, "k": -0.5}
PHI = {name: jnp.float32(value) for name, value in PHI.items()}


def scalar(loc, scale):
    return normal(jnp.reshape(loc, 1), jnp.reshape(scale, 1))


MODEL = models.Model(
    lambda key: THETA,
    lambda theta: Successive(
        scalar(jnp.zeros(()), jnp.float32(T)),
        lambda beta: scalar(beta[0], jnp.float32(S)),
        ("beta", "z"),
    ),
    lambda theta, z: scalar(z["z"][0], jnp.exp(theta["log_r"])),
)
GUIDE = guides.Guide(
    lambda key: PHI,
    lambda phi, x: Successive(
        scalar(phi["m"], jnp.exp(phi["l"])),
        lambda beta: scalar(phi["a"] * x[0] + phi["b"] * beta[0] + phi["c"], jnp.exp(phi["k"])),
        ("beta", "z"),
    ),
)
PAIR = training.Separate(MODEL, GUIDE)


def elbo(theta, phi):
    """In closed form, of all rows, over N."""
    m, v, w = phi["m"], jnp.exp(2 * phi["l"]), jnp.exp(2 * phi["k"])
    a, b, c, x, r = phi["a"], phi["b"], phi["c"], X[:, 0], jnp.exp(theta["log_r"])

    def expected(mean, variance, scale):
        return -0.5 * jnp.log(2 * jnp.pi * scale**2) - (mean**2 + variance) / (2 * scale**2)

    shared = expected(m, v, T) + 0.5 * jnp.log(2 * jnp.pi * jnp.e * v)
    local = expected(a * x + c + (b - 1) * m, (b - 1) ** 2 * v + w, S)
    local += expected(x * (1 - a) - c - b * m, b**2 * v + w, r)
    return (shared + (local + 0.5 * jnp.log(2 * jnp.pi * jnp.e * w)).sum()) / N


def log_evidence():
    cov = (S**2 + R**2) * np.eye(N) + T**2 * np.ones((N, N))
    return multivariate_normal(np.zeros(N), cov).logpdf(X[:, 0])


def posterior_phi():
    """phi of the exact posterior, which the guide can be."""
    variance = 1 / (1 / T**2 + N / (S**2 + R**2))
    local = 1 / (1 / S**2 + 1 / R**2)
    phi = {"m": variance * X.sum() / (S**2 + R**2), "l": 0.5 * np.log(variance), "c": 0.0}
    phi |= {"a": local / R**2, "b": local / S**2, "k": 0.5 * np.log(local)}
    return {name: jnp.float32(phi[name]) for name in PHI}


def of_rows(objective, pair, params, x, num_samples=2):
    """key -> value and gradient of the mean over the rows, as a step of training takes them."""

    def value(params, key):
        def one(key, row):
            now = training.point(pair, params, row)
            return objective(key, now, num_samples, jnp.int32(0)).objective

        rows = jax.tree.leaves(x)[0].shape[0]
        return jax.vmap(one, axis_name=BATCH)(jax.random.split(key, rows), x).mean()

    def draw(key):
        found, slope = jax.value_and_grad(value)(params, key)
        return found, ravel_pytree(slope)[0]

    return draw


def check_unbiased(draw, exact, num_keys=3_000):
    keys = jax.random.split(jax.random.key(5), num_keys)
    draws = quick_jit(lambda keys: jax.lax.map(draw, keys, batch_size=500))(keys)
    for found, want in zip(draws, exact, strict=True):
        found = np.asarray(found, float)
        error = found.std(0, ddof=1) / np.sqrt(len(found)) + 1e-6
        assert (np.abs(found.mean(0) - want) < 5 * error).all()
        assert error.max() < 0.05 * np.abs(want).max()


@pytest.mark.parametrize("local", ["reparameterized", "sticking_the_landing", "score_function"])
def test_value_and_gradients_of_theta_and_phi_are_unbiased(local):
    params = training.Parameters(THETA, PHI)
    draw = of_rows(training.global_latents(N, local), PAIR, params, jnp.asarray(X))
    value, slope = jax.value_and_grad(lambda both: elbo(*both))(params)
    check_unbiased(draw, (value, ravel_pytree(slope)[0]))


def test_minibatches_reach_the_joint_evidence():
    """The guide can be the posterior: the bound times N comes up to log p(X), within 0.05 nats."""
    fit = training.fit(
        jax.random.key(0), MODEL, GUIDE, X,
        estimate=training.global_latents(N), num_samples=4, batch_size=4, num_epochs=1_500,
        optimizer=optax.multi_transform(
            {"fixed": optax.set_to_zero(), "moved": optax.adam(optax.cosine_decay_schedule(0.03, 4_500))},
            training.Parameters("fixed", "moved"),
        ),
    )  # fmt: skip
    assert N * float(elbo(THETA, fit.params.phi)) == pytest.approx(log_evidence(), abs=0.05)
    assert float(elbo(THETA, fit.params.phi)) > float(elbo(THETA, PHI)) + 0.1


def test_evidence_of_the_whole_data_set():
    whole = models.plate(MODEL, N)(THETA)
    q = guides.plate(GUIDE)
    found = evidence.evaluate(jax.random.key(1), whole, q(posterior_phi()), X[None], 5_000)
    assert found.log_evidence[0] == pytest.approx(log_evidence(), abs=1e-3)
    found = evidence.evaluate(jax.random.key(1), whole, q(PHI), X[None], 5_000)
    assert abs(found.log_evidence[0] - log_evidence()) < 5 * found.standard_error[0]
    move = annealing.hmc(3)._replace(step_size=0.4)  # without a pilot, half of the program
    plan = annealing.plan(annealing.linear(40), move, num_pilot=0)
    found = evidence.evaluate_annealed(jax.random.key(2), whole, None, X[None], 64, plan).evidence
    assert abs(found.log_evidence[0] - log_evidence()) < 5 * found.standard_error[0]
    assert found.standard_error[0] < 0.5


def test_the_density_of_the_whole_is_the_sum_of_the_rows():
    whole = models.plate(MODEL, N)(THETA)
    z, x = whole.sample(jax.random.key(4))
    assert z["beta"].shape == (1,)
    assert z["z"].shape == x.shape == (N, 1)
    beta = whole.prior().first.log_prob(z["beta"])
    one = MODEL(THETA)
    each = jax.vmap(lambda row, z_n: one.log_joint(row)({"beta": z["beta"], "z": z_n}))(x, z["z"])
    assert whole.log_joint(x)(z) == pytest.approx(float((each - beta).sum() + beta), rel=1e-5)


# Linear regression: all of z is global, and the rows hold what the model is given.
W = 2
ROWS = {"c": np.random.default_rng(1).normal(size=(20, W)).astype(np.float32)}
ROWS["y"] = np.float32(ROWS["c"] @ [0.7, -1.1] + 0.5 * np.random.default_rng(2).normal(size=20))
REGRESSION = models.Model(
    lambda key: (),
    lambda theta, c: normal(jnp.zeros(W), jnp.ones(W)),
    lambda theta, beta, c: distributions.Normal(c @ beta, 0.5),
    observed="y",
    given=lambda row: row["c"],
)
FULL = guides.shared(guides.full_rank(W))


def regression():
    """log p(y | c), and the mean and covariance of the posterior."""
    c = ROWS["c"].astype(float)
    cov = np.linalg.inv(np.eye(W) + c.T @ c / 0.25)
    marginal = multivariate_normal(np.zeros(20), c @ c.T + 0.25 * np.eye(20))
    return marginal.logpdf(ROWS["y"]), cov @ c.T @ ROWS["y"] / 0.25, cov


def test_global_latents_alone_with_covariates():
    fit = training.fit(
        jax.random.key(0), REGRESSION, FULL, ROWS, estimate=training.global_latents(20),
        num_samples=4, batch_size=10, num_epochs=1_500,
        optimizer=optax.adam(optax.cosine_decay_schedule(0.05, 3_000)),
    )  # fmt: skip
    value, mean, cov = regression()
    q = fit.q(jax.tree.map(lambda leaf: leaf[0], ROWS))
    beta = np.asarray(q.sample(seed=jax.random.key(1), sample_shape=(20_000,)))
    assert np.abs(beta.mean(0) - mean).max() < 0.02
    assert np.abs(np.cov(beta.T) - cov).max() < 0.1 * cov.max()
    p = models.plate(REGRESSION, 20)(fit.params.theta)
    whole = jax.tree.map(lambda leaf: leaf[None], ROWS)
    q = guides.plate(FULL)(fit.params.phi)
    found = evidence.evaluate(jax.random.key(2), p, q, whole, 2_000)
    assert abs(found.log_evidence[0] - value) < 5 * found.standard_error[0] + 1e-3
    assert found.standard_error[0] < 0.01


# A mixture of two known normals with an unknown share: the labels are summed out.
MIXED = np.array([[-1.2], [1.4], [0.9], [-0.2], [1.8]], np.float32)
MIXTURE = models.Model(
    lambda key: (),
    lambda theta: Successive(
        scalar(jnp.zeros(()), jnp.ones(())),
        lambda beta: distributions.Categorical(logits=jnp.concatenate([beta, jnp.zeros(1)])),
        ("beta", "label"),
    ),
    lambda theta, z: scalar(jnp.array([-1.0, 1.0])[z["label"]], jnp.ones(())),
)
LABELS = guides.Guide(
    lambda key: {"m": jnp.zeros(()), "l": jnp.zeros(()), "slope": jnp.zeros(2)},
    lambda phi, x: Successive(
        scalar(phi["m"], jnp.exp(phi["l"])),
        lambda beta: distributions.Categorical(
            logits=jnp.stack([phi["slope"][0] * x[0] + phi["slope"][1] * beta[0], jnp.zeros(())])
        ),
        ("beta", "label"),
    ),
)


def test_a_mixture_with_an_unknown_share():
    fit = training.fit(
        jax.random.key(0), MIXTURE, LABELS, MIXED, num_samples=1, batch_size=5, num_epochs=2_000,
        estimate=training.global_latents(5, gradients.enumerated()),
        optimizer=optax.adam(optax.cosine_decay_schedule(0.05, 2_000)),
    )  # fmt: skip
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    share = 1 / (1 + np.exp(-nodes))[:, None]
    each = [np.exp(-0.5 * (MIXED[:, 0] - c) ** 2) / np.sqrt(2 * np.pi) for c in (-1, 1)]
    density = (share * each[0] + (1 - share) * each[1]).prod(1)
    exact = np.log(density @ weights / np.sqrt(2 * np.pi))
    # q(label | x, beta) can be the posterior, so what is left is the shape of q(beta).
    assert exact - 0.05 < 5 * fit.history.bound[-200:].mean() < exact + 0.05
    p, q = models.plate(MIXTURE, 5)(()), guides.plate(LABELS)(fit.params.phi)
    found = evidence.evaluate(jax.random.key(2), p, q, MIXED[None], 5_000)
    assert abs(found.log_evidence[0] - exact) < 5 * found.standard_error[0]


def test_local_importance_weights_tighten_the_bound():
    params = training.Parameters(THETA, PHI)
    local = gradients.doubly_reparameterized(bounds.iwae)
    draw = of_rows(training.global_latents(N, local), PAIR, params, jnp.asarray(X), 16)
    keys = jax.random.split(jax.random.key(1), 2_000)
    found = np.asarray(quick_jit(lambda keys: jax.lax.map(draw, keys, batch_size=500))(keys)[0])
    error = found.std(ddof=1) / np.sqrt(len(found))
    assert found.mean() - 5 * error > elbo(THETA, PHI)
    assert found.mean() - 5 * error < log_evidence() / N


class Whole(NamedTuple):
    """A distribution of two parts that does not show them."""

    inner: Successive

    def sample(self, *, seed, sample_shape=()):
        return self.inner.sample(seed=seed, sample_shape=sample_shape)

    def log_prob(self, value):
        return self.inner.log_prob(value)


def test_refusals():
    with pytest.raises(ValueError, match="num_points: expected an integer >= 1, got 0"):
        training.global_latents(0)
    with pytest.raises(ValueError, match="num_points: expected an integer >= 1, got 0"):
        models.plate(MODEL, 0)
    options = {
        "estimate": training.global_latents(N), "num_samples": 1, "optimizer": optax.sgd(0.1),
        "batch_size": 4, "num_epochs": 1,
    }  # fmt: skip
    whole = guides.Guide(lambda key: PHI, lambda phi, x: Whole(GUIDE.posterior(phi, x)))
    with pytest.raises(TypeError, match=r"q: expected .* split as the prior is, one of parts"):
        training.fit(jax.random.key(0), MODEL, whole, X, **options)
    finite = guides.shared(guides.bernoulli(1))
    bits = MODEL._replace(prior=lambda theta: distributions.Bernoulli(jnp.zeros(1)),
                          likelihood=lambda theta, z: scalar(z[0], jnp.ones(())))  # fmt: skip
    with pytest.raises(TypeError, match="global_latents: expected a reparameterised q"):
        training.fit(jax.random.key(0), bits, finite, X, **options)
