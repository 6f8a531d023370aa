"""Compilation time, and the memory of compiled programs.

Three tables. Each row is measured in its own process, without a compilation cache on disk.

1. A grid search over 16 Gaussian mixtures x 5 folds of iris, and that of scikit-learn's class: the
   first and the second search of the process.
2. A long process: 5,000 fits of 50 to 5,000 rows in 3 dimensions with K = 1 to 6, also with
   scikit-learn, and 200 certificates of 1 to 60 points. Memory maps and megabytes above the start.
   Linux allows 65,530 maps.
3. Each public entry point: its first call, a call with another size in the same bucket, and one
   with a size in the next bucket.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import harness

GRID = {"covariance_type": ["full", "tied", "diag", "spherical"], "n_components": [1, 2, 3, 4]}
FITS, CERTIFICATES = 5_000, 200
LONG = 3_000.0  # time limit of a process of the second table, in seconds


def grid(case: dict[str, Any]) -> dict[str, Any]:
    """Two searches in sequence, without imports."""
    from sklearn.datasets import load_iris
    from sklearn.model_selection import GridSearchCV

    x, mixture = load_iris().data, mixture_class(case["contestant"])
    found = []
    for _ in range(2):
        began = time.perf_counter()
        search = GridSearchCV(mixture(random_state=0), GRID, cv=5).fit(x)
        found.append(time.perf_counter() - began)
    return {"first": found[0], "second": found[1], "score": float(search.best_score_)}


def mixture_class(contestant: str) -> Any:
    """The class of lvm_jax, or of scikit-learn."""
    if contestant == "lvm_jax":
        from lvm_jax.sklearn import GaussianMixture
    else:
        from sklearn.mixture import GaussianMixture
    return GaussianMixture


def fits(case: dict[str, Any]) -> dict[str, Any]:
    """Many fits and scores of data of many sizes."""
    mixture, rng = mixture_class(case["contestant"]), np.random.default_rng(case["seed"])

    def one() -> None:
        n, k = int(rng.integers(50, 5_001)), int(rng.integers(1, 7))
        x = rng.normal(size=(n, 3)) + 4 * rng.integers(0, k, size=(n, 1))
        mixture(k, random_state=0).fit(x).score(x)

    return watch(one, case["count"])


def certificates(case: dict[str, Any]) -> dict[str, Any]:
    """Certificates of data sets of many sizes."""
    from lvm_jax import evidence

    model, guide, theta, phi, x = linear_gaussian()
    rng = np.random.default_rng(case["seed"])

    def one() -> None:
        rows = rng.choice(len(x), int(rng.integers(1, 61)), replace=False)
        evidence.certify(key(), model(theta), guide(phi), x[rows], tolerance=0.1)

    return watch(one, case["count"])


def watch(one: Callable[[], None], count: int) -> dict[str, Any]:
    """Call `one` `count` times; return seconds, and maximum maps and megabytes above the start."""
    warnings.simplefilter("ignore")
    maps, megabytes = count_maps(), resident()
    most, began = [0, 0.0], time.perf_counter()
    for index in range(count):
        one()
        if index % 10 == 9 or index + 1 == count:
            now = count_maps() - maps, resident() - megabytes
            most = [max(pair) for pair in zip(most, now, strict=True)]
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "maps": most[0], "mb": most[1], "count": count}


def count_maps() -> int:
    """Memory maps of this process."""
    with open("/proc/self/maps", "rb") as maps:
        return maps.read().count(b"\n")


def resident() -> float:
    """Resident memory of this process now [MB]."""
    with open("/proc/self/statm") as pages:
        return int(pages.read().split()[1]) * 4096 / 1e6


def key() -> Any:
    """The key of every call."""
    import jax

    return jax.random.key(0)


def linear_gaussian() -> tuple[Any, ...]:
    """Model, guide, theta, phi and 400 rows in 5 dimensions, z in 2."""
    import jax

    from lvm_jax import guides, models

    model = models.linear_gaussian(2, 5)
    guide = guides.linear(guides.mean_field(2), 5)
    theta, phi = model.init(jax.random.key(1)), guide.init(jax.random.key(2))
    return model, guide, theta, phi, np.random.default_rng(0).normal(size=(400, 5)).astype("f4")


def entry_em(size: int) -> None:
    """em.fit, K = 3."""
    from lvm_jax import em

    em.fit(key(), linear_gaussian()[-1][:size], 3, throw=False)


def entry_mixture(size: int) -> None:
    """GaussianMixture.fit, predict and score."""
    from lvm_jax.sklearn import GaussianMixture

    x = linear_gaussian()[-1][:size]
    fitted = GaussianMixture(3, random_state=0).fit(x)
    fitted.predict(x)
    fitted.score(x)


def entry_vae(size: int) -> None:
    """VariationalAutoencoder.fit and score, 3 epochs."""
    from lvm_jax.sklearn import VariationalAutoencoder

    x = linear_gaussian()[-1][:size]
    settings = {"hidden_layer_sizes": (16,), "max_iter": 3, "batch_size": 32, "random_state": 0}
    VariationalAutoencoder(2, n_importance_samples=100, **settings).fit(x).score(x)


def entry_training(size: int) -> None:
    """training.fit with validation, 3 epochs, an optimiser of its own."""
    import optax

    from lvm_jax import bounds, gradients, training

    model, guide, *_, x = linear_gaussian()
    training.fit(
        key(), model, guide, x[:size], estimate=gradients.reparameterized(bounds.elbo),
        optimizer=optax.adam(1e-3), num_samples=1, batch_size=32, num_epochs=3,
        validation=x[-size:],
    )  # fmt: skip


def entry_evaluate(size: int) -> None:
    """evidence.evaluate, 100 draws."""
    from lvm_jax import evidence

    model, guide, theta, phi, x = linear_gaussian()
    evidence.evaluate(key(), model(theta), guide(phi), x[:size], 100)


def entry_certify(size: int) -> None:
    """evidence.certify to 0.1 nats."""
    from lvm_jax import evidence

    model, guide, theta, phi, x = linear_gaussian()
    evidence.certify(key(), model(theta), guide(phi), x[:size], tolerance=0.1)


def entry_annealed(size: int) -> None:
    """evidence.evaluate_annealed, 16 chains of 32 temperatures."""
    from lvm_jax import annealing, evidence

    model, _, theta, _, x = linear_gaussian()
    plan = annealing.plan(annealing.sigmoid(32), annealing.hmc(3))
    evidence.evaluate_annealed(key(), model(theta), None, x[:size], 16, plan)


def entry_gaps(size: int) -> None:
    """decomposition.gaps of a mean-field and a full-rank family."""
    from lvm_jax import decomposition, guides

    model, guide, theta, phi, x = linear_gaussian()
    families = {"mean_field": guides.mean_field(2), "full_rank": guides.full_rank(2)}
    decomposition.gaps(
        key(), model(theta), guide(phi), x[:size], families=families, num_samples=100,
        ascent=decomposition.Ascent(num_steps=50),
    )  # fmt: skip


def entry_vi(size: int) -> None:
    """vi.fit of a full-rank Gaussian to a regression on the rows, z in 4 dimensions."""
    from lvm_jax import vi

    def log_likelihood(z: Any, rows: Any) -> Any:
        return -0.5 * ((rows[:, -1] - rows[:, :-1] @ z) ** 2).sum()

    vi.fit(
        key(), log_likelihood, np.zeros(4, "f4"), data=linear_gaussian()[-1][:size],
        log_prior=lambda z: -0.5 * (z**2).sum(),
    )  # fmt: skip


ENTRIES = {
    "em.fit": entry_em,
    "sklearn.GaussianMixture": entry_mixture,
    "sklearn.VariationalAutoencoder": entry_vae,
    "training.fit": entry_training,
    "evidence.evaluate": entry_evaluate,
    "evidence.certify": entry_certify,
    "evidence.evaluate_annealed": entry_annealed,
    "decomposition.gaps": entry_gaps,
    "vi.fit": entry_vi,
}
SIZES = (120, 100, 200)  # the first, another in its bucket, and one in the next bucket


def entry(case: dict[str, Any]) -> dict[str, Any]:
    """Seconds of three calls, and the maps and megabytes that each added."""
    warnings.simplefilter("ignore")
    run, found = ENTRIES[case["contestant"]], {}
    linear_gaussian()  # imports JAX and the models
    for name, size in zip(("first", "same", "next"), SIZES, strict=True):
        maps, megabytes, began = count_maps(), resident(), time.perf_counter()
        run(size)
        found[name] = time.perf_counter() - began
        found[f"{name}_maps"] = count_maps() - maps
        found[f"{name}_mb"] = resident() - megabytes
    return found


KINDS = {"grid": grid, "fits": fits, "certificates": certificates, "entry": entry}


def child(case: dict[str, Any]) -> dict[str, Any]:
    """One row, in its own process."""
    return KINDS[case["kind"]](case)


def main() -> None:
    """Measure everything, print the tables, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description=__doc__)
    parser.add_argument("--fits", type=int, default=FITS, help="fits of the second table")
    parser.add_argument("--certificates", type=int, default=CERTIFICATES, help="certificates there")
    options = harness.read_options(parser, child)
    base = {"seed": options.seed, "timeout": LONG}

    def run(kind: str, contestants: list[str], rounds: int, **more: Any) -> dict[str, Any]:
        return harness.take_turns(
            "benchmarks.latency", {**base, "kind": kind, **more}, contestants, rounds
        )

    both = ["lvm_jax", "sklearn"]
    results = {"grid": run("grid", both, options.rounds)}
    print_grid(results["grid"])
    results["fits"] = run("fits", both, 1, count=options.fits)
    results["certificates"] = run("certificates", ["lvm_jax"], 1, count=options.certificates)
    print_long(results["fits"], results["certificates"])
    results["entries"] = run("entry", list(ENTRIES), options.rounds)
    print_entries(results["entries"])
    print(f"\nwritten: {harness.save('latency', options.out, options.seed, results)}")


