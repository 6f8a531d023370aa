import jax
import jax.numpy as jnp
import numpy as np
import pytest
from em_reference import compact, em_step
from jax.flatten_util import ravel_pytree
from scipy import stats
from scipy.special import logsumexp

from lvm_jax import em
from lvm_jax.em import squarem
from lvm_jax.em.gaussian import Gaussians

KEY = jax.random.key(0)
# Hasselblad (1969): days with 0, 1, ..., 9 death notices of women over 80 in The Times.
COUNTS = np.array([162.0, 267, 271, 185, 111, 61, 27, 8, 3, 1])
DAYS = np.arange(10.0)[:, None]
BEST, OPTIMUM = -1989.945859883, (0.3598854, 1.2560951, 2.6634044)

FAMILIES = {**em.GAUSSIANS, "bernoulli": em.Bernoulli(), "poisson": em.Poisson()}
RNG = np.random.default_rng(1)
PLANE = RNG.normal(size=(150, 2)) * np.where(np.arange(150)[:, None] < 90, 1, 0.7)
PLANE[90:] += [1.8, 1.2]
ODDS = np.array([[0.8, 0.7, 0.3, 0.2, 0.6], [0.3, 0.2, 0.6, 0.6, 0.4]])[RNG.integers(2, size=150)]
BITS = (RNG.random((150, 5)) < ODDS).astype(float)
ROWS = {"bernoulli": BITS, "poisson": np.floor(np.abs(PLANE) * 3)}


def test_hasselblads_counts_take_at_most_100_passes(x64):
    rng = np.random.default_rng(0)
    share, rate = rng.uniform(0.05, 0.95, 12), np.sort(rng.uniform(0, 4, (12, 2)))
    log_weights = np.log(np.stack([share, 1 - share], 1))
    start = em.Mixture(log_weights, jnp.asarray(rate)[..., None], jnp.zeros(1), em.Poisson())
    options = {"start": start, "sample_weight": COUNTS, "tolerance": 1e-15, "max_steps": 100}

    fit = em.fit(KEY, DAYS, 2, em.Poisson(), acceleration="squarem", throw=False, **options)

    assert (fit.info.restart_objectives * COUNTS.sum() > BEST - 1e-9).all()
    assert fit.info.log_likelihood * COUNTS.sum() < BEST + 1e-9
    found = (fit.mixture.weights[0], *fit.mixture.means[:, 0])
    np.testing.assert_allclose(found, OPTIMUM, atol=2e-6)
    plain = em.fit(KEY, DAYS, 2, em.Poisson(), throw=False, **options)
    assert (plain.info.restart_objectives * COUNTS.sum() < BEST - 1e-5).all()


def start_of(name, x):
    """A mixture of two components, and the same as (pi, mu, Sigma) or (pi, means)."""
    pi = np.array([0.4, 0.6])
    if name in em.GAUSSIANS:
        mu, sigma = np.stack([x[:90].mean(0), x[90:].mean(0)]), np.stack([np.eye(2)] * 2)
        return em.gaussian_mixture(pi, mu, compact(sigma, name), name), (pi, mu, sigma)
    means = np.stack([0.7 * x.mean(0), 1.2 * x.mean(0)])
    return em.Mixture(np.log(pi), means, np.zeros(x.shape[1]), FAMILIES[name]), (pi, means)


def step(name, x, state):
    """A step of EM in NumPy, and the mean log-likelihood before it."""
    if name in em.GAUSSIANS:
        return em_step(x, *state, name)
    pi, means = state
    law = {"bernoulli": stats.bernoulli, "poisson": stats.poisson}[name]
    joint = np.log(pi) + law.logpmf(x[:, None], means).sum(-1)
    log_p = logsumexp(joint, axis=1)
    resp = np.exp(joint - log_p[:, None])
    means = resp.T @ x / resp.sum(0)[:, None]
    if name == "bernoulli":
        means = means.clip(1e-6, 1 - 1e-6)  # Bernoulli.epsilon
    return (resp.mean(0), means), log_p.mean()


