"""The targets: log Z by quadrature, by product structure or by importance sampling; exact draws."""

import hashlib
import itertools
import math
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import quick_jit
from scipy import integrate, optimize, stats

from lvm_jax import problems
from lvm_jax.data import published, store
from lvm_jax.problems import cox, regression


def log_integral(log_density, low, high, **options):
    """By adaptive quadrature."""
    return math.log(integrate.quad(lambda a: math.exp(log_density(a)), low, high, **options)[0])


def densities(target, rows):
    return np.asarray(quick_jit(jax.vmap(target.log_density))(jnp.asarray(rows)))


def test_the_funnel_is_the_density_of_its_draws(x64):
    target = problems.funnel()
    z = np.asarray(quick_jit(lambda key: target.sample(key, 500))(jax.random.key(0)))
    truth = stats.norm(0, 3).logpdf(z[:, 0])
    truth += stats.norm(0, np.exp(0.5 * z[:, :1])).logpdf(z[:, 1:]).sum(1)
    np.testing.assert_allclose(densities(target, z), truth, rtol=1e-9)
    assert stats.kstest(z[:, 0] / 3, "norm").pvalue > 1e-3
    assert stats.kstest(z[:, 4] * np.exp(-0.5 * z[:, 0]), "norm").pvalue > 1e-3
    assert (target.dim, target.log_evidence) == (10, 0.0)


def well(a):
    return -(a**4) + 6 * a**2 + a / 2


def test_many_well_is_a_product_of_pairs(x64):
    target = problems.many_well()
    one = log_integral(well, -4, 4) + 0.5 * math.log(2 * math.pi)
    assert target.log_evidence == pytest.approx(16 * one, abs=1e-8)
    assert target.log_evidence == pytest.approx(164.695675, abs=1e-6)
    right = math.exp(log_integral(well, 0, 4) - log_integral(well, -4, 4))
    assert target.facts["right_mass"] == pytest.approx(right, abs=1e-5)
    z = np.random.default_rng(0).normal(size=(3, 32))
    truth = (well(z[:, ::2]) - 0.5 * z[:, 1::2] ** 2).sum(1)
    np.testing.assert_allclose(densities(target, z), truth)
    draws = np.asarray(target.sample(jax.random.key(0), 500))
    share = (draws[:, ::2] > 0).mean()
    assert abs(share - right) < 4 * (right * (1 - right) / 8_000) ** 0.5
    assert stats.kstest(draws[:, 1::2].ravel(), "norm").pvalue > 1e-3


@pytest.mark.parametrize(("sizes", "stated"), [((5, 5, 4.0), -0.541056), ((50, 5, 2.0), 42.817243)])
def test_wells_are_a_product_of_lines(sizes, stated, x64):
    dim, num_wells, delta = sizes
    target = problems.wells(*sizes)
    one = log_integral(lambda a: -((a**2 - delta) ** 2), -5, 5)
    truth = num_wells * one + 0.5 * (dim - num_wells) * math.log(2 * math.pi)
    assert target.log_evidence == pytest.approx(truth, abs=1e-8)
    assert target.log_evidence == pytest.approx(stated, abs=1e-6)
    z = np.random.default_rng(0).normal(size=(3, dim))
    truth = -((z[:, :num_wells] ** 2 - delta) ** 2).sum(1) - 0.5 * (z[:, num_wells:] ** 2).sum(1)
    np.testing.assert_allclose(densities(target, z), truth)
    draws = np.asarray(target.sample(jax.random.key(0), 500))[:, :num_wells].ravel()
    axis = np.linspace(-5, 5, 2_001)
    cdf = integrate.cumulative_trapezoid(np.exp(-((axis**2 - delta) ** 2)), axis, initial=0)
    assert stats.kstest(draws, lambda a: np.interp(a, axis, cdf / cdf[-1])).pvalue > 1e-3


def test_forty_gaussians_are_normalised_and_stay_where_they_are(x64):
    target = problems.gaussians_40()
    means = target.facts["means"]
    assert means.shape == (40, 50)
    assert np.abs(means).max() < 40
    # RandomState(0): NumPy documents that this stream never changes.
    np.testing.assert_allclose(means[0, :2], [3.9050803, 17.2151493], atol=1e-6)
    z = np.concatenate([means[:2], 0.5 * (means[:1] + means[1:2])])
    each = -0.5 * ((z[:, None] - means[None]) ** 2).sum(-1) - 25 * math.log(2 * math.pi)
    truth = np.logaddexp.reduce(each, axis=1) - math.log(40)
    np.testing.assert_allclose(densities(target, z), truth)
    draws = np.asarray(target.sample(jax.random.key(0), 4_000))
    nearest = ((draws[:, None] - means[None]) ** 2).sum(-1)
    counts = np.bincount(nearest.argmin(1), minlength=40)
    assert stats.chisquare(counts).pvalue > 1e-3
    assert stats.kstest(nearest.min(1), stats.chi2(50).cdf).pvalue > 1e-3


