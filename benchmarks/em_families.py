"""Other families and the errors of a fit against peers: seconds and CPU seconds of a call.

student: 5,000 rows of 4 columns with outliers, 5 components with free degrees of freedom, one
k-means start, until 1e-6 nats per row; against studenttmixture. factor analysis: 5,000 rows of
64 columns, 8 factors, until 1e-6 nats per row; against scikit-learn. mixture of factors: 20 steps
from one start on the same rows, 5 components of 8 factors; against a loop in NumPy. bootstrap: 200
refits of two full Gaussians to the 272 eruptions of Old Faithful, rows drawn with replacement, from
the fit. likelihood ratio: one against two of them by 19 samples, with 8 starts of two; both against
loops of scikit-learn's GaussianMixture. normal, exponential, gamma, Poisson, Bernoulli,
categorical: 20 steps from the same clusters, 5,000 rows of 16 columns, 5 components, in float32
(the others: float64); against pomegranate, which needs PyTorch and is not among the extras. The
value is the log-likelihood per row, a standard error, or the statistic. The call of lvm_jax is the
second: the first compiles.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks import em_pomegranate, harness

PEERS = {
    "student": "studenttmixture",
    "factor analysis": "scikit-learn",
    "mixture of factors": "NumPy",
    "bootstrap": "scikit-learn",
    "likelihood ratio": "scikit-learn",
    **dict.fromkeys(em_pomegranate.FAMILIES, "pomegranate"),
}
STEPS, FACTORS = 20, 8


def rows(kind: str, seed: int, number: int) -> np.ndarray:
    """The data of a case."""
    if kind in em_pomegranate.FAMILIES:
        return em_pomegranate.rows(kind, seed, number)
    rng = np.random.default_rng(seed)
    if kind in ("bootstrap", "likelihood ratio"):
        from lvm_jax import data

        return np.asarray(data.old_faithful().x, np.float64)
    z = rng.integers(5, size=number)
    if kind == "student":
        return 6 * rng.normal(size=(5, 4))[z] + rng.standard_t(3, size=(number, 4))
    loadings = rng.normal(size=(5, 64, FACTORS))[z]
    latent = np.einsum("ndq,nq->nd", loadings, rng.normal(size=(number, FACTORS)))
    return 4 * rng.normal(size=(5, 64))[z] + latent + rng.normal(size=(number, 64))


def child(case: dict[str, Any]) -> dict[str, Any]:
    """One measurement in this process."""
    warnings.simplefilter("ignore")
    x = rows(case["kind"], case["seed"], case["rows"])
    own = case["contestant"] == "lvm_jax"
    make: Callable[..., Any] = ours if own else THEIRS[case["kind"]]
    options = (case["kind"], x) if own else (x,)
    run = make(*options, case["samples"])
    first = harness.seconds(run, 1)[0] if own else None
    began, cpu = time.perf_counter(), time.process_time()
    value = run()
    found = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
    return {**found, "first_seconds": first, "value": value, "peak_mb": harness.peak_megabytes()}


def ours(kind: str, x: np.ndarray, samples: int) -> Callable[[], float]:
    """A call of lvm_jax, which returns the number of the table."""
    import jax

    from lvm_jax import em

    if kind in em_pomegranate.FAMILIES:
        return em_pomegranate.ours(kind, x, STEPS)
    jax.config.update("jax_enable_x64", True)
    key = jax.random.key(0)
    fit = partial(em.fit, key, x, throw=False)
    if kind == "bootstrap":
        found = fit(2, tolerance=1e-10, max_steps=1000)
        refits = partial(em.bootstrap, key, found, x, samples, kind="nonparametric")
        place = int(found.mixture.means[:, 1].argmin())
        return lambda: float(refits().standard_errors().means[place, 1])
    if kind == "likelihood ratio":
        test = partial(em.likelihood_ratio_test, key, x, 1, num_samples=samples)
        return lambda: test().statistic
    if kind == "student":
        options: Any = {"tolerance": 1e-6, "max_steps": 1000}
        return lambda: fit(5, em.Student(), **options).info.log_likelihood
    family = em.FactorAnalyzers(FACTORS)
    if kind == "factor analysis":
        options = {"tolerance": 1e-6, "max_steps": 2000, "acceleration": "squarem"}
        return lambda: fit(1, family, **options).info.log_likelihood
    weights, means, noise, loadings = begin(x)
    parts = em.Factors(em.Gaussians(means, np.sqrt(noise)), loadings)
    start = em.Mixture(np.log(weights), parts, np.zeros(x.shape[1]), family)
    options = {"start": jax.device_put(start), "tolerance": 0.0, "max_steps": STEPS}
    return lambda: float(fit(5, family, **options).info.trace[-1])


def begin(x: np.ndarray) -> tuple[np.ndarray, ...]:
    """Weights, means, noise variances and loadings of a start of five factor analysers."""
    rng, dim = np.random.default_rng(0), x.shape[1]
    noise = np.tile(x.var(0) / 2, (5, 1))
    loadings = rng.normal(size=(5, dim, FACTORS)) * np.sqrt(noise / FACTORS)[..., None]
    return np.full(5, 0.2), x[rng.choice(len(x), 5, replace=False)], noise, loadings


def student(x: np.ndarray, samples: int) -> Callable[[], float]:
    """A fit of studenttmixture."""
    from studenttmixture import EMStudentMixture

    def fit() -> float:
        model = EMStudentMixture(5, tol=1e-6, fixed_df=False, df=10.0, random_state=0)
        model.fit(x)
        return float(model.score(x))

    return fit


def factor_analysis(x: np.ndarray, samples: int) -> Callable[[], float]:
    """A fit of scikit-learn, whose tolerance is that of the sum over rows."""
    from sklearn.decomposition import FactorAnalysis

    model = FactorAnalysis(FACTORS, tol=1e-6 * len(x), max_iter=2000, svd_method="lapack")
    return lambda: float(model.fit(x).score(x))


def factors(x: np.ndarray, samples: int) -> Callable[[], float]:
    """EM of a mixture of factor analysers in NumPy (Ghahramani and Hinton 1996)."""

    def fit() -> float:
        (weights, means, noise, loadings), dim = begin(x), x.shape[1]
        log_p = np.zeros(len(x))
        for _ in range(STEPS):
            joint, latents = np.zeros((len(x), 5)), []
            for k in range(5):
                white = loadings[k] / noise[k][:, None]
                inner = np.eye(FACTORS) + loadings[k].T @ white
                centred = x - means[k]
                z = np.linalg.solve(inner, white.T @ centred.T).T
                distance = (centred**2 / noise[k]).sum(1) - ((centred @ white) * z).sum(1)
                log_det = np.log(noise[k]).sum() + np.linalg.slogdet(inner)[1]
                joint[:, k] = np.log(weights[k]) - (distance + log_det) / 2
                latents.append((z, np.linalg.inv(inner)))
            top = joint.max(1, keepdims=True)
            log_p = np.log(np.exp(joint - top).sum(1)) + top[:, 0] - dim / 2 * np.log(2 * np.pi)
            resp = np.exp(joint - log_p[:, None] - dim / 2 * np.log(2 * np.pi))
            weights = resp.mean(0)
            for k, (z, spread) in enumerate(latents):
                r, count = resp[:, k], resp[:, k].sum()
                wide = np.concatenate([z, np.ones((len(x), 1))], 1)
                second = (wide * r[:, None]).T @ wide
                second[:FACTORS, :FACTORS] += count * spread
                cross = (x * r[:, None]).T @ wide
                both = np.linalg.solve(second, cross.T).T
                loadings[k], means[k] = both[:, :FACTORS], both[:, FACTORS]
                noise[k] = (r @ x**2 - (both * cross).sum(1)) / count
        return float(log_p.mean())

    return fit


def mixture(k: int, max_iter: int = 2000, **options: Any) -> Any:
    """A mixture of scikit-learn."""
    from sklearn.mixture import GaussianMixture

    return GaussianMixture(k, tol=1e-7, max_iter=max_iter, random_state=0, **options)


def continued(first: Any) -> Any:
    """A mixture that starts from a fitted one."""
    start = {"weights_init": first.weights_, "means_init": first.means_}
    return mixture(len(first.weights_), precisions_init=first.precisions_, **start)


def bootstrap(x: np.ndarray, samples: int) -> Callable[[], float]:
    """Refits from the fit; the components hardly move, so that they keep their order."""
    first, rng = mixture(2, n_init=10).fit(x), np.random.default_rng(0)
    model = continued(first)
    place = first.means_[:, 1].argmin()

    def refits() -> float:
        found = [model.fit(x[rng.integers(len(x), size=len(x))]).means_ for _ in range(samples)]
        return float(np.std(found, axis=0, ddof=1)[place, 1])

    return refits


def likelihood_ratio(x: np.ndarray, samples: int) -> Callable[[], float]:
    """The statistic of the data, and those of simulated rows."""
    null, rng = mixture(1).fit(x), np.random.default_rng(0)
    starts = mixture(2, 30, n_init=8, init_params="k-means++")

    def statistic(rows: np.ndarray) -> float:
        two = continued(starts.fit(rows)).fit(rows)  # the best after 30 steps, as in lvm_jax
        return 2 * len(rows) * float(two.score(rows) - mixture(1).fit(rows).score(rows))

    def both() -> float:
        for _ in range(samples):
            statistic(rng.multivariate_normal(null.means_[0], null.covariances_[0], len(x)))
        return statistic(x)

    return both


THEIRS = {
    "student": student,
    "factor analysis": factor_analysis,
    "mixture of factors": factors,
    "bootstrap": bootstrap,
    "likelihood ratio": likelihood_ratio,
    **{
        kind: lambda x, _, kind=kind: em_pomegranate.theirs(kind, x, STEPS)
        for kind in em_pomegranate.FAMILIES
    },
}


def main() -> None:
    """Measure all cases, print the table, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.em_families", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rows and samples, as a test")
    options = harness.read_options(parser, child)
    sizes = {"rows": 500, "samples": 9} if options.quick else {"rows": 5_000, "samples": 0}
    results, lines = [], []
    for kind, peer in PEERS.items():
        number = sizes["samples"] or (19 if kind == "likelihood ratio" else 200)
        case = {"kind": kind, "seed": options.seed, "rows": sizes["rows"], "samples": number}
        case["timeout"] = 600
        names = "lvm_jax", peer
        found = harness.take_turns("benchmarks.em_families", case, names, options.rounds)
        results.append({"case": case, "found": found})
        for name, own in found.items():
            if "failed" in own:
                lines.append([kind, name, own["failed"], *[""] * 5])
                continue
            ratio = own["cpu_seconds"] / found["lvm_jax"].get("cpu_seconds", np.nan)
            parts = [own["seconds"], own["cpu_seconds"], own.get("first_seconds")]
            times = ["–" if part is None else f"{part:.2f}" for part in parts]
            value = f"{own['value']:.4f}"
            lines.append([kind, name, *times, f"{ratio:.1f}x", value, f"{own['peak_mb']:.0f}"])
    header = ("case", "", "seconds", "CPU s", "first call", "CPU ratio", "value", "peak MB")
    print(harness.markdown(header, lines))
    print(f"\nwritten: {harness.save('em_families', options.out, options.seed, results)}")


if __name__ == "__main__":
    main()
