"""A mixture of K components of one exponential family: density, responsibilities, samples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax import precision
from lvm_jax._core import checks
from lvm_jax.compiling import bucket, first_rows
from lvm_jax.em import imputation, incomplete, padding, reductions
from lvm_jax.em.compiling import over_data
from lvm_jax.em.covariances import GAUSSIANS
from lvm_jax.em.families import ExponentialFamily
from lvm_jax.em.gaussian import Gaussian, Gaussians
from lvm_jax.em.statistics import (
    Data,
    Evaluation,
    MixtureParameters,
    chunk_rows,
    evaluate,
)
from lvm_jax.typing import Array, ArrayLike, Float, Int, Key, Params

if TYPE_CHECKING:
    from lvm_jax.models import GaussianMixture


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["log_weights", "components", "origin"],
    meta_fields=["family"],
)
@dataclass(frozen=True)
class Mixture:
    """p(x) = sum_k pi_k p(x | z=k); a pytree with a static family.

    Arrays may have a leading axis of R mixtures, for the restarts of a fit.

    Attributes:
        log_weights: log pi, [K], in nats.
        components: the family's parameters, relative to `origin`.
        origin: [D]. Component means are stored as differences from it, so that float32 can
            resolve tight clusters far from zero.
        family: the component family (static).
    """

    log_weights: Float[Array, "*R K"]
    components: Params
    origin: Float[Array, "... D"]
    family: ExponentialFamily

    @property
    def parameters(self) -> MixtureParameters:
        """Log-weights and components."""
        return MixtureParameters(self.log_weights, self.components)

    @property
    def weights(self) -> Float[Array, "*R K"]:
        """pi, [K]."""
        return jnp.exp(self.log_weights)

    @property
    def means(self) -> Float[Array, "*R K D"]:
        """E[x | z=k], in the data's coordinates."""
        means = self.family.means(self.components)
        missing = means.ndim - 1 - self.origin.ndim  # 1 if only the origin has no restart axis
        return self.origin[(None,) * missing + (..., None, slice(None))] + means

    @property
    def covariances(self) -> Float[Array, "*R K D D"]:
        """Cov[x | z=k] as full matrices; TypeError for components that are not Gaussian."""
        return self.family.covariances(self.components)

    @property
    def num_parameters(self) -> int:
        """Number of free parameters, including K - 1 weights."""
        k, dim = self.log_weights.shape[0], self.origin.shape[0]
        return self.family.num_component_parameters(k, dim) + k - 1

    def as_theta(self) -> "GaussianMixture":
        """theta of `models.gaussian_mixture(K, D)`; TypeError for non-Gaussian components."""
        if not isinstance(self.family, Gaussian):
            raise TypeError(f"as_theta: {type(self.family).__name__} components have none")
        from lvm_jax.models import GaussianMixture  # imported here so that EM loads no models

        return GaussianMixture(self.log_weights, self.means, self.family.cholesky(self.components))

    @precision.full
    def log_joint(self, x: Float[Array, " D"]) -> Float[Array, " K"]:
        """log p(x, z=k) of ONE point, in nats; a pure function for jit, vmap and grad."""
        components = self.family.translate(self.components, self.origin)
        return self.family.exact_log_prob(components, x[None])[0] + self.log_weights

    def log_prob(self, x: ArrayLike) -> Float[Array, " N"]:
        """log p(x_n) in nats for rows x [N, D], computed in chunks.

        Here and below, NaN is an entry missing at random: log p of the observed entries, which is
        0 for a row without any.
        """
        return self._map("log_prob", x)

    def responsibilities(self, x: ArrayLike) -> Float[Array, "N K"]:
        """p(z_n=k | x_n) for rows x [N, D]."""
        return self._map("responsibilities", x)

    def assign(self, x: ArrayLike) -> Int[Array, " N"]:
        """The most probable component of each row."""
        return self._map("assign", x)

    def evaluate(self, x: ArrayLike, sample_weight: ArrayLike | None = None) -> Evaluation:
        """Total log-likelihood, assignment entropy and sum_n log max_k r_nk, in nats."""
        return _evaluate(*self._read(x, sample_weight)[0])

    def impute(self, x: ArrayLike) -> Float[Array, "N D"]:
        """Rows x [N, D] with E[x_missing | x_observed] for NaN.

        The expectation is the mean of the components' conditional means, weighted by the
        responsibilities. It minimises the squared error. It has less variance than the data: for
        other statistics than means use `sample_missing`.
        """
        return self._fill(x, imputation.expected)

    def sample_missing(self, key: Key[Array, ""], x: ArrayLike) -> Float[Array, "N D"]:
        """Rows x [N, D] with a draw of p(x_missing | x_observed) for NaN.

        Several keys make a multiple imputation (Rubin 1987) for these parameters.
        """
        checks.key(key)
        return self._fill(x, partial(imputation.conditional, key))

    def _fill(self, x: ArrayLike, program: Callable[..., Array]) -> Array:
        """The rows with the values of a program for missing entries."""
        rows = np.asarray(checks.float_array(x, "x"))
        (parameters, data, family, size), places = self._read(x)
        if not np.isnan(rows).any():
            return jax.device_put(rows)
        found = np.asarray(program(parameters, data, family, size))
        found = found[: len(rows)] if places is None else found[places]
        moved = np.asarray(self.origin) - np.asarray(data.shift)  # 0, or subtracted by `read`
        return jax.device_put(np.where(np.isnan(rows), found + moved, rows))

    def sample(self, key: Key[Array, ""], num_samples: int) -> tuple[Array, Array]:
        """Draw z from pi, then x from component z; returns (x [n, D], z [n])."""
        checks.key(key)
        num_samples = checks.integer(num_samples, "num_samples", 1)
        drawn = _sample(key, self, bucket(num_samples))
        return jax.device_put(first_rows(drawn, num_samples))

    def _map(self, name: str, x: ArrayLike) -> Array:
        """A reduction of log p(x_n, z=k) over k, without the padding of rows and components."""
        size, k = np.shape(x)[0], self.log_weights.shape[0]
        arguments, places = self._read(x)
        out = reductions.reduced(name, *arguments)
        if places is None and size == out.shape[0] and (out.ndim == 1 or k == out.shape[1]):
            return out
        kept = np.asarray(out)[:size] if places is None else np.asarray(out)[places]
        return jax.device_put(kept if kept.ndim == 1 else kept[:, :k])

    def _read(
        self, x: ArrayLike, sample_weight: Any = None
    ) -> tuple[tuple[Any, Data, ExponentialFamily, int], np.ndarray | None]:
        """The arguments of a program, and the places of the rows if their order has changed."""
        x, missing = incomplete.read_rows(x, self.family)
        dim, k = self.origin.shape[0], self.log_weights.shape[0]
        if x.shape[1] != dim:
            raise ValueError(f"x: expected {dim} columns as in the fit, got {x.shape[1]}")
        if sample_weight is not None:
            sample_weight = checks.weights(sample_weight, x.shape[0])
        family, places = self.family, None
        if missing:
            family, x, sample_weight, places, _ = incomplete.arrange(family, x, sample_weight)
        data = read(x, sample_weight, self.origin)
        size = padding.num_components(family, data, k)
        parameters = padding.pad(family, self.parameters, size)
        return (parameters, data, family, rows_per_chunk(family, size, data)), places


