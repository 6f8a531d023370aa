"""EM per iteration against scikit-learn, gmmx and a bare matrix product of the same shapes.

From one start, without a tolerance, every contestant makes the same iterations. The floor is the
two products that EM cannot do without, T(X) eta^T and R^T T(X), on features that are already there.
Memory is the peak of the whole process (interpreter and libraries included), and beside it what
lies above the data and above an idle process that has imported the same libraries.
"""

import argparse
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness

SHAPES = ((200_000, 16, 16), (200_000, 32, 32), (50_000, 64, 64), (1_000_000, 8, 8))
TYPES = ("full", "tied", "diag", "spherical")
CONTESTANTS = ("lvm_jax", "sklearn", "gmmx", "product")
STEPS = 8


def problem(case: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Overlapping blobs, and a start near their centres, as k-means would give."""
    n, dim, k = case["shape"]
    dtype = np.dtype(case["dtype"])
    rng = np.random.default_rng(case["seed"])
    centres = rng.normal(scale=2.0, size=(k, dim))
    x = rng.standard_normal((n, dim), np.float32 if dtype == np.float32 else np.float64)
    z = rng.integers(k, size=n)
    for begin in range(0, n, 10_000):  # by blocks: the data must not have a second copy
        x[begin : begin + 10_000] += centres[z[begin : begin + 10_000]].astype(dtype)
    shapes = {"full": (k, dim, dim), "tied": (dim, dim), "diag": (k, dim), "spherical": (k,)}
    identity = np.ones(shapes[case["covariance"]], dtype)
    if case["covariance"] in ("full", "tied"):
        identity = np.broadcast_to(np.eye(dim, dtype=dtype), identity.shape).copy()
    means = (centres + 0.2 * rng.normal(size=centres.shape)).astype(dtype)
    return x, np.full(k, 1 / k, dtype), means, identity


def lvm_jax(case: dict[str, Any]) -> dict[str, Any]:
    """Our loop, compiled once; restarts vmapped where the case has them."""
    import jax

    from lvm_jax import em
    from lvm_jax.em import loop
    from lvm_jax.em.fit import prepare

    idle = harness.peak_megabytes()
    x, pi, mu, identity = problem(case)
    k, covariance = case["shape"][2], case["covariance"]
    start = em.gaussian_mixture(pi, mu, identity, covariance)
    began = time.perf_counter()
    task = prepare(
        jax.random.key(0), x, k, covariance, None, start, "random", 1, 1e-6, None, None, 0.0
    )
    made = time.perf_counter() - began

    def run(steps: int = STEPS) -> Any:
        return jax.block_until_ready(loop.run(*task[:-1], steps)[0])

    began = time.perf_counter()
    run(1)
    first = time.perf_counter() - began
    times = harness.seconds(run, case["repeats"])
    state = run()
    per_step = float(np.median(times)) / STEPS
    return {
        "seconds": per_step,
        "compile_seconds": first - per_step,
        "prepare_seconds": made,
        "objective": float(state.objective[0]),
        "exact_steps": int(state.exact_steps),
        **memory(idle, x),
    }


def sklearn(case: dict[str, Any]) -> dict[str, Any]:
    """scikit-learn: a fit of many iterations less a fit of one."""
    from sklearn.mixture import GaussianMixture

    idle = harness.peak_megabytes()
    warnings.simplefilter("ignore")
    x, pi, mu, identity = problem(case)
    pi = pi / pi.sum()

    def run(steps: int) -> Any:
        return GaussianMixture(
            case["shape"][2],
            covariance_type=case["covariance"],
            tol=0.0,
            max_iter=steps,
            weights_init=pi,
            means_init=mu,
            precisions_init=identity,
        ).fit(x)

    one, many = (harness.seconds(lambda s=steps: run(s), 1)[0] for steps in (1, 4))
    objective = float(run(STEPS).lower_bounds_[-1]) if case["check"] else float("nan")
    return {"seconds": (many - one) / 3, "objective": objective, **memory(idle, x)}


def gmmx(case: dict[str, Any]) -> dict[str, Any]:
    """gmmx's jitted loop; it has no chunks, so large cases do not fit."""
    import jax
    import jax.numpy as jnp
    from gmmx import EMFitter, GaussianMixtureModelJax

    idle = harness.peak_megabytes()
    x, pi, mu, identity = problem(case)
    names = {"diag": "diag", "full": "full"}
    model = GaussianMixtureModelJax.from_squeezed(
        jnp.asarray(mu), jnp.asarray(identity), jnp.asarray(pi), names[case["covariance"]]
    )
    data = jnp.asarray(x)

    def run(steps: int) -> Any:
        return jax.block_until_ready(
            EMFitter(max_iter=steps, tol=0.0, reg_covar=1e-6).fit(data, model)
        )

    began = time.perf_counter()
    run(2)
    first = time.perf_counter() - began
    times = harness.seconds(lambda: run(2), 1)
    per_step = float(np.median(times)) / 2
    return {"seconds": per_step, "compile_seconds": first - 2 * per_step, **memory(idle, x)}


def product(case: dict[str, Any]) -> dict[str, Any]:
    """The two matrix products of a full-covariance step, features given, as XLA runs them."""
    import jax
    import jax.numpy as jnp

    idle = harness.peak_megabytes()
    n, dim, k = case["shape"]
    dtype = np.dtype(case["dtype"])
    num_features = dim + dim * (dim + 1) // 2
    rows = min(n, 2**29 // (num_features * dtype.itemsize))  # at most 0.5 GB of features
    features = jnp.ones((rows, num_features), dtype)
    eta, resp = jnp.ones((k, num_features), dtype), jnp.ones((rows, k), dtype)
    both = jax.jit(lambda t, eta, r: (t @ eta.T, r.T @ t))

    def run() -> Any:
        return jax.block_until_ready(both(features, eta, resp))

    run()
    times = harness.seconds(run, case["repeats"])
    flops = 4.0 * n * k * num_features
    per_step = float(np.median(times)) * n / rows
    return {"seconds": per_step, "gigaflops": flops / per_step / 1e9, **memory(idle, resp)}


def restarts(case: dict[str, Any]) -> dict[str, Any]:
    """Many k-means starts and their EM, whole fits: ours vmapped, scikit-learn's one by one."""
    idle = harness.peak_megabytes()
    warnings.simplefilter("ignore")
    x, *_ = problem(case)
    k, num = case["shape"][2], case["restarts"]
    if case["contestant"] == "sklearn":
        from sklearn.mixture import GaussianMixture
    else:
        from lvm_jax.sklearn import GaussianMixture

    def run(seed: int) -> Any:
        return GaussianMixture(k, n_init=num, max_iter=100, tol=1e-3, random_state=seed).fit(x)

    began = time.perf_counter()
    bounds = [run(0).lower_bound_]
    first = time.perf_counter() - began
    times = []
    for seed in range(1, 1 + case["repeats"]):
        began = time.perf_counter()
        bounds.append(run(seed).lower_bound_)
        times.append(time.perf_counter() - began)
    return {
        "seconds": float(np.median(times)),
        "first_seconds": first,
        "objective": float(np.mean(bounds)),
        **memory(idle, x),
    }


def compilations(case: dict[str, Any]) -> dict[str, Any]:
    """How often the loop is compiled over a grid of tolerances, regularizations and seeds."""
    import jax

    from lvm_jax import em
    from lvm_jax.em import loop, starts

    x, *_ = problem(case)
    for seed in range(3):
        for tolerance in (1e-2, 1e-3, 1e-4):
            for regularization in (1e-6, 1e-3):
                em.fit(
                    jax.random.key(seed), x, case["shape"][2], tolerance=tolerance,
                    regularization=regularization, max_steps=20 + seed, throw=False,
                )  # fmt: skip
    return {"fits": 18, "loops": loop.segment._cache_size(), "starts": starts.start._cache_size()}


def memory(idle: float, data: Any) -> dict[str, float]:
    """Peak of the process, and what of it is neither the data nor the idle libraries [MB]."""
    peak, size = harness.peak_megabytes(), data.size * data.dtype.itemsize / 1e6
    return {
        "peak_mb": peak,
        "data_mb": size,
        "above_data_mb": peak - size,
        "above_idle_mb": peak - size - idle,
    }


JOBS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "lvm_jax": lvm_jax, "sklearn": sklearn, "gmmx": gmmx, "product": product,
}  # fmt: skip


def child(case: dict[str, Any]) -> dict[str, Any]:
    """One measurement in this process."""
    if case["dtype"] == "float64" and case["contestant"] != "sklearn":
        import jax

        jax.config.update("jax_enable_x64", True)
    special = {"restarts": restarts, "compilations": compilations}
    return special.get(case["kind"], JOBS.get(case["contestant"], product))(case)


def step_cases(quick: bool, seed: int) -> list[dict[str, Any]]:
    """Every shape in both precisions with full covariances, and the other types at one shape."""
    shapes = [(20_000, 8, 8), (20_000, 16, 16)] if quick else SHAPES
    cells = [(shape, "full") for shape in shapes]
    cells += [(shapes[1], covariance) for covariance in TYPES[1:]]
    return [
        {"kind": "step", "shape": shape, "covariance": covariance, "dtype": dtype,
         "seed": seed, "repeats": 5, "check": shape[0] <= 20_000}
        for shape, covariance in cells for dtype in ("float32", "float64")
    ]  # fmt: skip


def contestants(case: dict[str, Any]) -> list[str]:
    """Those who can enter: gmmx takes float32 alone, and no tied or spherical type here."""
    names = ["lvm_jax", "sklearn"]
    if case["covariance"] in ("full", "diag") and case["dtype"] == "float32":
        names.append("gmmx")
    return [*names, "product"] if case["covariance"] == "full" else names


def cell(value: float | None, digits: int = 2, suffix: str = "") -> str:
    """A number, or a dash."""
    return "–" if value is None else f"{value:.{digits}f}{suffix}"


def row(case: dict[str, Any], found: dict[str, dict[str, Any]]) -> list[str]:
    """One line of the table of steps."""
    ours = found["lvm_jax"]
    n, dim, k = case["shape"]

    def ratio(name: str) -> str:
        other = found.get(name)
        if other is None:
            return "–"
        return "fails" if "failed" in other else f"{other['seconds'] / ours['seconds']:.1f}x"

    floor = found.get("product", {}).get("seconds")
    return [
        f"{n:,}, {dim}, {k}", case["dtype"], case["covariance"], f"{1e3 * ours['seconds']:.1f}",
        ratio("sklearn"), ratio("gmmx"), cell(floor and floor / ours["seconds"]),
        cell(ours["compile_seconds"], 1), cell(ours["data_mb"], 0), cell(ours["peak_mb"], 0),
        cell(ours["above_data_mb"], 0), cell(found["sklearn"].get("above_data_mb"), 0),
        cell(found.get("gmmx", {}).get("above_data_mb"), 0),
    ]  # fmt: skip


HEADER = (
    "N, D, K", "dtype", "covariance", "ms/step", "vs sklearn", "vs gmmx", "of product",
    "compile s", "data MB", "peak MB", "above data", "sklearn's", "gmmx's",
)  # fmt: skip


def main() -> None:
    """Measure everything, print the tables, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.em", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small shapes, to see that it runs")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each contestant")
    parser.add_argument("--seed", type=int, default=0, help="seed of the data")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(json.loads(options.child))))
        return
    results, rows = [], []
    for case in step_cases(options.quick, options.seed):
        found = harness.take_turns("benchmarks.em", case, contestants(case), options.rounds)
        results.append({"case": case, "found": found})
        rows.append(row(case, found))
        print(harness.markdown(HEADER, [rows[-1]]).splitlines()[2], flush=True)
    print("\nEM steps (x: times as fast as; of product: share of the bare products' speed)\n")
    print(harness.markdown(HEADER, rows))
    results += other_tables(options)
    path = harness.save("em", options.out, options.seed, results)
    print(f"\nwritten: {path}")


def other_tables(options: Any) -> list[dict[str, Any]]:
    """Whole fits with restarts, and the count of compilations."""
    base = {"covariance": "full", "dtype": "float32", "seed": options.seed, "repeats": 1}
    num = 4 if options.quick else 32
    case = {**base, "kind": "restarts", "shape": (20_000, 8, 8), "restarts": num}
    found = harness.take_turns("benchmarks.em", case, ("lvm_jax", "sklearn"), options.rounds)
    ours, theirs = found["lvm_jax"], found["sklearn"]
    print(f"\nfit with n_init={num} on (20,000, 8, 8), float32, k-means starts included\n")
    lines = [
        [
            name,
            *(
                f"{f[key]:.{d}f}"
                for key, d in (
                    ("seconds", 2),
                    ("first_seconds", 2),
                    ("objective", 5),
                    ("peak_mb", 0),
                )
            ),
        ]
        for name, f in found.items()
    ]
    print(harness.markdown(("", "seconds", "first fit", "nats per point", "peak MB"), lines))
    print(f"\n{theirs['seconds'] / ours['seconds']:.1f}x as fast as scikit-learn")
    count = harness.measure(
        "benchmarks.em",
        {**base, "kind": "compilations", "shape": (2_000, 4, 3), "contestant": "lvm_jax"},
    )
    print(
        f"{count['fits']} fits over tolerances, regularizations and seeds: "
        f"{count['loops']} loop and {count['starts']} start compiled"
    )
    return [{"case": case, "found": found}, {"case": "compilations", "found": count}]


if __name__ == "__main__":
    main()
