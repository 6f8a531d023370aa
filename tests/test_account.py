"""All terms of the decomposition in one call: they are consistent, and the page reports it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decomposition_cases import quick_programs  # noqa: F401
from model_cases import quick_jit

from lvm_jax import annealing, decomposition, guides
from lvm_jax.decomposition import page
from lvm_jax.decomposition.account import default_betas
from lvm_jax.models import linear_gaussian
from lvm_jax.models.linear_gaussian import LinearGaussian

MODEL = linear_gaussian(1, 2)
THETA = LinearGaussian(
    jnp.array([0.3]), jnp.array([[1.1], [-0.4]]), jnp.array([-0.2, 0.5]), jnp.array(-0.5)
)
GUIDE = guides.linear(guides.mean_field(1), 2, ["loc"])
PHI = guides.Amortized(
    guides.families.MeanField(jnp.array([0.4]), jnp.array([-0.9])), jnp.array([[0.6, -0.1]])
)
X = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32) * [1.3, 0.8]
BETAS = np.linspace(0.0, 1.0, 11, dtype=np.float32)
BUDGET = decomposition.Budget(
    num_samples=100, num_steps=200, num_starts=1, aggregate_samples=20, num_chains=50,
    num_simulations=260, num_ranked=19, num_bins=10,
)  # fmt: skip


@pytest.fixture(scope="module")
def found():
    log_p = quick_jit(jax.vmap(MODEL.log_evidence, (None, 0)))(THETA, jnp.asarray(X, jnp.float32))
    return decomposition.account(
        jax.random.key(0), MODEL(THETA), GUIDE(PHI), X.astype(np.float32),
        families={"mean-field": guides.mean_field(1)}, log_evidence=log_p, betas=BETAS,
        transition=annealing.random_walk(3), budget=BUDGET,
    )  # fmt: skip


def rows_of(found):
    return {row.quantity: row for row in found.as_rows()}


def agree(left, right):
    """Within 5 Monte Carlo errors of each other."""
    error = np.hypot(left[1], right[1])
    return abs(left[0] - right[0]) < 5 * error


def test_the_parts_agree(found):
    rows = {name: row.mean[:2] for name, row in rows_of(found).items()}
    elbo, inference = rows["ELBO of the guide"], rows["inference gap"]
    approximation = rows["mean-field: approximation gap"]
    amortization = rows["mean-field: amortisation gap"]
    np.testing.assert_allclose(approximation[0] + amortization[0], inference[0], atol=1e-5)
    # One dimension: the best q of the family is the posterior.
    assert abs(approximation[0]) < 5 * approximation[1] + 1e-3
    # R + D = -ELBO, from draws of their own.
    rate, distortion = rows["rate of the guide"], rows["distortion of the guide"]
    assert agree((-rate[0] - distortion[0], distortion[1]), elbo)
    # The rate of the guide is the mean KL, and that the sum of its parts.
    assert agree(rows["mean KL"], rate)
    parts = rows["mutual information"][0] + rows["marginal KL"][0]
    np.testing.assert_allclose(parts, rows["mean KL"][0], rtol=1e-4)
    np.testing.assert_allclose(found.surgery.per_dimension.value, [rate[0]], rtol=1e-5)
    # The curve ends at beta = 1 in -log p.
    last = found.curve.log_normalizer.average()
    assert agree((last.value[-1], last.monte_carlo_error[-1]), rows["log p(x) (given)"])
    assert found.active.number == 1


def test_as_rows(found):
    rows = rows_of(found)
    row = rows["inference gap"]
    want = found.gaps.inference.average()
    np.testing.assert_allclose(row.mean, want, rtol=1e-6)
    assert np.isnan(rows["mutual information"].mean.sampling_error)
    assert rows["log N, its cap"].mean.value == np.log(30)


def test_the_page(found):
    tables = page.tables(found)
    assert [len(table.rows) for table in tables.values()] == [7, 4, 1, 5]
    for table in tables.values():
        assert {len(row) for row in table.rows} == {len(table.header)}
    guide = tables["rate_distortion"].rows[0]
    assert guide[1] == f"{rows_of(found)['rate of the guide'].mean.value:.3f}"
    html = decomposition.report(found, "An account")
    for text in ("An account", "amortisation gap", "mutual information", "data:image/png"):
        assert text in html
    assert html.count("<img") >= 2


def test_default_betas_hold_the_posterior():
    betas = default_betas()
    assert betas[0] == 0
    assert 1.0 in betas
    assert (np.diff(betas) > 0).all()
