"""Initial parameters of an architecture, with biases set for the data."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from lvm_jax import priors
from lvm_jax._core import checks
from lvm_jax._core.keys import split
from lvm_jax._core.pairs import Parameters
from lvm_jax.compiling import bucket, first_rows, pad_rows
from lvm_jax.distributions.chain import LOG_SCALE_BOUND
from lvm_jax.typing import Array, ArrayLike, Key
from lvm_jax.vae.architecture import Architecture
from lvm_jax.vae.building import build, encoder_view


def start(key: Key[Array, ""], architecture: Architecture, x: ArrayLike) -> Parameters:
    """Initial parameters: Glorot kernels, and biases from rows x [N, D]; see `Architecture.biases`.

    With biases "data" the initial mean of x | z is about the mean of the data, because initial
    rates far from the data give very large gradients. Additional half counts (of bits and counts)
    and 1 / L counts (of L levels) keep logarithms finite. Gaussian outputs start at 0: standardise
    the data. With convolutions, the outputs start at the mean over pixels and the encoder's biases
    at 0. The pseudo-inputs of a VampPrior start at rows of x.

    Raises ValueError for an x of a wrong width, or with too few distinct rows for a VampPrior.
    """
    key_theta, key_phi, key_prior = split(checks.key(key), 3)
    a, parts = architecture, build(architecture)
    rows = np.asarray(checks.points(x, "x", 1))
    if rows.shape[1] != a.dim:
        raise ValueError(f"x: expected rows of {a.dim} numbers, got shape {rows.shape}")
    theta, phi = parts.model.init(key_theta), parts.guide.init(key_phi)
    output = theta.decoder["output"]
    if a.biases != "zero":
        output["bias"] = jnp.asarray(decoder_bias(a, rows), output["kernel"].dtype)
    if a.biases == "data" and not a.channels:
        network = _network_of_x(a, phi)
        layer = network.get("hidden_0", network["output"])
        layer["bias"] = _centring_bias(a, rows, layer["kernel"])
    if isinstance(theta.prior, priors.Vamp):
        num = theta.prior.pseudo_inputs.shape[0]
        try:
            theta = theta._replace(prior=priors.vamp(num, rows).init(key_prior))
        except ValueError as error:
            raise ValueError(f"prior='vamp': {error}") from error
    return Parameters(theta, phi)


def decoder_bias(a: Architecture, x: np.ndarray) -> np.ndarray:
    """The initial bias of the decoder's last layer: [P], or [P / D] of a convolution."""
    num_outputs = build(a).likelihood.num_outputs
    if a.channels:
        x, num_outputs = x.reshape(-1, 1), num_outputs // a.dim
    if a.biases == "log_odds":
        mean = np.clip(x.mean(0, dtype=np.float64), 0.001, 0.999)
        return np.log(mean) - np.log1p(-mean)
    first = _first_outputs(a.likelihood, x, num_outputs // x.shape[1])
    return np.pad(first, (0, num_outputs - len(first)))


def _first_outputs(likelihood: str, x: np.ndarray, per_column: int) -> np.ndarray:
    """The leading outputs that do not start at 0, ordered by parameter."""
    total, size = x.sum(0, dtype=np.float64) + 0.5, len(x) + 1  # keeps logarithms finite
    if likelihood in ("bernoulli", "continuous_bernoulli"):
        return np.log(total / (size - total))
    if likelihood in ("poisson", "negative_binomial"):
        return np.log(total / size)
    if likelihood == "discretized_logistic":
        deviation = np.maximum(x.std(0, dtype=np.float64), 0.01)  # of levels in [0, 1]
        log_scale = np.log(deviation * np.sqrt(3) / np.pi)  # of a logistic with this deviation
        free = LOG_SCALE_BOUND * np.arctanh(log_scale / LOG_SCALE_BOUND)
        return np.concatenate([x.mean(0, dtype=np.float64), free])
    if likelihood == "categorical":
        counts = [np.bincount(column, minlength=per_column) for column in x.astype(np.int64).T]
        return np.log((np.stack(counts, 1) + 1 / per_column) / size).ravel()
    return np.zeros(0)


def _network_of_x(a: Architecture, phi: Any) -> dict[str, Any]:
    if a.guide == "bottom_up":
        return phi[0]
    return phi.upward[0] if a.guide == "ladder" else phi.network


def _centring_bias(a: Architecture, x: np.ndarray, kernel: Array) -> Array:
    """-W mean(view(x)): the layer's output is 0 for the mean input of the encoder."""
    view = encoder_view(a, build(a).likelihood)
    padded = jnp.asarray(pad_rows(x, bucket(len(x))))
    mean = first_rows(view(padded), len(x)).mean(0)
    return -jnp.dot(jnp.asarray(mean, kernel.dtype), kernel, precision="highest")