def test_the_spike_is_an_integral_over_the_box(x64):
    target = problems.spike()
    wide = 10 * log_integral(lambda a: -0.5 * a**2, -5, 5)
    narrow = math.log(9e10) + 10 * log_integral(lambda a: -50 * a**2, -1, 1)
    truth = np.logaddexp(wide, narrow) - 10 * math.log(10)
    assert target.log_evidence == pytest.approx(truth, abs=1e-9)
    assert target.log_evidence == pytest.approx(-11.533881, abs=1e-6)
    rows = np.array([[0.0] * 10, [0.1] * 10, [2.0] * 10, [5.1] + [0.0] * 9])
    r = (rows**2).sum(1)
    truth = np.log(np.exp(-r / 2) + 9e10 * np.exp(-r / 0.02)) - 10 * math.log(10)
    truth[-1] = -np.inf
    np.testing.assert_allclose(densities(target, rows), truth)
    draws = np.asarray(target.sample(jax.random.key(0), 4_000))
    share = ((draws**2).sum(1) < 0.5).mean()  # a chi-squared of 10: 1e-6 of the wide part
    assert abs(share - target.facts["spike_mass"]) < 4 * (0.9 * 0.1 / 4_000) ** 0.5


def test_eight_schools_evidence_is_its_integral(x64):
    target = problems.eight_schools()
    y = np.array([28, 8, -3, 7, -1, 1, 18, 12.0])
    sigma = np.array([15, 10, 16, 11, 9, 11, 10, 18.0])

    def integral(power):  # over tau; y is normal given tau, mu being one more direction of noise
        def density(tau):
            covariance = np.diag(sigma**2 + tau**2) + 25.0
            log_y = stats.multivariate_normal(np.zeros(8), covariance).logpdf(y)
            return tau**power * math.exp(log_y + 31) * stats.halfcauchy.pdf(tau, 0, 5)

        edges = (0, 2, 10, 50, 400, math.inf)
        pairs = itertools.pairwise(edges)
        return sum(integrate.quad(density, *ends, epsabs=1e-11)[0] for ends in pairs)

    assert target.log_evidence == pytest.approx(math.log(integral(0)) - 31, abs=1e-8)
    assert target.facts["mean_tau"] == pytest.approx(integral(1) / integral(0), abs=1e-6)
    assert target.log_evidence == pytest.approx(-31.311347, abs=1e-6)
    assert target.facts["mean_mu"] == pytest.approx(4.39682, abs=1e-5)


def test_eight_schools_density_in_both_coordinates(x64):
    z = np.random.default_rng(0).normal(size=(4, 10))
    mu, tau = z[:, :1], np.exp(z[:, 1:2])
    theta = mu + tau * z[:, 2:]
    y, sigma = problems.schools.EFFECTS, problems.schools.ERRORS
    truth = stats.norm.logpdf(mu[:, 0], 0, 5) + stats.halfcauchy.logpdf(tau[:, 0], 0, 5)
    truth += z[:, 1] + stats.norm(theta, sigma).logpdf(y).sum(1)
    own = stats.norm.logpdf(z[:, 2:]).sum(1)
    np.testing.assert_allclose(densities(problems.eight_schools(False), z), truth + own)
    centred = np.concatenate([z[:, :2], theta], axis=1)
    own = stats.norm(mu, tau).logpdf(theta).sum(1)
    np.testing.assert_allclose(densities(problems.eight_schools(), centred), truth + own)


