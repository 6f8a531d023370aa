"""The search over fourteen covariance models and K: its time, and mclust's published likelihoods.

The search is GaussianMixtureIC with its defaults on the 272 eruptions of Old Faithful, K = 1 to 9,
in a new process without a compilation cache, and again in the same process. The published
log-likelihoods are those that summaries of mclust print (Scrucca et al. 2016; 2023); mclust stops
early, so that a value above them is possible. `mclust.csv` has those of all models with K = 1 to 9
by `mclustBIC` of mclust 6.0.0 with its defaults. Diabetes is `diabetes.csv` of $LVM_JAX_DATA.
"""

import argparse
import csv
import os
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness

PUBLISHED = (
    ("old_faithful", "EEE", 3, -1126.326),
    ("old_faithful", "VVV", 2, -1130.264),
    ("iris", "VEV", 2, -215.7259),
    ("diabetes", "VVV", 3, -2295.118),
)

CLOSE = 0.01  # nats


def of_mclust(name: str) -> dict[tuple[str, int], float]:
    """The log-likelihoods of mclust by model and K; models that it did not fit are left out."""
    with (Path(__file__).parent / "mclust.csv").open() as file:
        lines = [line for line in csv.DictReader(file) if line["data"] == name]
    return {(line["model"], int(line["K"])): float(line["log_likelihood"]) for line in lines}


def rows(name: str) -> np.ndarray | None:
    """A data set [N, D]; None for a file that is not there."""
    from sklearn.datasets import load_iris

    from lvm_jax import data

    if name == "old_faithful":
        return data.old_faithful().x
    if name == "iris":
        return load_iris().data
    path = Path(os.environ.get("LVM_JAX_DATA", "."), f"{name}.csv")
    columns = ["glucose", "insulin", "sspg"]
    return data.load_table(path, columns).x if path.is_file() else None


def child(case: dict[str, Any]) -> dict[str, Any]:
    """One measurement in this process."""
    warnings.simplefilter("ignore")
    began, before = time.perf_counter(), time.process_time()
    from lvm_jax.sklearn import GaussianMixtureIC

    x = rows(case["data"])
    if x is None:
        return {"missing": case["data"]}
    types = case["types"]
    model = GaussianMixtureIC(case["sizes"], covariance_type=types, random_state=case["seed"])
    found = []
    for _ in range(2 if types == "all" else 1):
        model.fit(x)
        found.append((time.perf_counter() - began, time.process_time() - before))
        began, before = time.perf_counter(), time.process_time()
    table = model.criterion_table_
    best = table[~table["singular"]]
    best = best[np.argmin(best["bic"])]
    sound = table[~table["singular"]]  # the likelihood of others depends on the regularization
    fits = {(str(one["covariance_type"]), int(one["n_components"])): one for one in sound}
    apart = {
        f"{model}, {k}": float(fits[model, k]["log_likelihood"] - value)
        for (model, k), value in of_mclust(case["data"]).items()
        if (model, k) in fits
    }
    return {
        "apart": apart,
        "seconds": found[0][0], "cpu_seconds": found[0][1],
        "again_seconds": found[-1][0], "again_cpu_seconds": found[-1][1],
        "best": f"{best['covariance_type']}, {best['n_components']}", "bic": float(best["bic"]),
        "log_likelihood": float(best["log_likelihood"]), "singular": int(table["singular"].sum()),
    }  # fmt: skip


def main() -> None:
    """Measure everything, print the tables, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.em_search", description=__doc__)
    options = harness.read_options(parser, child)
    base: dict[str, Any] = {"kind": "search", "seed": options.seed, "timeout": 900}
    case = {**base, "data": "old_faithful", "types": "all", "sizes": [*range(1, 10)]}
    found = harness.measure("benchmarks.em_search", case)
    results = [{"case": case, "found": found}]
    print(
        f"\n14 models, K = 1 to 9, Old Faithful: {found['seconds']:.0f} s with imports and "
        f"compilation ({found['cpu_seconds']:.0f} s of CPU), again {found['again_seconds']:.0f} s "
        f"({found['again_cpu_seconds']:.0f} s); best {found['best']}, BIC {found['bic']:.3f}; "
        f"{found['singular']} of 126 fits are singular\n"
    )
    lines = []
    for name, model, k, known in PUBLISHED:
        case = {**base, "data": name, "types": [model], "sizes": [k]}
        one = harness.measure("benchmarks.em_search", case)
        results.append({"case": case, "found": one, "published": known})
        value = "no file" if "missing" in one else f"{one['log_likelihood']:.3f}"
        lines.append([name, f"{model}, {k}", f"{known:.3f}", value])
    print(harness.markdown(("data", "model, K", "mclust", "lvm_jax"), lines))
    results.append(compare(base, found))
    print(f"\nwritten: {harness.save('em_search', options.out, options.seed, results)}")


def compare(base: dict[str, Any], faithful: dict[str, Any]) -> dict[str, Any]:
    """Print how many fits of the search are above and below those of mclust."""
    lines, found = [], {"old_faithful": faithful}
    for name in ("old_faithful", "iris", "diabetes"):
        case = {**base, "data": name, "types": "all", "sizes": [*range(1, 10)]}
        if name not in found:
            found[name] = harness.measure("benchmarks.em_search", case)
        one = found[name]
        if "missing" in one:
            lines.append([name, "no file", *["–"] * 5])
            continue
        apart = np.array(list(one["apart"].values()))
        low = apart < -CLOSE
        lines.append([
            name, str(apart.size), str((apart > CLOSE).sum()), str((abs(apart) <= CLOSE).sum()),
            str(low.sum()), f"{np.median(apart[low]):.2f}" if low.any() else "–", one["best"],
        ])  # fmt: skip
    header = ("data", "fits", "higher", "equal", "lower", "median of these", "best")
    print(f"\nFits of the search beside those of mclust, within {CLOSE} nats\n")
    print(harness.markdown(header, lines))
    return {"compared": found}


if __name__ == "__main__":
    main()
