"""Evaluation of a trained VAE: bounds, log p(x) with its errors, active units, images."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import sem

from experiments.vae.config import Config
from lvm_jax import annealing, bounds, diagnostics, distributions, evidence
from lvm_jax.diagnostics import ActiveUnits
from lvm_jax.estimate import Average, Estimate
from lvm_jax.evidence import Evidence, Summary
from lvm_jax.evidence.result import describe
from lvm_jax.models import Joint
from lvm_jax.report import point_ids
from lvm_jax.typing import Array, ConditionalDensity, Float, Key, Latent
from lvm_jax.vae import PARTS, Chosen
from lvm_jax.weights import weigh

DRAWS = 200  # of z for each image's bound and its terms
ROWS = 1_000  # draws at a time, to fit the cache
NUM_PILOT = 8  # chains that set the step sizes
RECONSTRUCTED, DRAWN = 20, 64  # images
FROM_PRIOR = 20_000  # draws of z for histograms
SIDE = 16  # images along each axis of the latent plane
UNITS, STEPS = 8, 11  # rows and columns of the traversals
MIDDLE = (0.005, 0.995)  # quantiles of the aggregate posterior that the figures show


class Terms(NamedTuple):
    """The terms of one image (or leaves [n]), in nats."""

    bound: Estimate  # the training objective, with its number of draws
    elbo: Estimate
    reconstruction: Estimate  # E_q[log p(x | z)]
    kl_prior: Estimate  # KL(q(z | x) || p(z))


class Part(NamedTuple):
    """The means of one part of the data."""

    name: str
    num_points: int
    out_of: int
    bound: Average  # value, monte_carlo_error (draws of z), sampling_error (images)
    elbo: Average
    reconstruction: Average
    kl_prior: Average


class LogP(NamedTuple):
    """log p of the test images by one method."""

    method: str
    how: str
    points: Evidence  # leaves [n]
    summary: Summary


class Pictures(NamedTuple):
    """Images as rows of pixels, and latents as rows with all layers of z concatenated."""

    reconstructions: np.ndarray  # of the first test images: mean of p(x | z), z from q(z | x)
    means: np.ndarray  # mean of p(x | z), z from the prior
    draws: np.ndarray  # x drawn from p(x | z), the same z
    codes: np.ndarray  # [n, K], posterior means of test images
    aggregate: np.ndarray  # [n, K], one draw of q(z | x) for each test image
    prior: np.ndarray  # [FROM_PRIOR, K]
    window: np.ndarray | None  # [2, 2], low and high of the two axes, of a latent plane
    plane: np.ndarray | None  # [SIDE^2, D]; z1 varies fastest, z2 decreases
    moved: np.ndarray  # indices of the units of z_1 in the traversals
    traversals: np.ndarray  # [units, STEPS, D]


@partial(jax.jit, static_argnums=(4, 5, 6))
def bound_terms(
    key: Key[Array, ""],
    p: Joint,
    q: ConditionalDensity,
    x: Float[Array, "N D"],
    reduce: bounds.Reduction,
    groups: int,
    size: int,
) -> Terms:
    """Terms of every row, from groups x size draws of z each."""

    def one(point: tuple[Array, Array]) -> Terms:
        index, row = point
        own, at_row = jax.random.fold_in(key, index), q(row)
        z, log_w = weigh(own, p.log_joint(row), at_row, groups * size)
        log_likelihood = jax.vmap(lambda one: p.log_likelihood(one, row))(z)
        closed = distributions.kl_divergence(at_row, p.prior())
        kl = log_likelihood - log_w if closed is None else jnp.broadcast_to(closed, log_w.shape)
        elbo = log_likelihood - kl
        of_groups = jax.vmap(reduce)(log_w.reshape(groups, size))
        bound = elbo if reduce is bounds.elbo else of_groups
        return Terms(*map(Estimate.of_draws, (bound, elbo, log_likelihood, kl)))

    together = max(1, ROWS // (groups * size))
    return jax.lax.map(one, (jnp.arange(x.shape[0]), x), batch_size=together)


def means_of(terms: Terms, chosen: Chosen) -> list[Part]:
    """Means over the images of each part."""
    parts, start = [], 0
    for name in PARTS:
        stop = start + len(chosen.rows[name])
        means = [mean_of(value[start:stop], error[start:stop]) for value, error in terms]
        parts.append(Part(name, stop - start, chosen.out_of[name], *means))
        start = stop
    return parts


def mean_of(values: np.ndarray, errors: np.ndarray) -> Average:
    """`Estimate.average` of float32 numbers [n] in double precision."""
    values, errors = np.asarray(values, np.float64), np.asarray(errors, np.float64)
    error = np.sqrt((errors**2).sum()) / len(values)
    return Average(float(values.mean()), float(error), float(sem(values)))


def measure_log_p(
    key: Key[Array, ""], p: Joint, q: ConditionalDensity, config: Config, x: np.ndarray, method: str
) -> LogP:
    """log p of the rows of x by a method of `config.evidence`."""
    if method == "importance":
        size = config.evidence_samples
        how = f"importance sampling from the guide with {size:,} draws each"
        points = evidence.evaluate(key, p, q, x, size)
    elif method == "annealed":
        chains, temperatures = config.evidence_chains, config.evidence_temperatures
        plan = annealing.plan(annealing.sigmoid(temperatures), num_pilot=NUM_PILOT, adaptive=True)
        # The log q of an iaf has no gradient for the moves.
        start, origin = (None, "prior") if config.guide == "iaf" else (q, "guide")
        how = f"{chains} annealed chains each from the {origin} over {temperatures} temperatures"
        found = evidence.evaluate_annealed(key, p, start, x, chains, plan)
        points = found.evidence
    else:
        tolerance, budget = config.evidence_tolerance, config.evidence_budget
        certificate = evidence.certify(key, p, q, x, tolerance=tolerance, budget=budget)
        left = f"{certificate.num_open} images open after {budget:g} evaluations"
        how, points = f"certify to {tolerance:g} nats ({left})", certificate.as_evidence()
    return LogP(method, how, points, evidence.summarize(points))


def as_numbers(one: LogP) -> dict[str, Any]:
    """The entry of one method in results.json."""
    return {
        "method": one.method,
        "how": one.how,
        **one.summary._asdict(),
        "reliable": not one.summary.num_untrusted,
        "verdict": describe(np.where(one.points.likely_low, one.points.failed, 0)),
    }


def difference(one: LogP, other: LogP) -> dict[str, float] | None:
    """log p by `one` minus log p by `other` over the images where `one` is reliable, or None."""
    where = np.asarray(one.points.failed) == 0
    if not where.any():
        return None
    values, errors = (
        [np.asarray(part, np.float64)[where] for part in parts]
        for parts in zip(*(each.points[:2] for each in (one, other)), strict=True)
    )
    error = np.sqrt(np.square(errors).sum()) / where.sum()
    apart = np.mean(values[0] - values[1])
    return {"mean": float(apart), "error": float(error), "num_points": int(where.sum())}


def active_units(key: Key[Array, ""], q: ConditionalDensity, x: np.ndarray) -> ActiveUnits:
    """Units of z whose posterior mean has a variance above 0.01 over the rows of x."""
    return diagnostics.active_units(diagnostics.posterior_means(key, q, x, DRAWS))


def units(active: ActiveUnits) -> list[tuple[int, int]]:
    """Active units of each stochastic layer, and the size of the layer."""
    pairs = zip(jax.tree.leaves(active.number), jax.tree.leaves(active.variance), strict=True)
    return [(int(number), len(variance)) for number, variance in pairs]


def points_of(
    chosen: Chosen, terms: Terms, log_p: list[LogP], labels: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Arrays [n] of the test images: log p by `config.evidence`, its error and k-hat, the bounds."""
    points = {"point": point_ids(chosen.rows["test"]), "index": chosen.indices["test"]}
    if labels is not None:
        points["label"] = labels
    for prefix, one in zip(("", "importance_"), log_p[::-1], strict=False):
        for name in ("log_evidence", "standard_error", "k_hat", "ess", "failed"):
            points[prefix + name] = getattr(one.points, name)
    for name, (value, error) in terms._asdict().items():
        points |= {name: value, f"{name}_error": error}
    return points


