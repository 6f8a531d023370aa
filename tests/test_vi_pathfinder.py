"""Paths of L-BFGS, the normals along them, and mixtures of several paths' normals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import quick_jit
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from lvm_jax import vi
from lvm_jax._core.lbfgs import Pairs, climb
from lvm_jax.distributions.factored import FactoredNormal
from lvm_jax.distributions.mixtures import NormalMixture
from lvm_jax.vi.density import check_density
from lvm_jax.vi.method import Reason, Task
from lvm_jax.vi.mixing import draw_evenly, masses, mixture_weights
from lvm_jax.vi.pathfinder import normal_of, update_diagonal

KEY = jax.random.key(5)
RNG = np.random.default_rng(1)
ROOT = np.tril(RNG.normal(size=(4, 4))) + 2 * np.eye(4)
PRECISION, MEAN = ROOT @ ROOT.T, np.array([1.0, -2.0, 0.5, 3.0])
LOG_Z = 7.0


def gaussian(z):
    """e^7 times a normal density."""
    away = (z - jnp.asarray(MEAN, z.dtype)) @ jnp.asarray(ROOT, z.dtype)
    constant = LOG_Z - 2 * np.log(2 * np.pi) + np.linalg.slogdet(ROOT)[1]
    return constant - 0.5 * away @ away


def task(log_density, dim, family, **more):
    start = jnp.zeros(dim)
    return Task(check_density(log_density, start)[0], family, 0.01, 100_000, **more)


def drawn(q, log_density, number):
    """Draws of q and their log-weights."""

    @quick_jit
    def draw(key):
        z, log_q = q.sample_and_log_prob(seed=key, sample_shape=(number,))
        return z, jax.vmap(log_density)(z) - log_q

    return jax.device_get(draw(KEY))


def bfgs(diagonal, pairs):
    """The inverse Hessian by the recursion of BFGS, dense and in float64."""
    inverse = np.diag(np.asarray(diagonal, float))
    for s, y in zip(*(np.asarray(part, float) for part in pairs), strict=True):
        if s @ y > 0:
            left = np.eye(len(s)) - np.outer(s, y) / (s @ y)
            inverse = left @ inverse @ left.T + np.outer(s, s) / (s @ y)
    return inverse


@pytest.mark.parametrize("number", [0, 1, 3])
def test_the_normal_at_a_point_has_the_covariance_of_bfgs_and_the_mean_of_newton(number):
    point = jnp.asarray(RNG.normal(size=4), jnp.float32)
    pairs, diagonal = Pairs.empty(point), jnp.ones(4)
    for _ in range(number):
        s = jnp.asarray(RNG.normal(size=4), jnp.float32)
        y = jnp.asarray(PRECISION, jnp.float32) @ s
        diagonal = update_diagonal(diagonal, s, y)
        pairs = pairs.add(s, y)
    gradient = jnp.asarray([1.0, -1.0, 0.5, 2.0])
    normal = normal_of(point, gradient, diagonal, pairs)
    expected = bfgs(diagonal, pairs)
    np.testing.assert_allclose(normal.covariance(), expected, rtol=1e-3, atol=1e-4)
    ahead = np.asarray(point) + expected @ np.asarray(gradient)
    np.testing.assert_allclose(normal.mean, ahead, rtol=1e-3, atol=1e-3)
    if number:
        np.testing.assert_allclose(pairs.direction(gradient), bfgs_of_last(pairs) @ gradient,
                                   rtol=1e-3, atol=1e-4)  # fmt: skip


def bfgs_of_last(pairs):
    """The recursion from s y / y y of the last pair, as in L-BFGS."""
    y = np.asarray(pairs.turns[-1], float)
    return bfgs(np.full(len(y), 1 / (y @ y)), pairs)


def test_an_update_of_the_diagonal_follows_gilbert_and_lemarechal():
    """Their equation 4.9 for the diagonal of the Hessian, in float64."""
    d, s, y = np.array([1.0, 2.0, 0.5]), np.array([0.3, -1.0, 0.7]), np.array([0.5, -0.8, 2.0])
    a, b, c = y @ (d * y), y @ s, s @ (s / d)
    expected = 1 / (a / (b * d) + y**2 / b - a * (s / d) ** 2 / (b * c))
    found = update_diagonal(*(jnp.asarray(one, jnp.float32) for one in (d, s, y)))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_array_equal(
        update_diagonal(jnp.asarray(d), jnp.asarray(s), jnp.asarray(-y)), d
    )


def test_the_factored_normal_against_scipy():
    basis = np.linalg.qr(RNG.normal(size=(4, 2)))[0]
    factor = np.array([[0.5, 0.0], [0.3, 2.0]])
    q = FactoredNormal(
        *(jnp.asarray(one, jnp.float32) for one in (MEAN, [1, 2, 0.5, 3], basis, factor))
    )
    truth = multivariate_normal(MEAN, np.asarray(q.covariance(), float))
    inside = basis @ (factor @ factor.T - np.eye(2)) @ basis.T + np.eye(4)
    scale = np.diag([1, 2, 0.5, 3])
    np.testing.assert_allclose(q.covariance(), scale @ inside @ scale, rtol=1e-4, atol=1e-5)

    @quick_jit
    def draw(key):
        z, log_q = q.sample_and_log_prob(seed=key, sample_shape=(20_000,))
        return z, log_q, jax.vmap(q.log_prob)(z)

    z, log_q, again = jax.device_get(draw(KEY))
    np.testing.assert_allclose(log_q, truth.logpdf(z.astype(float)), atol=1e-3)
    np.testing.assert_allclose(again, log_q, atol=1e-3)
    np.testing.assert_allclose(np.cov(z.T), q.covariance(), atol=0.3)
    assert q.entropy() == pytest.approx(truth.entropy(), abs=1e-4)


def test_paths_end_at_the_mode_and_count_their_evaluations():
    """Rosenbrock's valley, whose mode is (1, 1), and a normal, from several starts."""
    valley, _ = check_density(
        lambda z: -((1 - z[0]) ** 2) - 10 * (z[1] - z[0] ** 2) ** 2, jnp.zeros(2)
    )
    starts = jnp.asarray([[-1.5, 2.0], [2.0, -1.0], [0.0, 0.0]])
    paths = climb(starts, valley, 200, 50)
    assert paths.converged.all()
    assert (np.abs(paths.value) < 1e-3).all()  # nats below the maximum
    assert (paths.evaluations >= paths.length).all()
    assert (paths.length > 5).all()
    last = np.asarray(paths.points)[np.arange(3), np.asarray(paths.length) - 1]
    np.testing.assert_array_equal(last, paths.point)
    short = climb(starts, valley, 7, 50)
    assert (short.evaluations == 7).all()
    assert not short.converged.any()


