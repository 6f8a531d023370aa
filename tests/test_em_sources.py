"""Bad input of data that stream: refused by name, before compilation or at the row."""

import os

import jax
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from em_reference import blobs

from lvm_jax import em
from lvm_jax.em import chunks, npy_files, tables
from lvm_jax.em import sources as sources_module
from lvm_jax.em.sources import as_source

N, D, K = 600, 3, 2
X = blobs(N, D, K).astype(np.float32)
KEY = jax.random.key(0)


def fit(x, family="diag", **options):
    return em.fit(KEY, x, K, family, **{"max_steps": 3, "throw": False, **options})


def generator():
    yield from np.split(X, 3)


def parquet(path, x, names="abc", **options):
    table = pyarrow.table({name: column for name, column in zip(names, x.T, strict=True)})
    pyarrow.parquet.write_table(table, path, **options)
    return path


def batches(*parts):
    return lambda: iter(parts)


ONCE = iter([X])
IMMEDIATE = {
    "a generator": (generator(), TypeError, r"got a generator; .* lambda: generator\(\.\.\.\)"),
    "the same iterator twice": (lambda: ONCE, TypeError, "got the same list_iterator twice"),
    "no iterator": (lambda: 3, TypeError, "got one that returns int"),
    "an empty iterator": (batches(), ValueError, "got an iterator without batches"),
    "batches of another width": (batches(X, X[:, :2]), ValueError, r"batch 1: expected \[n, 3\] of float32 as in batch 0, got \[600, 2\]"),
    "batches of another dtype": (batches(X, X.astype(float)), ValueError, "batch 1: expected .* got .* of float64"),
    "batches of text": (batches(X.astype(str)), TypeError, "batch 0: expected real numbers, got dtype <U"),
    "vectors": (batches(X[0]), ValueError, r"batch 0: expected shape \[N, D\]"),
    "weights in some batches": (batches((X, X[:, 0] ** 2), X), ValueError, "batch 1: expected .x, weight. in all"),
    "weights of another length": (batches((X, X[:5, 0])), ValueError, r"batch 0: expected a weight for each of 600 rows, got shape \(5,\)"),
    "a negative weight": (batches((X, X[:, 0])), ValueError, "sample_weight: expected finite non-negative weights"),
    "weights of zero": (batches((X, 0 * X[:, 0])), ValueError, "sample_weight: expected a positive sum"),
    "equal rows": (batches(np.ones_like(X)), ValueError, "expected at least 2 distinct rows"),
    "a path that does not exist": ("nowhere.npy", FileNotFoundError, "no file or folder nowhere.npy"),
    "a file of another kind": (__file__, ValueError, "expected a .npy or .parquet file"),
    "a folder of neither": (os.path.dirname(__file__), ValueError, "expected a folder of .npy or of .parquet files"),
}  # fmt: skip


@pytest.mark.parametrize("name", IMMEDIATE)
def test_refused_before_compilation(store, name):
    x, kind, message = IMMEDIATE[name]
    with pytest.raises(kind, match=message):
        fit(x)
    assert len(store) == 0


@pytest.mark.parametrize(
    "value, family, message",
    [
        (-np.inf, "diag", "or NaN for missing ones, got -inf at row 250 of {}, column 1"),
        (0.5, em.Poisson(), "expected counts .*, the first at row 250 of {}"),
        (2.0, em.Bernoulli(), "expected values in .*, the first at row 250 of {}"),
    ],
)
def test_a_bad_row_is_named_with_its_file(tmp_path, monkeypatch, value, family, message):
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1)  # 256 rows
    x = np.round(np.abs(X)).clip(max=1)
    x[550, 1] = value
    for number, part in enumerate((x[:300], x[300:])):
        np.save(tmp_path / f"{number}.npy", part)
    with pytest.raises(ValueError, match=message.format(tmp_path / "1.npy")):
        fit(tmp_path, family)
    parquet(tmp_path / "x.parquet", x)
    with pytest.raises(ValueError, match=r"row 550 of .*x\.parquet"):
        fit(tmp_path / "x.parquet", family)