def read(
    x: np.ndarray,
    sample_weight: np.ndarray | None,
    origin: ArrayLike,
    fill: np.ndarray | None = None,
) -> Data:
    """Pad the data and put them on the device, with the shift to subtract from each row.

    `fill` are the column means of rows with missing entries. float64 data without x64 are centred
    on the host in float64, before they are rounded.
    """
    dtype = jax.dtypes.canonicalize_dtype(x.dtype)
    origin = np.asarray(origin)
    if x.dtype != dtype:
        centred = np.empty(x.shape, dtype)
        np.subtract(x, origin, out=centred, casting="same_kind")
        fill = None if fill is None else fill - origin
        x, origin = centred, np.zeros_like(origin)
    weight = None if sample_weight is None else np.asarray(sample_weight, dtype)
    data = padding.data(x, weight, origin.astype(dtype))
    return data if fill is None else data._replace(fill=jax.device_put(fill.astype(dtype)))


def rows_per_chunk(family: ExponentialFamily, columns: int, data: Data) -> int:
    """Chunk size for `columns` = R K responsibilities per row."""
    num_points, dim = data.x.shape
    floats = padding.num_features(family, dim, data.x.dtype) + dim
    floats += columns * family.floats_per_component(dim)
    return chunk_rows(num_points, floats, data.x.dtype.itemsize, max(64, family.block))