def test_a_path_from_an_infinite_value_ends_at_once_and_one_without_a_mode_at_its_limit():
    half = check_density(lambda z: jnp.log(z).sum(), jnp.ones(1))[0]  # z = 1 + u
    paths = climb(jnp.asarray([[-2.0], [0.0]]), half, 30, 1)
    assert list(paths.evaluations) == [1, 30]
    assert not paths.converged.any()


@pytest.mark.parametrize("family", ["full_rank", "low_rank"])
def test_one_path_finds_a_normal(family):
    found = vi.pathfinder().run(KEY, task(gaussian, 4, family))
    assert found.reason is Reason.CONVERGED
    _, log_w = drawn(found.flat, gaussian, 2_000)
    assert log_w.mean() == pytest.approx(LOG_Z, abs=0.3)
    assert (found.evaluations - int(found.trace.evaluations[-1])) == 0
    assert found.evaluations < 400


def test_the_factors_take_ten_thousand_numbers():
    """A matrix of 10^8 numbers would be the covariance; N(1, 0.2^2 I) is found exactly."""
    found = vi.pathfinder().run(
        KEY, task(lambda z: -12.5 * ((z - 1) ** 2).sum(), 10_000, "low_rank")
    )
    assert isinstance(found.flat, FactoredNormal)
    np.testing.assert_allclose(found.flat.mean, 1.0, atol=1e-3)
    assert found.flat.entropy() == pytest.approx(
        10_000 * (0.5 + 0.5 * np.log(2 * np.pi * 0.04)), rel=1e-3
    )


def two_normals(z):
    """0.8 N((-4, 0), I) + 0.2 N((4, 0), I), times e^3."""
    parts = jnp.log(jnp.asarray([0.8, 0.2], z.dtype))
    away = z[None] - jnp.asarray([[-4.0, 0.0], [4.0, 0.0]], z.dtype)
    return 3 + jax.nn.logsumexp(parts - 0.5 * (away**2).sum(1)) - np.log(2 * np.pi)


def test_weights_by_the_mixture_count_a_mode_once_and_weights_by_each_path_do_not():
    """Three paths to the mode of mass 0.8 and one to the other: 3 x 0.8 / (3 x 0.8 + 0.2) = 0.92."""
    means = jnp.asarray([[-4.0, 0.0]] * 3 + [[4.0, 0.0]])
    equal = jnp.full((4, 1), -np.log(4))
    q = NormalMixture(equal, means, jnp.broadcast_to(jnp.eye(2), (4, 2, 2)), jnp.ones(1))
    draws = draw_evenly(KEY, q, check_density(two_normals, jnp.zeros(2))[0], (500,))
    left = np.repeat([1, 1, 1, 0], 500)

    own = np.asarray(draws.log_parts[..., 0])[np.arange(2_000), np.repeat(np.arange(4), 500)]
    each = np.exp(np.asarray(draws.log_p) - own)
    assert (each @ left) / each.sum() == pytest.approx(2.4 / 2.6, abs=0.005)  # biased
    weight = np.exp(np.asarray(draws.log_weights))
    assert (weight @ left) / weight.sum() == pytest.approx(0.8, abs=0.005)
    assert np.log(weight.mean()) == pytest.approx(3, abs=0.005)

    log_weights = mixture_weights(draws)
    assert np.exp(log_weights[3, 0]) == pytest.approx(0.2, abs=0.005)
    found = masses(draws, log_weights)
    assert found.log_evidence == pytest.approx(3, abs=0.005)
    assert found.mass.value[3] == pytest.approx(0.2, abs=0.005)


def test_several_paths_give_a_mixture_of_both_modes():
    found = vi.pathfinder(num_paths=8, start_scale=5.0).run(KEY, task(two_normals, 2, "mixture"))
    z, log_w = drawn(found.flat, two_normals, 4_000)
    assert logsumexp(log_w) - np.log(4_000) == pytest.approx(3, abs=0.05)
    assert (z[:, 0] > 0).mean() == pytest.approx(0.2, abs=0.05)
    assert found.evaluations > 10_000  # the draws of the weights count


@pytest.mark.parametrize(
    ("make", "given", "words"),
    [
        (vi.pathfinder, {"num_paths": 0}, "num_paths: expected an integer >= 1"),
        (vi.pathfinder, {"start_scale": 0.0}, "start_scale: expected a number > 0, got 0"),
        (vi.modes, {"num_paths": 0}, "num_paths: expected an integer >= 1"),
        (vi.modes, {"start_scale": -1.0}, "start_scale: expected a finite number"),
    ],
)
def test_bad_options_are_refused_by_name(make, given, words):
    with pytest.raises(ValueError, match=f"^{words}"):
        make(**given)
