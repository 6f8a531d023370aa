"""Mixtures of a Gaussian for each mode by `vi.fit`, with the table of the modes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lvm_jax import vi
from lvm_jax.vi.starts import check_draw

KEY = jax.random.key(3)
MASS = np.array([0.7, 0.25, 0.05])
MEANS = np.array([[-5.0, 0.0], [4.0, 3.0], [3.0, -6.0]])
ROOTS = np.array([[[1.0, 0.0], [0.5, 0.4]], [[0.3, 0.0], [0.0, 2.0]], [[0.5, 0.0], [-0.2, 0.5]]])
LOG_Z = -4.0
pytestmark = pytest.mark.usefixtures("unrefined_file")


def three_normals(z):
    """e^-4 times a mixture of normals with covariances L L^T."""
    flat = jnp.stack([z["a"], z["b"]])
    inverse = jnp.asarray(np.linalg.inv(ROOTS), flat.dtype)
    away = jnp.einsum("kde,ke->kd", inverse, flat[None] - jnp.asarray(MEANS, flat.dtype))
    constant = np.log(MASS) - np.linalg.slogdet(ROOTS)[1] - np.log(2 * np.pi) + LOG_Z
    return jax.nn.logsumexp(jnp.asarray(constant, flat.dtype) - 0.5 * (away**2).sum(1))


def draw(key):
    place = jax.random.uniform(key, (2,), minval=-8.0, maxval=8.0)
    return {"a": place[0], "b": place[1]}


@pytest.fixture(scope="module")
def three(unrefined_file):
    return vi.fit(KEY, three_normals, draw, family="mixture", num_draws=4_000)


def test_three_unequal_normals_are_found_exactly(three):
    assert three.method == "modes"
    assert three.converged
    assert three.elbo.value == pytest.approx(LOG_Z, abs=2e-3)
    assert three.log_evidence.log_evidence == pytest.approx(LOG_Z, abs=2e-3)
    assert three.ess > 3_980


def test_the_table_has_their_places_masses_and_paths(three):
    table = three.modes
    assert table.num_modes == 3
    np.testing.assert_allclose(
        np.stack([table.location["a"], table.location["b"]], 1), MEANS, atol=2e-3
    )
    np.testing.assert_allclose(table.mass.value, MASS, rtol=3e-3)
    np.testing.assert_allclose(table.log_mass, LOG_Z + np.log(MASS), atol=3e-3)
    assert (table.mass.standard_error < 1e-3).all()
    assert table.num_paths.sum() == table.total_paths
    assert (table.num_paths > 1).all()
    assert table.unseen == 0


def test_draws_come_from_each_mode_by_its_mass(three):
    z = three.resample(KEY, 4_000).z
    flat = np.stack([z["a"], z["b"]], 1)
    nearest = ((flat[:, None] - MEANS) ** 2).sum(2).argmin(1)
    error = np.sqrt(MASS * (1 - MASS) / 4_000)
    assert (np.abs(np.bincount(nearest, minlength=3) / 4_000 - MASS) < 5 * error).all()
    one = jax.tree.map(lambda leaf: leaf[0], z)
    batch, log_q = three.q.sample_and_log_prob(seed=KEY, sample_shape=(3, 2))
    assert batch["a"].shape == (3, 2)
    one = jax.tree.map(lambda leaf: leaf[2, 1], batch)
    assert three.q.log_prob(one) == pytest.approx(float(log_q[2, 1]), abs=1e-4)


def test_a_mixture_is_saved_and_loaded(three, tmp_path):
    three.save(tmp_path / "q")
    again = vi.load(tmp_path / "q")
    z = {"a": jnp.float32(3.0), "b": jnp.float32(1.0)}
    np.testing.assert_array_equal(again.q.log_prob(z), three.q.log_prob(z))


def test_a_start_may_be_a_function_of_a_key():
    start, again = check_draw(KEY, draw)
    assert set(start) == {"a", "b"}
    assert again is draw
    assert check_draw(KEY, np.zeros(2))[1] is None
    with pytest.raises(
        ValueError, match="start: expected a pytree of numbers or a function of one"
    ):
        check_draw(KEY, lambda: 1.0)


def test_locations_and_drawn_starts_are_constrained():
    """Two modes of log z for a positive z, at 1 and e^6, by starts of z itself."""

    def log_density(z):
        log_z = jnp.log(z["scale"])
        return jnp.logaddexp(-2 * log_z**2, -2 * (log_z - 6) ** 2) - log_z

    found = vi.fit(
        KEY, log_density, lambda key: {"scale": jnp.exp(8 * jax.random.uniform(key) - 1)},
        family="mixture", constrain={"scale": "positive"}, num_draws=1_000,
    )  # fmt: skip
    np.testing.assert_allclose(np.sort(found.modes.location["scale"]), np.exp([0, 6]), rtol=0.01)
    np.testing.assert_allclose(found.modes.mass.value, 0.5, atol=0.01)
    truth = np.log(2 * np.sqrt(np.pi / 2))
    assert found.log_evidence.log_evidence == pytest.approx(truth, abs=0.02)


def test_families_and_methods_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="method: expected auto, modes or pathfinder"):
        vi.fit(KEY, three_normals, draw, family="mixture", method="adam")
    with pytest.raises(ValueError, match="family: expected one of mixture for this method"):
        vi.fit(KEY, three_normals, draw, family="full_rank", method="modes")
    with pytest.raises(ValueError, match="family: expected low_rank .* got mixture"):
        vi.fit(KEY, lambda z: -(z**2).sum(), jnp.zeros(6_000), family="mixture")
