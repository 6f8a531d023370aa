"""Comparisons of runs: paired and unpaired differences against NumPy, and runs that are none."""

import json
import re

import numpy as np
import pytest

from lvm_jax import report
from lvm_jax.report import command, compare, curves, differences, headlines, stored
from lvm_jax.report.page import Table

RNG = np.random.default_rng(0)
LOG_P = RNG.normal(-90.0, 10.0, 40)  # of 40 points: they differ more than two models do
GAIN = RNG.normal(0.5, 0.2, 40)


def make(path, *, seed=0, results=None, points=None, metrics=(), experiment="vae", **config):
    """The folder of a finished run."""
    folder = report.Directory(path)
    folder.write_json(
        "config.json", {"experiment": experiment, "x64": False, "seed": seed, **config}
    )
    provenance = {"started": "2020-01-01", "libraries": {"jax": "1.0"}, "wall_time_s": seed}
    folder.write_json("results.json", {**(results or {}), "provenance": provenance})
    folder.write_json("summary.json", {"headline": [[f"{seed}.5", "log p"]], "checks": []})
    if points is not None:
        folder.write_arrays("points.npz", points)
    for line in metrics:
        folder.log(**line)
    return path


def compared(*paths):
    return compare.compare([stored.read(path) for path in paths])


def test_a_paired_difference_has_the_error_of_the_mean_of_differences(tmp_path):
    order = RNG.permutation(40)
    ids = np.array([f"point {n}" for n in range(40)])
    first = make(tmp_path / "a", points={"point": ids, "log_evidence": LOG_P})
    moved = {"point": ids[order], "log_evidence": (LOG_P + GAIN)[order]}
    found = compared(first, make(tmp_path / "b", seed=1, points=moved))
    (row,) = found.points
    (one,) = row.differences
    assert one.change.value == pytest.approx(GAIN.mean())
    assert one.change.standard_error == pytest.approx(np.std(GAIN, ddof=1) / np.sqrt(40))
    assert one.kind == "paired, 40 points"
    assert one.in_errors == pytest.approx(GAIN.mean() / (np.std(GAIN, ddof=1) / 40**0.5))
    assert row.values[0].standard_error == pytest.approx(np.std(LOG_P, ddof=1) / np.sqrt(40))
    assert row.values[0].standard_error > 20 * one.change.standard_error


@pytest.mark.parametrize("shift", [40, 39, None])
def test_points_of_which_at_most_one_is_shared_are_unpaired(tmp_path, shift):
    points = {"log_evidence": LOG_P} | ({} if shift is None else {"point": np.arange(40)})
    other = {"log_evidence": LOG_P[:30] + 1} | (
        {} if shift is None else {"point": np.arange(30) + shift}
    )
    found = compared(make(tmp_path / "a", points=points), make(tmp_path / "b", points=other))
    (one,) = found.points[0].differences
    errors = np.std(LOG_P, ddof=1) / 40**0.5, np.std(LOG_P[:30], ddof=1) / 30**0.5
    assert one.change.value == pytest.approx(LOG_P[:30].mean() + 1 - LOG_P.mean())
    assert one.change.standard_error == pytest.approx(np.sqrt(errors[0] ** 2 + errors[1] ** 2))
    assert one.kind == "unpaired"


def test_some_shared_points_are_paired_and_equal_ids_go_in_their_order():
    first, other = np.array([7, 5, 5, 1]), np.array([5, 1, 9, 5, 5])
    left, right = differences.matched(first, other)
    assert dict(zip(left.tolist(), right.tolist(), strict=True)) == {1: 0, 2: 3, 3: 1}


def test_arrays_of_all_runs_are_compared_but_errors_and_texts(tmp_path):
    points = {"point": np.arange(3), "elbo": np.arange(3.0), "k_hat": np.array([0.5, np.inf, 0.1]),
              "standard_error": np.ones(3), "name": np.array(["a", "b", "c"])}  # fmt: skip
    fewer = {name: points[name] for name in ("point", "k_hat", "standard_error", "name")}
    found = compared(make(tmp_path / "a", points=points), make(tmp_path / "b", points=fewer))
    assert [row.name for row in found.points] == ["k_hat"]
    assert np.isnan(found.points[0].differences[0].change.standard_error)
    assert found.points[0].differences[0].kind == "no error known"


