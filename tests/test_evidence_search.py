"""The search for modes: which it finds, what it costs, and what it leaves."""

from functools import partial, wraps
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import quick_jit

from lvm_jax import distributions, evidence
from lvm_jax.evidence import Check, again, programs, rounds
from lvm_jax.evidence.again import joined, search_again
from lvm_jax.evidence.fitting import Loose
from lvm_jax.evidence.merging import NONE
from lvm_jax.evidence.modes import SLOTS, Modes
from lvm_jax.evidence.scouting import LOOSE, Searched
from lvm_jax.evidence.search import BATCH, Starts, search
from lvm_jax.guides import Guide
from lvm_jax.models import Model

MEANS = jnp.array([[-6.0, 1.0], [5.0, 4.0], [3.0, -7.0]])
SCALES = jnp.array([[0.5, 1.0], [0.3, 0.4], [1.0, 0.2]])
WEIGHTS = jnp.array([0.6, 0.3, 0.1])
COUNT = 96


def plane(density):
    """A density of (z_1, z_2), times exp(-z_3^2 / 2): all densities here share a program."""
    return wraps(density)(lambda z: density(z[:2]) - 0.5 * z[2] ** 2)


@plane
def mixture(z):
    """The log of three normals far apart, of total mass exp(-4)."""
    each = jax.scipy.stats.norm.logpdf(z[None], MEANS, SCALES).sum(1)
    return jax.nn.logsumexp(jnp.log(WEIGHTS) + each) - 4.0


def places(scale=5.0):
    return scale * np.asarray(jax.random.normal(jax.random.key(0), (COUNT, 3)))


@plane
def ridge(z):
    """log p rises to a plateau, and the curvature along it is 0: no mode."""
    return -jnp.maximum(4.0 - z[0], 0.0) - 0.5 * z[1] ** 2


@plane
def half(z):
    """z_1 > 0, with the mode (sqrt(2), 0)."""
    inside = -0.5 * (z**2).sum() + 2 * jnp.log(jnp.maximum(z[0], 1e-30))
    return jnp.where(z[0] > 0, inside, -jnp.inf)


@plane
def shouldered(z):
    """In z_1 a narrow normal 0.9 standard deviations from a wide one, 90 of the narrow one."""
    wide = jax.scipy.stats.norm.logpdf(z[0], 0.0, 1.0)
    narrow = jax.scipy.stats.norm.logpdf(z[0], 0.9, 0.01)
    return jnp.logaddexp(wide, narrow) - 0.5 * z[1] ** 2


MEAN = np.array([1.0, -2.0, 3.0], np.float32)
PRECISION = np.array([[4.0, 1.9, 0.0], [1.9, 1.0, 0.0], [0.0, 0.0, 1e6]], np.float32)


def normal(z):
    return 2.0 - 0.5 * (z - MEAN) @ PRECISION @ (z - MEAN)


def spike(z):
    """N(0, I) and a spike at its centre: one mode, whose curvature is the spike's."""
    square = (z**2).sum()
    return jnp.logaddexp(-0.5 * square, 8.0 - 0.5 * square / 0.01**2)


def corners(z):
    """Eight modes (+-3, +-3, +-3)."""
    each = jnp.logaddexp(-0.5 * ((z - 3) / 0.3) ** 2, -0.5 * ((z + 3) / 0.3) ** 2)
    return each.sum()


DENSITIES = (mixture, ridge, half, shouldered, normal, spike, corners)


@partial(quick_jit, static_argnums=4)
def search_one_of(which, z, budget, flips, densities):
    def density_of(_):
        return lambda z: jax.lax.switch(which, densities, z)

    def images(means):
        """Three reflections, which generate all corners from one; or the modes themselves."""
        signs = 1 - 2 * jnp.eye(3, dtype=means.dtype) * flips
        return (means[:, None] * signs[None]).reshape(-1, 3)

    starts = Starts(jnp.pad(z, ((0, 3 * SLOTS), (0, 0))), None, 0, len(z))
    return search(density_of, starts, images, budget)


