import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact_problems import PROBLEMS
from model_cases import quick_jit

from lvm_jax import bounds, distributions
from lvm_jax.weights import draw, log_weights, weigh


@pytest.fixture(scope="module", params=PROBLEMS)
def weighted(request):
    """A problem with 20,000 weighted draws of its guide."""
    problem = PROBLEMS[request.param]()
    joint, q = problem.log_joint(problem.theta, problem.x), problem.guide(problem.phi)
    return problem, quick_jit(lambda key: weigh(key, joint, q, 20_000))(jax.random.key(0))


def test_weights_are_unbiased_for_the_evidence(weighted):
    problem, (_, log_w) = weighted
    w = np.exp(
        np.asarray(log_w, np.float64) - float(problem.log_evidence(problem.theta, problem.x))
    )
    error = w.std() / len(w) ** 0.5
    assert abs(w.mean() - 1) < 5 * error < 0.1  # a factor of 1.1 would fail


def test_weights_belong_to_their_draws(weighted):
    problem, (z, log_w) = weighted
    joint, q = problem.log_joint(problem.theta, problem.x), problem.guide(problem.phi)
    for s in (0, 7):
        one = jax.tree.map(lambda leaf, s=s: leaf[s], z)
        np.testing.assert_allclose(log_w[s], joint(one) - q.log_prob(one), rtol=1e-5)
    assert log_w.shape == (20_000,)


def test_log_weights_and_draw_are_parts_of_weigh():
    problem = PROBLEMS["bits"]()
    joint, q, key = (
        problem.log_joint(problem.theta, problem.x),
        problem.guide(problem.phi),
        jax.random.key(3),
    )
    z, log_w = weigh(key, joint, q, 5)
    np.testing.assert_array_equal(log_weights(key, joint, q, 5), log_w)
    np.testing.assert_array_equal(draw(key, q, 5), z)


def test_a_hierarchy_is_a_pytree(x64):
    # z = (a, b): a ~ N(0, 1), b | a ~ N(a, 1), x | b ~ N(b, 1): x ~ N(0, 3).
    class Chain:
        def sample(self, *, seed, sample_shape=()):
            first, second = jax.random.split(seed)
            a = jax.random.normal(first, sample_shape, jnp.float64)
            return {"a": a, "b": a + jax.random.normal(second, sample_shape, jnp.float64)}

        def log_prob(self, z):
            return normal(z["a"], 0.0) + normal(z["b"], z["a"])

    def normal(value, mean):
        return -0.5 * (value - mean) ** 2 - 0.5 * jnp.log(2 * jnp.pi)

    def joint(z):
        return normal(z["a"], 0.0) + normal(z["b"], z["a"]) + normal(1.7, z["b"])

    w = np.exp(quick_jit(lambda key: log_weights(key, joint, Chain(), 50_000))(jax.random.key(1)))
    truth = np.exp(-(1.7**2) / 6) / np.sqrt(6 * np.pi)
    assert abs(w.mean() - truth) < 5 * w.std() / 50_000**0.5 < 0.03 * truth


def test_gradient_flows_through_the_draws():
    problem = PROBLEMS["linear_gaussian"]()

    def elbo(parameters, key):
        theta, phi = parameters
        return bounds.elbo(
            log_weights(key, problem.log_joint(theta, problem.x), problem.guide(phi), 20)
        )

    keys = jax.random.split(jax.random.key(2), 4_000)
    pair, exact = (problem.theta, problem.phi), lambda pair: problem.elbo(*pair, problem.x)
    draws, truth = jax.device_get(
        quick_jit(
            lambda pair, keys: (
                jax.vmap(jax.grad(elbo), (None, 0))(pair, keys),
                jax.grad(exact)(pair),
            )
        )(pair, keys)
    )
    for found, exact in zip(jax.tree.leaves(draws), jax.tree.leaves(truth), strict=True):
        error = found.std(0) / 4_000**0.5
        assert (abs(found.mean(0) - exact) < 5 * error + 1e-5).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_kept(value):
    q = distributions.normal(jnp.zeros(2), jnp.ones(2))
    z, log_w = weigh(
        jax.random.key(0), lambda z: jnp.where(z[0] > 0, value, 0.0) + q.log_prob(z), q, 50
    )
    expected = np.where(z[:, 0] > 0, value, 0.0)
    np.testing.assert_array_equal(log_w, expected)


@pytest.mark.parametrize("x64", [False, True])
def test_precision_is_that_of_the_parameters(x64):
    with jax.enable_x64(x64):
        problem = PROBLEMS["linear_gaussian"]()
        joint, q = (
            problem.log_joint(problem.theta, problem.x),
            problem.posterior(problem.theta, problem.x),
        )
        log_w = log_weights(jax.random.key(0), joint, q, 4)
        assert log_w.dtype == (jnp.float64 if x64 else jnp.float32)
        truth = problem.log_evidence(problem.theta, problem.x)
        np.testing.assert_allclose(log_w, np.full(4, truth), rtol=1e-12 if x64 else 3e-6)


GAUSSIAN = distributions.normal(jnp.zeros(2), jnp.ones(2))


@pytest.mark.parametrize(
    "joint, q, num_samples, message",
    [
        (GAUSSIAN.log_prob, GAUSSIAN, 0, "num_samples: expected an integer >= 1, got 0"),
        (lambda z: -z, GAUSSIAN, 3, "log_joint: expected one real number"),
        (lambda z: jnp.argmax(z), GAUSSIAN, 3, "log_joint: expected one real number"),
        (lambda z: jnp.ones(3) @ z, GAUSSIAN, 3, r"log_joint: expected to take a z .*\[2\]"),
        (lambda z: z["a"].sum(), GAUSSIAN, 3, "log_joint: expected to take a z"),
        (
            jnp.sum,
            distributions.Normal(jnp.zeros(2), jnp.ones(2)),
            3,
            r"q: expected one log-density for one z, got shape \(2,\)",
        ),
    ],
)
def test_refusals(joint, q, num_samples, message):
    with pytest.raises(ValueError, match=message):
        log_weights(jax.random.key(0), joint, q, num_samples)


@pytest.mark.parametrize("key", [0, np.array([0, 1], np.uint32)])
def test_an_untyped_key_is_refused(key):
    with pytest.raises(TypeError, match="key: expected a typed key"):
        log_weights(key, GAUSSIAN.log_prob, GAUSSIAN, 3)