def take_pictures(key: Key[Array, ""], p: Joint, q: ConditionalDensity, x: np.ndarray) -> Pictures:
    """The images and latents of the figures, from the model and the test images x."""
    key_q, key_means, key_model = jax.random.split(key, 3)
    z = encode(key_q, q, x)
    prior, means, draws = generate(key_model, p)
    posterior_means = diagnostics.posterior_means(key_means, q, x, DRAWS)
    codes, aggregate = flat(posterior_means), flat(z)
    size = jax.tree.leaves(z)[0].shape[1]  # of z_1
    order = np.argsort(-codes.var(axis=0))
    moved = order[order < size][:UNITS]
    window = plane = None
    if codes.shape[1] == size == 2:
        window = np.quantile(np.concatenate([codes, aggregate]), MIDDLE, axis=0)
        plane = decode(p, grid(window))
    return Pictures(
        reconstructions=decode(p, jax.tree.map(lambda leaf: leaf[:RECONSTRUCTED], z)),
        means=means,
        draws=draws,
        codes=codes,
        aggregate=aggregate,
        prior=flat(prior),
        window=window,
        plane=plane,
        moved=moved,
        traversals=traverse(p, posterior_means, aggregate, moved),
    )


def flat(z: Latent) -> np.ndarray:
    """All layers of z concatenated, [n, K]."""
    return np.concatenate([np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(z)], axis=1)


