"""Models of NumPyro, PyMC and TensorFlow Probability as log-densities of unconstrained z."""

import math
import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lvm_jax._core.extras import needed
from lvm_jax.typing import Array, Latent, Scalar
from lvm_jax.vi.export import named_leaves


class ForeignModel(NamedTuple):
    """A model of another package in unconstrained coordinates z, a pytree of real arrays."""

    log_density: Callable[[Latent], Scalar]  # log p(data, z) with the log-Jacobian, in nats
    start: Latent  # z
    constrain: Callable[[Latent], Any]  # one z -> the model's own variables, by name


def from_numpyro(model: Callable, *args: Any, **kwargs: Any) -> ForeignModel:
    """The log-density of a NumPyro model, for `vi.fit(key, m.log_density, m.start)`.

    `args` and `kwargs` are the model's arguments, with the observed data. z has the latent sites,
    transformed to the real line by NumPyro's `biject_to`; `start` is 0 for each. `constrain` also
    returns the deterministic sites. A `numpyro.param` keeps its initial value.

    Raises ValueError for a discrete latent site, a plate that subsamples its rows, or a model
    without a latent site; ModuleNotFoundError without NumPyro.
    """
    with needed("numpyro"):
        from numpyro.handlers import seed, trace
        from numpyro.infer import util
    if not callable(model):
        raise TypeError(f"model: expected a NumPyro model, a function, got {_kind(model)}")
    seeded = seed(model, jax.random.key(0))
    with jax.numpy_rank_promotion("allow"):
        sites = trace(seeded).get_trace(*args, **kwargs)
        values = _latent_values(sites)
        start = util.unconstrain_fn(seeded, args, kwargs, values)

    @_promoting
    def log_density(z: Latent) -> Scalar:
        return -util.potential_energy(seeded, args, kwargs, z)

    @_promoting
    def constrain(z: Latent) -> Latent:
        return util.constrain_fn(seeded, args, kwargs, z, return_deterministic=True)

    return ForeignModel(log_density, jax.tree.map(jnp.zeros_like, start), constrain)


def _latent_values(sites: dict[str, dict]) -> dict[str, Any]:
    """The values of the latent sites of a NumPyro trace; refuses what is no density of z."""
    for name, site in sites.items():
        size, used = site["args"] if site["type"] == "plate" else (None, None)
        if used not in (None, size):
            raise ValueError(
                f"model: expected plate {name!r} with all of its {size:,} rows, got a random "
                f"subsample of {used:,}; leave out subsample_size"
            )
    latent = {
        name: site
        for name, site in sites.items()
        if site["type"] == "sample" and not site["is_observed"]
    }
    discrete = [name for name, site in latent.items() if site["fn"].support.is_discrete]
    _refuse_discrete(
        discrete,
        "sum it out in the model (for a mixture: dist.MixtureSameFamily), or install funsor and "
        "pass -potential_fn of numpyro.infer.util.initialize_model to vi.fit, which enumerates it",
    )
    _refuse_empty(latent, "site; is every numpyro.sample observed?")
    return {name: site["value"] for name, site in latent.items()}


def from_pymc(model: Any) -> ForeignModel:
    """The log-density of a PyMC model, for `vi.fit(key, m.log_density, m.start)`.

    z has PyMC's value variables, such as "tau_log__", as a dict; `start` is `initial_point()`, in
    the precision of JAX. `constrain` returns the free and the deterministic variables. The data of
    the model are those at the call.

    Raises ValueError for discrete variables, or a model without a free variable; TypeError if
    `model` is no PyMC model; ModuleNotFoundError without PyMC.
    """
    with needed("pymc"), ThreadPoolExecutor(1) as thread:
        pymc = thread.submit(_import_pymc).result()
    graph = pymc.sampling.jax.get_jaxified_graph
    if not isinstance(model, pymc.Model):
        raise TypeError(f"model: expected a pymc.Model, got {_kind(model)}")
    _refuse_discrete(
        [variable.name for variable in model.discrete_value_vars],
        "sum it out, for example by pymc_extras.marginalize",
    )
    circular = [
        variable.name
        for variable, transform in model.rvs_to_transforms.items()
        if isinstance(transform, type(pymc.distributions.transforms.circular))
    ]
    if circular:
        raise ValueError(
            f"model: expected a proper density of real numbers, but that of {circular[0]!r} is "
            "periodic, by PyMC's circular transform; give the variable "
            "default_transform=pymc.distributions.transforms.Interval(-numpy.pi, numpy.pi)"
        )
    _refuse_empty(model.value_vars, "variable; is every variable observed?")
    names = [variable.name for variable in model.value_vars]
    kept = pymc.util.get_default_varnames(model.unobserved_value_vars, include_transformed=False)
    try:
        log_joint = graph(model.value_vars, [model.logp()])
    except ValueError as error:
        raise ValueError(
            f"model: expected a log-density that PyMC can translate to JAX ({error}); give a model "
            "with pm.Minibatch all its rows"
        ) from error
    outputs = graph(model.value_vars, kept)

    @_promoting
    @_truncating
    def log_density(z: Latent) -> Scalar:
        return log_joint(*[z[name] for name in names])[0]

    @_promoting
    @_truncating
    def constrain(z: Latent) -> Latent:
        values = outputs(*[z[name] for name in names])
        return {one.name: value for one, value in zip(kept, values, strict=True)}

    start = model.initial_point()
    return ForeignModel(log_density, {name: jnp.asarray(start[name]) for name in names}, constrain)


