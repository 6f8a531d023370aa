"""The table of gradient estimators against exact biases and variances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lvm_jax import distributions, gradients, guides
from lvm_jax.problems import one_bit

KEY = jax.random.key(5)
T = 0.45


def toy(b):
    """-(b - t)^2 less log 2, which the entropy of a fair bit adds."""
    return -((b - T) ** 2).sum() - jnp.log(2.0)


def elbo_gradient(logit):
    """m (1 - m) (f(1) - f(0) - l) with m = sigmoid(l), the ELBO's derivative in l."""
    m = 1 / (1 + np.exp(-logit))
    return m * (1 - m) * (2 * T - 1 - logit)


def iwae_gradient(logit):
    """Of IWAE with two draws, by central differences of the sum over the four pairs."""

    def bound(l):
        mass = np.array([1 / (1 + np.exp(l)), 1 / (1 + np.exp(-l))])
        w = np.exp([-(T**2), -((1 - T) ** 2)]) / 2 / mass
        return (np.outer(mass, mass) * np.log((w[:, None] + w) / 2)).sum()

    return (bound(logit + 1e-5) - bound(logit - 1e-5)) / 2e-5


def test_variances_are_those_of_the_toy():
    names = ("score_function", "arm", "disarm")
    found = gradients.compare(
        KEY, toy, distributions.Bernoulli, jnp.zeros(1), 1, estimators=names, num_draws=4_000
    )
    assert found.exact == pytest.approx(-one_bit.exact(T).mean, rel=1e-5)
    for name, row in found.rows.items():
        want = getattr(one_bit, name, one_bit.exact)(T).variance / one_bit.exact(T).mean ** 2
        assert abs(row.variance.value - want) < 5 * row.variance.standard_error + 1e-5, name
        assert not row.is_biased
        assert 0 < row.seconds < 1


def test_every_estimator_of_the_elbo_shows_the_bias_that_it_has():
    """At l = 0.8, where the relaxed ones are biased, as their rows report."""
    logits = jnp.array([0.8])
    found = gradients.compare(KEY, toy, distributions.Bernoulli, logits, 1, num_draws=4_000)
    assert found.exact == pytest.approx(elbo_gradient(0.8), rel=1e-5)
    fitting = {n: row for n, row in gradients.ESTIMATORS.items() if row.bound == "elbo"}
    of_bits = {n: row for n, row in fitting.items() if row.latent != "reparameterized"}
    assert found.rows.keys() | found.left_out.keys() == of_bits.keys()
    assert found.left_out["leave_one_out"] == "num_samples: expected an integer >= 2, got 1"
    for name, row in found.rows.items():
        assert row.is_biased != of_bits[name].unbiased_phi, name
        assert row.bias_limit < 0.2 or row.is_biased, name
    text = str(found)
    assert "concrete" in text and "leave_one_out: left out, num_samples" in text  # noqa: PT018
    assert f"{found.rows['concrete'].bias.value:.3f} +- " in text


def test_the_exact_gradient_of_iwae_is_a_sum_over_pairs():
    found = gradients.compare(
        KEY, toy, distributions.Bernoulli, jnp.array([0.8]), 2, bound="iwae",
        estimators={"vimco": "vimco", "wake": gradients.reweighted_wake_sleep()}, num_draws=20_000,
    )  # fmt: skip
    assert found.exact == pytest.approx(iwae_gradient(0.8), rel=1e-3)
    assert not found.rows["vimco"].is_biased
    assert found.rows["wake"].is_biased  # it climbs another objective in phi


def normal(phi):
    return distributions.normal(phi["loc"], jnp.ones(2))


def test_without_an_exact_gradient_the_bias_is_nan_and_the_variance_absolute():
    """-(loc + e) is the gradient of one draw for a standard normal: variance 1 a coordinate."""
    joint = lambda z: -0.5 * (z**2).sum()  # noqa: E731
    phi = {"loc": jnp.array([0.3, -0.4])}
    options = {"estimators": ["reparameterized"], "num_draws": 4_000}
    found = gradients.compare(KEY, joint, normal, phi, 2, **options)
    row = found.rows["reparameterized"]
    assert np.isnan(row.bias.value)
    assert abs(row.variance.value - 2 / 2) < 5 * row.variance.standard_error < 0.2
    assert "give exact=" in str(found)
    exact = {"loc": -phi["loc"]}
    known = gradients.compare(KEY, joint, normal, phi, 2, exact=exact, **options)
    assert known.rows["reparameterized"].variance.value == pytest.approx(
        row.variance.value / 0.25, rel=1e-5
    )
    assert not known.rows["reparameterized"].is_biased
    off = gradients.compare(KEY, joint, normal, phi, 2, exact={"loc": -2 * phi["loc"]}, **options)
    assert off.rows["reparameterized"].is_biased


def never(z):
    pytest.fail("log_joint was traced before the input was refused")


REFUSED = {
    "legacy key": ({"key": jax.random.PRNGKey(0)}, TypeError, "key: "),
    "bound": ({"bound": "elb"}, ValueError, "bound: expected one of .*did you mean 'elbo'"),
    "no estimator": ({"bound": "annealed_elbo"}, ValueError, "bound: expected one that an est"),
    "name": (
        {"estimators": ["disarmm"]}, ValueError, r"estimators\['disarmm'\]: .*did you mean 'disarm'"
    ),
    "one name": ({"estimators": "disarm"}, TypeError, "estimators: expected a sequence of names"),
    "none": ({"estimators": {"own": None}}, TypeError, r"estimators\['own'\]: .* got a NoneType"),
    "another bound": (
        {"estimators": ["vimco"]}, ValueError, r"estimators\['vimco'\]: .*use bound='iwae'"
    ),
    "factory": (
        {"estimators": {"own": gradients.disarm}}, TypeError, r"estimators\['own'\]: .*call disarm"
    ),
    "few draws": ({"num_draws": 59}, ValueError, "num_draws: expected an integer >= 60, got 59"),
    "no samples": ({"num_samples": 0}, ValueError, "num_samples: expected an integer >= 1"),
    "guide": (
        {"guide": guides.shared(guides.bernoulli(2)), "phi": guides.bernoulli(2).init(KEY)},
        TypeError, r"guide\(phi\): expected a distribution",
    ),
    "another kind": (
        {"estimators": ["sticking_the_landing"]}, TypeError, "sticking_the_landing: expected a repa"
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrong", REFUSED)
def test_bad_arguments_are_refused_by_name(wrong):
    change, error, words = REFUSED[wrong]
    given = {
        "key": KEY, "log_joint": never, "guide": distributions.Bernoulli, "phi": jnp.zeros(2),
        "num_samples": 1,
    }  # fmt: skip
    with pytest.raises(error, match=f"^{words}"):
        gradients.compare(**given | change)


@pytest.mark.parametrize("exact, words", [
    (jnp.zeros(2), "expected finite numbers that are not all 0"),
    (jnp.ones(3), r"expected a gradient with the shapes of phi, \(2,\), got \(3,\)"),
])  # fmt: skip
def test_an_exact_gradient_that_is_no_unit_is_refused(exact, words):
    with pytest.raises(ValueError, match=f"^exact: {words}"):
        gradients.compare(KEY, toy, distributions.Bernoulli, jnp.zeros(2), 1, exact=exact)
