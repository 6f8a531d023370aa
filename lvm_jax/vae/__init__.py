"""Variational autoencoders: from an architecture, a plain value, to a model and its guide.

    architecture = Architecture(shape=(28, 28), latent_dims=(10,), hidden=((200, 200),))
    pixels = load_pixels("digits", likelihood="bernoulli")  # images in the likelihood's units
    parts = build(architecture)                   # model, guide: equal architectures share them
    initial = start(key, architecture, x)         # fresh theta and phi, biases set for the data

An architecture is JSON, so that a saved model can be built again without the code that trained it:

    training.save_model(folder, dataclasses.asdict(architecture), theta, phi)
    saved = training.load_model(folder, vae.build_saved)
"""

from lvm_jax.vae.architecture import GUIDES, HIERARCHICAL, ONE_LAYER, PRIORS, Architecture
from lvm_jax.vae.building import Parts, build, build_saved, family, final_phi
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
    "Chosen",
    "Parts",
    "Pixels",
    "build",
    "build_saved",
    "family",
    "final_phi",
    "load_pixels",
    "start",
]
