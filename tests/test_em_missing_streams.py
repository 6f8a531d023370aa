"""NaN in data that stream, in statistics that add and in online EM; test_parallel.py has meshes."""

import pickle

import jax
import missing_reference as reference
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from em_reference import blobs, compact, numbers
from scipy import stats
from scipy.special import logsumexp
from test_em_streaming import Killed, assert_same_bits, killing, sources

from lvm_jax import em, parallel
from lvm_jax.em import chunks, incomplete, recording, survey
from lvm_jax.em.online import _blend, _reweighted
from lvm_jax.sklearn import GaussianMixture

N, D, K = 768, 3, 3
KEY = jax.random.key(0)
RNG = np.random.default_rng(1)
X = blobs(N, D, K)
LOST = RNG.random((N, D)) < 0.25
LOST[LOST.all(1), 0] = False
LOST[[4, 700]] = True  # two rows without any value
LOST[0::3] = False  # complete rows, which a worker may have alone
WEIGHT = RNG.uniform(0.1, 3.0, N)
PI = np.array([0.5, 0.3, 0.2])
FAMILIES = {**em.GAUSSIANS, "bernoulli": em.Bernoulli(), "poisson": em.Poisson()}
OPTIONS = {"tolerance": 0.0, "max_steps": 2, "throw": False, "regularization": 0.0}
EMPTY = "x: 2 rows .*the first: row 4 of .*of 768 without an observed value do not affect the fit"


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Three chunks of float64, and blocks of one size, so that the chunks share programs."""
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 256 * D * 8)
    monkeypatch.setattr(incomplete, "block_size", lambda *_: 8)


def rows_of(name):
    """Data in the support of a family, with missing entries."""
    if name == "bernoulli":
        x = (X.mean(0) < X).astype(float)
    else:
        x = np.floor(np.abs(X) * 3) if name == "poisson" else X
    return np.where(LOST, np.nan, x)


def start_of(name, dtype=np.float64):
    """A start of a family: its mixture, and (pi, mu, Sigma) or (pi, means)."""
    if name in em.GAUSSIANS:
        sigma = np.stack([(1 + 0.5 * (name != "tied") * k) * np.eye(D) for k in range(K)])
        mu = np.float32(X[[0, 3, 9]]).astype(dtype)
        return em.gaussian_mixture(PI, mu, compact(sigma, name), name), (PI, mu, sigma)
    means = np.full((K, D), 0.3) + 0.1 * np.arange(K)[:, None]
    return em.Mixture(np.log(PI), means, np.zeros(D), FAMILIES[name]), (PI, means)


def step(name, x, state):
    """A step in NumPy with the weights of the rows that have a value, and the mean before it."""
    weight = np.where(np.isnan(x).all(1), 0, WEIGHT)
    if name in em.GAUSSIANS:
        return reference.em_step(x, *state, name, weight)
    pi, means = state
    seen, law = ~np.isnan(x), {"bernoulli": stats.bernoulli, "poisson": stats.poisson}[name]
    x = np.where(seen, x, 0)
    joint = np.log(pi) + np.where(seen[:, None], law.logpmf(x[:, None], means), 0).sum(-1)
    log_p = logsumexp(joint, axis=1)
    resp = np.exp(joint - log_p[:, None]) * weight[:, None]
    new = resp.sum(0) / weight.sum(), resp.T @ x / (resp.T @ seen)
    return new, weight @ log_p / weight.sum()


def assert_parameters(mixture, state):
    found = numbers(mixture) if len(state) == 3 else (mixture.weights, mixture.means)
    for got, want in zip(found, state, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_makes_the_steps_of_the_definition(x64, name):
    """Streamed, and by hand on parts of the rows, one of which is complete."""
    x, (start, state) = rows_of(name), start_of(name)
    options = {**OPTIONS, "start": start, "sample_weight": WEIGHT}
    with pytest.warns(UserWarning, match=EMPTY):
        fit = em.fit(KEY, lambda: [x], K, FAMILIES[name], **options)
    states, trace = [state], []
    for _ in range(3):
        after, value = step(name, x, states[-1])
        states, trace = [*states, after], [*trace, value]
    np.testing.assert_allclose(fit.info.trace, trace[:2], rtol=1e-10)
    np.testing.assert_allclose(fit.info.log_likelihood, trace[2], rtol=1e-10)
    assert_parameters(fit.mixture, states[2])
    assert fit.mixture.family == FAMILIES[name]
    parts = [em.accumulate(fit.mixture, x[i::3], WEIGHT[i::3]) for i in range(3)]
    assert [part.family.original == part.family for part in parts] == [True, False, False]
    total = pickle.loads(pickle.dumps(sum(parts)))
    assert_parameters(em.maximize(total, fit.mixture, 0.0), states[3])
    mean = total.log_likelihood / total.total_weight
    np.testing.assert_allclose(mean, trace[2], rtol=1e-10)


@pytest.mark.filterwarnings("ignore:x. 2 rows")
def test_starts_and_accelerated_steps_are_those_of_memory(x64):
    """The sample is all rows, and the starts are those of the same rows."""
    options = {**OPTIONS, "num_restarts": 2, "acceleration": "squarem", "max_steps": 7}
    x = rows_of("diag")
    streamed = em.fit(KEY, lambda: [x], K, "diag", sample_weight=WEIGHT, **options)
    whole = em.fit(KEY, x, K, "diag", sample_weight=WEIGHT, **options)
    np.testing.assert_allclose(streamed.info.trace, whole.info.trace, rtol=1e-9)
    assert streamed.info.best_restart == whole.info.best_restart
    for a, b in zip(numbers(streamed.mixture), numbers(whole.mixture), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-8)
    assert (np.diff(whole.info.trace) > -1e-12).all()


@pytest.mark.filterwarnings("ignore:x. 2 rows")
def test_the_same_bits_however_the_rows_are_stored(tmp_path):
    x, start = rows_of("full").astype(np.float32), start_of("full", np.float32)[0]
    options = {**OPTIONS, "start": start}
    fits = [em.fit(KEY, each, K, "full", **options) for each in sources(tmp_path, x)]
    assert len(fits) == 9
    for fit in fits[1:]:
        assert_same_bits(fit, fits[0])


@pytest.mark.filterwarnings("ignore:x. 2 rows")
@pytest.mark.parametrize("at", [4, 13, 22])
def test_a_killed_fit_resumes_to_the_same_bits(tmp_path, monkeypatch, at):
    """In the first pass, in a step, and in the evaluation; 8 batches a pass."""
    monkeypatch.setattr(recording, "SAVE_SECONDS", 0.0)
    x, path = rows_of("full").astype(np.float32), tmp_path / "fit.npz"
    options = {**OPTIONS, "start": start_of("full", np.float32)[0]}
    with pytest.raises(Killed):
        em.fit(KEY, killing(x, at + 1), K, "full", checkpoint=path, **options)
    again = em.fit(KEY, killing(x, None), K, "full", checkpoint=path, **options)
    assert_same_bits(again, em.fit(KEY, killing(x, None), K, "full", **options))


def test_scores_and_imputation_of_data_that_stream(x64):
    x, mixture = rows_of("full"), start_of("full")[0]
    resp, log_p, filled, _ = reference.e_step(x, *numbers(mixture))
    found = {
        method: np.concatenate([*em.stream(mixture, lambda: [x], method)])
        for method in ("assign", "log_prob", "responsibilities", "impute")
    }
    np.testing.assert_array_equal(found["assign"], resp.argmax(1))
    np.testing.assert_allclose(found["log_prob"], log_p, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found["responsibilities"], resp, rtol=1e-9, atol=1e-12)
    expected = np.where(LOST, np.einsum("nk,nkd->nd", resp, filled), X)
    np.testing.assert_allclose(found["impute"], expected, rtol=1e-10)
    complete = [*em.stream(mixture, lambda: [X], "impute")]
    np.testing.assert_array_equal(np.concatenate(complete), X)
    streamed, whole = (em.criteria(mixture, each, WEIGHT) for each in (lambda: [x], x))
    np.testing.assert_allclose(streamed, whole, rtol=1e-11)  # empty rows count in the entropy


def test_the_estimator_streams_missing_entries(tmp_path):
    x = rows_of("diag")
    np.save(tmp_path / "x.npy", x)
    start = {"weights_init": PI, "means_init": X[:K], "precisions_init": np.ones((K, D))}
    model = GaussianMixture(K, covariance_type="diag", max_iter=3, tol=0.0, **start)
    with pytest.warns(UserWarning, match="2 rows|did not converge"):
        labels = model.fit_predict(str(tmp_path / "x.npy"))
    state = PI, X[:K], np.tile(np.eye(D), (K, 1, 1))
    weight = (~np.isnan(x).all(1)).astype(float)
    for _ in range(3):
        state, value = reference.em_step(x, *state, "diag", weight)
    np.testing.assert_allclose(model.means_, state[1], rtol=1e-5)
    np.testing.assert_allclose(model.lower_bound_, value, rtol=1e-8)
    np.testing.assert_array_equal(labels, reference.e_step(x, *state)[0].argmax(1))
    np.testing.assert_allclose(model.impute(tmp_path / "x.npy"), model.impute(x), rtol=1e-12)


@pytest.mark.parametrize("name", ["diag", "full", "poisson"])
def test_a_blend_of_complete_and_incomplete_rows_is_the_average_of_their_statistics(x64, name):
    x, mixture = rows_of(name), start_of(name)[0]
    one = np.arange(N) % 3 == 0
    parts = [em.accumulate(mixture, x[i], np.ones(i.sum())) for i in (one, ~one)]
    size = [part.total_weight for part in parts]
    assert size == [256, 510]
    reweighted = [_reweighted(part, 1 / n) for part, n in zip(parts, size, strict=True)]
    direct = em.accumulate(mixture, x, np.where(one, 0.75 / size[0], 0.25 / size[1]))
    for first, second, share in ((*reweighted, 0.25), (*reweighted[::-1], 0.75)):
        blended = _blend(first, second, share)
        assert blended.family == direct.family
        leaves = jax.tree.leaves(blended.summary), jax.tree.leaves(direct.summary)
        for got, want in zip(*leaves, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)


@pytest.mark.filterwarnings("ignore:x. .* rows")
def test_one_pass_of_online_em_approaches_the_fit():
    """13 parameters cost 13 / (2 N) nats; a quarter of the entries is missing."""
    rng, number = np.random.default_rng(3), 3_000
    x = blobs(number, 2, K, seed=4, spread=4.0)
    x = np.where(rng.random(x.shape) < 0.25, np.nan, x).astype(np.float32)
    x[:50, 1] = np.nan  # the first rows wait for a value of the second column
    state = em.partial_fit(em.online(KEY, K, "diag"), x[:50])
    assert state.mixture is None
    for begin in range(50, number, 590):
        state = em.partial_fit(state, x[begin : begin + 590])
    fit = em.fit(KEY, x, K, "diag", num_restarts=4, tolerance=1e-6, max_steps=500)
    empty = int(np.isnan(x).all(1).sum())
    assert empty > 50
    assert state.total_weight == number - empty
    found = float(state.mixture.evaluate(x).log_likelihood) / (number - empty)
    assert -1e-5 < fit.info.log_likelihood - found < 3 * 13 / (2 * number)
    lost = x.copy()
    lost[:600, 0] = np.nan
    with pytest.raises(
        ValueError, match=r"x: the first 300 rows: .*got none in 1 column \(\[0\]\)"
    ):
        em.partial_fit(em.online(KEY, K, "diag"), lost)


def fit(x, family="diag", **options):
    return em.fit(KEY, x, K, family, **{**OPTIONS, **options})


def test_bad_input_is_refused_by_name(tmp_path, monkeypatch):
    class Unknown(em.Poisson):
        def incomplete(self, block):
            return None

    with pytest.raises(
        ValueError, match=r"x: expected finite numbers, got nan at row \d of .*colu"
    ):
        fit(lambda: [rows_of("poisson")], Unknown())
    x = rows_of("bernoulli")
    x[500] = np.nan, np.nan, 2.0
    with pytest.raises(ValueError, match=r"values in \[0, 1\], .*, the first at row 500 of"):
        fit(lambda: [x], em.Bernoulli())
    x[500, 2] = np.inf
    with pytest.raises(ValueError, match="or NaN for missing ones, got inf at row 500 .*column 2"):
        fit(lambda: [x], em.Bernoulli())
    x = rows_of("diag")
    x[:, 1] = np.nan
    table = pyarrow.table({name: c for name, c in zip("abc", x.T, strict=True)})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"every column, got none in 1 column \(\['b'\]\); drop"):
        fit(tmp_path / "x.parquet")
    with (
        pytest.warns(UserWarning, match="x: 24 rows"),
        pytest.raises(ValueError, match=r"every column, got none in 1 column \(\[1\]\); drop"),
    ):
        fit(x, mesh=parallel.data_mesh())
    x[[8, 700], 1], weight = (1.0, 2.0), np.ones(N)
    weight[[8, 700]] = 0
    with pytest.raises(ValueError, match=r"got none in 1 column \(\[1\]\); drop"):
        fit(lambda: [x], sample_weight=weight)
    monkeypatch.setattr(survey, "sample_size", lambda *_: 16)
    with (
        pytest.warns(UserWarning, match="x: 2[23] rows"),
        pytest.raises(ValueError, match=r"the 16 rows drawn for the starts, got none in columns"),
    ):
        fit(lambda: [x])