def gaussian_mixture(
    weights: ArrayLike | Sequence[float],
    means: ArrayLike | Sequence[Any],
    covariances: ArrayLike | Sequence[Any],
    covariance_type: str = "full",
    origin: ArrayLike | None = None,
) -> Mixture:
    """A Gaussian mixture from weights [K], means [K, D] and covariances.

    Covariances are [K, D, D] (full), [D, D] (tied), [K, D] (diag) or [K] (spherical). The origin
    defaults to the average of the means. Raises ValueError for weights that are negative or do
    not sum to 1, wrong shapes, or covariances that are not positive definite.
    """
    family = GAUSSIANS[checks.choice(covariance_type, "covariance_type", tuple(GAUSSIANS))]
    mu = checks.points(means, "means")
    dtype = jax.dtypes.canonicalize_dtype(mu.dtype)
    pi = np.asarray(checks.weights(weights, mu.shape[0], "weights"), np.float64)
    if abs(pi.sum() - 1) > 1e-5:
        raise ValueError(f"weights: expected a sum of 1, got {pi.sum():g}")
    k, dim = mu.shape
    shapes = {"full": (k, dim, dim), "tied": (dim, dim), "diag": (k, dim), "spherical": (k,)}
    sigma = np.asarray(checks.float_array(covariances, "covariances"))
    checks.shape(sigma, shapes[covariance_type], "covariances")
    checks.finite(sigma, "covariances")
    if covariance_type in ("full", "tied"):
        checks.symmetric_positive_definite(sigma, "covariances")
        scale = np.linalg.cholesky(sigma)
    elif (sigma > 0).all():
        scale = np.sqrt(sigma)
    else:
        raise ValueError(f"covariances: expected positive variances, got {sigma.min():g}")
    mu = np.asarray(mu)
    centre = np.asarray(mu.mean(0) if origin is None else origin, dtype)
    components = Gaussians(jnp.asarray(mu - centre, dtype), jnp.asarray(scale, dtype))
    with np.errstate(divide="ignore"):
        log_weights = jnp.asarray(np.log(pi / pi.sum()), dtype)
    return Mixture(log_weights, components, jnp.asarray(centre), family)


@over_data(2, 3)
def _evaluate(
    parameters: MixtureParameters, data: Data, family: ExponentialFamily, rows: int
) -> Evaluation:
    return evaluate(family, parameters, data, rows)[0]


@over_data(2)
def _sample(key: Array, mixture: Mixture, num_samples: int) -> tuple[Array, Array]:
    def one(key: Array) -> tuple[Array, Array]:
        key_z, key_x = jax.random.split(key)
        z = jax.random.categorical(key_z, mixture.log_weights)
        component = mixture.family.select(mixture.components, z)
        return mixture.origin + mixture.family.sample_one(key_x, component), z

    return jax.vmap(one)(jax.random.split(key, num_samples))
