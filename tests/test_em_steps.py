import jax
import jax.numpy as jnp
import numpy as np
import pytest
from em_reference import blobs, compact, e_step, em_step, numbers

from lvm_jax import em
from lvm_jax.em import padding, statistics
from lvm_jax.em.mixture import rows_per_chunk
from lvm_jax.em.preparation import Request, prepare

TYPES = tuple(em.GAUSSIANS)
N, D, K = 301, 3, 3
X = blobs(N, D, K)
WEIGHT = np.random.default_rng(1).uniform(0.1, 3.0, N)
KEY = jax.random.key(0)
ROWS = 290  # of a chunk: of 301 rows, padded to 512, the second and last chunk overlaps the first


def start_numbers(covariance_type):
    """A generic start: unequal weights, unequal and correlated covariances."""
    rng = np.random.default_rng(2)
    mu = X[rng.choice(N, K, replace=False)]
    factor = rng.normal(size=(K, D, D))
    sigma = factor @ factor.transpose(0, 2, 1) / D + np.eye(D)
    pi = np.array([0.5, 0.3, 0.2])
    if covariance_type == "tied":
        sigma = np.broadcast_to(sigma[0], sigma.shape)
    elif covariance_type == "diag":
        sigma = np.stack([np.diag(np.diag(s)) for s in sigma])
    elif covariance_type == "spherical":
        sigma = np.stack([np.trace(s) / D * np.eye(D) for s in sigma])
    return pi, mu, sigma


def start_mixture(covariance_type, dtype=np.float64):
    pi, mu, sigma = start_numbers(covariance_type)
    sigma = compact(sigma, covariance_type)
    return em.gaussian_mixture(pi, mu.astype(dtype), sigma, covariance_type)


def steps(covariance_type, x, num, **options):
    """The fit after `num` steps of EM from the generic start, without regularization."""
    initial = start_mixture(covariance_type, x.dtype)
    options = {"regularization": 0.0, "tolerance": 0.0, "throw": False, **options}
    return em.fit(KEY, x, K, covariance_type, start=initial, max_steps=num, **options)


def reference_steps(covariance_type, x, num, weight=None, regularization=0.0):
    state, trace = start_numbers(covariance_type), []
    for _ in range(num):
        state, value = em_step(x, *state, covariance_type, weight, regularization)
        trace.append(value)
    return state, trace


def problem(covariance_type, x, sample_weight=None):
    """Family, parameters [1, K, ...], data padded to 512 rows, chunk size and origin."""
    start = start_mixture(covariance_type, x.dtype)
    options = {"regularization": 0.0, "sample_weight": sample_weight, "tolerance": 0.0}
    made, origin, *_ = prepare(KEY, Request(x, K, covariance_type, start, **options))
    parameters = padding.each(padding.cut, made.family, made.parameters, K)
    return made.family, parameters, made.data, made.rows, origin