# Spherical covariances have the coordinates of diagonal ones; a test below checks both.
@pytest.mark.parametrize("name", ["full", "tied", "diag", "bernoulli", "poisson"])
def test_ends_at_the_optimum_of_em_and_never_falls(x64, name):
    x = ROWS.get(name, PLANE)
    start, state = start_of(name, x)
    options = {"regularization": 0.0, "tolerance": 1e-13, "max_steps": 4_000, "start": start}
    fast = em.fit(KEY, x, 2, FAMILIES[name], acceleration="squarem", **options)
    plain = [-np.inf, -1e9]
    while plain[-1] - plain[-2] >= 1e-13:
        state, value = step(name, x, state)
        plain.append(value)

    assert fast.info.outcome == em.Outcome.CONVERGED
    assert fast.info.log_likelihood == pytest.approx(plain[-1], abs=1e-10)
    assert (np.diff(fast.info.trace) > -1e-12).all()
    assert fast.info.num_steps < 0.6 * (len(plain) - 2)


def test_a_prior_and_weights(x64):
    weight = np.random.default_rng(2).uniform(0.5, 2, len(PLANE))
    prior = em.default_prior(PLANE, 2, "full")
    options = {"sample_weight": weight, "prior": prior, "tolerance": 1e-13, "max_steps": 4_000}
    plain = em.fit(KEY, PLANE, 2, "full", **options)
    fast = em.fit(KEY, PLANE, 2, "full", acceleration="squarem", **options)
    np.testing.assert_allclose(fast.info.map_objective, plain.info.map_objective, atol=1e-10)
    assert fast.info.num_steps < plain.info.num_steps


def test_a_jump_that_no_pass_has_measured_is_not_the_result(x64):
    options = {"tolerance": 0.0, "regularization": 0.0, "throw": False, "max_steps": 5}
    plain = em.fit(KEY, PLANE, 2, "full", **options | {"max_steps": 2})
    two = em.fit(KEY, PLANE, 2, "full", acceleration="squarem", **options | {"max_steps": 2})
    assert two.info.log_likelihood == pytest.approx(plain.info.log_likelihood, abs=1e-14)
    # Blocks of 8 steps, which are no whole cycles, change nothing.
    options["max_steps"] = 20
    whole = em.fit(KEY, PLANE, 2, "full", acceleration="squarem", **options)
    seen = []
    parts = em.fit(
        KEY, PLANE, 2, "full", acceleration="squarem", on_progress=seen.append, **options
    )
    np.testing.assert_array_equal(parts.info.trace, whole.info.trace)
    assert [each["step"] for each in seen] == [8, 16, 20]


def test_a_jump_that_lowers_the_objective_is_taken_back(x64, store, monkeypatch):
    """Two cycles of three passes are then four steps of EM."""
    log_weights, rates = np.log([0.3, 0.7]), jnp.array([[1.0], [3.0]])
    start = em.Mixture(log_weights, rates, jnp.zeros(1), em.Poisson())
    options = {"start": start, "sample_weight": COUNTS, "tolerance": 0.0, "throw": False}
    plain = em.fit(KEY, DAYS, 2, em.Poisson(), max_steps=4, **options)

    def far(family, settings, theta_0, theta_1, theta_2, longest):
        return theta_2._replace(components=theta_2.components + 5.0), longest

    monkeypatch.setattr(squarem, "extrapolate", far)
    fast = em.fit(KEY, DAYS, 2, em.Poisson(), acceleration="squarem", max_steps=6, **options)
    np.testing.assert_allclose(fast.mixture.means, plain.mixture.means, rtol=1e-13)
    assert fast.info.log_likelihood == pytest.approx(plain.info.log_likelihood, abs=1e-14)
    assert (np.diff(fast.info.trace) >= -1e-14).all()


