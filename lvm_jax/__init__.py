"""Latent-variable models in JAX whose every likelihood is exact, or measured with an error bar."""

__version__ = "0.1.0"
