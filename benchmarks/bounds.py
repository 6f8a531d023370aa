"""Importance-weighted evaluation of a decoder, and the cost of each gradient estimator.

log p(x) of N binary images of 784 pixels by S importance samples each, with a 50-200-200-784 tanh
decoder and an encoder of the same size. Contestants: lvm_jax's `evidence.evaluate` (streamed, with
standard errors and k-hat); NumPyro's RenyiELBO(alpha=0) with a plate over a few points at a time;
a hand-written loop over points with all S samples of a point in memory; and the floor, the
decoder's three matrix products only, 1,000 rows at a time.
"""

import argparse
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import decoder, harness
from benchmarks.decoder import CHUNK, LATENT, PIXELS, network, ours, posterior, problem, product


def lvm_jax(case: dict[str, Any]) -> dict[str, Any]:
    """evidence.evaluate with its diagnostics."""
    from lvm_jax import evidence

    theta, phi, x = problem(case)
    model, guide = ours()
    found = None

    def run() -> None:
        nonlocal found
        key = jax.random.key(1)
        found = jax.block_until_ready(
            evidence.evaluate(key, model(theta), guide(phi), x, case["samples"])
        )

    return {**measured(run, case), "log_evidence": float(found.log_evidence.mean())}


def numpyro(case: dict[str, Any]) -> dict[str, Any]:
    """RenyiELBO with a plate over the points, `together` points at a time, in one program."""
    import numpyro as npy
    from numpyro import distributions as dist
    from numpyro.infer import RenyiELBO

    theta, phi, x = problem(case)

    def model(x: jax.Array) -> None:
        with npy.plate("N", x.shape[0]):
            z = npy.sample("z", dist.Normal(0.0, 1.0).expand([LATENT]).to_event(1))
            logits = jax.vmap(lambda one: network(theta, one))(z)
            npy.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(x: jax.Array) -> None:
        loc, scale = jax.vmap(lambda one: posterior(phi, one))(x)
        with npy.plate("N", x.shape[0]):
            npy.sample("z", dist.Normal(loc, scale).to_event(1))

    bound = RenyiELBO(alpha=0.0, num_particles=case["samples"])
    together = max(1, min(case["rows"] // case["samples"], case["points"]))
    batches = x.reshape(-1, together, PIXELS)

    @jax.jit
    def evaluate(key: jax.Array) -> jax.Array:
        keys = jax.random.split(key, batches.shape[0])
        return jax.lax.map(lambda kb: -bound.loss(kb[0], {}, model, guide, kb[1]), (keys, batches))

    found = None

    def run() -> None:
        nonlocal found
        found = jax.block_until_ready(evaluate(jax.random.key(1)))

    return {**measured(run, case), "log_evidence": float(found.sum() / case["points"])}


def unchunked(case: dict[str, Any]) -> dict[str, Any]:
    """A hand-written loop over the points, with all samples of a point at once."""
    theta, phi, x = problem(case)

    def one(key_x: tuple[jax.Array, jax.Array]) -> jax.Array:
        key, x = key_x
        loc, scale = posterior(phi, x)
        noise = jax.random.normal(key, (case["samples"], LATENT))
        z = loc + scale * noise
        h = jnp.tanh(z @ theta[0][0] + theta[0][1])
        h = jnp.tanh(h @ theta[1][0] + theta[1][1])
        logits = h @ theta[2][0] + theta[2][1]
        log_likelihood = (x * logits - jax.nn.softplus(logits)).sum(1)
        log_ratio = -0.5 * (z**2).sum(1) + 0.5 * (noise**2).sum(1) + jnp.log(scale).sum()
        return jax.nn.logsumexp(log_likelihood + log_ratio) - jnp.log(case["samples"])

    evaluate = jax.jit(lambda key: jax.lax.map(one, (jax.random.split(key, x.shape[0]), x)))
    found = None

    def run() -> None:
        nonlocal found
        found = jax.block_until_ready(evaluate(jax.random.key(1)))

    return {**measured(run, case), "log_evidence": float(found.mean())}


def measured(run: Callable[[], Any], case: dict[str, Any]) -> dict[str, float]:
    """Seconds, compilation, memory and rate of a contestant."""
    return decoder.with_speed(case, harness.timed(run, case["repeats"]))


def estimators(case: dict[str, Any]) -> dict[str, Any]:
    """Seconds per gradient (theta and phi) of each estimator on a minibatch, one program each."""
    from lvm_jax import bounds, gradients

    theta, phi, x = problem(case)
    model, guide = ours()
    contestants = {
        "reparameterized (ELBO)": gradients.reparameterized(bounds.elbo),
        "reparameterized (IWAE)": gradients.reparameterized(bounds.iwae),
        "sticking the landing": gradients.sticking_the_landing(),
        "doubly reparameterized (IWAE)": gradients.doubly_reparameterized(bounds.iwae),
        "PIWAE, 2 groups": gradients.piwae(2),
        "score function": gradients.score_function(),
        "leave one out": gradients.leave_one_out(),
        "VIMCO": gradients.vimco(),
        "reweighted wake-sleep": gradients.reweighted_wake_sleep(),
    }
    keys = jax.random.split(jax.random.key(2), x.shape[0])
    programs = {}
    for name, estimator in contestants.items():

        def loss(theta: Any, phi: Any, estimator: Any = estimator) -> jax.Array:
            def one(key: jax.Array, x: jax.Array) -> jax.Array:
                joint = model(theta).log_joint(x)
                own = lambda phi: guide.posterior(phi, x)  # noqa: E731
                return estimator(key, joint, own, phi, case["samples"])

            return jax.vmap(one)(keys, x).mean()

        programs[name] = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
        jax.block_until_ready(programs[name](theta, phi))
    times: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(case["repeats"]):  # alternating, so that slow moments affect all of them
        for name, program in programs.items():
            run = lambda program=program: jax.block_until_ready(program(theta, phi))  # noqa: E731
            times[name] += harness.seconds(run, 3)
    return {name: float(np.median(t)) for name, t in times.items()}


JOBS = {"lvm_jax": lvm_jax, "numpyro": numpyro, "unchunked": unchunked, "product": product}


def child(case: dict[str, Any]) -> dict[str, Any]:
    """One measurement in this process."""
    return estimators(case) if case["kind"] == "gradients" else JOBS[case["contestant"]](case)


def main() -> None:
    """Measure everything, print the tables, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bounds", description=__doc__)
    parser.add_argument("--points", type=int, default=1_000, help="data points N")
    parser.add_argument("--samples", type=int, nargs="+", default=[50, 500, 5_000], help="S")
    options = harness.read_options(parser, child)
    base = {"points": options.points, "seed": options.seed, "repeats": 1}
    results, rows = [], []
    for samples in options.samples:
        case = {**base, "kind": "evaluation", "samples": samples, "rows": max(samples, CHUNK)}
        found = harness.take_turns("benchmarks.bounds", case, JOBS, options.rounds)
        results.append({"case": case, "found": found})
        rows += [line(samples, name, found) for name in JOBS]
        print(*rows[-len(JOBS) :], sep="\n", flush=True)
    print(f"\nimportance-weighted evaluation, N = {options.points:,} points\n")
    header = ("S", "contestant", "seconds", "GFLOP/s", "of product", "speed-up", "nats", "peak MB")
    print(harness.markdown(header, rows))
    results.append(gradient_table({**base, "points": 100, "repeats": 5}))
    path = harness.save("bounds", options.out, options.seed, results)
    print(f"\nwritten: {path}")


def line(samples: int, name: str, found: dict[str, dict[str, Any]]) -> list[str]:
    """One contestant's row; the speed-up is that of lvm_jax over this row."""
    own = found[name]
    if "failed" in own:
        return [f"{samples:,}", name, own["failed"], *["–"] * 5]
    return [
        f"{samples:,}",
        name,
        f"{own['seconds']:.2f}",
        f"{own['gigaflops']:.0f}",
        f"{found['product']['seconds'] / own['seconds']:.2f}",
        f"{own['seconds'] / found['lvm_jax']['seconds']:.2f}x",
        f"{own['log_evidence']:.3f}" if "log_evidence" in own else "–",
        f"{own['peak_mb']:.0f}",
    ]


def gradient_table(base: dict[str, Any]) -> dict[str, Any]:
    """The cost of a gradient, and its ratio to that of reparameterised IWAE."""
    case = {**base, "kind": "gradients", "samples": 20, "contestant": "all"}
    found = harness.measure("benchmarks.bounds", case)
    reference = found["reparameterized (IWAE)"]
    rows = [[name, f"{1e3 * t:.1f}", f"{t / reference:.2f}"] for name, t in found.items()]
    print(f"\none gradient (theta and phi), {case['points']} points x {case['samples']} samples\n")
    print(harness.markdown(("estimator", "ms", "of reparameterized"), rows))
    return {"case": case, "found": found}


if __name__ == "__main__":
    main()
