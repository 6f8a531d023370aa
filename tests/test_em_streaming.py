"""Fits of data that stream: equal to the fit in memory, whatever the files, and resumable."""

import pickle

import jax
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from em_reference import blobs, compact, e_step, em_step, numbers
from scipy import stats
from scipy.special import logsumexp

from lvm_jax import em
from lvm_jax.em import chunks, recording, survey
from lvm_jax.em import sources as sources_module

N, D, K = 1_301, 3, 3
X = blobs(N, D, K)
WEIGHT = np.random.default_rng(1).uniform(0.1, 3.0, N)
KEY = jax.random.key(0)
OPTIONS = {"tolerance": 1e-5, "max_steps": 6, "throw": False}
FAMILIES = {**em.GAUSSIANS, "bernoulli": em.Bernoulli(), "poisson": em.Poisson()}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """256 rows of float64: six chunks, the last with 21 rows."""
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 256 * D * 8)


def rows_of(name):
    """Data in the support of a family."""
    if name == "bernoulli":
        return (X.mean(0) < X).astype(float)
    return np.floor(np.abs(X) * 3) if name == "poisson" else X


def mapped(x, path):
    np.save(path / "x.npy", x)
    return np.load(path / "x.npy", mmap_mode="r")


def assert_same_bits(one, other):
    leaves = zip(jax.tree.leaves(one.mixture), jax.tree.leaves(other.mixture), strict=True)
    for a, b in leaves:
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(one.info.trace, other.info.trace)
    assert one.info.log_likelihood == other.info.log_likelihood