@pytest.mark.parametrize("centred", [True, False])
def test_the_best_normals_of_eight_schools_are_stationary(centred, x64):
    """Their ELBO is a quadrature over log tau; given it the log-density is quadratic in the rest."""
    target = problems.eight_schools(centred)
    nodes, mass = np.polynomial.hermite_e.hermegauss(64)
    order = np.array([1, 0, *range(2, 10)])  # log tau first

    def density(v):
        return target.log_density(v[order])

    def elbo(eta, full):
        scale = jnp.diag(jnp.exp(eta[10:20]))
        if full:
            scale = scale.at[np.tril_indices(10, -1)].set(eta[20:])
        rest = scale[1:, 1:] @ scale[1:, 1:].T

        def at(noise):
            mean = eta[:10] + scale[:, 0] * noise
            return density(mean) + 0.5 * (jax.hessian(density)(mean)[1:, 1:] * rest).sum()

        log_p = jax.vmap(at)(jnp.asarray(nodes)) @ (mass / mass.sum())
        return log_p + eta[10:20].sum() + 5 * (1 + math.log(2 * math.pi))

    for full, stated in ((False, target.mean_field_elbo), (True, target.full_rank_elbo)):
        loss = jax.jit(jax.value_and_grad(lambda eta, full=full: -elbo(eta, full)))
        start = np.zeros(65 if full else 20)
        found = optimize.minimize(loss, start, jac=True, method="L-BFGS-B")
        assert -found.fun == pytest.approx(stated, abs=1e-4)


@pytest.mark.parametrize(
    ("make", "sizes"),
    [
        (problems.funnel, (2,)),
        (problems.wells, (2, 1, 4.0)),
        (problems.wells, (2, 2, 2.0)),
        (problems.wells, (2, 1, 0.5)),
    ],
)
def test_the_best_normals_in_two_dimensions(make, sizes, x64):
    """By BFGS on a quadrature, for normals with correlation."""
    target = make(*sizes)
    nodes, mass = np.polynomial.hermite_e.hermegauss(40)
    noise = jnp.asarray(np.stack(np.meshgrid(nodes, nodes, indexing="ij"), -1).reshape(-1, 2))
    weight = jnp.asarray(np.outer(mass, mass).ravel() / mass.sum() ** 2)

    def elbo(eta):
        scale = jnp.diag(jnp.exp(eta[2:4])).at[1, 0].set(eta[4])
        log_p = jax.vmap(target.log_density)(eta[None, :2] + noise @ scale.T)
        return log_p @ weight + eta[2:4].sum() + 1 + math.log(2 * math.pi)

    loss = jax.jit(jax.value_and_grad(lambda eta: -elbo(eta)))
    starts = np.array([[0.0, 0.0, 0.0, 0.0, 0.1], [1.5, 1.5, -1.0, -1.0, 0.1]])
    found = [optimize.minimize(loss, start, jac=True, method="BFGS") for start in starts]
    assert max(-one.fun for one in found) == pytest.approx(target.full_rank_elbo, abs=1e-5)
    assert target.mean_field_elbo == target.full_rank_elbo


def logistic(x, y, w):
    eta = x @ w
    return (y * eta - np.logaddexp(0, eta)).sum()


def publish(monkeypatch, folder, module, name, content):
    """A file of this content, published as the data set `name`."""
    original = getattr(module, name)
    digest = f"sha1:{hashlib.sha1(content).hexdigest()}"
    file = original.files[0]._replace(content=digest)
    monkeypatch.setattr(module, name, original._replace(files=(file,)))
    monkeypatch.setenv(store.VARIABLE, str(folder))
    (folder / file.name).write_bytes(content)


def test_a_credit_file_is_read_and_scaled(monkeypatch, tmp_path, x64):
    rows = np.random.default_rng(0).integers(1, 9, size=(6, 24))
    y = np.array([0, 1, 1, 0, 0, 1])
    text = "".join(
        " ".join(f"{v:3d}" for v in (*row, c + 1)) + " \n" for row, c in zip(rows, y, strict=True)
    )
    publish(monkeypatch, tmp_path, regression, "GERMAN_CREDIT", text.encode())
    x = np.concatenate([np.ones((6, 1)), rows / rows.std(0)], axis=1)
    w = np.random.default_rng(1).normal(size=25)
    log_likelihood = logistic(x, y, w)
    found = densities(problems.credit_likelihood(), w[None])[0]
    assert found == pytest.approx(log_likelihood, rel=1e-9)
    truth = log_likelihood + stats.norm(0, 10).logpdf(w).sum()
    assert densities(problems.credit(), w[None])[0] == pytest.approx(truth, rel=1e-9)


