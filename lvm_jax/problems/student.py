"""A problem whose posterior has heavier tails than any normal q."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln

from lvm_jax._core import checks
from lvm_jax.models import Model
from lvm_jax.problems.base import Problem, changed, host
from lvm_jax.problems.changes import shifted_normal
from lvm_jax.problems.gaussian import check_positive
from lvm_jax.typing import Array, Distribution, Float, Key, Scalar


class StudentT(NamedTuple):
    """The multivariate Student t distribution with scale matrix s^2 I in D dimensions."""

    loc: Float[Array, " D"]
    scale: Scalar  # s; the covariance is s^2 dof / (dof - 2) I
    dof: Scalar

    def log_prob(self, value: Float[Array, " D"]) -> Scalar:
        """Log-density of one point, in nats."""
        dim, nu = value.size, self.dof
        squared = (((value - self.loc) / self.scale) ** 2).sum()
        constant = gammaln(0.5 * (nu + dim)) - gammaln(0.5 * nu) - 0.5 * dim * jnp.log(nu * jnp.pi)
        log_det = dim * jnp.log(self.scale)
        return constant - log_det - 0.5 * (nu + dim) * jnp.log1p(squared / nu)

    def sample(self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Array:
        """loc + s epsilon / sqrt(chi^2 / dof), [*sample_shape, D]; one chi^2 per draw."""
        key_normal, key_chi = jax.random.split(seed)
        shape = (*sample_shape, self.loc.shape[0])
        chi = 2 * jax.random.gamma(key_chi, 0.5 * self.dof, (*sample_shape, 1), self.loc.dtype)
        noise = jax.random.normal(key_normal, shape, self.loc.dtype) / jnp.sqrt(chi / self.dof)
        return jnp.broadcast_to(self.loc, shape) + self.scale * noise


def heavy_tails(dim: int, dof: float = 1.0) -> Problem:
    """(z, x) is jointly Student t with nu = dof, and x = z + noise of the same scale.

        z ~ t_nu(0, I),  x | z ~ t_(nu + D)(z, (nu + |z|^2) / (nu + D) I),  x ~ t_nu(0, 2 I),
        z | x ~ t_(nu + D)(x / 2, (nu + |x|^2 / 2) / (2 (nu + D)) I)

    The guide is Laplace's approximation, widened and shifted. Its log-weights have a finite mean,
    and its weights an infinite variance, as for any normal q. theta is nu.

    Raises ValueError for dim < 1 or a dof that is not positive.
    """
    dim = checks.integer(dim, "dim", 1)
    theta = host(check_positive(dof, "dof"))

    def likelihood(nu: Scalar, z: Float[Array, " D"]) -> StudentT:
        return StudentT(z, jnp.sqrt((nu + (z**2).sum()) / (nu + dim)), nu + dim)

    def posterior(nu: Scalar, x: Float[Array, " D"]) -> StudentT:
        variance = (nu + 0.5 * (x**2).sum()) / (2 * (nu + dim))
        return StudentT(0.5 * x, jnp.sqrt(variance), nu + dim)

    def centred(nu: Scalar, scale: Scalar) -> StudentT:
        return StudentT(jnp.zeros(dim, scale.dtype), scale, jnp.asarray(nu))

    def laplace(posterior: StudentT) -> Distribution:
        t = posterior
        curvature = (t.dof + dim) / (t.dof * t.scale**2)  # of -log t at its mode
        return shifted_normal(t.loc, jnp.broadcast_to(curvature**-0.5, t.loc.shape))

    model = Model(
        init=lambda key: theta,
        prior=lambda nu: centred(nu, jnp.ones_like(nu)),
        likelihood=likelihood,
        posterior=posterior,
        log_evidence=lambda nu, x: centred(nu, jnp.sqrt(2 * jnp.ones_like(nu))).log_prob(x),
    )
    discrepancy = "Laplace's normal, 1.2 times as wide, 0.1 sd aside"
    return Problem("heavy tails", model, theta, changed(model, theta, laplace), (), discrepancy)
