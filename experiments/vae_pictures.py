"""What the figures of the `vae` experiment show: images and latents from the trained model."""

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np

from experiments.vae_evaluation import DRAWS, Chosen
from lvm_jax import diagnostics
from lvm_jax.guides import Guide
from lvm_jax.models import Model
from lvm_jax.typing import Array, Float, Key, Latent, Params

if TYPE_CHECKING:
    from experiments.vae_setup import Prepared

RECONSTRUCTED, DRAWN = 20, 64  # images
FROM_PRIOR = 20_000  # z, for its histograms
SIDE = 16  # images along each axis of the latent plane
UNITS, STEPS = 8, 11  # rows and columns of the traversals
MIDDLE = (0.005, 0.995)  # quantiles of the aggregate posterior that are looked at


class Pictures(NamedTuple):
    """Images as rows of pixels, latents as rows with all layers of z one after the other."""

    originals: np.ndarray  # test images
    reconstructions: np.ndarray  # mean of p(x | z) at one draw of q(z | x)
    data: np.ndarray  # test images
    means: np.ndarray  # mean of p(x | z), z from the prior
    draws: np.ndarray  # x drawn from p(x | z), the same z
    codes: np.ndarray  # [n, K], posterior means of test images
    labels: np.ndarray | None  # [n]
    aggregate: np.ndarray  # [n, K], one draw of q(z | x) for each test image
    prior: np.ndarray  # [FROM_PRIOR, K]
    names: list[str]  # [K], of the latents
    units: np.ndarray  # latents, the one whose posterior mean varies most first
    window: np.ndarray | None  # [2, 2], low and high of the two axes, of a latent plane
    plane: np.ndarray | None  # [SIDE^2, D], z1 running fastest, z2 from its high end down
    moved: np.ndarray  # indices of the latents in the traversals, of z_1
    traversals: np.ndarray  # [units, STEPS, D]


def take(
    key: Key[Array, ""], prepared: "Prepared", theta: Params, phi: Params, chosen: Chosen
) -> Pictures:
    """Everything that is drawn, computed once."""
    key_q, key_means, key_prior, key_x = jax.random.split(key, 4)
    model, guide = prepared.built.model, prepared.built.guide
    test, index = chosen.rows["test"], chosen.index["test"]
    z = encode(key_q, guide, phi, test)
    means = diagnostics.posterior_means(key_means, guide, phi, test, DRAWS)
    prior = draw_prior(key_prior, model, theta, FROM_PRIOR)
    some = jax.tree.map(lambda leaf: leaf[:DRAWN], prior)
    codes, names = flat(means)
    labels = prepared.pixels.images.test_labels
    flat_z, sizes = flat(z)[0], [leaf.shape[-1] for leaf in jax.tree.leaves(z)]
    units = np.argsort(-codes.var(axis=0))
    moved = units[units < sizes[0]][:UNITS]
    window, plane = None, None
    if sizes == [2]:
        window = np.quantile(np.concatenate([codes, flat_z]), MIDDLE, axis=0)
        plane = decode(model, theta, grid(window))
    return Pictures(
        originals=test[:RECONSTRUCTED],
        reconstructions=decode(model, theta, jax.tree.map(lambda leaf: leaf[:RECONSTRUCTED], z)),
        data=test[-DRAWN:],
        means=decode(model, theta, some),
        draws=draw_images(key_x, model, theta, some),
        codes=codes,
        labels=None if labels is None else labels[index],
        aggregate=flat_z,
        prior=flat(prior)[0],
        names=names,
        units=units,
        window=window,
        plane=plane,
        moved=moved,
        traversals=traverse(model, theta, means, flat_z, moved),
    )


def flat(z: Latent) -> tuple[np.ndarray, list[str]]:
    """All layers of z side by side, [n, K], and the names of the columns: z3, or z1.3 of several."""
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(z)]
    if len(leaves) == 1:
        return leaves[0], [f"z{unit + 1}" for unit in range(leaves[0].shape[1])]
    names = [
        f"z{layer + 1}.{unit + 1}"
        for layer, leaf in enumerate(leaves)
        for unit in range(leaf.shape[1])
    ]
    return np.concatenate(leaves, axis=1), names


@partial(jax.jit, static_argnums=1)
def encode(key: Key[Array, ""], guide: Guide, phi: Params, x: Float[Array, "N D"]) -> Latent:
    """One draw of q(z | x) for every row, leaves [N, K_l]."""
    keys = jax.random.split(key, x.shape[0])
    return jax.vmap(lambda key, row: guide.posterior(phi, row).sample(seed=key))(keys, x)


@partial(jax.jit, static_argnums=(1, 3))
def draw_prior(key: Key[Array, ""], model: Model, theta: Params, num_samples: int) -> Latent:
    """z from the prior, leaves [n, K_l]."""
    return model.prior(theta).sample(seed=key, sample_shape=(num_samples,))


@partial(jax.jit, static_argnums=0)
def decode(model: Model, theta: Params, z: Latent) -> Float[Array, "N D"]:
    """The mean of p(x | z) for every row of z."""
    return jax.vmap(lambda one: model.likelihood(theta, one).mean())(z)


@partial(jax.jit, static_argnums=1)
def draw_images(key: Key[Array, ""], model: Model, theta: Params, z: Latent) -> Float[Array, "N D"]:
    """x drawn from p(x | z) for every row of z."""
    keys = jax.random.split(key, jax.tree.leaves(z)[0].shape[0])
    return jax.vmap(lambda key, one: model.likelihood(theta, one).sample(seed=key))(keys, z)


def grid(window: np.ndarray) -> np.ndarray:
    """SIDE x SIDE points of a window of the plane, as an image has its pixels: top row first."""
    first, second = (np.linspace(*window[:, axis], SIDE) for axis in (0, 1))
    mesh = np.meshgrid(first, second[::-1])
    return np.stack([axis.ravel() for axis in mesh], axis=1).astype(np.float32)


def traverse(
    model: Model, theta: Params, means: Latent, aggregate: np.ndarray, moved: np.ndarray
) -> np.ndarray:
    """One number of z_1 at a time moves through the aggregate posterior, the others stay.

    They stay where the first image's posterior mean is. Only z_1 is moved, for x depends on the
    layers above through it alone.
    """
    base = jax.tree.map(lambda leaf: np.repeat(np.asarray(leaf)[:1], STEPS, axis=0), means)
    rows = []
    for unit in moved:
        leaves, structure = jax.tree.flatten(base)
        leaves[0] = leaves[0].copy()
        leaves[0][:, unit] = np.linspace(*np.quantile(aggregate[:, unit], MIDDLE), STEPS)
        rows.append(np.asarray(decode(model, theta, jax.tree.unflatten(structure, leaves))))
    return np.stack(rows)
