"""Densities with an infinite integral are named, and proper ones with heavy tails are not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lvm_jax import vi
from lvm_jax.distributions import FullRankNormal
from lvm_jax.vi.density import check_density
from lvm_jax.vi.improper import improper_leaf

KEY = jax.random.key(7)
START = {"a": 0.0, "b": np.zeros(2, np.float32)}


def with_b(of_b):
    return lambda z: -0.5 * z["a"] ** 2 + of_b(*z["b"])


IMPROPER = {
    "flat": with_b(lambda b, c: 0.0 * b - c**2),
    "rising": with_b(lambda b, c: b - c**2),
    "quartic": with_b(lambda b, c: b**4 - c**2),
    "separated classes": with_b(lambda b, c: -5 * jax.nn.softplus(-b) - c**2),
    "slow": with_b(lambda b, c: -0.4 * jnp.log1p(b**2) - c**2),
    "not identified": with_b(lambda b, c: -0.5 * (b - c - 1) ** 2),
}
PROPER = {
    "Cauchy": with_b(lambda b, c: -jnp.log1p(b**2) - jnp.log1p(c**2)),
    "Gumbel": with_b(lambda b, c: -b - jnp.exp(-b) - jnp.abs(c)),
    "funnel": with_b(lambda b, c: -(b**2) / 18 - 0.5 * c**2 * jnp.exp(-b) - b / 2),
    "wide prior": with_b(lambda b, c: -5 * jax.nn.softplus(-b) - 0.5 * b**2 / 1e4 - c**2),
}
NARROW = FullRankNormal(jnp.zeros(3), jnp.eye(3))
DRIFTED = FullRankNormal(jnp.zeros(3), jnp.diag(jnp.array([1.0, 50.0, 1.0])).at[2, 1].set(50.0))


@pytest.mark.parametrize("name", IMPROPER)
def test_an_infinite_integral_is_found(name):
    density, _ = check_density(IMPROPER[name], START)
    q = DRIFTED if name == "not identified" else NARROW
    found = improper_leaf(KEY, density, q)
    assert found is not None
    assert "along start['b'] it falls no faster" in found


@pytest.mark.parametrize("name", PROPER)
def test_a_finite_integral_passes(name):
    density, _ = check_density(PROPER[name], START)
    assert improper_leaf(KEY, density, NARROW) is None


def test_a_fit_of_an_improper_density_raises_or_returns_no_number(unrefined):
    with pytest.raises(FloatingPointError, match=r"^log_density: .* along start\['b'\]"):
        vi.fit(KEY, IMPROPER["rising"], START, max_evaluations=300)
    found = vi.fit(KEY, IMPROPER["rising"], START, max_evaluations=300, throw=False)
    assert found.reason is vi.Reason.DIVERGED
    assert "start['b']" in found.problem
    assert np.isnan(found.log_evidence.log_evidence)
    assert np.isnan(found.elbo.value)
    assert not found.log_evidence.reliable
