"""Constraints against TFP's bijectors and automatic differentiation, and fits of constrained z."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import gammaln

from lvm_jax import vi
from lvm_jax.vi.constraints import CONSTRAINTS, Named

KEY = jax.random.key(0)
U = np.array([0.3, -1.0, 2.0], np.float32)
FREE = {  # the free numbers of a z
    "simplex": lambda z: z[:-1],
    "correlation_cholesky": lambda z: z[np.tril_indices(3, -1)],
}


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_a_map_has_its_inverse_and_the_determinant_of_its_jacobian(name):
    forward, inverse, holds, _ = CONSTRAINTS[name]
    z, log_det = forward(jnp.asarray(U))
    assert holds(np.asarray(z))
    np.testing.assert_allclose(inverse(z), U, rtol=2e-5)
    free = FREE.get(name, lambda z: z)
    jacobian = jax.jacobian(lambda u: free(forward(u)[0]))(jnp.asarray(U))
    assert float(log_det) == pytest.approx(np.linalg.slogdet(jacobian)[1], abs=1e-4)


@pytest.mark.parametrize("name", ["ordered", "correlation_cholesky", "simplex"])
def test_values_are_those_of_tfp(name):
    """TFP orders the triangle otherwise, and measures a simplex by its surface, sqrt(3) larger."""
    bijectors = pytest.importorskip("tensorflow_probability.substrates.jax.bijectors")
    other, shift = {
        "ordered": (bijectors.Ascending(), 0.0),
        "correlation_cholesky": (bijectors.CorrelationCholesky(), 0.0),
        "simplex": (bijectors.SoftmaxCentered(), 0.5 * np.log(3)),
    }[name]
    given = U[:2] if name == "simplex" else U
    with jax.numpy_rank_promotion("allow"):
        z, log_det = other.forward(given), other.forward_log_det_jacobian(given)
    found, own = CONSTRAINTS[name].forward(CONSTRAINTS[name].inverse(z))
    np.testing.assert_allclose(found, z, rtol=1e-5)
    assert own == pytest.approx(float(log_det) - shift, abs=1e-4)


def test_a_gamma_and_a_dirichlet_density_have_evidence_one(unrefined):
    """Normalised: log Z = 0. E[tau] = a, and E[p] = alpha / sum(alpha)."""
    shape, alpha = 5.0, jnp.array([4.0, 6.0, 10.0])

    def log_density(z):
        tau, p = z["tau"], z["p"]
        gamma = (shape - 1) * jnp.log(tau) - tau - gammaln(shape)
        return gamma + ((alpha - 1) * jnp.log(p)).sum() + gammaln(20.0) - gammaln(alpha).sum()

    start = {"p": jnp.full(3, 1 / 3), "tau": 1.0}
    found = vi.fit(KEY, log_density, start, constrain={"tau": "positive", "p": "simplex"})
    assert abs(found.log_evidence.log_evidence) < 5 * found.log_evidence.standard_error
    assert found.log_evidence.standard_error < 0.01
    draws = found.resample(jax.random.key(1), 4_000).z
    assert draws["p"].shape == (4_000, 3)
    error = 5 * np.sqrt(shape / 4_000)
    assert abs(draws["tau"].mean() - shape) < error
    np.testing.assert_allclose(draws["p"].mean(0), alpha / 20, atol=0.02)
    z, log_q = found.q.sample_and_log_prob(seed=KEY, sample_shape=(2, 3))
    assert z["tau"].shape == (2, 3)
    one = jax.tree.map(lambda leaf: leaf[1, 2], z)
    assert found.q.log_prob(one) == pytest.approx(float(log_q[1, 2]), abs=1e-3)


def test_a_function_constrains_a_pytree_of_another_structure(unrefined):
    """z = exp(u) with a log-normal density: q is exact, so that every log-weight is 0."""

    def constrain(u):
        return {"low": jnp.exp(u[0]), "both": jnp.exp(u)}, u.sum()

    def log_density(z):
        u = jnp.log(z["both"])
        return -0.5 * (u**2).sum() - jnp.log(2 * jnp.pi) - u.sum()

    found = vi.fit(KEY, log_density, jnp.ones(2), constrain=constrain)
    assert found.elbo.value == pytest.approx(0, abs=1e-3)
    assert found.q.sample(seed=KEY)["low"].shape == ()
    with pytest.raises(TypeError, match=r"^q\.log_prob: .* use q\.sample_and_log_prob"):
        found.q.log_prob({"low": 1.0, "both": jnp.ones(2)})


def normal_density(z):
    return -0.5 * sum((leaf**2).sum() for leaf in jax.tree.leaves(z))


TWO = {"a": np.float32(1.0), "b": np.ones(2, np.float32)}
REFUSED = {
    "leaf": ({"constrain": {"c": "positive"}}, ValueError, r"constrain: .* leaves .* \['c'\]"),
    "whole": ({"constrain": "positive"}, ValueError, "constrain: .* got one for the whole start"),
    "name": (
        {"constrain": {"a": "positiv"}}, ValueError, r"constrain\['a'\]: .*did you mean 'positive'"
    ),
    "kind": ({"constrain": {"a": 3.0}}, TypeError, r"constrain\['a'\]: expected one of .* float"),
    "outside": (
        {"constrain": {"b": "unit_interval"}}, ValueError,
        r"start\['b'\]: expected numbers in \(0, 1\), as constrain\['b'\] is 'unit_interval'",
    ),
    "scalar simplex": ({"constrain": {"a": "simplex"}}, ValueError, r"start\['a'\]: .* sum 1"),
    "structure": (
        {"constrain": lambda u: (u["c"], 0.0)}, ValueError,
        r"start: expected an unconstrained pytree .*KeyError: 'c'",
    ),
    "no determinant": ({"constrain": lambda u: u}, ValueError, "constrain: .* a pair"),
    "vector determinant": (
        {"constrain": lambda u: (u, u["b"])}, ValueError, "constrain: .* sum the log-determinants"
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrong", REFUSED)
def test_bad_constraints_are_refused_by_name(wrong):
    change, error, words = REFUSED[wrong]
    with pytest.raises(error, match=f"^{words}"):
        vi.fit(KEY, normal_density, TWO, **change)


def test_names_of_a_single_array():
    z, log_det = Named(("positive",)).forward(jnp.asarray(U))
    np.testing.assert_allclose(z, np.exp(U), rtol=1e-6)
    assert log_det == pytest.approx(U.sum(), abs=1e-6)