def test_files_that_change_while_they_are_read(tmp_path):
    """In the second pass; a touched file, other bytes, and a file that lost its end."""
    path = tmp_path / "x.npy"

    def change(how):
        np.save(path, X)

        def on_progress(row):
            if row["step"] == 1:
                how()

        return lambda: fit(path, on_progress=on_progress, tolerance=0.0)

    after = [path.stat().st_mtime_ns + 10**9] if path.exists() else []
    assert not after
    source = npy_files.NpyFiles
    np.save(path, X)
    read = chunks.read(source([path], "x"), 256)
    next(read)
    os.utime(path, ns=(1, 1))
    with pytest.raises(
        ValueError, match=r"do not change while they are read, but .*x\.npy changed"
    ):
        list(read)
    with pytest.raises(ValueError, match="expected the same rows in every pass"):
        change(lambda: np.save(path, X[::-1]))()
    with pytest.raises(ValueError, match=r"x\.npy: the file became shorter while it was read"):
        change(lambda: path.write_bytes(path.read_bytes()[:-40]))()


def test_a_function_that_returns_fewer_rows_the_second_time():
    parts = [[X], [X], [X], [X, X]]  # two for the check, one for the first pass
    with pytest.raises(ValueError, match="expected the same rows in every pass, but row 0 of"):
        fit(lambda: iter(parts.pop(0)))
    parts = [[X[:300], X[300:]]] * 3 + [[X[:256]]]
    with pytest.raises(ValueError, match="expected the same rows in every pass|expected 600 rows"):
        fit(lambda: iter(parts.pop(0)))


def test_npy_files_that_do_not_fit_together(tmp_path):
    for name, x in (("a", X), ("b", X[:, :2])):
        np.save(tmp_path / f"{name}.npy", x)
    with pytest.raises(
        ValueError, match=r"b\.npy: expected 3 columns of float32 as in a\.npy, got 2"
    ):
        fit(tmp_path)
    path = tmp_path / "a.npy"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(
        ValueError, match=r"a\.npy: expected 7,328 bytes .* got 7,324; the file is tr"
    ):
        fit(path)
    path.write_bytes(b"x1,x2\n1,2\n")
    with pytest.raises(ValueError, match=r"a\.npy: expected a \.npy file"):
        fit(path)
    np.save(path, X[0])
    with pytest.raises(ValueError, match=r"a\.npy: expected shape \[N, D\]"):
        fit(path)


def test_parquet_files_that_do_not_fit_together(tmp_path):
    parquet(tmp_path / "a.parquet", X)
    parquet(tmp_path / "b.parquet", X, "abx")
    with pytest.raises(ValueError, match=r"b\.parquet has no column 'c'; it has \['a', 'b', 'x'\]"):
        fit(tmp_path)
    assert as_source(em.parquet(tmp_path, ["b", "a"])).num_rows == 2 * N
    with pytest.raises(ValueError, match=r"has no column 'bb'; did you mean 'b'\?"):
        em.parquet(tmp_path, ["bb"])
    for columns in ("a", [], ["a", "a"]):
        with pytest.raises(ValueError, match="columns: expected different names, at least one"):
            em.parquet(tmp_path, columns)
    parquet(tmp_path / "b.parquet", X.astype(str))
    with pytest.raises(
        ValueError, match=r"expected numbers in column 'a', got .*string in .*b\.par"
    ):
        fit(tmp_path)
    path = tmp_path / "b.parquet"
    parquet(path, X)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"b\.parquet is not a whole Parquet file"):
        fit(tmp_path)
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        em.parquet(tmp_path / "c")


def test_a_null_is_a_missing_number(tmp_path):
    table = pyarrow.table({"a": [1.0, None, 2.0], "b": [1, 2, 3]})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    read = [x for x, _ in as_source(tmp_path / "x.parquet").batches()]
    np.testing.assert_array_equal(np.concatenate(read), [[1, 1], [np.nan, 2], [2, 3]])


