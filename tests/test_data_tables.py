import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lvm_jax.data import load_table

X = np.array([[1.0, 2.0], [3.5, -4e3]])
NAMED = "height,mass\n1,2\n3.5,-4e3\n"


def file(folder, name, content):
    """A file with this content: text, bytes, an array for numpy.save or an Arrow table."""
    path = folder / name
    if isinstance(content, np.ndarray):
        np.save(path, content)
    elif isinstance(content, pa.Table):
        pq.write_table(content, path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def table(**columns):
    return pa.table(columns)


X12, HM = ("x1", "x2"), ("height", "mass")
GOOD = {
    "comma": ("a.csv", NAMED, HM),
    "semicolon": ("a.csv", NAMED.replace(",", ";"), HM),
    "tab": ("a.tsv", NAMED.replace(",", "\t"), HM),
    "upper-case suffix": ("A.CSV", NAMED, HM),
    "byte order mark": ("a.csv", b"\xef\xbb\xbf" + NAMED.encode(), HM),
    "windows lines": ("a.csv", NAMED.replace("\n", "\r\n"), HM),
    "no last newline": ("a.csv", NAMED.rstrip(), HM),
    "blank lines": ("a.csv", "\n \nheight;mass\n\n1;2\n\n3.5;-4e3\n\n", HM),
    "many spellings": ("a.csv", "height,mass\n+1.,2e0\n35E-1,-4000.0\n", HM),
    "quotes and spaces": ("a.csv", '"height" , mass\n"1", 2\n 3.5 ,"-4e3"\n', HM),
    "delimiter in a name": ("a.csv", '"height","mass; kg"\n1,2\n3.5,-4e3\n', ("height", "mass; kg")),
    "no header": ("a.csv", "1,2\n3.5,-4e3\n", X12),
    "header in part": ("a.csv", ",mass\n1,2\n3.5,-4e3\n", ("x1", "mass")),
    "column numbers": ("a.csv", "0,1\n1,2\n3.5,-4e3\n", X12),
    "header with a number": ("a.csv", "2020,mass\n1,2\n3.5,-4e3\n", ("2020", "mass")),
    "array": ("a.npy", X, X12),
    "array, Fortran order": ("a.npy", np.asfortranarray(X), X12),
    "array, float32": ("a.npy", X.astype(np.float32), X12),
    "array, int": ("a.npy", X[:1].astype(int), X12),
    "array, bool": ("a.npy", X > 2, X12),
    "parquet": ("a.parquet", table(height=X[:, 0], mass=X[:, 1]), HM),
    "parquet, kinds": ("a.parquet", table(height=[True, False], mass=pa.array([2, 3], pa.uint8())), HM),
    "parquet, dotted name": ("a.parquet", table(**{"a.b": X[:, 0], "b": X[:, 1]}), ("a.b", "b")),
    "parquet, rows pandas kept": (
        "a.parquet", table(height=X[:, 0], mass=X[:, 1], __index_level_0__=[0, 7]), HM
    ),
}  # fmt: skip
OTHER = {
    "column numbers": [[0.0, 1.0], *X],  # no header: nothing sets them apart from data
    "array, int": X[:1].astype(int),
    "array, bool": X > 2,
    "parquet, kinds": [[1, 2], [0, 3]],
}


@pytest.mark.parametrize("case", GOOD)
def test_every_format_gives_the_same_numbers_and_names(tmp_path, case):
    name, content, columns = GOOD[case]
    read = load_table(file(tmp_path, name, content))
    np.testing.assert_array_equal(read.x, OTHER.get(case, X))
    assert read.x.dtype == np.float64
    assert read.columns == read.axis_labels == columns
    assert (read.name, read.units, read.labels, read.truth) == (name[:1], ("", ""), None, None)
    assert read.source == f"{name}: {len(read.x)} rows, columns {', '.join(columns)}"


@pytest.mark.parametrize("suffix", ["csv", "npy", "parquet"])
def test_columns_are_chosen_by_name_in_the_order_asked_for(tmp_path, suffix):
    x = np.arange(12.0).reshape(4, 3)
    text = "x1,x2,x3\n" + "\n".join(",".join(map(str, row)) for row in x)
    arrow = table(**{f"x{j + 1}": x[:, j] for j in range(3)})
    content = {"csv": text, "npy": x, "parquet": arrow}[suffix]
    read = load_table(str(file(tmp_path, f"a.{suffix}", content)), ["x3", "x1"])
    np.testing.assert_array_equal(read.x, x[:, [2, 0]])
    assert read.columns == ("x3", "x1")


def test_text_and_missing_values_do_not_matter_in_columns_left_out(tmp_path):
    rows = "name,height,age\nAnn,1,\nBob,3.5,NA\n"
    np.testing.assert_array_equal(load_table(file(tmp_path, "a.csv", rows), ["height"]).x, X[:, :1])
    arrow = table(name=["Ann", "Bob"], height=X[:, 0], age=[None, 1.0])
    np.testing.assert_array_equal(
        load_table(file(tmp_path, "a.parquet", arrow), ["height"]).x, X[:, :1]
    )


def test_integers_beyond_float64_are_rounded_consistently(tmp_path):
    number = 2**53 + 1  # the first that float64 lacks; the nearest even neighbour is 2^53
    for name, content in {
        "a.csv": f"n\n{number}\n",
        "a.npy": np.array([[number]]),
        "a.parquet": table(n=[number]),
    }.items():
        assert load_table(file(tmp_path, name, content)).x == 2.0**53


ARROW_TWINS = pa.table([[1.0], [2.0]], names=["a", "a"])
BAD = {
    "empty": ("a.csv", "", r"path: expected a table of numbers, got an empty file: .*a\.csv"),
    "empty array file": ("a.npy", b"", "got an empty file"),
    "only blank lines": ("a.csv", "\n  \n\n", "got only blank lines"),
    "only a header": ("a.csv", "height,mass\n", "got a table without data rows"),
    "suffix": (
        "a.xlsx", NAMED, r"ending in \.csv, \.tsv, \.npy, \.parquet, got 'a\.xlsx'.*to_csv"
    ),
    "no suffix": ("table", NAMED, "expected a file ending in .*got 'table'"),
    "ragged, short": (
        "a.csv", "a,b,c\n1,2,3\n\n1,2\n", r"expected 3 cells .* got 2 on line 4 of .*a\.csv.*by ','"
    ),
    "ragged, long": ("a.tsv", "1\t2\n3\t4\t5\n", r"expected 2 cells .* got 3 on line 2 .*by '\\t'"),
    "text": (
        "a.csv", "a,b\n1,2\n\n3,tall\n",
        r"expected numbers in column 'b', got the text 'tall' on line 4 of .*a\.csv.*by name with",
    ),
    "underscores": ("a.csv", "a,b\n1,2\n1_000,3\n", "in column 'a', got the text '1_000' on line 3"),
    "other digits": ("a.csv", "a,b\n1,2\n3,٣\n", "in column 'b', got the text '٣' on line 3"),
    "no header of numbers": ("a.csv", "1_000\n٣\n", r"column '1_000', got the text '٣' on line 2"),
    "a blank line in one column": (
        "a.csv", "\n\nheight\n1\n\n2\n  \n3\n\n",
        r"got 2 missing .* in 2 of 5 rows .* \(2 in 'height'\); the first is on line 5, column",
    ),
    "a quoted nothing in one column": (
        "a.csv", 'height\n1\n2\n""\n', r"got 1 missing .* in 1 of 3 rows .* on line 4, column"
    ),
    "decimal comma": ("a.csv", "a;b\n1,5;2\n", "in column 'a', got the text '1,5' on line 2"),
    "missing": (
        "a.csv", "a,b,c\n1,2,3\n4,,5\n\n6,NA,?\n",
        r"got 3 missing or infinite cells in 2 of 3 rows of .*a\.csv \(2 in 'b', 1 in 'c'\); "
        r"the first is on line 3, column 'b'\. Drop these rows",
    ),
    "missing on the first line, which is no header": (
        "a.csv", ",2,NA\n3,4,5\n", r"2 missing .* in 1 of 2 rows .*on line 1, column 'x1'"
    ),
    "infinite": ("a.csv", "a,b\n1,2\n3,-inf\n", "1 missing or infinite .* line 3, column 'b'"),
    "twins": ("a.csv", "a,b,a\n1,2,3\n", "expected distinct column names, got 'a' twice"),
    "not UTF-8": ("a.csv", "größe\n1\n".encode("latin1"), r"expected UTF-8 .*a\.csv: .*codec"),
    "array, truncated": ("a.npy", slice(0, -8), r"a\.npy is not a whole \.npy file .*cut off"),
    "array, head only": ("a.npy", slice(0, 20), r"a\.npy is not a whole \.npy file"),
    "array, other": ("a.npy", b"PK\x03\x04 an archive", r"a\.npy is not a whole \.npy file"),
    "array, object": ("a.npy", X.astype(object), r"got dtype object in .*array\.astype\(float\)"),
    "array, text": ("a.npy", X.astype(str), "expected real numbers, got dtype <U32"),
    "array, complex": ("a.npy", X + 1j, "expected real numbers, got dtype complex128"),
    "array, 1-D": ("a.npy", X[0], r"shape \[N, D\], got \(2,\) in .*reshape\(-1, 1\)"),
    "array, 3-D": ("a.npy", X[None], r"shape \[N, D\], got \(1, 2, 2\) in .*a\.npy\.$"),
    "array, no rows": ("a.npy", X[:0], "got a table without data rows"),
    "array, nan": (
        "a.npy", np.array([[1, 2], [3, np.nan], [np.inf, np.nan]]),
        r"got 3 missing .* 2 of 3 rows .* \(1 in 'x1', 2 in 'x2'\); the first is on row 1, column",
    ),
    "parquet, truncated": ("a.parquet", slice(0, -9), r"a\.parquet is not a whole Parquet file"),
    "parquet, other": ("a.parquet", NAMED, r"a\.parquet is not a whole Parquet file"),
    "parquet, text": (
        "a.parquet", table(a=[1.0, 2.0], b=["x", "y"]),
        r"expected numbers in column 'b', got string in .*a\.parquet \(first: 'x'\)",
    ),
    "parquet, nulls": (
        "a.parquet", table(a=[1, None, 3, None]),
        r"got 2 missing .* 2 of 4 rows .*\(2 in 'a'\); the first is on row 1, column 'a'",
    ),
    "parquet, no rows": ("a.parquet", table(a=X[:0, 0]), "got a table without data rows"),
    "parquet, twins": ("a.parquet", ARROW_TWINS, "expected distinct column names, got 'a' twice"),
}  # fmt: skip


@pytest.mark.parametrize("name, content, message", BAD.values(), ids=BAD)
def test_tables_that_cannot_be_used_are_refused_with_the_place(tmp_path, name, content, message):
    if isinstance(content, slice):  # that part of a whole file
        whole = X if name.endswith("npy") else table(a=X[:, 0])
        content = file(tmp_path, "whole" + name, whole).read_bytes()[content]
    with pytest.raises(ValueError, match=message):
        load_table(file(tmp_path, name, content))


@pytest.mark.parametrize("suffix", ["csv", "npy", "parquet"])
@pytest.mark.parametrize(
    "columns, error, message",
    [
        (["x1", "x22"], ValueError, r"no column 'x22'; did you mean 'x2'\? It has: x1, x2$"),
        (["mass"], ValueError, r"columns: .*a\.\w+ has no column 'mass'\. It has: x1, x2$"),
        (["x1", "x2", "x1"], ValueError, "columns: expected each column once, got 'x1' more"),
        ([], ValueError, r"columns: expected at least one name, got none; None takes .*: x1, x2$"),
        ((), ValueError, "columns: expected at least one name, got none"),
        ("x1", TypeError, "columns: expected a sequence of names, got the string 'x1'"),
    ],
)
def test_columns_that_are_not_there_are_refused(tmp_path, suffix, columns, error, message):
    content = {"csv": "1,2\n", "npy": X, "parquet": table(x1=X[:, 0], x2=X[:, 1])}[suffix]
    with pytest.raises(error, match=message):
        load_table(file(tmp_path, f"a.{suffix}", content), columns)


def test_a_long_list_of_columns_is_cut_short(tmp_path):
    path = file(tmp_path, "a.npy", np.zeros((1, 100)))
    with pytest.raises(ValueError, match=r"It has: x1, .*, x12, \.\.\. \(100 in all\)$"):
        load_table(path, ["zz"])


def test_files_that_are_not_there_are_named_with_the_nearest(tmp_path):
    file(tmp_path, "heights.csv", NAMED)
    with pytest.raises(FileNotFoundError, match=r"height\.csv; did you mean .*heights\.csv\?"):
        load_table(tmp_path / "height.csv")
    with pytest.raises(FileNotFoundError, match=r"path: no file .*unlike\.npy$"):
        load_table(tmp_path / "unlike.npy")
    with pytest.raises(FileNotFoundError, match=r"no file .*, and no folder .*nowhere either"):
        load_table(tmp_path / "nowhere" / "a.csv")
    with pytest.raises(ValueError, match="path: expected a file, got a folder"):
        load_table(tmp_path)