def test_a_file_of_pines_is_counted_on_the_grid(monkeypatch, tmp_path, x64):
    content = b'"","data_x","data_y"\n"1",0.0,0.99\n"2",0.5,0.024\n"3",0.51,0.02\n"4",1.0,1.0\n'
    publish(monkeypatch, tmp_path, cox, "FINNISH_PINES", content)
    monkeypatch.setattr(cox, "SIDE", 4)
    target = problems.lgcp()
    counts = np.zeros((4, 4))
    counts[0, 3], counts[2, 0], counts[3, 3] = 1, 2, 1
    np.testing.assert_array_equal(target.facts["counts"], counts.ravel())
    cells = np.array([(i, j) for i in range(4) for j in range(4)])
    distance = np.linalg.norm(cells[:, None] - cells[None], axis=-1)
    kernel = 1.91 * np.exp(-distance * 33 / 40)
    f = np.random.default_rng(0).normal(size=16)
    mean = np.full(16, math.log(126) - 0.955)
    truth = stats.multivariate_normal(mean, kernel).logpdf(f)
    truth += (counts.ravel() * f - np.exp(f) / 16).sum()
    assert densities(target, f[None])[0] == pytest.approx(truth, rel=1e-9)


@pytest.mark.parametrize("make", [problems.credit, problems.lgcp])
def test_a_missing_or_other_file_is_an_error_with_a_cure(monkeypatch, tmp_path, make):
    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setenv(store.VARIABLE, str(tmp_path))
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / "cache")
    monkeypatch.setattr("pooch.retrieve", offline)
    with pytest.raises(FileNotFoundError, match=r"no file .* put .* into .*\$LVM_JAX_DATA"):
        make()
    for collection in (published.GERMAN_CREDIT, published.FINNISH_PINES):
        assert collection.files[0].url.startswith("https://")
        (tmp_path / collection.files[0].name).write_bytes(b"1 2 3\n")
    with pytest.raises(ValueError, match="expected the published"):
        make()


def real(make, collection):
    """A target of published data; the test is skipped where $LVM_JAX_DATA has no such file."""
    if not (Path(os.environ.get(store.VARIABLE, "")) / collection.files[0].name).is_file():
        pytest.skip(f"$LVM_JAX_DATA has no {collection.files[0].name}")
    return make()


def laplace(target):
    """Mode and Cholesky factor of the inverse curvature, by SciPy."""
    value = quick_jit(jax.value_and_grad(lambda w: -target.log_density(w)))
    found = optimize.minimize(
        lambda w: [np.asarray(part, float) for part in value(w)], np.zeros(target.dim), jac=True
    )
    curvature = np.asarray(quick_jit(jax.hessian(target.log_density))(found.x))
    return found.x, np.linalg.cholesky(np.linalg.inv(-curvature))


@pytest.mark.parametrize("make", [problems.credit, problems.credit_likelihood])
def test_credit_evidence_by_importance_sampling(make, x64):
    target = real(make, published.GERMAN_CREDIT)
    mode, factor = laplace(target)
    rng, size, dof = np.random.default_rng(0), 10_000, 20
    noise = rng.standard_normal((size, 25)) @ factor.T
    draws = mode + noise / np.sqrt(rng.chisquare(dof, (size, 1)) / dof)
    log_q = stats.multivariate_t(mode, factor @ factor.T, df=dof).logpdf(draws)
    log_w = densities(target, draws) - log_q
    w = np.exp(log_w - log_w.max())
    error = math.hypot(w.std() / w.mean() / size**0.5, target.standard_error)
    assert abs(log_w.max() + math.log(w.mean()) - target.log_evidence) < 4 * error < 0.06


def test_the_grid_of_pines_holds_all_of_them(x64):
    target = real(problems.lgcp, published.FINNISH_PINES)
    counts = target.facts["counts"]
    assert (counts.sum(), counts.shape) == (126, (1600,))
    prior_mean = math.log(126) - 0.955
    log_det = np.linalg.slogdet(cox.kernel(40))[1]
    truth = -0.5 * (1600 * math.log(2 * math.pi) + log_det)
    truth += 126 * prior_mean - math.exp(prior_mean)
    assert densities(target, np.full((1, 1600), prior_mean))[0] == pytest.approx(truth, rel=1e-9)


def test_breast_cancer_density_and_evidence(x64):
    from sklearn.datasets import load_breast_cancer

    target, data = problems.breast_cancer(), load_breast_cancer()
    x = np.concatenate([np.ones((569, 1)), data.data / data.data.std(0)], axis=1)
    malignant = (data.target == list(data.target_names).index("malignant")).astype(float)
    w = np.random.default_rng(0).normal(size=31)
    truth = logistic(x, malignant, w) + stats.norm(0, 10).logpdf(w).sum()
    assert densities(target, w[None])[0] == pytest.approx(truth, rel=1e-9)
    assert target.mean_field_elbo < target.full_rank_elbo < target.log_evidence
