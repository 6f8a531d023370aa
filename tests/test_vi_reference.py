"""A fit beside reference draws of posteriordb, in ArviZ, and as the start of NUTS."""

import json
from importlib.util import find_spec
from types import SimpleNamespace
from zipfile import ZipFile

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from docs._site.pages import DOCS, blocks, run_block
from lvm_jax import vi
from lvm_jax.vi.constraints import Constrained, Function

MEAN, ROOT = jnp.array([1.0, -2.0, 0.5]), jnp.array([[2.0, 0, 0], [1.5, 0.4, 0], [-1, 0.2, 0.1]])
SCALES = np.sqrt(np.diag(ROOT @ ROOT.T))
NAME = "line-normal"


def log_density(z):
    """(a, b_1, b_2) is normal with mean MEAN and covariance ROOT ROOT^T."""
    u = jnp.concatenate([z["a"][None], z["b"]]) - MEAN
    return -0.5 * (jax.scipy.linalg.solve_triangular(ROOT, u, lower=True) ** 2).sum()


def constrain(z):
    return {"theta": z["b"], "scale": jnp.exp(z["a"])}


@pytest.fixture(scope="module")
def fit(unrefined_file):
    start = {"a": jnp.zeros(()), "b": jnp.zeros(2)}
    return vi.fit(jax.random.key(0), log_density, start, num_draws=4_000)


