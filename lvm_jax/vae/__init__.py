"""Variational autoencoders: p and q from a description of their architecture.

    architecture = Architecture(shape=(28, 28), latent_dims=(10,), hidden=((200, 200),))
    pixels = load_pixels("digits", likelihood="bernoulli")  # images in the likelihood's units
    pair = build(architecture)                # cached: equal architectures share one pair
    params = start(key, architecture, x)      # initial parameters, with biases set for the data
    fit = training.fit(key, pair, params, x, ...)

An architecture converts to JSON, so `training.load` can rebuild a saved model:

    fit.save(folder)
    p, q, params, config = training.load(folder)
"""

from lvm_jax.vae.architecture import GUIDES, HIERARCHICAL, ONE_LAYER, PRIORS, Architecture
from lvm_jax.vae.building import Autoencoder, build, family
from lvm_jax.vae.pixels import COUNTS, PARTS, WITH_LEVELS, Chosen, Pixels, load_pixels
from lvm_jax.vae.starting import start

__all__ = [
    "COUNTS",
    "GUIDES",
    "HIERARCHICAL",
    "ONE_LAYER",
    "PARTS",
    "PRIORS",
    "WITH_LEVELS",
    "Architecture",
    "Autoencoder",
    "Chosen",
    "Pixels",
    "build",
    "family",
    "load_pixels",
    "start",
]
