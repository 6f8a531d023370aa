"""Models of NumPyro as log-densities of unconstrained z, and what those of PyMC and TFP share."""

from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lvm_jax._core.extras import needed
from lvm_jax.typing import Latent, Scalar


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
        raise TypeError(f"model: expected a NumPyro model, a function, got {kind_of(model)}")
    seeded = seed(model, jax.random.key(0))
    with jax.numpy_rank_promotion("allow"):
        sites = trace(seeded).get_trace(*args, **kwargs)
        values = _latent_values(sites)
        start = util.unconstrain_fn(seeded, args, kwargs, values)

    @promoting
    def log_density(z: Latent) -> Scalar:
        return -util.potential_energy(seeded, args, kwargs, z)

    @promoting
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
    refuse_discrete(
        discrete,
        "sum it out in the model (for a mixture: dist.MixtureSameFamily), or install funsor and "
        "pass -potential_fn of numpyro.infer.util.initialize_model to vi.fit, which enumerates it",
    )
    refuse_empty(latent, "site; is every numpyro.sample observed?")
    return {name: site["value"] for name, site in latent.items()}


def promoting(function: Callable) -> Callable:
    """The function with rank promotion, which models of the other packages need."""

    @wraps(function)
    def wrapped(z: Latent) -> Any:
        with jax.numpy_rank_promotion("allow"):
            return function(z)

    return wrapped


def refuse_discrete(names: list[str], cure: str) -> None:
    """Refuse latent variables that are discrete, with their names."""
    if names:
        listed = ", ".join(map(repr, names))
        raise ValueError(f"model: expected real latent variables, but {listed} is discrete; {cure}")


def refuse_empty(latent: Any, rest: str) -> None:
    """Refuse a model without latent variables."""
    if not latent:
        raise ValueError(f"model: expected at least one latent {rest}")


def kind_of(value: Any) -> str:
    """The module and name of a type, for an error."""
    return f"{type(value).__module__}.{type(value).__name__}"