def assert_close(one, other):
    for a, b in zip(numbers(one.mixture), numbers(other.mixture), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(one.info.trace, other.info.trace, rtol=1e-10)
    np.testing.assert_allclose(one.info.log_likelihood, other.info.log_likelihood, rtol=1e-10)


def start_of(name):
    """A start of a family: its mixture, and (pi, mu, Sigma) or (pi, means)."""
    pi, mu = np.array([0.5, 0.3, 0.2]), X[:K]
    if name in em.GAUSSIANS:
        sigma = np.stack([(1 + 0.5 * (name != "tied") * k) * np.eye(D) for k in range(K)])
        return em.gaussian_mixture(pi, mu, compact(sigma, name), name), (pi, mu, sigma)
    means = np.full((K, D), 0.3) + 0.1 * np.arange(K)[:, None]
    return em.Mixture(np.log(pi), means, np.zeros(D), FAMILIES[name]), (pi, means)


def reference(name, x, state, steps):
    """Steps in NumPy, with WEIGHT: the state after them, and the mean log-likelihood before each."""
    trace, law = [], {"bernoulli": stats.bernoulli, "poisson": stats.poisson}.get(name)
    for _ in range(steps):
        if law is None:
            state, value = em_step(x, *state, name, WEIGHT, 1e-6)
            trace.append(value)
            continue
        pi, means = state
        joint = np.log(pi) + law.logpmf(x[:, None, :], means).sum(-1)
        log_p = logsumexp(joint, axis=1)
        trace.append(WEIGHT @ log_p / WEIGHT.sum())
        resp = np.exp(joint - log_p[:, None]) * WEIGHT[:, None]
        state = resp.sum(0) / WEIGHT.sum(), resp.T @ x / resp.sum(0)[:, None]
    return state, trace


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_makes_the_steps_of_em(x64, tmp_path, name):
    """Streamed, and by hand: accumulate on three parts of the rows, +, maximize."""
    x, family, (start, state) = rows_of(name), FAMILIES[name], start_of(name)
    options = {**OPTIONS, "sample_weight": WEIGHT, "tolerance": 0.0, "start": start}
    fit = em.fit(KEY, mapped(x, tmp_path), K, family, **options | {"max_steps": 3})
    state, trace = reference(name, x, state, 3)
    np.testing.assert_allclose(fit.info.trace, trace, rtol=1e-10)
    assert_parameters(fit.mixture, state)
    statistics = sum(em.accumulate(fit.mixture, x[i::3], WEIGHT[i::3]) for i in range(3))
    statistics = pickle.loads(pickle.dumps(statistics))
    assert statistics.num_rows == N
    np.testing.assert_allclose(statistics.total_weight, WEIGHT.sum(), rtol=1e-12)
    state, trace = reference(name, x, state, 1)
    assert_parameters(em.maximize(statistics, fit.mixture), state)
    mean = statistics.log_likelihood / statistics.total_weight
    np.testing.assert_allclose([mean, fit.info.log_likelihood], trace[0], rtol=1e-10)


def assert_parameters(mixture, state):
    found = numbers(mixture) if len(state) == 3 else (mixture.weights, mixture.means)
    for got, want in zip(found, state, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-10)


def test_restarts_and_a_prior_stream_too(x64, tmp_path):
    options = {**OPTIONS, "num_restarts": 3, "start": "random_from_data", "tolerance": 1e-4}
    options |= {"prior": em.default_prior(X, K, "diag"), "max_steps": 60}
    streamed = em.fit(KEY, mapped(X, tmp_path), K, "diag", **options)
    whole = em.fit(KEY, X, K, "diag", **options)
    assert_close(streamed, whole)
    for name in ("best_restart", "restart_num_steps", "restart_outcomes", "num_steps", "outcome"):
        np.testing.assert_array_equal(getattr(streamed.info, name), getattr(whole.info, name))
    np.testing.assert_allclose(streamed.info.map_objective, whole.info.map_objective, rtol=1e-10)


def test_steps_are_the_equations_in_float32_and_with_weights(tmp_path):
    """float64 files without x64 are centred in float64 before they are rounded."""
    x = X + 1e6
    start = em.gaussian_mixture(np.full(K, 1 / K), x[:K], np.ones((K, D)), "diag")
    options = {**OPTIONS, "start": start, "regularization": 0.0, "sample_weight": WEIGHT}
    fit = em.fit(
        KEY, mapped(x, tmp_path), K, "diag", **options | {"max_steps": 3, "tolerance": 0.0}
    )
    state = np.full(K, 1 / K), x[:K].astype(np.float32).astype(float), np.tile(np.eye(D), (K, 1, 1))
    for _ in range(3):
        state, _ = em_step(x, *state, "diag", WEIGHT)
    centre = np.asarray(fit.mixture.origin, np.float64)
    means = centre + np.asarray(fit.mixture.family.means(fit.mixture.components), np.float64)
    np.testing.assert_allclose(means - 1e6, state[1] - 1e6, atol=0.07)  # the start is rounded
    np.testing.assert_allclose(fit.mixture.covariances, state[2], atol=0.1)


def test_tight_clusters_use_the_exact_path(tmp_path):
    """Clusters of standard deviation 0.002 at -1000 and 1000, in float32."""
    rng = np.random.default_rng(0)
    x = np.where(rng.random((N, 1)) < 0.4, -1000.0, 1000.0) + 0.002 * rng.normal(size=(N, D))
    x = x.astype(np.float32).astype(np.float64)
    rows = mapped(x.astype(np.float32), tmp_path)
    ends = np.array([[-1000.0], [1000.0]], np.float32) * np.ones(D, np.float32)
    start = em.gaussian_mixture(np.full(2, 0.5), ends, np.ones((2, D)), "diag")
    fit = em.fit(KEY, rows, 2, "diag", regularization=0.0, start=start, **OPTIONS)
    assert 0 < fit.info.exact_steps <= fit.info.num_steps  # the start is wide
    truth = []
    for side in (x[:, 0] < 0, x[:, 0] > 0):
        own = x[side]
        law = stats.norm(own.mean(0), own.std(0))
        truth.append((law.logpdf(own).sum(1) + np.log(side.mean())).sum())
    np.testing.assert_allclose(fit.info.log_likelihood, sum(truth) / N, atol=2e-5)


class Sliced:
    """An array with chunks, as Zarr's is: shape, dtype, chunks and slices."""

    chunks = (100, D)

    def __init__(self, x):
        self.x, self.shape, self.dtype = x, x.shape, x.dtype

    def __getitem__(self, part):
        return self.x[part]


def folder(path, x, cuts):
    path.mkdir()
    for number, part in enumerate(np.split(x, cuts)):
        np.save(path / f"part-{number}.npy", part)
    return path


def table(path, x, rows):
    arrow = pyarrow.table({name: column for name, column in zip("cab", x.T, strict=True)})
    pyarrow.parquet.write_table(arrow, path, row_group_size=rows)
    return path


def sources(path, x):
    yield folder(path / "one", x, [])
    yield str(folder(path / "many", x, [100, 600, 601]))
    yield path / "one" / "part-0.npy"
    yield np.load(path / "one" / "part-0.npy", mmap_mode="r")
    yield Sliced(x)
    yield lambda: iter(np.split(x, [1, 500, 500, 1_000]))
    yield table(path / "x.parquet", x, 300)
    (path / "tables").mkdir()
    table(path / "tables" / "a.parquet", x[:700], 500)
    table(path / "tables" / "b.parquet", x[700:], 100)
    yield em.parquet(path / "tables", ["c", "a", "b"])
    yield pyarrow.dataset.dataset(path / "tables")


def test_the_same_bits_however_the_rows_are_stored(tmp_path):
    x = X.astype(np.float32)
    fits = [em.fit(KEY, each, K, "diag", **OPTIONS) for each in sources(tmp_path, x)]
    for fit in fits[1:]:
        assert_same_bits(fit, fits[0])
    with pytest.raises(AssertionError):
        assert_same_bits(em.fit(KEY, lambda: iter([x[::-1]]), K, "diag", **OPTIONS), fits[0])


def test_weights_beside_the_rows_are_those_of_sample_weight(tmp_path):
    def pairs():
        return ((X[i : i + 70], WEIGHT[i : i + 70]) for i in range(0, N, 70))

    options = {**OPTIONS, "start": start_of("diag")[0]}
    one = em.fit(KEY, pairs, K, "diag", **options)
    other = em.fit(KEY, mapped(X, tmp_path), K, "diag", sample_weight=WEIGHT, **options)
    assert_same_bits(one, other)


class Killed(Exception):
    pass


def killing(x, at):
    """A source of batches of 100 rows that fails at batch number `at` of all its batches."""
    count = iter(range(10_000))

    def batches():
        for i in range(0, len(x), 100):
            if next(count) == at:
                raise Killed
            yield x[i : i + 100]

    return batches


@pytest.mark.parametrize("at", [5, 20, 33, 60, 96])
def test_a_killed_fit_resumes_to_the_same_bits(tmp_path, monkeypatch, at):
    """In the first pass, in two steps, and in the evaluation; 14 batches a pass."""
    monkeypatch.setattr(recording, "SAVE_SECONDS", 0.0)
    x, path = X.astype(np.float32), tmp_path / "fit.npz"
    options = {**OPTIONS, "max_steps": 5, "tolerance": 0.0, "start": start_of("diag")[0]}
    with pytest.raises(Killed):
        em.fit(KEY, killing(x, at + 1), K, "diag", checkpoint=path, **options)
    seen = []
    again = em.fit(
        KEY, killing(x, None), K, "diag", checkpoint=path, on_progress=seen.append, **options
    )
    assert len([row for row in seen if row["rows"] == 0]) == 5 - max(0, at // 14 - 1)
    assert_same_bits(again, em.fit(KEY, killing(x, None), K, "diag", **options))
    assert_same_bits(again, em.fit(KEY, killing(x, None), K, "diag", checkpoint=path, **options))


def test_a_fit_resumes_with_more_steps_and_refuses_other_settings(tmp_path):
    x, path = X.astype(np.float32), tmp_path / "fit.npz"
    options = {**OPTIONS, "tolerance": 0.0, "checkpoint": path, "start": start_of("diag")[0]}
    em.fit(KEY, x, K, "diag", **options | {"max_steps": 2})
    longer = em.fit(KEY, x, K, "diag", **options)
    assert_same_bits(longer, em.fit(KEY, lambda: [x], K, "diag", **options | {"checkpoint": None}))
    with pytest.raises(ValueError, match="other settings .num_components: 3 then, 2 now"):
        em.fit(KEY, x, 2, "diag", **options | {"start": "kmeans"})
    with pytest.raises(ValueError, match="other settings .rows: 1301 then, 1300 now"):
        em.fit(KEY, x[1:], K, "diag", **options)
    with pytest.raises(ValueError, match="expected the same rows in every pass, but row 512 of"):
        em.fit(KEY, np.where(np.arange(N)[:, None] == 600, 0, x), K, "diag", **options)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="fit.npz is damaged"):
        em.fit(KEY, x, K, "diag", **options)


def test_progress_has_the_rows_and_the_time(monkeypatch, tmp_path):
    monkeypatch.setattr(recording, "PROGRESS_SECONDS", 0.0)
    options = {**OPTIONS, "tolerance": 0.0, "max_steps": 2, "start": start_of("diag")[0]}
    seen = []
    fit = em.fit(KEY, lambda: [X], K, "diag", on_progress=seen.append, **options)
    assert [row["rows"] for row in seen] == 2 * [256, 512, 768, 1_024, 1_280, 0]
    assert [row["step"] for row in seen] == 5 * [0] + 6 * [1] + [2]
    assert seen[-1]["objective"] == fit.info.trace[-1]
    assert all(row["rows_per_second"] > 0 and row["seconds_left"] > 0 for row in seen)


def test_criteria_and_labels_of_data_that_stream(x64, tmp_path):
    mixture, _ = start_of("diag")
    rows = mapped(X, tmp_path)
    streamed, whole = (em.criteria(mixture, x, WEIGHT) for x in (rows, X))
    np.testing.assert_allclose(streamed, whole, rtol=1e-11)
    resp, log_p = e_step(X, *numbers(mixture))
    labels = [*em.stream(mixture, rows)]
    assert [len(part) for part in labels] == [256] * 5 + [21]
    np.testing.assert_array_equal(np.concatenate(labels), resp.argmax(1))
    np.testing.assert_allclose(np.concatenate([*em.stream(mixture, rows, "log_prob")]), log_p)


def test_the_sample_is_uniform():
    """Each of 40 rows is in a sample of 8, drawn in chunks of 16, with probability 1/5."""
    x = np.arange(40.0)[:, None]
    pieces = [chunks.Chunk(i, len(x[i : i + 16]), x[i : i + 16], None) for i in (0, 16, 32)]
    counts, pairs, num = np.zeros(40), 0, 1_000
    for seed in range(num):
        sample = None
        for index, chunk in enumerate(pieces):
            sample = survey.draw(seed, index, chunk, sample, 8)
        assert len(sample.numbers) == 8
        np.testing.assert_array_equal(sample.x[:, 0], sample.numbers)
        counts[sample.numbers] += 1
        pairs += {3, 30} <= set(sample.numbers.tolist())
    # A sample without replacement has 4/5 of the variance of 40 independent draws.
    chi = ((counts - num / 5) ** 2 / (num / 5 * 4 / 5)).sum() * 39 / 40
    assert 0.001 < stats.chi2.sf(chi, 39) < 0.999
    probability = 8 * 7 / (40 * 39)
    assert abs(pairs - num * probability) < 5 * np.sqrt(num * probability)


def test_a_larger_sample_than_the_data_is_the_data(monkeypatch):
    found = survey.survey(KEY, sources_module.FunctionSource(lambda: [X]), FAMILIES["full"], None)
    np.testing.assert_array_equal(found.sample.x, X)
    np.testing.assert_allclose(found.mean, X.mean(0), rtol=1e-12)
    monkeypatch.setattr(survey, "SAMPLE_ROWS", 300)
    found = survey.survey(KEY, sources_module.FunctionSource(lambda: [X]), FAMILIES["full"], WEIGHT)
    assert len(found.sample.x) == 300
    np.testing.assert_array_equal(found.sample.x, X[found.sample.numbers])
    np.testing.assert_array_equal(found.sample.weight, WEIGHT[found.sample.numbers])


def test_the_counts_before_the_first_step_have_the_types_of_those_after(x64):
    """Other types would compile the decision a second time."""
    state = recording.blank_state(start_of("diag")[0].parameters, 1, accelerated=False)
    counts = (state.outcome, state.num_steps, state.exact_steps, state.step)
    assert {count.dtype for count in counts} == {np.dtype(np.int32)}  # as after a step


def test_counts_beyond_the_integers_of_float32(x64):
    """2^25 merges of one row each would leave 2^24 in float32."""
    start = em.gaussian_mixture([1.0], np.zeros((1, 1)), np.ones((1, 1)), "diag")
    one = em.accumulate(start, np.ones((1, 1), np.float32))
    total = one
    for _ in range(34):
        total = total + total
    total = total + one
    assert total.num_rows == total.total_weight == total.summary.counts[0] == 2**34 + 1
    np.testing.assert_allclose(em.maximize(total, start).means, 1.0, rtol=1e-15)
