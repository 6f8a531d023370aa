"""The search for modes: which it finds, what it costs, and what it leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import quick_jit

from lvm_jax import distributions, evidence, problems
from lvm_jax.evidence import Check
from lvm_jax.evidence.merging import NONE
from lvm_jax.evidence.search import BATCH, Starts, search
from lvm_jax.guides import Guide
from lvm_jax.models import Model

MEANS = jnp.array([[-6.0, 1.0], [5.0, 4.0], [3.0, -7.0]])
SCALES = jnp.array([[0.5, 1.0], [0.3, 0.4], [1.0, 0.2]])
WEIGHTS = jnp.array([0.6, 0.3, 0.1])
COUNT = 96


def mixture(z):
    """The log of three normals far apart, of total mass exp(-4)."""
    each = jax.scipy.stats.norm.logpdf(z[None], MEANS, SCALES).sum(1)
    return jax.nn.logsumexp(jnp.log(WEIGHTS) + each) - 4.0


def places(dim=2, count=COUNT, scale=5.0):
    return scale * jax.random.normal(jax.random.key(0), (count, dim))


def searched(density, z, images=None, budget=10**6):
    padded = 0 if images is None else images(jnp.zeros((32, z.shape[1]))).shape[0]
    padded = max(padded, BATCH - len(z))
    starts = Starts(jnp.pad(z, ((0, padded), (0, 0))), None, 0, len(z))
    of = quick_jit(
        lambda z: search(lambda _: density, starts._replace(z=z), images, jnp.int32(budget))
    )
    return jax.device_get(of(starts.z))


def test_a_start_on_a_normal_costs_one_gradient():
    precision = np.array([[4.0, 1.9, 0.0], [1.9, 1.0, 0.0], [0.0, 0.0, 1e6]], np.float32)
    mean = jnp.array([1.0, -2.0, 3.0])

    def normal(z):
        return 2.0 - 0.5 * (z - mean) @ precision @ (z - mean)

    found = searched(normal, places(3))
    assert found.modes.number == 1
    assert (found.end == 0).all()
    # Until the first of a batch ends, all of it climb.
    assert found.evaluations < COUNT + 200
    assert (found.spent[BATCH:] == 1).all()
    np.testing.assert_allclose(found.modes.means[0], mean, rtol=1e-4)
    factor = found.modes.factors[0]
    np.testing.assert_allclose(factor @ factor.T, precision, rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(found.modes.heights[0], 2.0, atol=1e-4)
    assert found.shoulders.number == 0


def test_each_mode_is_found_once_and_starts_are_counted():
    found = searched(mixture, places())
    assert found.modes.number == 3
    order = [
        int(np.abs(found.modes.means[:3] - mean).sum(1).argmin()) for mean in np.asarray(MEANS)
    ]
    np.testing.assert_allclose(found.modes.means[order], MEANS, atol=0.02)
    log_mass = np.asarray(found.modes.log_masses())[order]
    np.testing.assert_allclose(np.exp(log_mass + 4), WEIGHTS, rtol=0.01)
    assert (found.end >= 0).all()
    # Steepest ascent would end in the nearest mode, in units of its own standard deviations.
    away = np.asarray(places())[:, None] - np.asarray(MEANS)
    scales = np.asarray(SCALES)
    heights = np.log(WEIGHTS) - np.log(scales).sum(1) - 0.5 * ((away / scales) ** 2).sum(2)
    nearest = np.array(order)[heights.argmax(1)]
    assert (found.end == nearest).mean() > 0.8


def test_a_narrow_mode_on_the_shoulder_of_a_wide_one_is_another():
    # 0.9 standard deviations of the wide one apart, 90 of the narrow one.
    def joint(z):
        wide = jax.scipy.stats.norm.logpdf(z, 0.0, 1.0).sum()
        narrow = jax.scipy.stats.norm.logpdf(z, 0.9, 0.01).sum()
        return jnp.logaddexp(wide, narrow)

    found = searched(joint, jnp.array([[-1.5], [-0.4], [0.895], [0.3], [2.0]]))
    np.testing.assert_allclose(np.sort(found.modes.means[:2, 0]), [0.0, 0.9], atol=0.01)
    assert found.modes.number == 2


def test_the_wide_part_of_a_spike_is_a_shoulder():
    # N(0, I) and a spike at its centre: one mode, whose curvature is the spike's.
    def joint(z):
        square = (z**2).sum()
        return jnp.logaddexp(-0.5 * square, 8.0 - 0.5 * square / 0.01**2)

    found = searched(joint, places(4, scale=1.0))
    assert found.modes.number == 1
    np.testing.assert_allclose(jnp.diagonal(found.modes.factors[0]), 100.0, rtol=0.01)
    assert found.shoulders.number == 1
    np.testing.assert_allclose(found.shoulders.factors[0], np.eye(4), atol=0.05)
    np.testing.assert_allclose(found.shoulders.heights[0], 0.0, atol=0.05)


def test_what_is_no_mode_ends_without_one():
    # A ridge: log p rises to a plateau, and the curvature along it is 0.
    def ridge(z):
        return -jnp.maximum(4.0 - z[0], 0.0) - 0.5 * z[1] ** 2

    found = searched(ridge, places(count=7) - 8.0)
    assert found.modes.number == 0
    assert (found.end[:7] == NONE).all()
    assert found.value[:7].max() > -0.1  # the plateau's


def test_starts_without_a_density_climb_nowhere():
    def half(z):
        inside = -0.5 * (z**2).sum() + 2 * jnp.log(jnp.maximum(z[0], 1e-30))
        return jnp.where(z[0] > 0, inside, -jnp.inf)

    z = jnp.array([[-1.0, 2.0], [0.7, 0.3], [-2.0, 0.1], [2.0, 1.0]])
    found = searched(half, z)
    assert found.end[:4].tolist() == [NONE, 0, NONE, 0]
    np.testing.assert_allclose(found.modes.means[0], [2**0.5, 0.0], atol=0.01)


def test_images_of_modes_are_starts_until_no_mode_is_new():
    # Eight modes (+-3, +-3, +-3); one start, and three reflections, which generate all.
    def corners(z):
        each = jnp.logaddexp(-0.5 * ((z - 3) / 0.3) ** 2, -0.5 * ((z + 3) / 0.3) ** 2)
        return each.sum()

    signs = 1 - 2 * jnp.eye(3)

    def images(means):
        return (means[:, None] * signs[None]).reshape(-1, 3)

    start = jnp.full((1, 3), 2.5)
    assert searched(corners, start).modes.number == 1
    found = searched(corners, start, images)
    assert found.modes.number == 8
    assert len(np.unique(np.round(found.modes.means[:8]), axis=0)) == 8


def test_a_budget_ends_the_search():
    found = searched(mixture, places(), budget=70)
    assert found.evaluations < 70 + 48 * BATCH
    assert (found.end == -1).any()


def test_modes_of_simulated_data_are_followed_to_the_data():
    """No draw of the prior climbs to the narrow mode, of deviation 0.03 in 16 dimensions."""
    problem = problems.two_modes(16, (0.03, 1.0))
    data = problems.simulate(jax.random.key(0), problem, 16)
    found = evidence.certify(
        jax.random.key(1), problem.p, problem.q, data.x, tolerance=0.1, budget=2e4
    )
    assert (found.search.num_modes == 2).all()
    assert found.within.mean() > 0.8
    assert np.abs(found.log_evidence - data.log_evidence)[found.within].max() < 0.1


def signs_model(dim=2):
    """z ~ N(0, I), x | z ~ N(z_1^2, ...): the signs of z change nothing."""
    return Model(
        lambda key: (),
        lambda theta: distributions.normal(jnp.zeros(dim), jnp.full(dim, 2.0)),
        lambda theta, z: distributions.normal(z**2, jnp.full(dim, 0.3)),
    )


def flip(z):
    return z * jnp.array([-1.0, 1.0])


def test_symmetries_are_checked_and_used():
    model = signs_model()
    guide = Guide(lambda key: (), lambda phi, x: model.prior(()))
    x = np.array([[9.0, 4.0], [4.0, 5.0]], np.float32)

    def run(**options):
        return evidence.certify(
            jax.random.key(2), model(()), guide(()), x, tolerance=0.3, budget=2e4, **options
        )

    found = run(symmetries=[flip, lambda z: -z])
    assert (found.search.num_modes == 4).all()
    np.testing.assert_allclose(found.search.masses.sum(1), 1.0, atol=0.01)
    with pytest.raises(ValueError, match=r"symmetries\[1\]: .* invariant, got a change of"):
        run(symmetries=[flip, lambda z: z + 1.0])
    with pytest.raises(TypeError, match=r"symmetries\[0\]: expected a function of z, got int"):
        run(symmetries=[3])
    with pytest.raises(TypeError, match=r"symmetries\[0\]: expected z as the prior draws it"):
        run(symmetries=[lambda z: z[:1]])


def test_more_modes_than_slots_are_not_certified():
    # 7 x 7 modes of equal mass.
    model = Model(
        lambda key: (),
        lambda theta: distributions.normal(jnp.zeros(2), jnp.full(2, 3.0)),
        lambda theta, z: distributions.normal(jnp.cos(2 * z), jnp.full(2, 0.1)),
    )
    guide = Guide(lambda key: (), lambda phi, x: model.prior(()))
    x = np.ones((1, 2), np.float32)
    found = evidence.certify(jax.random.key(3), model(()), guide(()), x, tolerance=0.1, budget=1e5)
    assert found.failed[0] & Check.BUDGET
    assert np.isinf(found.high[0])
    assert "the search for mass that the draws miss is incomplete" in found.statement(0)


class Scales:
    """mu ~ N(0, 1), and a scale s ~ Exp(1)."""

    def sample(self, *, seed, sample_shape=()):
        key_mu, key_s = jax.random.split(seed)
        parts = jax.random.normal(key_mu, sample_shape), jax.random.exponential(key_s, sample_shape)
        return jnp.stack(parts, -1)

    def log_prob(self, z):
        inside = jax.scipy.stats.norm.logpdf(z[0]) - z[1]
        return jnp.where(z[1] > 0, inside, -jnp.inf)


def test_an_unbounded_likelihood_is_named_and_not_certified():
    """log N(x; mu, s) rises without limit as mu = x and s tends to 0; log p(x) is finite."""
    model = Model(
        lambda key: (),
        lambda theta: Scales(),
        lambda theta, z: distributions.normal(z[:1], z[1:]),
    )
    guide = Guide(lambda key: (), lambda phi, x: Scales())
    x = np.array([[0.3], [-2.0]], np.float32)
    found = evidence.certify(
        jax.random.key(4), model(()), guide(()), x, tolerance=0.1, num_scouts=32
    )
    assert (found.failed & Check.UNBOUNDED != 0).all()
    assert not found.within.any()
    assert np.isinf(found.high).all()
    assert "it seems to be unbounded" in found.statement(0)
    assert not found.contradicted.any()
    assert set(found.method) == {"importance"}  # more budget for chains would not help