def from_tfp(joint: Any, *observed: Any, **named: Any) -> ForeignModel:
    """The log-density of a joint distribution of TFP, for `vi.fit(key, m.log_density, m.start)`.

    `joint` is a JointDistribution of `tensorflow_probability.substrates.jax`; `observed` or `named`
    are the pins of its `experimental_pin`, for example `y=y`. z has the structure of the other
    parts, transformed to the real line by `experimental_default_event_space_bijector`; `start` is 0
    for each. `constrain` returns the parts in the structure of TFP.

    A density of a simplex of K numbers is one of its first K - 1 numbers, as in NumPyro and PyMC.
    TFP's log-Jacobian is that of the area of the simplex (its issue 1777), which adds (log K) / 2
    to log Z; it is subtracted here.

    Raises ValueError for discrete parts, parts whose default bijector is not one of their support
    (tfd.LKJ, distributions on a sphere), or a joint of several models (a batch shape); TypeError if
    `joint` is no JointDistribution of the JAX substrate.
    """
    from tensorflow_probability.substrates.jax import distributions as tfd

    if not isinstance(joint, tfd.JointDistribution):
        raise TypeError(
            "joint: expected a JointDistribution of tensorflow_probability.substrates.jax, got "
            f"{_kind(joint)}"
        )
    with jax.numpy_rank_promotion("allow"):
        pinned = joint.experimental_pin(*observed, **named) if observed or named else joint
        _refuse_discrete(
            [
                name
                for name, kind in named_leaves(pinned.dtype)
                if not jnp.issubdtype(kind, jnp.floating)
            ],
            "sum it out of the joint (for a mixture: tfd.MixtureSameFamily)",
        )
        _refuse_parts(joint.sample_distributions(seed=jax.random.key(0))[0], tfd)
        bijector = pinned.experimental_default_event_space_bijector()
        shapes = bijector.inverse_event_shape(pinned.event_shape)
        start = jax.tree.map(
            lambda shape, kind: jnp.zeros(tuple(shape), kind),
            *(shapes, pinned.dtype),
            is_leaf=lambda leaf: hasattr(leaf, "as_list"),
        )
        leaves = jax.tree.leaves(start), jax.tree.leaves(bijector.forward(start))
        excess = sum(_excess(z, x) for z, x in zip(*leaves, strict=True))

    @_promoting
    def log_density(z: Latent) -> Scalar:
        log_joint = pinned.unnormalized_log_prob(bijector.forward(z))
        return log_joint + bijector.forward_log_det_jacobian(z) - excess

    shape = jax.eval_shape(log_density, start).shape
    if shape != ():
        raise ValueError(
            f"joint: expected one model, got a batch shape of {list(shape)}; use tfd.Sample or "
            "tfd.Independent for independent parts of one model, or an ...AutoBatched joint"
        )
    return ForeignModel(log_density, start, _promoting(bijector.forward))


def _refuse_parts(parts: Any, tfd: Any) -> None:
    """Refuse distributions of TFP whose default bijector does not map R^D to their support.

    That of LKJ has the log-Jacobian of all symmetric matrices; those of spheres map to a simplex.
    """
    is_part = lambda part: isinstance(part, tfd.Distribution)  # noqa: E731
    spheres = tfd.SphericalUniform, tfd.PowerSpherical, tfd.VonMisesFisher
    for name, part in named_leaves(parts, is_part):
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


def _promoting(function: Callable) -> Callable:
    """The function with rank promotion, which models of the other packages need."""

    @wraps(function)
    def wrapped(z: Latent) -> Any:
        with jax.numpy_rank_promotion("allow"):
            return function(z)

    return wrapped


def _truncating(function: Callable) -> Callable:
    """The function without the warning that float64, which PyTensor names, is float32 in JAX."""

    @wraps(function)
    def wrapped(z: Latent) -> Any:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Explicitly requested dtype", UserWarning)
            return function(z)

    return wrapped


def _import_pymc() -> Any:
    """PyMC with its JAX module, which sets x64, and 100 host devices in XLA_FLAGS: both undone.

    Call it in a new thread: there the flag is that of the process, without `jax.enable_x64`.
    """
    x64, flags = jax.config.read("jax_enable_x64"), os.environ.get("XLA_FLAGS")
    try:
        import pymc
        import pymc.sampling.jax
    finally:
        jax.config.update("jax_enable_x64", x64)
        os.environ.pop("XLA_FLAGS", None)
        if flags is not None:
            os.environ["XLA_FLAGS"] = flags
    return pymc


def _refuse_discrete(names: list[str], cure: str) -> None:
    if names:
        listed = ", ".join(map(repr, names))
        raise ValueError(f"model: expected real latent variables, but {listed} is discrete; {cure}")


def _refuse_empty(latent: Any, rest: str) -> None:
    if not latent:
        raise ValueError(f"model: expected at least one latent {rest}")


def _kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__name__}"