def test_differences_of_results_are_unpaired_and_have_errors(tmp_path):
    results = {
        "slope": 1.0, "slope_error": 0.3, "same": 4.0, "test": {"log_evidence": -90.0, "monte_carlo_error": 0.3,
        "sampling_error": 0.4}, "losses": [1.0, 2.0], "alone": 3.0, "name": "x", "none": None,
    }  # fmt: skip
    other = {
        "slope": 1.5, "slope_error": 0.4, "same": 4.0, "test": {"log_evidence": -89.0, "standard_error": 1.2},
        "losses": [1.0, 2.5], "name": "y", "none": 2.0,
    }  # fmt: skip
    found = compared(make(tmp_path / "a", results=results), make(tmp_path / "b", results=other))
    rows = {row.name: row.differences[0] for row in found.numbers}
    assert list(rows) == ["slope", "test.log_evidence", "losses[1]"]
    assert found.num_equal == 2  # same, losses[0]
    assert rows["slope"].change == pytest.approx((0.5, 0.5))
    assert rows["test.log_evidence"].change == pytest.approx((1.0, 1.3))
    assert rows["losses[1]"].change.value == 0.5
    assert rows["losses[1]"].kind == "no error known"


def test_curves_have_the_first_number_as_abscissa_and_texts_as_series():
    metrics = [
        {
            "seconds": 9.0,
            "bound": "iwae",
            "step": step,
            "value": step / 2,
            "part": "test",
            "gap": None,
        }
        for step in range(3)
    ]
    (found,) = curves.curves([[*metrics, {"seconds": 1.0, "step": 0, "value": 7.0}]])
    assert found == {
        ("step", "value"): {"iwae, test": ([0, 1, 2], [0, 0.5, 1]), "": ([0], [7])},
    }


def test_settings_that_differ_are_those_of_the_options_and_of_the_libraries(tmp_path):
    first = make(tmp_path / "a", rate=0.1, guide="iaf")
    other = make(tmp_path / "b", seed=1, rate=0.1)
    changed = json.loads((other / "results.json").read_text())
    changed["provenance"]["libraries"]["jax"] = "2.0"
    (other / "results.json").write_text(json.dumps(changed))
    assert compared(first, other).settings == [
        ("seed", [0, 1]), ("guide", ["iaf", None]), ("libraries.jax", ["1.0", "2.0"])
    ]  # fmt: skip


