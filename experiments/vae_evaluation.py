"""What the `vae` experiment measures: bounds and their terms, log p(x), and the units in use."""

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import vae_evidence, vae_objectives
from experiments.vae_data import Pixels
from experiments.vae_evidence import LogP
from lvm_jax import bounds, diagnostics, distributions
from lvm_jax.bounds import Reduction
from lvm_jax.diagnostics import ActiveUnits
from lvm_jax.guides import Guide
from lvm_jax.models import Model, log_joint
from lvm_jax.moments import moments
from lvm_jax.typing import Array, Float, Key, Params, Scalar
from lvm_jax.weights import weigh

if TYPE_CHECKING:
    from experiments.vae import Config
    from experiments.vae_setup import Prepared

DRAWS = 200  # of z for each image's bound and its terms
ROWS = 1_000  # draws alive at a time, so that they stay in cache
PARTS = ("train", "validation", "test")


class Chosen(NamedTuple):
    """The images that are measured, and where they stand in their part."""

    rows: dict[str, np.ndarray]  # [n, D] of each part
    index: dict[str, np.ndarray]  # [n]
    out_of: dict[str, int]


class Mean(NamedTuple):
    """A mean over images, in nats per image, with its two standard errors."""

    value: float
    monte_carlo_error: float  # over the draws of z, these images given
    sampling_error: float  # over the images


class Part(NamedTuple):
    """The bounds of one part of the data."""

    name: str
    num_points: int
    out_of: int
    bound: Mean  # what training climbs, with as many draws
    elbo: Mean
    reconstruction: Mean  # E_q[log p(x | z)]
    kl_prior: Mean  # KL(q(z | x) || p(z)), averaged over x


class Measured(NamedTuple):
    """The trained model in numbers."""

    parts: list[Part]
    log_p: list[LogP]  # of the test images: by importance sampling, and by `--evidence` if other
    active: ActiveUnits
    num_guide_parameters: int

    @property
    def chosen(self) -> LogP:
        """log p of the test images by the method of `--evidence`."""
        return self.log_p[-1]


class Terms(NamedTuple):
    """Of one image (or leaves [n]), each a value and its standard error."""

    bound: tuple[Scalar, Scalar]
    elbo: tuple[Scalar, Scalar]
    reconstruction: tuple[Scalar, Scalar]
    kl_prior: tuple[Scalar, Scalar]


def choose(pixels: Pixels, config: "Config") -> Chosen:
    """At most `evaluated` images of each part, at random: a part may be sorted by class."""
    rows, index, out_of = {}, {}, {}
    for place, name in enumerate(PARTS):
        x = pixels.seen if name == "train" else getattr(pixels, name)
        random = np.random.default_rng([config.seed, place])
        index[name] = random.permutation(len(x))[: config.evaluated]
        rows[name], out_of[name] = x[index[name]], len(x)
    return Chosen(rows, index, out_of)


def measure(
    key: Key[Array, ""], prepared: "Prepared", theta: Params, phi: Params, chosen: Chosen
) -> Measured:
    """Bounds of all parts, log p of the test images, and the active units."""
    key_terms, key_evidence, key_means = jax.random.split(key, 3)
    (model, amortized, guide), config = prepared.built, prepared.config
    every = np.concatenate([chosen.rows[name] for name in PARTS])
    reduce, size = vae_objectives.reduction(config), config.num_samples
    groups = max(2, DRAWS // size)
    found = _terms(key_terms, theta, phi, every, model, guide, reduce, groups, size)
    test = chosen.rows["test"]
    means = diagnostics.posterior_means(key_means, guide, phi, test, DRAWS)
    shape = jax.eval_shape(amortized.init, key)
    return Measured(
        parts_of(found, chosen),
        vae_evidence.measure(key_evidence, prepared, theta, phi, test),
        jax.tree.map(np.asarray, diagnostics.active_units(means)),
        count(shape),
    )


@partial(jax.jit, static_argnums=(4, 5, 6, 7, 8))
def _terms(
    key: Key[Array, ""],
    theta: Params,
    phi: Params,
    x: Float[Array, "N D"],
    model: Model,
    guide: Guide,
    reduce: Reduction,
    groups: int,
    size: int,
) -> Terms:
    """Terms of every row, from groups x size draws of z each."""

    def one(point: tuple[Array, Array]) -> Terms:
        index, row = point
        q, prior = guide.posterior(phi, row), model.prior(theta)
        joint = log_joint(model, theta, row)
        z, log_w = weigh(jax.random.fold_in(key, index), joint, q, groups * size)
        log_likelihood = jax.vmap(lambda one: model.likelihood(theta, one).log_prob(row))(z)
        closed = distributions.kl_divergence(q, prior)
        kl = log_likelihood - log_w if closed is None else jnp.broadcast_to(closed, log_w.shape)
        of_groups = jax.vmap(reduce)(log_w.reshape(groups, size))
        bound = log_likelihood - kl if reduce is bounds.elbo else of_groups
        return Terms(*map(_mean, (bound, log_likelihood - kl, log_likelihood, kl)))

    together = max(1, ROWS // (groups * size))
    return jax.lax.map(one, (jnp.arange(x.shape[0]), x), batch_size=together)


def _mean(values: Float[Array, " S"]) -> tuple[Scalar, Scalar]:
    found = moments(values)
    return found.mean, jnp.sqrt(found.variance / values.shape[0])


def parts_of(found: Terms, chosen: Chosen) -> list[Part]:
    """Means over the images of each part."""
    parts, start = [], 0
    for name in PARTS:
        stop = start + len(chosen.rows[name])
        means = [
            mean_of(*(np.asarray(leaf[start:stop], np.float64) for leaf in term)) for term in found
        ]
        parts.append(Part(name, stop - start, chosen.out_of[name], *means))
        start = stop
    return parts


def mean_of(values: np.ndarray, errors: np.ndarray) -> Mean:
    """The mean over images of values [n] with Monte-Carlo errors [n]."""
    number = len(values)
    return Mean(
        float(values.mean()),
        float(np.sqrt((errors**2).sum()) / number),
        float(values.std(ddof=1) / np.sqrt(number)),
    )


def count(parameters: Params) -> int:
    """How many numbers a pytree of arrays (or of their shapes) holds."""
    return sum(leaf.size for leaf in jax.tree.leaves(parameters))
