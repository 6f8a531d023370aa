"""The models of the `evidence_lab` experiment: each breaks estimators in its own way, all are exact.

A bed is a model whose log p(x) and p(z | x) are closed forms, a guide that is reasonable and a
little off, and the moves that chains use on it.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln

from experiments.marginal_likelihood_beds import mixing
from lvm_jax import annealing, distributions, models, priors
from lvm_jax.guides import Guide
from lvm_jax.models import Model
from lvm_jax.typing import Array, Distribution, Float, Key, Latent, Params, Scalar

if TYPE_CHECKING:
    from experiments.evidence_lab import Config

MODES, TAILS, DISCRETE = "two modes", "heavy tails", "discrete"  # names of beds
NOISE, COUPLING = 0.5, 0.5  # of the linear-Gaussian and of the discrete model
WIDEN, SHIFT = 1.2, 0.1  # a guide's scales are so many times too wide, its mean so many of them off
TAILS_DIM = 2
TAILS_DOF = 1.0  # of the joint density, a Cauchy
NUM_VARIABLES, NUM_VALUES, DEFENSIVE = 6, 3, 0.1

Parts = tuple[Model, Params, Guide]


class Bed(NamedTuple):
    """A model with an exact log p(x), where to draw z from, and how chains move."""

    name: str
    model: Model
    theta: Params
    guide: Guide  # phi is ()
    transition: annealing.Transition
    move_cost: int  # evaluations of the joint density or its gradient in one move


class Data(NamedTuple):
    """N data sets of one point each, drawn from the model with the z that made them."""

    x: Array  # [N, D]
    z: Latent  # exact draws of p(z | x), leaves [N, ...]
    log_evidence: np.ndarray  # [N], exact, in nats


def make(config: "Config") -> list[Bed]:
    """The models that are asked for, the Gaussian ones by dimension."""
    hmc = (annealing.hmc(config.num_leapfrogs), config.num_leapfrogs + 1)
    gibbs = (annealing.gibbs(NUM_VALUES, NUM_VARIABLES), NUM_VALUES * NUM_VARIABLES)
    kinds = {
        "gaussian": lambda: [Bed(f"Gaussian, D = {d}", *gaussian(d), *hmc) for d in config.dims],
        "two_modes": lambda: [Bed(MODES, *two_modes(config.modes_dim), *hmc)],
        "heavy_tails": lambda: [Bed(TAILS, *heavy_tails(TAILS_DIM), *hmc)],
        "discrete": lambda: [Bed(DISCRETE, *discrete(NUM_VARIABLES, NUM_VALUES), *gibbs)],
    }
    return [bed for name in config.models for bed in kinds[name]()]


def simulate(key: Key[Array, ""], bed: Bed, num_points: int) -> Data:
    """N pairs z ~ p(z), x ~ p(x | z), and the exact log p(x) of each."""

    def one(key: Key[Array, ""]) -> tuple[Array, Latent]:
        key_z, key_x = jax.random.split(key)
        z = bed.model.prior(bed.theta).sample(seed=key_z)
        return bed.model.likelihood(bed.theta, z).sample(seed=key_x), z

    x, z = jax.jit(jax.vmap(one))(jax.random.split(key, num_points))
    return Data(x, z, exact(bed, x))


def exact(bed: Bed, x: Array) -> np.ndarray:
    """log p(x) of points [N, D], computed in float64, [N]."""
    with jax.enable_x64(True):
        theta, x = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, float)), (bed.theta, x))
        return np.asarray(jax.jit(jax.vmap(bed.model.log_evidence, (None, 0)))(theta, x))


def off(mean: Float[Array, " D"], deviation: Float[Array, " D"]) -> Distribution:
    """The factorised normal of these moments, a little too wide and a little beside."""
    return distributions.normal(mean + SHIFT * deviation, WIDEN * deviation)


def gaussian(dim: int) -> Parts:
    """z ~ N(0, I), x | z ~ N(W z, s^2 I); the guide has the posterior's moments, not its
    correlations. Its weights have a finite variance, which grows exponentially in the dimension.
    """
    model = models.linear_gaussian(dim, dim)
    theta = models.LinearGaussian(
        jnp.zeros(dim), jnp.asarray(mixing(dim, COUPLING), jnp.float32), jnp.zeros(dim),
        jnp.log(jnp.float32(NOISE)),
    )  # fmt: skip

    def q(phi: Params, x: Float[Array, " D"]) -> Distribution:
        posterior = model.posterior(theta, x)
        return off(posterior.mean, jnp.sqrt((posterior.cholesky**2).sum(1)))

    return model, theta, Guide(lambda key: (), q)


class TwoModes(NamedTuple):
    """theta: x is z up to a sign that nobody noted, by a sharp sensor or by a blurred one."""

    log_weights: Float[Array, " 2"]
    signs: Float[Array, " 2"]
    scales: Float[Array, " 2"]  # of the noise; the narrow mode, then the wide one


def two_modes(dim: int) -> Parts:
    """z ~ N(0, I), x | z ~ sum_k pi_k N(g_k z, s_k^2 I): a posterior of two normals far apart.

    The guide covers the wide mode, as a q that was trained by the ELBO covers one mode.
    """
    theta = TwoModes(jnp.log(jnp.array([0.5, 0.5])), jnp.array([1.0, -1.0]), jnp.array([0.3, 1.0]))
    ones = jnp.ones(dim)

    def likelihood(theta: TwoModes, z: Float[Array, " D"]) -> Distribution:
        def component(z: Array, part: tuple[Scalar, Scalar]) -> Distribution:
            sign, scale = part
            return distributions.normal(sign * z, jnp.broadcast_to(scale, z.shape))

        return priors.Mixture(theta.log_weights, z, (theta.signs, theta.scales), component)

    def log_masses(theta: TwoModes, x: Float[Array, " D"]) -> Float[Array, " 2"]:
        """log pi_k N(x; 0, (1 + s_k^2) I)."""
        variances = 1 + theta.scales**2
        log_normal = -0.5 * ((x**2).sum() / variances + dim * jnp.log(2 * jnp.pi * variances))
        return theta.log_weights + log_normal

    def modes(theta: TwoModes, x: Float[Array, " D"]) -> tuple[Array, Array]:
        """Means [2, D] and standard deviations [2] of the two normals."""
        variances = 1 + theta.scales**2
        means = (theta.signs / variances)[:, None] * x[None]
        return means, theta.scales / jnp.sqrt(variances)

    def posterior(theta: TwoModes, x: Float[Array, " D"]) -> Distribution:
        def component(shared: Params, part: tuple[Array, Array]) -> Distribution:
            return distributions.normal(part[0], jnp.broadcast_to(part[1], part[0].shape))

        log_weights = jax.nn.log_softmax(log_masses(theta, x))
        return priors.Mixture(log_weights, (), modes(theta, x), component)

    def q(phi: Params, x: Float[Array, " D"]) -> Distribution:
        means, deviations = modes(theta, x)
        return off(means[1], deviations[1] * ones)

    model = Model(
        init=lambda key: theta,
        prior=lambda theta: distributions.normal(jnp.zeros(dim), ones),
        likelihood=likelihood,
        posterior=posterior,
        log_evidence=lambda theta, x: jax.nn.logsumexp(log_masses(theta, x)),
    )
    return model, theta, Guide(lambda key: (), q)


class StudentT(NamedTuple):
    """The multivariate Student t with scale matrix s^2 I in D dimensions."""

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
        """loc + s epsilon / sqrt(chi^2 / dof), [*sample_shape, D]: one chi^2 for all coordinates."""
        key_normal, key_chi = jax.random.split(seed)
        shape = (*sample_shape, self.loc.shape[0])
        chi = 2 * jax.random.gamma(key_chi, 0.5 * self.dof, (*sample_shape, 1), self.loc.dtype)
        noise = jax.random.normal(key_normal, shape, self.loc.dtype) / jnp.sqrt(chi / self.dof)
        return jnp.broadcast_to(self.loc, shape) + self.scale * noise


def heavy_tails(dim: int) -> Parts:
    """(z, x) jointly Student t, x = z + noise of the same size: every density of it is a t.

        z ~ t_nu(0, I),  x | z ~ t_(nu + D)(z, (nu + |z|^2) / (nu + D) I),  x ~ t_nu(0, 2 I),
        z | x ~ t_(nu + D)(x / 2, (nu + |x|^2 / 2) / (2 (nu + D)) I)

    The guide is Laplace's approximation, a little off: the curvature at the mode knows nothing of
    the tails. Its weights have a mean but no variance, as any normal's have here.
    """
    theta = jnp.float32(TAILS_DOF)
    zeros = jnp.zeros(dim)

    def likelihood(nu: Scalar, z: Float[Array, " D"]) -> StudentT:
        return StudentT(z, jnp.sqrt((nu + (z**2).sum()) / (nu + dim)), nu + dim)

    def posterior(nu: Scalar, x: Float[Array, " D"]) -> StudentT:
        variance = (nu + 0.5 * (x**2).sum()) / (2 * (nu + dim))
        return StudentT(0.5 * x, jnp.sqrt(variance), nu + dim)

    def q(phi: Params, x: Float[Array, " D"]) -> Distribution:
        t = posterior(theta, x)
        curvature = (t.dof + dim) / (t.dof * t.scale**2)  # of -log t at its mode
        return off(t.loc, jnp.broadcast_to(curvature**-0.5, t.loc.shape))

    model = Model(
        init=lambda key: theta,
        prior=lambda nu: StudentT(zeros.astype(nu.dtype), jnp.ones_like(nu), nu),
        likelihood=likelihood,
        posterior=posterior,
        log_evidence=lambda nu, x: StudentT(
            jnp.zeros_like(x), jnp.sqrt(2 * jnp.ones_like(nu)), nu
        ).log_prob(x),
    )
    return model, theta, Guide(lambda key: (), q)


def discrete(num_variables: int, num_values: int) -> Parts:
    """z_k in {1, ..., L}, x | z ~ N(W v(z), s^2 I), v(l) = l - (L + 1) / 2; an uneven prior.

    The guide has the posterior's marginals, mixed with a uniform, and none of its correlations.
    """
    values = jnp.arange(num_values) - (num_values - 1) / 2
    tilt = jnp.linspace(-0.8, 0.8, num_variables)
    parameters = {"weight": jnp.asarray(mixing(num_variables, COUPLING), jnp.float32),
                  "values": values, "noise": jnp.float32(NOISE)}  # fmt: skip

    def likelihood(parameters: Any, z: Any) -> Distribution:
        mean = parameters["weight"] @ parameters["values"][z]
        return distributions.normal(mean, jnp.broadcast_to(parameters["noise"], mean.shape))

    model = models.categorical(num_variables, num_values, likelihood, lambda key: parameters)
    theta = models.Discrete(tilt[:, None] * values[None], parameters)

    def q(phi: Params, x: Float[Array, " D"]) -> Distribution:
        table = model.posterior(theta, x)
        is_value = jax.nn.one_hot(table.values, num_values)
        marginals = jnp.einsum("m,mkl->kl", jnp.exp(table.log_probs), is_value)
        return distributions.categorical(
            jnp.log((1 - DEFENSIVE) * marginals + DEFENSIVE / num_values)
        )

    return model, theta, Guide(lambda key: (), q)