def print_grid(found: dict[str, Any]) -> None:
    """Print the first table."""
    ours, theirs = found["lvm_jax"], found["sklearn"]
    rows = [
        [name, f"{ours[name]:.2f}", f"{theirs[name]:.2f}", f"{ours[name] / theirs[name]:.1f}x"]
        for name in ("first", "second")
    ]
    print(harness.markdown(("search", "lvm_jax [s]", "scikit-learn [s]", "ratio"), rows))


def print_long(fits: dict[str, Any], certificates: dict[str, Any]) -> None:
    """Print the second table."""
    named = {f"fits, {name}": row for name, row in fits.items()}
    named |= {f"certificates, {name}": row for name, row in certificates.items()}
    rows = []
    for name, row in named.items():
        if "failed" in row:
            rows.append([name, row["failed"], "", "", ""])
            continue
        each = 1e3 * row["seconds"] / row["count"]
        rows.append(
            [name, f"{row['count']:.0f}", f"{each:.1f}", f"{row['maps']:.0f}", f"{row['mb']:.0f}"]
        )
    print("\n" + harness.markdown(("", "calls", "ms a call", "maps", "MB"), rows))


def print_entries(found: dict[str, Any]) -> None:
    """Print the third table."""
    rows = []
    for name, row in found.items():
        if "failed" in row:
            rows.append([name, row["failed"], "", "", "", ""])
            continue
        seconds = [f"{row[part]:.2f}" for part in ("first", "same", "next")]
        rows.append([name, *seconds, f"{row['next_maps']:.0f}", f"{row['next_mb']:.0f}"])
    header = ("", "first [s]", "same bucket [s]", "next bucket [s]", "maps", "MB")
    print("\n" + harness.markdown(header, rows))


if __name__ == "__main__":
    main()
