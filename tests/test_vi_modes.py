"""The modes of a density, their masses, and a Gaussian for each."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lvm_jax import evidence, problems, vi
from lvm_jax.estimate import Estimate
from lvm_jax.vi.density import check_density
from lvm_jax.vi.method import Reason, Task
from lvm_jax.vi.modes import merge, search
from lvm_jax.vi.natural import Gaussian
from lvm_jax.vi.refine import Refined

KEY = jax.random.key(3)
WELLS = problems.wells(3, 3, 4.0)  # made once: its programs are compiled once


def task(log_density, dim, **more):
    return Task(check_density(log_density, jnp.zeros(dim))[0], "mixture", 0.01, 100_000)._replace(
        **more
    )


def test_two_wells_have_the_masses_of_quadrature():
    """The wells are no normals: the masses have errors, which the standard errors state."""
    target = problems.many_well(1)
    truth = target.facts["right_mass"]
    found = vi.modes().run(KEY, task(target.log_density, 2))
    table = found.modes
    assert table.num_modes == 2
    assert found.reason is Reason.CONVERGED
    assert table.location[0, 0] > 0
    error = float(table.mass.standard_error[0])
    assert 0 < error < 0.005
    assert abs(float(table.mass.value[0]) - truth) < 4 * error
    log_z = jax.nn.logsumexp(table.log_mass)
    assert log_z == pytest.approx(target.log_evidence, abs=0.02)
    assert found.evaluations == found.trace.evaluations[-1] > 20_000  # of the masses, twice 10,000


def test_one_mode_is_the_natural_gradient_fit_of_full_rank():
    """A skewed density with one mode: the same normal as the fit of full_rank."""
    skewed = task(lambda z: 2 * z[0] - jnp.exp(z[0]) - 0.5 * (z[1] - z[0]) ** 2, 2)
    mixture = vi.modes().run(KEY, skewed)
    normal = vi.natural_gradient().run(KEY, skewed._replace(family="full_rank"))
    table = mixture.modes
    assert table.num_modes == 1
    assert table.num_paths[0] == table.total_paths
    assert mixture.reason is Reason.CONVERGED
    np.testing.assert_allclose(table.mass.value, 1, atol=1e-6)
    np.testing.assert_allclose(table.log_mass, 0.5 * np.log(2 * np.pi), atol=0.05)  # Gamma(2) = 1
    np.testing.assert_allclose(mixture.flat.means[0], normal.flat.mean, atol=0.1)
    covariance = np.linalg.inv(mixture.flat.factors[0] @ mixture.flat.factors[0].T)
    np.testing.assert_allclose(covariance, normal.flat.cholesky @ normal.flat.cholesky.T, atol=0.1)


def test_good_turing_is_the_share_of_modes_seen_once():
    exact = Estimate.exact(jnp.zeros(4))
    table = vi.Modes(jnp.zeros((4, 2)), jnp.zeros(4), exact, np.array([5, 1, 3, 1]), 12)
    assert table.unseen == pytest.approx(2 / 12)


def test_a_saddle_is_no_mode_and_few_paths_leave_modes_unseen(unrefined):
    """z = 0 is a saddle of wells; 4 paths cannot end in all 8 modes."""
    wells = task(WELLS.log_density, 3)
    found = search(KEY, wells._replace(draw_start=lambda key: jnp.zeros(3)), 4, 2.0)
    assert len(found.num_paths) == 0
    found = search(KEY, wells, 4, 2.0)
    assert 0 < found.unseen <= 1
    assert found.total == 4
    with pytest.warns(RuntimeWarning, match="modes: 4 paths reached .* the found modes only"):
        result = vi.modes(num_paths=4).run(KEY, wells)
    assert result.reason is Reason.BUDGET
    options = {"family": "mixture", "method": vi.modes(num_paths=4), "num_draws": 1_000}
    with pytest.warns(RuntimeWarning, match="modes: 4 paths reached"):
        fit = vi.fit(KEY, wells.density, jnp.zeros(3), **options)
    assert fit.modes.unseen > 0.05
    assert fit.log_evidence.failed & evidence.Check.BUDGET
    assert not fit.log_evidence.reliable


@pytest.mark.parametrize("method", [vi.modes(), vi.pathfinder(num_paths=5)])
def test_a_budget_holds(method):
    wells = task(WELLS.log_density, 3, max_evaluations=500)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = method.run(KEY, wells)
    assert found.evaluations <= 600


def test_all_modes_of_wells_are_found():
    """Eight equal modes in a search that ends when each is the end of two paths."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = vi.modes().run(KEY, task(WELLS.log_density, 3))
    assert found.modes.num_modes == 8
    np.testing.assert_allclose(found.modes.mass.value, 1 / 8, rtol=0.1)
    assert (found.modes.num_paths >= 2).all()


def test_steps_that_lead_two_normals_to_one_place_leave_one():
    eye = jnp.broadcast_to(jnp.eye(2), (3, 2, 2))
    normals = Gaussian(jnp.asarray([[0.0, 0.0], [9.0, 0.0], [0.1, 0.0]]), eye)
    refined = Refined(normals, np.array([1.0, 5.0, 2.0]), np.zeros(3), 0)
    left, num_paths = merge(refined, np.array([1, 4, 2]))
    np.testing.assert_allclose(left.normals.mean, [[9.0, 0.0], [0.1, 0.0]])
    np.testing.assert_array_equal(num_paths, [4, 3])