def searched(density, z, flips=False, budget=10**6, densities=DENSITIES):
    """From COUNT starts, those of z in turn, whose ends are returned without those of images."""
    z = np.resize(np.pad(z, ((0, 0), (0, 3 - z.shape[1]))), (COUNT, 3))
    which, budget = np.int32(densities.index(density)), np.int32(budget)
    found = jax.device_get(search_one_of(which, z, budget, np.bool_(flips), densities))
    starts = {name: getattr(found, name)[:COUNT] for name in ("end", "spent", "value")}
    return found._replace(**starts)


def test_a_start_on_a_normal_costs_one_gradient():
    found = searched(normal, places())
    assert found.modes.number == 1
    assert (found.end == 0).all()
    # Until the first of a batch ends, all of it climb.
    assert found.evaluations < COUNT + 200
    assert (found.spent[BATCH:] == 1).all()
    np.testing.assert_allclose(found.modes.means[0], MEAN, rtol=1e-4)
    factor = found.modes.factors[0]
    np.testing.assert_allclose(factor @ factor.T, PRECISION, rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(found.modes.heights[0], 2.0, atol=1e-4)
    assert found.shoulders.number == 0


def test_each_mode_is_found_once_and_starts_are_counted():
    found = searched(mixture, places())
    assert found.modes.number == 3
    order = [
        int(np.abs(found.modes.means[:3, :2] - mean).sum(1).argmin()) for mean in np.asarray(MEANS)
    ]
    np.testing.assert_allclose(found.modes.means[order, :2], MEANS, atol=0.02)
    mass = np.exp(np.asarray(found.modes.log_masses())[order] + 4) / (2 * np.pi) ** 0.5
    np.testing.assert_allclose(mass, WEIGHTS, rtol=0.01)
    assert (found.end >= 0).all()
    # Steepest ascent would end in the nearest mode, in units of its own standard deviations.
    away = places()[:, None, :2] - np.asarray(MEANS)
    scales = np.asarray(SCALES)
    heights = np.log(WEIGHTS) - np.log(scales).sum(1) - 0.5 * ((away / scales) ** 2).sum(2)
    nearest = np.array(order)[heights.argmax(1)]
    assert (found.end == nearest).mean() > 0.8


def test_a_narrow_mode_on_the_shoulder_of_a_wide_one_is_another():
    found = searched(shouldered, np.array([[-1.5, 0], [-0.4, 0], [0.895, 0], [0.3, 0], [2.0, 0]]))
    np.testing.assert_allclose(np.sort(found.modes.means[:2, 0]), [0.0, 0.9], atol=0.01)
    assert found.modes.number == 2


def test_the_wide_part_of_a_spike_is_a_shoulder():
    found = searched(spike, places(scale=1.0))
    assert found.modes.number == 1
    np.testing.assert_allclose(np.diagonal(found.modes.factors[0]), 100.0, rtol=0.01)
    assert found.shoulders.number == 1
    np.testing.assert_allclose(found.shoulders.factors[0], np.eye(3), atol=0.05)
    np.testing.assert_allclose(found.shoulders.heights[0], 0.0, atol=0.05)


def test_what_is_no_mode_ends_without_one():
    found = searched(ridge, places() - 8.0)
    assert found.modes.number == 0
    assert (found.end == NONE).all()
    assert found.value.max() > -0.1  # the plateau's


def test_starts_without_a_density_climb_nowhere():
    found = searched(half, np.array([[-1.0, 2.0], [0.7, 0.3], [-2.0, 0.1], [2.0, 1.0]]))
    assert found.end[:4].tolist() == [NONE, 0, NONE, 0]
    np.testing.assert_allclose(found.modes.means[0], [2**0.5, 0.0, 0.0], atol=0.01)


def test_images_of_modes_are_starts_until_no_mode_is_new():
    start = np.full((1, 3), 2.5)
    assert searched(corners, start).modes.number == 1
    found = searched(corners, start, flips=True)
    assert found.modes.number == 8
    assert len(np.unique(np.round(found.modes.means[:8]), axis=0)) == 8


def test_images_of_modes_are_starts_in_float64(x64):
    found = searched(corners, np.full((1, 3), 2.5), flips=True, densities=(corners,))
    assert found.modes.means.dtype == np.float64
    assert found.modes.number == 8


def test_a_budget_ends_the_search():
    found = searched(mixture, places(), budget=70)
    assert found.evaluations < 70 + 48 * BATCH
    assert (found.end == -1).any()


SIGNS, COSINES, SCALES_OF_X = range(3)


def likelihood(theta, z):
    """Of one of three models, so that their certificates share programs."""
    one = jnp.ones(2)
    locs = jnp.stack([z**2, jnp.cos(2 * z), z * jnp.array([1.0, 0.0])])
    scales = jnp.stack([0.3 * one, 0.1 * one, jnp.stack([jnp.abs(z[1]), 1.0])])
    return distributions.normal(locs[theta["kind"]], scales[theta["kind"]])


MODEL = Model(
    lambda key: (),
    lambda theta: distributions.normal(jnp.zeros(2), jnp.full(2, theta["scale"])),
    likelihood,
)
PRIOR = Guide(
    lambda key: (), lambda scale, x: distributions.normal(jnp.zeros(2), jnp.full(2, scale))
)


def certified(kind, scale, x, **options):
    """A certificate of one of the models; q is the prior."""
    theta = {"kind": np.int32(kind), "scale": np.float32(scale)}
    p, q, x = MODEL(theta), PRIOR(theta["scale"]), np.asarray(x, np.float32)
    return evidence.certify(jax.random.key(2), p, q, x, num_scouts=128, **options)


def flip(z):
    return z * jnp.array([-1.0, 1.0])


def test_symmetries_are_checked_and_used(without_tails):
    """x | z ~ N((z_1^2, z_2^2), 0.3^2 I): the signs of z change nothing."""

    def run(**options):
        return certified(SIGNS, 2.0, [[9.0, 4.0], [4.0, 5.0]], tolerance=0.3, budget=2e4, **options)

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
    """x | z ~ N((cos 2 z_1, cos 2 z_2), 0.1^2 I): 7 x 7 modes of equal likelihood."""
    found = certified(COSINES, 3.0, np.ones((1, 2)), tolerance=0.1, budget=1e5)
    assert found.failed[0] & Check.BUDGET
    assert np.isinf(found.high[0])
    assert "the search for mass that the draws miss is incomplete" in found.statement(0)


def test_an_unbounded_likelihood_is_named_and_not_certified():
    """log N(x_1; z_1, z_2^2) rises without limit as z_1 = x_1 and z_2 tends to 0; log p(x) is finite."""
    found = certified(SCALES_OF_X, 1.0, [[0.3, 0.0], [-2.0, 0.5]], tolerance=0.1)
    assert (found.failed & Check.UNBOUNDED != 0).all()
    assert not found.within.any()
    assert np.isinf(found.high).all()
    assert "it seems to be unbounded" in found.statement(0)
    assert not found.contradicted.any()
    assert set(found.method) == {"importance"}  # more budget for chains would not help


class Content(NamedTuple):
    """p(x | z) of a target that does not depend on x."""

    z: jax.Array

    def sample(self, *, seed, sample_shape=()):
        return jnp.zeros(1)

    def log_prob(self, x):
        return rare(self.z) - WIDE.log_prob(self.z)


WIDE = distributions.normal(jnp.zeros(2), jnp.full(2, 4.0))


def rare(z):
    """Two wide normals, and a narrow one with 5% of the mass in a basin of 1% of the prior."""
    means, scales = jnp.array([[2.0, 0.0], [-2.0, 0.0], [0.0, 4.0]]), jnp.array([0.7, 0.7, 0.05])
    each = jax.scipy.stats.norm.logpdf(z[None], means, scales[:, None]).sum(1)
    return jax.nn.logsumexp(jnp.log(jnp.array([0.5, 0.45, 0.05])) + each)


@pytest.fixture
def search_of(monkeypatch):
    """The search of 40 seeds of `rare`, and the keys of its programs."""
    model = Model(lambda key: (), lambda _: WIDE, lambda _, z: Content(z))
    guide = Guide(lambda key: (), lambda _, x: WIDE)
    find_modes, seen = programs.find_modes, []

    def find(key, *args):
        seen.append(key)
        return find_modes(key, *args)

    def run(turns, points=slice(None), budget=1e5):
        seen.clear()
        monkeypatch.setattr(again, "TURNS", turns)
        x = np.zeros((40, 1), np.float32)[points]
        return rounds.Runner(jax.random.key(2), model(()), guide(()), x, None, budget, 64).search()

    monkeypatch.setattr(programs, "find_modes", find)
    return run, seen


def test_a_point_with_several_modes_is_searched_again_for_a_rare_one(search_of):
    run, seen = search_of
    once, sizes = run(0)
    assert sizes == [40]
    more, sizes = run(3)
    assert sizes == [40] * 4
    assert set(once.number.tolist()) == {2, 3}
    assert (more.number == 3).sum() > (once.number == 3).sum() + 10
    # A mode keeps its slot, and the starts that reached it add up.
    rows = np.arange(40)[:, None], np.arange(2)[None]
    np.testing.assert_array_equal(more.modes.means[rows], once.modes.means[rows])
    assert (more.reached[:, :2] > once.reached[:, :2]).all()
    np.testing.assert_array_equal(more.reached.sum(1), more.climbed)
    np.testing.assert_array_equal(more.climbed, 4 * (BATCH + 64))
    np.testing.assert_array_equal(more.scouts, 4 * 64)
    # On normals that do not overlap most starts cost one evaluation.
    assert (more.cost < 4.5 * once.cost.mean()).all()
    # No key of a turn is one of another: find_modes splits its key, and folds the points in.
    used = [key for one in seen for key in (one, *jax.random.split(one))]
    own = jax.vmap(jax.random.fold_in, (None, 0))
    used += [key for one in seen for key in own(jax.random.split(one)[1], np.arange(40))]
    assert len({tuple(jax.random.key_data(key).tolist()) for key in used}) == len(used)


def test_a_tenth_of_the_budget_limits_the_searches_of_each_point(search_of):
    run, _ = search_of
    once, _ = run(0)
    budget = 20.0 * np.median(once.cost)  # half of the points have a first search above 1/20
    every, sizes = run(3, budget=budget)
    assert 10 < sizes[1] < 30
    np.testing.assert_array_equal(every.scouts == 64, 2 * once.cost > budget / 10)
    assert (every.cost <= np.maximum(once.cost, budget / 10)).all()
    # The result of a point does not depend on the others, here in another bucket.
    some, _ = run(3, slice(0, 17), budget)
    for name in ("number", "reached", "climbed", "scouts", "cost"):
        np.testing.assert_array_equal(getattr(some, name), getattr(every, name)[:17])
    np.testing.assert_allclose(some.modes.means, every.modes.means[:17], rtol=1e-4, atol=1e-4)


def test_a_point_that_costs_too_much_is_not_searched_again_later():
    """With a tenth of 100: 66 + 66 > 100 in turn 1, though 66 + 66 / 2 < 100."""
    seen = []

    def find_modes(points, known, left, turn):
        seen.append((points.tolist(), left.tolist(), turn))
        return jax.tree.map(lambda leaf: leaf[points], first)._replace(cost=np.full(len(points), 5))

    first = results(number=np.array([2, 2, 1]), cost=np.array([66, 10, 10]))
    found, sizes = search_again(find_modes, first, 1_000.0)
    assert seen == [([1], [90], 1), ([1], [85], 2), ([1], [80], 3)]
    assert sizes == [1, 1, 1]
    assert found.cost.tolist() == [66, 25, 10]
    search_again(find_modes, first, 1e13)
    assert seen[-1][1] == [2**30] * 2  # an int32


def results(**changes):
    """Results of searches of a few points, with three slots of `reached`."""
    number = len(changes["number"])
    shape, zeros = (number, SLOTS + 3), np.zeros(number, int)
    modes = Modes(np.zeros((*shape, 1)), np.ones((*shape, 1, 1)), np.full(shape, -np.inf))
    loose = Loose(np.zeros((number, LOOSE, 1)), np.full((number, LOOSE), -np.inf))
    parts = Searched(
        modes, zeros, np.zeros((number, 3), int), zeros + 4, zeros + 2, zeros, zeros > 0, zeros > 0,
        loose, zeros,
    )  # fmt: skip
    return parts._replace(**changes)


def test_starts_of_a_search_that_is_cut_short_do_not_count():
    one = results(
        number=np.array([2, 1]), reached=np.array([[3, 1, 0], [4, 0, 0]]), cost=np.array([10, 20])
    )
    heights = one.modes.heights[:1].copy()
    heights[0, :3] = 0.0
    more = results(
        number=np.array([3]), reached=np.array([[2, 1, 1]]), cost=np.array([10]),
        modes=jax.tree.map(lambda leaf: leaf[:1], one.modes)._replace(heights=heights),
        loose=Loose(np.ones((1, LOOSE, 1)), np.zeros((1, LOOSE))),
    )  # fmt: skip
    points = np.array([0])
    whole = joined(one, more, points)
    cut = joined(one, more._replace(climbed=np.array([3]), unfinished=np.array([1])), points)
    assert whole.scouts.tolist() == [4, 2]
    assert cut.scouts.tolist() == [2, 2]
    assert whole.climbed.tolist() == [8, 4]
    assert cut.climbed.tolist() == [5, 4]  # with that of the new mode
    assert whole.reached.tolist() == [[5, 2, 1], [4, 0, 0]]
    assert cut.reached.tolist() == [[3, 1, 1], [4, 0, 0]]
    for found in (whole, cut):
        assert found.cost.tolist() == [20, 20]
        assert found.number.tolist() == [3, 1]
        assert (found.modes.heights[0] > -np.inf).sum() == 3
        assert found.unfinished.tolist() == [0, 0]
        assert (found.loose.z[0] == 1).all()
        assert (found.loose.z[1] == 0).all()
    assert one.cost.tolist() == [10, 20]
    # A mode of a whole search that images alone reached has no start, as in the first search.
    images = joined(one, more._replace(reached=np.array([[2, 1, 0]])), points)
    assert images.reached.tolist() == [[5, 2, 0], [4, 0, 0]]


def test_integers_without_moves_are_refused():
    class Bits(NamedTuple):
        logits: jax.Array

        def sample(self, *, seed, sample_shape=()):
            return jax.random.bernoulli(seed, 0.5, (*sample_shape, 2)).astype(jnp.int32)

        def log_prob(self, z):
            return -2 * jnp.log(2.0)

    bits = Bits(jnp.zeros(2))
    model = Model(
        lambda key: (), lambda _: bits, lambda _, z: distributions.normal(z * 1.0, jnp.ones(2))
    )
    guide = Guide(lambda key: (), lambda _, x: bits)
    with pytest.raises(TypeError, match="transition: expected"):
        evidence.certify(
            jax.random.key(0), model(()), guide(()), np.zeros((2, 2), np.float32), tolerance=0.1
        )
