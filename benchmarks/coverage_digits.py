"""`certify` on a trained VAE of the digits against long annealed chains, for `benchmarks.coverage`.

The log p(x) of a VAE is not known. On test images the comparison is a second estimate, by chains
from q with many temperatures. On images that the VAE draws it is `evidence.sandwich`, two bounds.
"""

import time
from typing import Any

import jax
import numpy as np
import optax

from lvm_jax import annealing, evidence, training, vae
from lvm_jax._core.batching import batch_size, map_points
from lvm_jax.evidence.scoring import share

LATENT, HIDDEN = 10, (64,)
LEAPFROGS = 5


def trained(case: dict[str, Any]) -> tuple[Any, np.ndarray]:
    """A VAE of binarised 8 x 8 digits, and its test images [N, 64]."""
    pixels = vae.load_pixels("digits", likelihood="bernoulli", binarization="threshold")
    architecture = vae.Architecture(shape=(8, 8), latent_dims=(LATENT,), hidden=(HIDDEN,))
    pair = vae.build(architecture)
    x, key = pixels.train, jax.random.key(case["seed"])
    start = vae.start(key, architecture, x)
    found = training.fit(
        jax.random.fold_in(key, 1), pair, start, x, estimate="reparameterized", num_samples=1,
        optimizer=optax.adam(2e-3), batch_size=64, num_epochs=case["epochs"],
    )  # fmt: skip
    return found, np.asarray(pixels.test[: case["number"]])


def run(case: dict[str, Any]) -> dict[str, Any]:
    """The comparison on test images and on drawn images."""
    began = time.perf_counter()
    fit, images = trained(case)
    seconds = time.perf_counter() - began
    key_draw, *keys = jax.random.split(jax.random.key(case["seed"] + 1), 5)
    z, drawn = jax.jit(jax.vmap(fit.p.sample))(jax.random.split(key_draw, case["number"]))
    plan = annealing.plan(annealing.sigmoid(case["temperatures"]), annealing.hmc(LEAPFROGS))
    own = certified(keys[0], fit, images, case)
    long = evidence.evaluate_annealed(keys[1], fit.p, fit.q, images, case["chains"], plan)
    of_drawn = certified(keys[2], fit, np.asarray(drawn), case)
    both = sandwich(keys[3], fit, drawn, z, case["chains"], plan)
    return {
        "training_seconds": seconds,
        "test": agreement(own, jax.device_get(long.evidence)),
        "drawn": enclosed(of_drawn, both),
    }


def certified(key: Any, fit: Any, x: np.ndarray, case: dict[str, Any]) -> evidence.Certificate:
    """The certificates of rows of images."""
    settings = {"tolerance": case["tolerance"], "budget": case["budget"]}
    return evidence.certify(key, fit.p, fit.q, x, **settings)


def sandwich(
    key: Any, fit: Any, x: Any, z: Any, chains: int, plan: annealing.Plan
) -> evidence.Sandwich:
    """Both bounds for every drawn image, from its own z."""

    def one(point: tuple[Any, Any, Any]) -> evidence.Sandwich:
        key, x, z = point
        return evidence.sandwich(key, fit.p.log_joint(x), fit.q(x), z, chains, plan)

    together = batch_size(1_000, 2 * chains, len(x))
    keys = jax.random.split(key, len(x))
    return jax.device_get(jax.jit(lambda *points: map_points(one, points, together))(keys, x, z))


def summary(own: evidence.Certificate) -> dict[str, Any]:
    """The shares and costs of the certificates."""
    half = 0.5 * (own.high - own.low)[own.within]
    return {
        "images": len(own.within),
        "certified": float(own.within.mean()),
        "half_width": float(np.median(half)),
        "evaluations": float(own.cost.mean()),
        "verdict": own.verdict(),
    }


def agreement(own: evidence.Certificate, long: evidence.Evidence) -> dict[str, Any]:
    """Differences of the certified estimates and those of the chains, in their joint error."""
    kept = own.within
    off = (own.log_evidence - long.log_evidence)[kept]
    error = np.hypot(own.as_evidence().standard_error, long.standard_error)[kept]
    return {
        **summary(own),
        "reliable_chains": float(np.asarray(long.reliable).mean()),
        "error_of_chains": float(np.median(long.standard_error)),
        "agree": share(np.abs(off) <= 1.96 * error)._asdict(),
        "mean_difference": float(off.mean()),
        "largest_difference": float(np.abs(off).max()),
        "largest_in_errors": float(np.abs(off / error).max()),
    }


def enclosed(own: evidence.Certificate, both: evidence.Sandwich) -> dict[str, Any]:
    """Certified intervals against the two bounds, each with its nominal interval."""
    kept = own.within
    low, high = both.lower.nominal_interval()[0][kept], both.upper.nominal_interval()[1][kept]
    middle = 0.5 * (both.lower.log_evidence + both.upper.log_evidence)[kept]
    off = own.log_evidence[kept] - middle
    return {
        **summary(own),
        "gap": float(np.mean(both.gap)),
        "meet": share((own.low[kept] <= high) & (low <= own.high[kept]))._asdict(),
        "hold_middle": share((own.low[kept] <= middle) & (middle <= own.high[kept]))._asdict(),
        "mean_difference": float(off.mean()),
        "largest_difference": float(np.abs(off).max()),
    }