def test_the_command_writes_a_page_and_prints_the_same_tables(tmp_path, capsys):
    points = {"point": np.arange(40), "log_evidence": LOG_P}
    better = points | {"log_evidence": LOG_P + GAIN}
    line = [{"step": step, "loss": float(step)} for step in range(3)]
    first = make(tmp_path / "plain", points=points, results={"x": 1.0}, metrics=line)
    other = make(tmp_path / "iwae", seed=1, points=better, results={"x": 2.0}, metrics=line)
    out = tmp_path / "out"
    assert command.main("toys", ["compare", str(first), str(other), "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    page = (out / "comparison.html").read_text()
    for text in ("seed", "log p", "1.5", "paired, 40 points", "+1"):
        assert text in shown
        assert f">{text}<" in page
    assert "Figure 1." in page
    found = json.loads((out / "comparison.json").read_text())
    assert found["settings"] == {"seed": [0, 1]}
    kept = found["points"]["log_evidence"]["differences"][0]
    assert (kept["change"]["value"], kept["pairs"]) == (pytest.approx(GAIN.mean()), 40)


def test_long_tables_are_cut_on_the_terminal_alone():
    table = Table(("name", "x"), [("a", str(n)) for n in range(30)])
    assert compare.as_text(table, 2) == "name  x\na     0\na     1\n... and 28 more in the page"


def break_run(path, how):
    if how == "none":
        return path / "missing"
    if how == "no run":
        (path / "config.json").unlink()
    if how == "unfinished":
        (path / "summary.json").unlink()
    if how == "summary":
        (path / "summary.json").write_text('{"headline": [], "checks": [{"name": "x"}]}')
    if how == "results":
        (path / "results.json").write_text('{"x": 1.')
    if how == "metrics":
        (path / "metrics.jsonl").write_text("{\n")
    if how == "no provenance":
        (path / "results.json").write_text('{"x": 1.0}')
    if how == "metrics of others":
        (path / "metrics.jsonl").write_text('{"step": 1}\n[1, 2]\n')
    if how == "points":
        (path / "points.npz").write_bytes(b"PK cut")
    if how == "shapes":
        np.savez(path / "points.npz", point=np.arange(3), elbo=np.arange(4.0))
    return path


BROKEN = {
    "none": "missing: expected the folder of a run, there is none",
    "no run": "broken: expected the folder of a run, it has no config.json of one",
    "unfinished": "broken: expected a finished run; run its command again to resume it",
    "summary": "summary.json: expected headline and checks of this version",
    "results": "results.json: expected a JSON object",
    "metrics": "metrics.jsonl: expected a JSON object in each line",
    "no provenance": "results.json: expected a provenance, got None; replace the run",
    "metrics of others": "metrics.jsonl: expected a JSON object in each line, got [1, 2]",
    "points": "points.npz: expected the arrays of a run",
    "shapes": "points.npz: expected arrays of one length",
}


@pytest.mark.parametrize(("how", "message"), BROKEN.items(), ids=BROKEN)
def test_what_is_no_finished_run_is_refused_in_a_line(how, message, tmp_path, capsys):
    broken = break_run(make(tmp_path / "broken"), how)
    good = make(tmp_path / "good")
    assert (
        command.main("toys", ["compare", str(good), str(broken), "--out", str(tmp_path / "out")])
        == 1
    )
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "out").exists()


def test_runs_of_other_experiments_one_run_and_a_run_as_output_are_refused(tmp_path, capsys):
    first, other = make(tmp_path / "a"), make(tmp_path / "b", experiment="bdmc")
    second = make(tmp_path / "c")
    for paths, message in (
        ([first, other], "expected runs of one experiment, got vae"),
        ([first], "expected at least two runs, got 1"),
        ([first, first], "expected different runs"),
        ([first, second, "--out", second], "out: expected a folder for a comparison"),
    ):
        assert command.main("toys", ["compare", *map(str, paths)]) == 1
        assert message in capsys.readouterr().err


def drawn(*runs):
    """The names of each run's series, and their curves."""
    return [
        {(*axes, series): curve for axes, named in one.items() for series, curve in named.items()}
        for one in curves.curves(runs)
    ]


def test_the_first_of_two_indices_names_the_series():
    lines = [
        {"noise": noise, "step": step, "elbo": step - noise, "slope": None if step == 3 else 2.0}
        for noise in (0.5, 0.25)
        for step in (1, 3, 10)
    ]
    (found,) = drawn([{"noise": None, "step": 1, "elbo": 0.0}, *lines])
    assert found == {
        ("step", "elbo", ""): ([1], [0]),  # noise is learned there
        ("step", "elbo", "noise = 0.5"): ([1, 3, 10], [0.5, 2.5, 9.5]),
        ("step", "elbo", "noise = 0.25"): ([1, 3, 10], [0.75, 2.75, 9.75]),
        ("step", "slope", "noise = 0.5"): ([1, 10], [2, 2]),
        ("step", "slope", "noise = 0.25"): ([1, 10], [2, 2]),
    }


def test_a_curve_measured_twice_has_one_index():
    twice = [{"step": step, "loss": 9.0 - step, "rate": 0.1} for step in (0, 1, 2, 1, 2)]
    (found,) = drawn(twice)
    assert found == {
        ("step", "loss", ""): ([0, 1, 1, 2, 2], [9, 8, 8, 7, 7]),
        ("step", "rate", ""): ([0, 1, 1, 2, 2], [0.1] * 5),
    }


def test_names_that_are_settings_of_the_runs_are_left_out():
    def run(bound, scale, groups=("train", "test")):
        return [
            {"bound": bound, "scale": scale, "step": step, "value": step * scale, "group": group}
            for group in groups
            for step in (1, 2, 3)
        ]

    first, other = drawn(run("elbo", 1.0), run("iwae", 2.0))
    assert first[("step", "value", "train")] == ([1, 2, 3], [1, 2, 3])
    assert other[("step", "value", "train")] == ([1, 2, 3], [2, 4, 6])
    assert first.keys() == other.keys() == {("step", "value", g) for g in ("train", "test")}
    first, other = drawn(run("elbo", 1.0), run("elbo", 1.0) + run("iwae", 1.0))  # an index in one
    assert first.keys() < other.keys()
    assert ("step", "value", "iwae, train, scale = 1") in other


def test_points_rise_and_inner_objects_have_dotted_names():
    lines = [{"k": k, "criteria": {"bic": 2.0 * k, "parts": [1, 2]}, "ok": True} for k in (3, 2, 4)]
    (found,) = drawn(lines)
    assert found == {("k", "criteria.bic", ""): ([2, 3, 4], [4, 6, 8])}


def test_a_panel_is_of_a_series_that_two_runs_have():
    def run(*names):
        return [{"name": name, "step": 0, "value": 1.0} for name in names]

    found = curves.curves([run("a", "b"), run("b", "c"), run("c", "d")])
    png, left_out = curves.draw(found, "xyz")
    assert png is not None
    assert left_out == 2  # a and d
    assert curves.draw(curves.curves([run("a", "b"), run("c", "d")]), "xy") == (None, 4)


def test_headlines_over_seeds_have_mean_sd_and_standard_error(tmp_path, capsys):
    values = {0.1: ("1,001.5 ± 0.2 nats", "1,002.0 ± 0.2 nats", "1,004.0 nats"), 0.2: ("7", "8")}
    paths = []
    for rate, texts in values.items():
        for seed, text in enumerate(texts):
            path = make(tmp_path / f"{rate}-{seed}", seed=seed, rate=rate)
            facts = [[text, "log p"], ["−1.5e−03", "gap"], ["K = 3", "best"]]
            (path / "summary.json").write_text(json.dumps({"headline": facts, "checks": []}))
            paths.append(path)
    alone = make(tmp_path / "alone", seed=0, rate=0.3)  # of one seed
    found = compared(*paths, alone).over_seeds
    rows = {(row.name, row.settings["rate"]): row for row in found}
    assert list(rows) == [("log p", 0.1), ("log p", 0.2), ("gap", 0.1), ("gap", 0.2)]
    numbers = np.array([1001.5, 1002.0, 1004.0])
    first = rows["log p", 0.1]
    assert first.mean.value == pytest.approx(numbers.mean())
    assert first.sd == pytest.approx(numbers.std(ddof=1))
    assert first.mean.standard_error == pytest.approx(numbers.std(ddof=1) / 3**0.5)
    assert (first.num_seeds, first.unit) == (3, " nats")
    assert (rows["gap", 0.2].mean.value, rows["gap", 0.2].sd) == (-0.0015, 0)
    line = [*map(str, paths), "--out", str(tmp_path / "out")]
    assert command.main("toys", ["compare", *line]) == 0
    assert re.search(r"^log p +0.1 +1002.5 ± 1.3 nats +0.76 +3$", capsys.readouterr().out, re.M)
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "<td>1002.5 ± 1.3 nats</td><td>0.76</td><td>3</td>" in page
    assert len(json.loads((tmp_path / "out" / "comparison.json").read_text())["over_seeds"]) == 4


def test_what_follows_a_semicolon_may_differ_between_runs(tmp_path):
    facts = [
        [["1.0", "log p; NOT RELIABLE at 3 images"], ["2", "slope; law 2"], ["5", "x; a"], ["6", "x; b"]],
        [["3.0", "log p"], ["4", "slope; law 2"], ["7", "x; a"], ["8", "x; b"], ["9", "alone"]],
    ]  # fmt: skip
    runs = []
    for seed, each in enumerate(facts):
        path = make(tmp_path / str(seed), seed=seed)
        (path / "summary.json").write_text(json.dumps({"headline": each, "checks": []}))
        runs.append(stored.read(path))
    assert {one.name: one.cells for one in headlines.headlines(runs)} == {
        "log p": ["1.0; NOT RELIABLE at 3 images", "3.0"],
        "slope; law 2": ["2", "4"],
        "x; a": ["5", "7"],
        "x; b": ["6", "8"],
        "alone": ["–", "9"],
    }
    assert [(row.name, row.mean.value) for row in headlines.over_seeds(runs)] == [
        ("log p; see Headline", 2), ("slope; law 2", 3), ("x; a", 6), ("x; b", 7)
    ]  # fmt: skip


def test_the_same_seed_twice_is_one_seed(tmp_path):
    paths = [make(tmp_path / name, seed=0) for name in "ab"]
    assert compared(*paths).over_seeds == []


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("−4.155382", (-4.155382, "")),
        ("52%", (52, "%")),
        ("1,234×", (1234, "×")),
        ("3 of 8", (3, "")),
        ("1.1e−02 ± 2e−03", (0.011, "")),
        ("12 steps", (12, " steps")),
        ("+0.012", (0.012, "")),
        ("2 of 2 + 1 of 4", None),
        ("none", None),
        ("–", None),
        ("∞", None),
    ],
)
def test_the_number_of_a_headline(text, number):
    assert headlines.value_and_unit(text) == number
