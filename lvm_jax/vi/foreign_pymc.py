"""Models of PyMC as log-densities of unconstrained z."""

import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp

from lvm_jax._core.extras import needed
from lvm_jax.typing import Latent, Scalar
from lvm_jax.vi.foreign import ForeignModel, kind_of, promoting, refuse_discrete, refuse_empty


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
        raise TypeError(f"model: expected a pymc.Model, got {kind_of(model)}")
    _check_pymc(model, pymc)
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

    @promoting
    @_truncating
    def log_density(z: Latent) -> Scalar:
        return log_joint(*[z[name] for name in names])[0]

    @promoting
    @_truncating
    def constrain(z: Latent) -> Latent:
        values = outputs(*[z[name] for name in names])
        return {one.name: value for one, value in zip(kept, values, strict=True)}

    start = model.initial_point()
    return ForeignModel(log_density, {name: jnp.asarray(start[name]) for name in names}, constrain)


def _check_pymc(model: Any, pymc: Any) -> None:
    """Refuse a PyMC model whose value variables have no density of real numbers."""
    refuse_discrete(
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
    refuse_empty(model.value_vars, "variable; is every variable observed?")


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


def _truncating(function: Callable) -> Callable:
    """The function without the warning that float64, which PyTensor names, is float32 in JAX."""

    @wraps(function)
    def wrapped(z: Latent) -> Any:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Explicitly requested dtype", UserWarning)
            return function(z)

    return wrapped
