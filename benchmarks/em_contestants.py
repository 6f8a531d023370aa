"""The contestants of `benchmarks.em`: one measurement each, in its own process."""

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import harness

STEPS = 8
SKLEARN_SECONDS = 2.0  # target time of the iterations of a measurement


def problem(case: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Overlapping clusters, and a start near their centres, as from k-means."""
    n, dim, k = case["shape"]
    dtype = np.dtype(case["dtype"])
    rng = np.random.default_rng(case["seed"])
    centres = rng.normal(scale=2.0, size=(k, dim))
    x = rng.standard_normal((n, dim), np.float32 if dtype == np.float32 else np.float64)
    z = rng.integers(k, size=n)
    for begin in range(0, n, 10_000):  # in blocks, to avoid a copy of the data
        x[begin : begin + 10_000] += centres[z[begin : begin + 10_000]].astype(dtype)
    shapes = {"full": (k, dim, dim), "tied": (dim, dim), "diag": (k, dim), "spherical": (k,)}
    identity = np.ones(shapes[case["covariance"]], dtype)
    if case["covariance"] in ("full", "tied"):
        identity = np.broadcast_to(np.eye(dim, dtype=dtype), identity.shape).copy()
    means = (centres + 0.2 * rng.normal(size=centres.shape)).astype(dtype)
    return x, np.full(k, 1 / k, dtype), means, identity


def lvm_jax(case: dict[str, Any]) -> dict[str, Any]:
    """The loop of lvm_jax, compiled once."""
    import jax

    from lvm_jax import em
    from lvm_jax.em import loop
    from lvm_jax.em.preparation import Request, prepare

    idle = harness.peak_megabytes()
    x, pi, mu, identity = problem(case)
    k, covariance = case["shape"][2], case["covariance"]
    start = em.gaussian_mixture(pi, mu, identity, covariance)
    began = time.perf_counter()
    request = Request(x, k, covariance, start, tolerance=0.0)
    task, *_ = prepare(jax.random.key(0), request)
    made = time.perf_counter() - began

    def run(steps: int = STEPS) -> Any:
        return jax.block_until_ready(loop.run(task, steps)[0])

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
    """scikit-learn: a fit with many iterations minus the faster of two fits with one."""
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

    def took(steps: int) -> float:
        return harness.seconds(lambda: run(steps), 1)[0]

    # The fixed cost of a fit varies, so the iterations must take seconds.
    one = min(took(1), took(1))
    many = int(np.clip(SKLEARN_SECONDS / max((took(4) - one) / 3, 1e-3), 3, 50))
    objective = float(run(STEPS).lower_bounds_[-1]) if case["check"] else float("nan")
    seconds = (took(1 + many) - one) / many
    return {"seconds": seconds, "objective": objective, **memory(idle, x)}


def gmmx(case: dict[str, Any]) -> dict[str, Any]:
    """The jitted loop of gmmx; it has no chunks, so large cases exceed the memory."""
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
    """The two matrix products of a full-covariance step by XLA, on given features."""
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
    """Whole fits with many k-means starts: vmapped in lvm_jax, sequential in scikit-learn."""
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
    """The number of compilations over a grid of tolerances, regularizations and seeds."""
    import jax

    from lvm_jax import compiling, em

    x, *_ = problem(case)
    for seed in range(3):
        for tolerance in (1e-2, 1e-3, 1e-4):
            for regularization in (1e-6, 1e-3):
                em.fit(
                    jax.random.key(seed), x, case["shape"][2], tolerance=tolerance,
                    regularization=regularization, max_steps=20 + seed, throw=False,
                )  # fmt: skip
    return {"fits": 18, "programs": len(compiling.STORE)}


def memory(idle: float, data: Any) -> dict[str, float]:
    """Peak memory of the process, and its excess over data and idle libraries [MB]."""
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
