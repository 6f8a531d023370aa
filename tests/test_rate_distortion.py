"""Rate and distortion along beta against the closed forms of a linear-Gaussian model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decomposition_cases import quick_programs  # noqa: F401
from model_cases import CASES

from lvm_jax import annealing, guides
from lvm_jax.decomposition import channel, rate_distortion

MODEL, THETA, X, *_ = CASES["diagonal"]()
REPEATS = 40
BETAS = np.concatenate([[0.0], np.geomspace(0.02, 2.0, 24)]).astype(np.float32)


def closed(x, beta, mean=None, covariance=None):
    """R, D and log Z_beta; or R and D of another Gaussian q."""
    w, b, m = (np.asarray(v, float) for v in (THETA.loadings, THETA.offset, THETA.prior_mean))
    precision = np.diag(np.exp(-2 * np.asarray(THETA.log_noise, float)))
    x = np.asarray(x, float)
    if mean is None:
        covariance = np.linalg.inv(np.eye(2) + beta * w.T @ precision @ w)
        mean = m + beta * covariance @ w.T @ precision @ (x - b - w @ m)
    residual = x - b - w @ mean
    spread = np.trace(w @ covariance @ w.T @ precision)
    log_det = -np.linalg.slogdet(precision)[1]
    distortion = 0.5 * (residual @ precision @ residual + spread + log_det + 3 * np.log(2 * np.pi))
    shift = mean - m
    rate = 0.5 * (np.trace(covariance) + shift @ shift - 2 - np.linalg.slogdet(covariance)[1])
    return rate, distortion, -rate - beta * distortion


@pytest.fixture(scope="module")
def found():
    """The curves of two points, each REPEATS times."""
    x = jnp.repeat(X, REPEATS, axis=0)
    run = rate_distortion(
        jax.random.key(0), MODEL(THETA), x, 200, betas=BETAS, transition=annealing.random_walk(3)
    )
    return jax.device_get(run)


def grouped(measured):
    """Mean over the repeats of a point and its error, [2, T + 1]."""
    value, error = (leaf.reshape(2, REPEATS, -1) for leaf in measured)
    return value.mean(1), np.sqrt((error**2).sum(1)) / REPEATS


def test_the_curve_is_the_closed_form(found):
    truth = np.array([[closed(x, beta) for beta in BETAS] for x in X])  # [2, T + 1, 3]
    for place, one in enumerate((found.rate, found.distortion, found.log_normalizer)):
        value, error = grouped(one)
        off = np.abs(value - truth[..., place])
        assert (off < 5 * error + 1e-5).all()
        large = np.abs(truth[..., place]) > 0.9
        assert large.sum() > 10
        assert (error < 0.02 * np.abs(truth[..., place]))[large].all()  # to see a factor of 1.1
    np.testing.assert_array_equal(found.rate.value[:, 0], 0.0)
    np.testing.assert_array_equal(found.rate.standard_error[:, 0], 0.0)
    ess = found.ess.reshape(2, REPEATS, -1).mean(1)
    assert ((ess > 30) & (ess < 201)).all()
    assert (np.diff(ess) < 5).all()  # it falls as beta leaves the prior
    acceptance = found.acceptance.mean(0)
    assert ((acceptance > 0.1) & (acceptance < 1)).all()


def test_errors_are_those_of_repeats(found):
    for one in (found.rate, found.distortion, found.log_normalizer):
        value, error = (leaf.reshape(2, REPEATS, -1)[..., 1:] for leaf in one)
        ratio = value.var(1, ddof=1) / (error**2).mean(1)
        assert (np.abs(ratio - 1) < 5 * np.sqrt(2 / (REPEATS - 1))).all()
        assert abs(ratio.mean() - 1) < 0.3


def test_the_curve_falls_with_slope_minus_beta(found):
    mean = found.rate.average(), found.distortion.average()
    apart = [0, 10, 15, 20, 24]
    rate, distortion = (one.value[jnp.array(apart)] for one in mean)
    assert (np.diff(rate) > 0).all()
    assert (np.diff(distortion) < 0).all()
    # Convex: the chord between two betas has a slope between theirs.
    slope = -np.diff(rate) / np.diff(distortion)
    assert ((slope > BETAS[apart[:-1]]) & (slope < BETAS[apart[1:]])).all()


def test_the_guide_stands_above_the_curve(found):
    guide = guides.shared(guides.mean_field(2))
    phi = guides.families.MeanField(jnp.array([0.4, -0.2]), jnp.array([-0.5, -0.9]))
    here = channel(jax.random.key(2), MODEL(THETA), guide(phi), X, 4_000)
    covariance = np.diag(np.exp(2 * np.asarray(phi.log_scale, float)))
    for place, x in enumerate(X):
        rate, distortion, _ = closed(x, 1.0, np.asarray(phi.loc, float), covariance)
        np.testing.assert_allclose(here.rate.value[place], rate, rtol=1e-5)
        error = here.distortion.standard_error[place]
        assert abs(here.distortion.value[place] - distortion) < 5 * error
        assert error < 0.02 * distortion
        weighed = grouped(found.rate)[0][place] + BETAS * grouped(found.distortion)[0][place]
        assert (rate + BETAS * distortion > weighed).all()
    np.testing.assert_array_equal(here.rate.standard_error, [0.0, 0.0])


def test_refusals():
    def run(betas, **options):
        rate_distortion(jax.random.key(0), MODEL(THETA), X, 10, betas=betas, **options)

    for betas in ([0.1, 1.0], [0.0, 1.0, 1.0], [0.0, 2.0, 1.0]):
        with pytest.raises(ValueError, match="betas: expected to start at 0 and to rise"):
            run(np.array(betas))
    with pytest.raises(ValueError, match="betas: expected finite numbers"):
        run(np.array([0.0, np.inf]))
    with pytest.raises(ValueError, match=r"betas: expected \[T \+ 1\] numbers"):
        run(np.array([0.0]))
