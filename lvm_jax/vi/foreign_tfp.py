"""Joint distributions of TensorFlow Probability as log-densities of unconstrained z."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from lvm_jax.typing import Array, Latent, Scalar
from lvm_jax.vi.foreign import ForeignModel, kind_of, promoting, refuse_discrete, refuse_empty


def from_tfp(joint: Any, *observed: Any, **named: Any) -> ForeignModel:
    """The log-density of a joint distribution of TFP, for `vi.fit(key, m.log_density, m.start)`.

    `joint` is a JointDistribution of `tensorflow_probability.substrates.jax`; `observed` or `named`
    are the pins of its `experimental_pin`, for example `y=y`. z has the structure of the other
    parts, transformed to the real line by `experimental_default_event_space_bijector`; `start` is 0
    for each. `constrain` returns the parts in the structure of TFP.

    A density of a simplex of K numbers is one of K - 1 numbers, as in NumPyro. TFP's log-Jacobian
    of the simplex (its issue 1777) adds (log K) / 2 to log Z, which is subtracted here.

    Raises ValueError for discrete parts, parts whose default bijector is not one of their support
    (tfd.LKJ, spheres), or a batch shape; TypeError if `joint` is no JointDistribution.
    """
    from tensorflow_probability.substrates.jax import distributions as tfd

    if not isinstance(joint, tfd.JointDistribution):
        kind = kind_of(joint)
        raise TypeError(f"joint: expected a JointDistribution of TFP's JAX substrate, got {kind}")
    with jax.numpy_rank_promotion("allow"):
        pinned = joint.experimental_pin(*observed, **named) if observed or named else joint
        _check_parts(pinned, tfd)
        bijector = pinned.experimental_default_event_space_bijector()
        start = _zeros(bijector.inverse_event_shape(pinned.event_shape), pinned.dtype)
        leaves = jax.tree.leaves(start), jax.tree.leaves(bijector.forward(start))
        excess = sum(_excess(z, x) for z, x in zip(*leaves, strict=True))

    @promoting
    def log_density(z: Latent) -> Scalar:
        log_joint = pinned.unnormalized_log_prob(bijector.forward(z))
        return log_joint + bijector.forward_log_det_jacobian(z) - excess

    shape = jax.eval_shape(log_density, start).shape
    if shape != ():
        raise ValueError(
            f"joint: expected one model, got a batch shape of {list(shape)}; use tfd.Sample or "
            "tfd.Independent for independent parts of one model, or an ...AutoBatched joint"
        )
    return ForeignModel(log_density, start, promoting(bijector.forward))


def _zeros(shapes: Any, kinds: Any) -> Latent:
    """Zeros of TFP's shapes and types."""
    return jax.tree.map(
        lambda shape, kind: jnp.zeros(tuple(shape), kind),
        *(shapes, kinds),
        is_leaf=lambda leaf: hasattr(leaf, "as_list"),
    )


def _check_parts(pinned: Any, tfd: Any) -> None:
    """Refuse latent parts of TFP without a bijection from R^D to their support.

    The default bijector of a discrete part is None. That of tfd.LKJ has the log-Jacobian of all
    symmetric matrices; those of spheres map to a simplex.
    """
    spheres = tfd.SphericalUniform, tfd.PowerSpherical, tfd.VonMisesFisher
    names, parts = pinned._flat_resolve_names(), pinned._get_single_sample_distributions()
    named = dict(zip(names, parts, strict=True))
    refuse_empty(named, "part; is every part observed?")
    refuse_discrete(
        [
            x
            for x, part in named.items()
            if part.experimental_default_event_space_bijector() is None
        ],
        "sum it out of the joint (for a mixture: tfd.MixtureSameFamily)",
    )
    for name, part in named.items():
        while isinstance(part, tfd.Sample | tfd.Independent):
            part = part.distribution
        cure = "use tfd.CholeskyLKJ" if isinstance(part, tfd.LKJ) else "write its log-density"
        if isinstance(part, (tfd.LKJ, *spheres)):
            raise ValueError(
                f"joint: expected parts with a bijection from real numbers, but {name!r} is a "
                f"tfd.{type(part).__name__}, whose default bijector in TFP is none; {cure}"
            )


def _excess(z: Array, x: Array) -> float:
    """The nats by which TFP's log-Jacobian of simplices exceeds that of K - 1 numbers; else 0."""
    from tensorflow_probability.substrates.jax.bijectors import SoftmaxCentered

    if not (x.ndim == z.ndim > 0 and x.shape[-1] == z.shape[-1] + 1):
        return 0.0
    size = x.shape[-1]
    at_zero = SoftmaxCentered().forward_log_det_jacobian(jnp.zeros(size - 1), 1)
    return x.size / size * (float(at_zero) + size * math.log(size))