@jax.jit
def encode(key: Key[Array, ""], q: ConditionalDensity, x: Float[Array, "N D"]) -> Latent:
    """One draw of q(z | x) for every row, leaves [N, K_l]."""
    keys = jax.random.split(key, x.shape[0])
    return jax.vmap(lambda key, row: q(row).sample(seed=key))(keys, x)


@jax.jit
def decode(p: Joint, z: Latent) -> Float[Array, "N D"]:
    """The mean of p(x | z) for every row of z."""
    return jax.vmap(lambda one: p.likelihood(one).mean())(z)


@jax.jit
def generate(key: Key[Array, ""], p: Joint) -> tuple[Latent, Array, Array]:
    """FROM_PRIOR draws of z; for the first DRAWN the mean of p(x | z), and a draw of x."""
    key_z, key_x = jax.random.split(key)
    z = p.prior().sample(seed=key_z, sample_shape=(FROM_PRIOR,))

    def one(key: Key[Array, ""], z: Latent) -> tuple[Array, Array]:
        x = p.likelihood(z)
        return x.mean(), x.sample(seed=key)

    some = jax.tree.map(lambda leaf: leaf[:DRAWN], z)
    return z, *jax.vmap(one)(jax.random.split(key_x, DRAWN), some)


def grid(window: np.ndarray) -> np.ndarray:
    """SIDE x SIDE points of a window of the plane, in the order of pixels: top row first."""
    first, second = np.linspace(*window, SIDE).T
    mesh = np.meshgrid(first, second[::-1])
    return np.stack([axis.ravel() for axis in mesh], axis=1).astype(np.float32)


def traverse(p: Joint, means: Latent, aggregate: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Images for one varying unit of z_1; all others are at the first image's posterior mean."""
    base = jax.tree.map(lambda leaf: np.repeat(np.asarray(leaf)[:1], STEPS, axis=0), means)
    (z_1, *above), structure = jax.tree.flatten(base)
    rows = []
    for unit in moved:
        z = z_1.copy()
        z[:, unit] = np.linspace(*np.quantile(aggregate[:, unit], MIDDLE), STEPS)
        rows.append(np.asarray(decode(p, jax.tree.unflatten(structure, [z, *above]))))
    return np.stack(rows)