def test_data_that_stream(x64, tmp_path):
    options = {"tolerance": 1e-10, "acceleration": "squarem"}
    whole = em.fit(KEY, PLANE, 2, "full", **options)
    rows = lambda: iter(np.array_split(PLANE, 4))  # noqa: E731
    streamed = em.fit(KEY, rows, 2, "full", **options)
    np.testing.assert_allclose(streamed.info.trace, whole.info.trace, atol=1e-9)
    # A jump that no pass has measured is not the result, and a checkpoint has the whole cycle.
    options |= {"tolerance": 0.0, "throw": False, "checkpoint": tmp_path / "fit.npz"}
    for steps in (2, 4, 8):
        resumed = em.fit(KEY, rows, 2, "full", max_steps=steps, **options)
    del options["checkpoint"]
    at_once = em.fit(KEY, rows, 2, "full", max_steps=8, **options)
    np.testing.assert_array_equal(resumed.info.trace, at_once.info.trace)
    assert resumed.info.log_likelihood == at_once.info.log_likelihood


def test_float32_is_the_optimum_to_rounding():
    options = {"tolerance": 1e-6, "max_steps": 2_000}
    x = PLANE.astype(np.float32)
    fast = em.fit(KEY, x, 2, "full", acceleration="squarem", **options)
    with jax.enable_x64(True):  # the program of the tests above
        plain = em.fit(KEY, PLANE, 2, "full", **options)
    assert fast.info.log_likelihood > plain.info.log_likelihood - 1e-5


def divergence(family, at, other, size):
    """sum_k size_k^2 KL(at_k || other_k), whose Hessian is the Fisher information."""
    if isinstance(family, em.Poisson):
        return (size[:, None] ** 2 * (at * jnp.log(at / other) - at + other)).sum()
    if isinstance(family, em.Bernoulli):
        rest = (1 - at) * jnp.log((1 - at) / (1 - other))
        return (size[:, None] ** 2 * (at * jnp.log(at / other) + rest)).sum()
    a, b = family.cholesky(at), family.cholesky(other)
    d = family.means(other) - family.means(at)
    white, moved = jnp.linalg.solve(b, a), jnp.linalg.solve(b, d[..., None])[..., 0]
    logs = jnp.log(jnp.diagonal(b, axis1=1, axis2=2) / jnp.diagonal(a, axis1=1, axis2=2)).sum(1)
    return (size**2 * ((white**2).sum((1, 2)) / 2 + (moved**2).sum(1) / 2 + logs)).sum()


@pytest.mark.parametrize("name", FAMILIES)
def test_coordinates_have_unit_fisher_information(x64, name):
    family, rng = FAMILIES[name], np.random.default_rng(3)
    size = np.sqrt([0.3, 0.7])
    factor = np.tril(rng.normal(size=(2, 2, 2)) / 3) + np.eye(2)
    scale = {"full": factor, "tied": factor[0], "spherical": np.array([0.5, 2.0])}
    components = {
        "bernoulli": rng.uniform(0.1, 0.9, (2, 3)), "poisson": rng.uniform(0.5, 5, (2, 3)),
    }.get(name)  # fmt: skip
    if components is None:
        components = Gaussians(
            rng.normal(size=(2, 2)), scale.get(name, np.array([[0.5, 2.0], [1.0, 3.0]])),
            np.zeros((2, 2)),
        )  # fmt: skip
    components = jax.tree.map(jnp.asarray, components)
    free = family.unconstrain(components, components, size)
    flat, unravel = ravel_pytree(free)

    def loss(flat):
        return divergence(
            family, components, family.constrain(unravel(flat), components, size), size
        )

    back = family.constrain(free, components, size)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), back, components)
    information = np.asarray(jax.jit(jax.hessian(loss))(flat))
    used = np.diag(information) > 0  # the upper triangles of the scales are not parameters
    expected = np.eye(used.sum())
    np.testing.assert_allclose(information[used][:, used], expected, atol=1e-9)
    assert used.sum() == family.num_component_parameters(2, flat_dim(family, components))


def flat_dim(family, components):
    return family.means(components).shape[1]


def test_an_unknown_acceleration():
    with pytest.raises(ValueError, match="acceleration: expected one of squarem, got 'anderson'"):
        em.fit(KEY, PLANE, 2, acceleration="anderson")
