"""log Z where a Gaussian q is poor, against closed forms and quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lvm_jax import problems, vi
from lvm_jax.distributions import normal
from lvm_jax.vi import quality
from lvm_jax.vi.density import check_density
from lvm_jax.vi.proposal import fit_scales

KEY = jax.random.key(5)
pytestmark = pytest.mark.usefixtures("compile_quickly")


def test_the_evidence_of_a_funnel_from_a_poor_normal():
    """q misses both ends; the weights of q give -1, and the proposal with scales 0."""
    target = problems.funnel(4)
    density, _ = check_density(target.log_density, jnp.zeros(4))
    q = normal(jnp.array([0.5, 0.0, 0.0, 0.0]), jnp.array([1.0, 1.2, 1.2, 1.2]))
    importance = quality.measure(KEY, q, density, 10)[1]
    found = quality.refine(KEY, q, density, importance)
    assert not importance.reliable
    assert found.evidence.reliable
    assert abs(found.evidence.log_evidence) < 4 * found.evidence.standard_error
    assert found.evidence.standard_error < 0.02


def test_a_fit_of_exact_draws_recovers_the_scales_and_the_parent():
    """v_1 = 2 + 3 t, v_0 = v_1 + exp(v_1 / 2) e: the log-scale has slope 3 / 2 in units of sd."""
    rng = np.random.default_rng(0)
    parent = 2 + 3 * rng.normal(size=4_000)
    z = np.stack([parent + np.exp(parent / 2) * rng.normal(size=4_000), parent], 1)
    found = fit_scales(z, np.ones(4_000))
    assert list(found.order) == [1, 0]
    assert found.loc[0] == pytest.approx(2, abs=0.2)
    assert found.scale[0] == pytest.approx(3, abs=0.15)
    assert found.log_scale[1, 1] == pytest.approx(1.5, abs=0.1)
    assert found.mean[1, 1] == pytest.approx(3 / float(found.scale[1]), rel=0.1)


def test_the_density_of_a_proposal_is_that_of_its_draws():
    """E_g[h / g] = 1 for a normal h inside of g."""
    rng = np.random.default_rng(1)
    parent = rng.normal(size=2_000)
    z = np.stack([parent, np.exp(parent) * rng.normal(size=2_000)], 1).astype(np.float32)
    proposal = fit_scales(z, np.ones(2_000))
    draws = proposal.sample(seed=KEY, sample_shape=(20_000,))
    inside = normal(jnp.zeros(2), jnp.array([0.7, 0.5]))
    ratio = jnp.exp(jax.vmap(lambda u: inside.log_prob(u) - proposal.log_prob(u))(draws))
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / np.sqrt(20_000)
    assert ratio.std() / np.sqrt(20_000) < 0.02


def test_reliable_weights_of_q_are_kept():
    target = lambda z: -0.5 * (z**2).sum()  # noqa: E731
    found = vi.fit(KEY, target, jnp.ones(3))
    assert found.proposal.flat is found.q.flat
    assert found.log_evidence is found.importance