@pytest.fixture
def clone(tmp_path):
    """A folder with the layout of stan-dev/posteriordb, with two posteriors."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "posterior_database"
    whole = np.asarray(MEAN) + rng.normal(size=(4, 500, 3)) @ np.asarray(ROOT).T
    columns = {"theta[1]": 1, "theta[2]": 2, "a": 0}
    chains = [{name: list(chain[:, i]) for name, i in columns.items()} for chain in whole]
    for chain in chains:
        chain |= {"m[1,1]": [1.0] * 500, "m[2,1]": [3.0] * 500, "m[2,3]": [6.0] * 500}
    zipped = {
        "data/data/line": {"N": 3, "y": [1.5, 2, 3], "rows": [[1, 2], [3, 4]], "ragged": [[1], []]},
        f"reference_posteriors/draws/draws/{NAME}": chains,
    }
    for path, content in zipped.items():
        (folder / path).parent.mkdir(parents=True)
        with ZipFile(folder / f"{path}.json.zip", "w") as archive:
            archive.writestr(f"{path.rpartition('/')[2]}.json", json.dumps(content))
    (folder / "posteriors").mkdir()
    for name, reference in ((NAME, NAME), ("line-other", None)):
        about = {"name": name, "data_name": "line", "reference_posterior_name": reference}
        (folder / "posteriors" / f"{name}.json").write_text(json.dumps(about))
    return tmp_path, whole


def test_posteriordb_reads_data_and_draws(clone):
    folder, whole = clone
    found = vi.posteriordb(folder, NAME)
    assert found.data["N"] == 3
    assert found.data["ragged"] == [[1], []]
    np.testing.assert_array_equal(found.data["rows"], [[1, 2], [3, 4]])
    np.testing.assert_allclose(found.draws["theta"], whole[..., 1:])
    np.testing.assert_allclose(found.mean["a"], whole[..., 0].mean())
    np.testing.assert_allclose(found.standard_deviation["theta"], whole[..., 1:].std((0, 1)))
    np.testing.assert_array_equal(found.mean["m"], [[1, np.nan, np.nan], [3, np.nan, 6]])
    again = vi.posteriordb(folder / "posterior_database", "line-other")
    assert again.draws == {}
    assert again.data["y"].dtype == float


def test_posteriordb_refusals(clone, fit):
    folder, _ = clone
    with pytest.raises(ValueError, match="name: expected one of the 2 posteriors .*line-normal"):
        vi.posteriordb(folder, "line-norma")
    with pytest.raises(FileNotFoundError, match="path: expected a clone of stan-dev/posteriordb"):
        vi.posteriordb(folder / "nowhere", NAME)
    key, reference = jax.random.key(0), vi.posteriordb(folder, "line-other")
    with pytest.raises(ValueError, match="reference: expected draws, but line-other has none"):
        vi.compare_to_reference(key, fit, reference)
    reference = vi.posteriordb(folder, NAME)
    with pytest.raises(ValueError, match="constrain: expected some of .* theta, a, m, got b"):
        vi.compare_to_reference(key, fit, reference, lambda z: {"b": z["b"]})
    with pytest.raises(ValueError, match=r"expected theta of shape \[2\], .*, got \[\]"):
        vi.compare_to_reference(key, fit, reference, lambda z: {"theta": z["a"]})
    with pytest.raises(TypeError, match="fit: expected the result of vi.fit, got a dict"):
        vi.compare_to_reference(key, {}, reference)


def test_comparison_in_units_of_the_reference(clone, fit):
    """A shift of half a standard deviation is an error of 0.5; doubled draws have a ratio of 2."""
    folder, whole = clone
    key, reference = jax.random.key(1), vi.posteriordb(folder, NAME)
    same = vi.compare_to_reference(key, fit, reference, lambda z: {"theta": z["b"], "a": z["a"]})
    noise = 5 * np.sqrt(1 / 2_000 + 1 / 4_000)
    assert same.largest_error < noise
    assert same.missing == ("m",)
    assert same.k_hat < 0.7
    np.testing.assert_allclose(same.scale_ratio["theta"], 1, atol=noise)
    shift = 0.5 * whole[..., 0].std()
    other = vi.compare_to_reference(key, fit, reference, lambda z: {"a": z["a"] + shift})
    moved = float(other.mean_error["a"] - same.mean_error["a"])
    assert moved == pytest.approx(0.5, abs=0.05)
    wide = vi.compare_to_reference(key, fit, reference, lambda z: {"a": 2 * z["a"]})
    assert wide.scale_ratio["a"] == pytest.approx(2, abs=2 * noise)


@pytest.mark.skipif(
    find_spec("arviz") is None and find_spec("arviz_base") is None,
    reason="ArviZ (the extra arviz) is not installed",
)
@pytest.mark.filterwarnings("ignore")  # ArviZ's announcement
def test_arviz(fit, tmp_path):
    made = vi.to_arviz(jax.random.key(2), fit, 3_000, constrain)
    posterior = made["posterior"]
    assert posterior["theta"].shape == (1, 3_000, 2)
    assert posterior["theta"].dims[:2] == ("chain", "draw")
    means = posterior["theta"].mean(("chain", "draw")).values
    np.testing.assert_allclose(means, MEAN[1:], atol=6 * SCALES[1:].max() / np.sqrt(3_000))
    draws = fit.resample(jax.random.key(2), 3_000)
    np.testing.assert_allclose(posterior["scale"].values[0], np.exp(draws.z["a"]), rtol=1e-5)
    log_p = made["sample_stats"]["lp"].values[0]
    np.testing.assert_allclose(log_p, jax.vmap(log_density)(draws.z), rtol=1e-4, atol=1e-4)
    attributes = posterior.attrs
    assert attributes["k_hat"] == pytest.approx(float(draws.k_hat))
    assert attributes["elbo"] == pytest.approx(float(fit.elbo.value))
    assert attributes["reason"] == fit.reason.name
    np.testing.assert_allclose(np.exp(attributes["log_weights"]).sum(), 1, rtol=1e-4)
    page = DOCS / "recipes_interop.md"
    (code,) = [code for code in blocks(page, "py") if "vi.to_arviz" in code]
    theta = SimpleNamespace(constrain=lambda z: {"theta": jnp.full(8, z["a"])})
    names = {"fit": fit, "model": theta, "jax": jax, "vi": vi}
    for line, obtained, expected in run_block(page, code, names):
        assert obtained == expected, line
    plain = vi.to_arviz(jax.random.key(2), fit, 10)
    assert set(plain["posterior"].data_vars) == {"a", "b"}


def test_q_as_the_start_of_nuts(fit):
    """The matrix is the covariance in BlackJAX's order, and the positions are draws of q."""
    start = vi.nuts_start(jax.random.key(3), fit, 500)
    np.testing.assert_allclose(start.inverse_mass_matrix, ROOT @ ROOT.T, rtol=0.02, atol=0.01)
    means = np.array([start.position["a"].mean(), *start.position["b"].mean(0)])
    assert (np.abs(means - MEAN) < 5 * SCALES / np.sqrt(500)).all()
    with pytest.raises(ValueError, match="num_chains: expected an integer >= 1, got 0"):
        vi.nuts_start(jax.random.key(3), fit, 0)
    with pytest.raises(TypeError, match="fit: expected the result of vi.fit"):
        vi.nuts_start(jax.random.key(3), None, 1)
    constraint = Function(lambda u: ({"a": jnp.exp(u["a"]), "b": u["b"]}, u["a"]))
    inner = vi.nuts_start(jax.random.key(3), fit._replace(q=Constrained(fit.q, constraint)), 500)
    np.testing.assert_array_equal(inner.position["a"], start.position["a"])
    u = {"a": jnp.float32(0.3), "b": jnp.ones(2)}
    z = inner.constrain(u)
    assert z["a"] == pytest.approx(np.exp(0.3))
    assert inner.log_density(u) == pytest.approx(float(log_density(z)) + 0.3, rel=1e-5)
    assert start.constrain(u) is u
    # With this matrix the density is a standard normal: a leapfrog step of 0.5 is accepted.
    kernel = blackjax.hmc(start.log_density, 0.5, start.inverse_mass_matrix, 3)
    first = jax.tree.map(lambda leaf: leaf[0], start.position)

    def step(state, key):
        state, info = kernel.step(key, state)
        return state, info.acceptance_rate

    keys = jax.random.split(jax.random.key(4), 100)
    rates = jax.jit(lambda: jax.lax.scan(step, kernel.init(first), keys)[1])()
    assert rates.mean() > 0.9