def test_reading_may_begin_at_any_row(tmp_path, monkeypatch):
    monkeypatch.setattr(sources_module, "BATCH_BYTES", 50 * D * 4)
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", np.asfortranarray(X))
    parquet(tmp_path / "x.parquet", X, row_group_size=90)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    found = [as_source(tmp_path / name) for name in ("x.npy", "y.npy", "x.parquet")]
    found += [as_source(batches(*np.split(X, 7 * np.arange(20)))), as_source(mapped)]
    assert isinstance(found[2], tables.Table)
    for source in found:
        for first in (0, 1, 89, 90, 299, 599):
            read = [x.copy() for x, _ in source.batches(first)]
            np.testing.assert_array_equal(np.concatenate(read), X[first:])


def test_files_beyond_memory_are_read_directly(tmp_path, monkeypatch):
    """The same rows, from any row on; a file that becomes shorter is refused."""
    monkeypatch.setattr(sources_module, "BATCH_BYTES", 700 * 3 * 8)
    x = np.random.default_rng(0).normal(size=(2_000, 3))
    np.save(tmp_path / "a.npy", x[:1_201])
    np.save(tmp_path / "b.npy", x[1_201:])
    try:
        os.close(os.open(tmp_path / "a.npy", os.O_RDONLY | os.O_DIRECT))
    except (AttributeError, OSError):
        pytest.skip("the system or the file system of the temporary folder has no direct reads")
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    monkeypatch.setattr(npy_files, "memory_bytes", lambda: 1.12 * size)
    assert not as_source(tmp_path).direct
    monkeypatch.setattr(npy_files, "memory_bytes", lambda: 1.11 * size)
    source = as_source(tmp_path)
    assert source.direct
    for first in (0, 1, 700, 1_201, 1_999):
        read = [x.copy() for x, _ in source.batches(first)]
        np.testing.assert_array_equal(np.concatenate(read), x[first:])
    rows = source.batches()
    next(rows)
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"a\.npy: the file became shorter while it was read"):
        next(rows)


def test_direct_reads_are_not_used_where_the_system_has_none(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", X)
    monkeypatch.setattr(npy_files, "O_DIRECT", 0)
    assert not npy_files.can_read_directly(tmp_path / "x.npy")
    monkeypatch.undo()
    assert not npy_files.can_read_directly(tmp_path / "none.npy")


def test_weights_beside_a_source_have_its_length(tmp_path):
    np.save(tmp_path / "x.npy", X)
    for number in (N - 1, N + 1):
        with pytest.raises(ValueError, match="sample_weight: expected .* weight"):
            fit(tmp_path / "x.npy", sample_weight=np.ones(number))
    with pytest.raises(ValueError, match=r"sample_weight: expected shape \[N\]"):
        fit(tmp_path / "x.npy", sample_weight=np.ones((N, 1)))


def test_a_copy_on_write_map_keeps_its_changes(tmp_path):
    """Its pages are not released, because the changes are not in the file."""
    np.save(tmp_path / "x.npy", X)
    own = np.load(tmp_path / "x.npy", mmap_mode="c")
    own[0, 0] = 7.0
    for array, kept in ((own, 7.0), (np.load(tmp_path / "x.npy", mmap_mode="r"), X[0, 0])):
        parts = [x.copy() for x, _ in as_source(array).batches()]
        assert parts[0][0, 0] == array[0, 0] == kept


def test_statistics_are_of_one_mixture():
    one, other = (em.gaussian_mixture([1.0], X[i : i + 1], np.ones((1, D)), "diag") for i in (0, 1))
    first, second = (em.accumulate(mixture, X) for mixture in (one, other))
    with pytest.raises(ValueError, match="expected those of one mixture, got two"):
        first + second
    with pytest.raises(ValueError, match="expected those of this mixture"):
        em.maximize(first, other)
    with pytest.raises(ValueError, match="x: expected 3 columns as in the mixture, got 2"):
        em.accumulate(one, X[:, :2])
    with pytest.raises(TypeError):
        first + 1
    none = em.accumulate(one, X, np.zeros(N))
    with pytest.raises(ValueError, match="expected a positive total weight"):
        em.maximize(none, one)
    with pytest.raises(ValueError, match="method: expected one of assign, log_prob, resp"):
        em.stream(one, X, "sample")
