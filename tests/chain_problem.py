"""Test problems whose z is a tuple: a chain of two linear-Gaussian layers under a hierarchical guide.

    z_2 ~ N(0, 1),    z_1 | z_2 ~ N(a z_2 + c, t^2),    x | z_1 ~ N(w z_1 + b, s^2 I)

x has two dimensions. Everything is Gaussian, so log p(x), the posterior and the ELBO are known; all
of it by hand. The guides are the product's own, at parameters that miss the posterior by far.
"""

import functools
import math

import jax.numpy as jnp
from deep_cases import Joined, constant_scale
from exact_problems import Problem
from jax.scipy.stats import multivariate_normal

from lvm_jax import guides, networks
from lvm_jax.distributions.normals import FullRankNormal

X, OTHER_X = (0.9, 0.7), (-3.0, 2.0)
LOG_2PI = math.log(2 * math.pi)


def chain(name: str = "bottom_up") -> Problem:
    """The problem under `guides.bottom_up` or `guides.ladder`."""
    theta = {
        "slope": jnp.array([1.2]),
        "offset": jnp.array([0.4]),
        "log_scale": jnp.array([-0.5]),
        "weight": jnp.array([1.1, -0.6]),
        "bias": jnp.array([0.2, -0.3]),
        "log_noise": jnp.array(-0.2),
    }
    guide, phi, moments = GUIDES[name]()
    return Problem(
        f"chain_{name}", theta, phi, jnp.array(X), jnp.array(OTHER_X), log_joint,
        lambda phi: guide.posterior(phi, jnp.array(X)),
        log_evidence, posterior, functools.partial(elbo, moments), moments,
        lambda flat: (flat[:1], flat[1:]),
    )  # fmt: skip


def bottom_up():
    """The guide, phi, and phi -> the moments of q over (z_1, z_2) at the problem's x."""
    phi = (
        {"weight": jnp.array([[0.1, -0.2]]), "bias": jnp.array([0.2]), "free": jnp.array([-0.6])},
        {"weight": jnp.array([[0.2]]), "bias": jnp.array([1.2]), "free": jnp.array([-0.9])},
    )

    def moments(phi):
        (loc, scale), above = gaussian(phi[0], jnp.array(X)), phi[1]
        slope, own = above["weight"][0], positive(above["free"])
        factor = jnp.stack(
            [jnp.concatenate([scale, 0 * own]), jnp.concatenate([slope * scale, own])]
        )
        return jnp.concatenate([loc, slope * loc + above["bias"]]), factor

    return guides.bottom_up([constant_scale(2, 1), constant_scale(1, 1)]), phi, moments


def ladder():
    """The same for a ladder whose two ways up are the identity."""
    identity = networks.Network(2, lambda key: (), lambda params, x: x)
    heads = (
        head([[-0.5, 0.2], [1.2, 1.3]], [-0.2, -1.8]),
        head([[0.7, -0.5], [-0.7, 0.2]], [0.9, -0.4]),
    )
    layer = {"weight": jnp.array([[0.9]]), "bias": jnp.array([-1.2]), "free": jnp.array([-0.1])}
    phi = guides.Ladder(((), ()), heads, (layer,))

    def moments(phi):
        (loc_x, scale_x), (top, spread) = (seen(head["output"]) for head in phi.heads)
        (layer,) = phi.layers
        precisions = scale_x**-2, positive(layer["free"]) ** -2
        share = precisions[1] / sum(precisions)  # of the layer above in the mean of z_1
        slope = share * layer["weight"][0]
        loc = loc_x + share * (layer["bias"] - loc_x) + slope * top
        own = sum(precisions) ** -0.5
        factor = jnp.stack(
            [jnp.concatenate([own, slope * spread]), jnp.concatenate([0 * own, spread])]
        )
        return jnp.concatenate([loc, top]), factor

    return guides.ladder([identity, identity], 1, [constant_scale(1, 1)], "identity"), phi, moments


GUIDES = {"bottom_up": bottom_up, "ladder": ladder}


def head(kernel, bias):
    """Parameters of a head of the ladder."""
    return {"output": {"kernel": jnp.array(kernel), "bias": jnp.array(bias)}}


def positive(free):
    return jnp.exp(8 * jnp.tanh(free / 8))


def gaussian(layer, u):
    """Mean and standard deviation that a `constant_scale` gives."""
    return layer["weight"] @ u + layer["bias"], positive(layer["free"])


def seen(head):
    """Mean and standard deviation that a head of the ladder gives, at the problem's x."""
    loc, free = jnp.split(jnp.array(X) @ head["kernel"] + head["bias"], 2)
    return loc, positive(free)


def log_joint(theta, x):
    def joint(z):
        white = (z[0] - theta["slope"] * z[1] - theta["offset"]) * jnp.exp(-theta["log_scale"])
        noise = (x - theta["weight"] * z[0] - theta["bias"]) * jnp.exp(-theta["log_noise"])
        squares = (z[1] ** 2 + white**2).sum() + (noise**2).sum()
        return -0.5 * squares - log_scales(theta)

    return joint


def log_scales(theta):
    return theta["log_scale"].sum() + 2 * theta["log_noise"] + 2 * LOG_2PI


def elbo(moments, theta, phi, x):
    """E_q of the joint above, each square by its mean and variance; and the entropy of q."""
    mean, factor = moments(phi)

    def square(along, offset):  # E[(<along, z> - offset)^2]
        return (along @ mean - offset) ** 2 + ((along @ factor) ** 2).sum()

    one, nought = jnp.ones(1), jnp.zeros(1)
    white = square(jnp.concatenate([one, -theta["slope"]]), theta["offset"][0])
    residuals = [
        square(jnp.concatenate([weight, nought]), x[d] - theta["bias"][d])
        for d, weight in enumerate(jnp.split(theta["weight"], 2))
    ]
    squares = square(jnp.concatenate([nought, one]), 0.0)
    squares += white * jnp.exp(-2 * theta["log_scale"][0])
    squares += sum(residuals) * jnp.exp(-2 * theta["log_noise"])
    return -0.5 * squares - log_scales(theta) + 1 + LOG_2PI + jnp.log(jnp.diag(factor)).sum()


def dense(theta):
    """The joint of (z_1, z_2) and x: both means and the three blocks of the covariance."""
    a, one = theta["slope"], jnp.ones(1)
    up = jnp.concatenate([a**2 + jnp.exp(2 * theta["log_scale"]), a])
    latent = jnp.stack([up, jnp.concatenate([a, one])])
    out = jnp.stack([theta["weight"], jnp.zeros(2)], axis=1)
    mean = jnp.concatenate([theta["offset"], jnp.zeros(1)])
    data = out @ latent @ out.T + jnp.exp(2 * theta["log_noise"]) * jnp.eye(2)
    return mean, out @ mean + theta["bias"], latent, out @ latent, data


def log_evidence(theta, x):
    _, mean, _, _, covariance = dense(theta)
    return multivariate_normal.logpdf(x, mean, covariance)


def posterior(theta, x):
    mean, data_mean, latent, cross, data = dense(theta)
    gain = jnp.linalg.solve(data, cross).T
    lower = jnp.linalg.cholesky(latent - gain @ cross)
    return Joined(FullRankNormal(mean + gain @ (x - data_mean), lower), 1)