@pytest.mark.parametrize(
    "covariance_type, weight",
    [*((covariance, WEIGHT) for covariance in TYPES), ("full", None)],
    ids=[*TYPES, "unweighted"],
)
def test_steps_are_the_equations_of_em_float64(x64, covariance_type, weight):
    total = np.ones(N) if weight is None else weight
    for num in (1, 2, 5):
        fit = steps(covariance_type, X, num, sample_weight=weight)
        expected, trace = reference_steps(covariance_type, X, num, weight)
        for got, want in zip(numbers(fit.mixture), expected, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(fit.info.trace, trace, rtol=1e-10)
        after = total @ e_step(X, *expected)[1] / total.sum()
        np.testing.assert_allclose(fit.info.log_likelihood, after, rtol=1e-10)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_steps_are_the_equations_of_em_float32(covariance_type):
    # Each step contracts or keeps rounding: five steps stay within some 20 units of 6e-8.
    x = X.astype(np.float32)
    fit = steps(covariance_type, x, 5)
    expected, trace = reference_steps(covariance_type, x.astype(np.float64), 5)
    for got, want in zip(numbers(fit.mixture), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=5e-6 * np.abs(want).max())
    np.testing.assert_allclose(fit.info.trace, trace, rtol=1e-6)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_responsibilities_are_bayes_rule(x64, covariance_type):
    want, log_p = e_step(X, *start_numbers(covariance_type))
    mixture = start_mixture(covariance_type)
    np.testing.assert_allclose(mixture.responsibilities(X), want, atol=1e-12)
    np.testing.assert_allclose(mixture.log_prob(X), log_p, rtol=1e-12)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_regularization_is_added_to_every_variance(x64, covariance_type):
    fit = steps(covariance_type, X, 1, regularization=0.25, sample_weight=WEIGHT)
    (_, _, sigma), _ = reference_steps(covariance_type, X, 1, WEIGHT, regularization=0.25)
    np.testing.assert_allclose(fit.mixture.covariances, sigma, atol=1e-10)


def test_chunks_are_even(monkeypatch):
    monkeypatch.setattr(statistics, "CHUNK_BYTES", 4_000)
    monkeypatch.setattr(statistics, "ACCELERATOR_BYTES", 4_000)
    sizes = {num: statistics.chunk_rows(num, 1, 4) for num in (900, 960, 961, 2_000, 20_000)}
    assert sizes == {900: 900, 960: 960, 961: 512, 2_000: 704, 20_000: 960}


def test_chunks_of_any_size_give_the_same_step(x64, monkeypatch):
    """Of one type; the test below has both passes of all."""
    covariance_type = "tied"
    whole = steps(covariance_type, X, 5, sample_weight=WEIGHT)
    for device in ("CHUNK_BYTES", "ACCELERATOR_BYTES"):
        monkeypatch.setattr(statistics, device, 1)
    data = statistics.Data(jnp.asarray(X), None, jnp.zeros(D))
    rows = rows_per_chunk(em.GAUSSIANS[covariance_type], K, data)
    assert rows == 128  # so that 301 rows take three chunks, and the last one overlaps
    chunked = steps(covariance_type, X, 5, sample_weight=WEIGHT)
    for got, want in zip(numbers(chunked.mixture), numbers(whole.mixture), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(chunked.info.trace, whole.info.trace, rtol=1e-12)
    np.testing.assert_allclose(chunked.mixture.log_prob(X), whole.mixture.log_prob(X), rtol=1e-10)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("make_pass", [statistics.fast_pass, statistics.exact_pass])
def test_both_passes_add_up_over_chunks(x64, covariance_type, make_pass):
    family, parameters, data, _, origin = problem(covariance_type, X, WEIGHT)
    resp, log_p = e_step(X, *start_numbers(covariance_type))
    resp = resp * WEIGHT[:, None]
    compiled = jax.jit(make_pass, static_argnums=(0, 3))
    summary, log_likelihood = compiled(family, parameters, data, ROWS)
    np.testing.assert_allclose(summary.counts[0], resp.sum(0), rtol=1e-12)
    means = resp.T @ X / resp.sum(0)[:, None] - origin
    np.testing.assert_allclose(summary.means[0], means, atol=1e-12)
    np.testing.assert_allclose(log_likelihood[0], WEIGHT @ log_p, rtol=1e-12)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_fast_pass_equals_exact_pass_on_safe_data(x64, covariance_type):
    family, parameters, data, *_ = problem(covariance_type, X, WEIGHT)
    assert jax.vmap(family.is_safe)(parameters.components).all()
    fast_pass = jax.jit(statistics.fast_pass, static_argnums=(0, 3))
    exact_pass = jax.jit(statistics.exact_pass, static_argnums=(0, 3))
    fast, fast_likelihood = fast_pass(family, parameters, data, ROWS)
    exact, exact_likelihood = exact_pass(family, parameters, data, ROWS)
    for got, want in zip(fast, exact, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(fast_likelihood, exact_likelihood, rtol=1e-12)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_is_safe_knows_tight_clusters_far_away(covariance_type):
    # u b D / 4 nats with b = (distance/sd)^2 / 2: 1e4^2 / 2 * 6e-8 * 3/4 is 2 nats, 2 sd is 0.
    family = em.GAUSSIANS[covariance_type]
    shapes = {"full": (K, 1, 1), "tied": (1, 1), "diag": (K, 1), "spherical": (K,)}
    scale = np.ones(shapes[covariance_type], np.float32)
    if covariance_type in ("full", "tied"):
        scale = scale * np.eye(D, dtype=np.float32)
    elif covariance_type == "diag":
        scale = np.tile(scale, (1, D))
    near = em.Gaussians(jnp.full((K, D), 2.0), jnp.asarray(scale))
    far = near._replace(deviations=near.deviations.at[1].set(1e4))
    assert bool(family.is_safe(near))
    assert not bool(family.is_safe(far))


@pytest.mark.parametrize("covariance_type", TYPES)
def test_likelihood_never_falls_float64(x64, covariance_type):
    trace = steps(covariance_type, X, 60, sample_weight=WEIGHT).info.trace
    assert trace.shape == (60,)
    assert np.diff(trace).min() >= -1e-9
    assert trace[-1] - trace[0] > 0.1  # and it went somewhere


@pytest.mark.parametrize("covariance_type", TYPES)
def test_likelihood_never_falls_float32(covariance_type):
    trace = steps(covariance_type, X.astype(np.float32), 60).info.trace
    assert np.diff(trace).min() >= -1e-5
    assert trace[-1] - trace[0] > 0.1


@pytest.mark.parametrize("covariance_type", TYPES)
def test_weights_are_repetition(x64, covariance_type):
    times = np.random.default_rng(3).integers(0, 4, N)
    weighted = steps(covariance_type, X, 5, sample_weight=times)
    expected, trace = reference_steps(covariance_type, np.repeat(X, times, axis=0), 5)
    for got, want in zip(numbers(weighted.mixture), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(weighted.info.trace, trace, rtol=1e-11)


def test_a_common_factor_of_the_weights_changes_nothing(x64):
    once = steps("full", X, 5, sample_weight=WEIGHT)
    thrice = steps("full", X, 5, sample_weight=3 * WEIGHT)
    for got, want in zip(numbers(thrice.mixture), numbers(once.mixture), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(thrice.info.log_likelihood, once.info.log_likelihood, rtol=1e-12)


def test_steps_of_many_restarts_are_the_steps_of_each(x64):
    alone = steps("full", X, 5).mixture
    initial = start_mixture("full")
    other = em.gaussian_mixture(np.full(K, 1 / K), X[:K], np.tile(np.eye(D), (K, 1, 1)))
    other = type(initial)(*other.parameters, other.origin, other.family)
    shifted = other.components._replace(
        deviations=other.components.deviations + (other.origin - initial.origin)[None]
    )
    both = type(initial)(
        jnp.stack([initial.log_weights, other.log_weights]),
        jax.tree.map(lambda a, b: jnp.stack([a, b]), initial.components, shifted),
        initial.origin,
        initial.family,
    )
    together = em.fit(
        KEY, X, K, start=both, max_steps=5, regularization=0.0, tolerance=0.0, throw=False
    )
    expected, _ = reference_steps("full", X, 5)
    chosen = numbers(together.mixture)
    if together.info.best_restart == 0:
        np.testing.assert_allclose(chosen[1], numbers(alone)[1], atol=1e-10)
        np.testing.assert_allclose(chosen[1], expected[1], atol=1e-10)
    else:
        state = (np.full(K, 1 / K), X[:K], np.tile(np.eye(D), (K, 1, 1)))
        for _ in range(5):
            state, _ = em_step(X, *state, "full")
        np.testing.assert_allclose(chosen[1], state[1], atol=1e-10)
