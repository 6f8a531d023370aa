"""A guide q(z | x; phi) as pure functions for one data point, and with bound parameters."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax

from lvm_jax._core.recognition import bindable
from lvm_jax.typing import Array, Distribution, Key, Params


class Guide(NamedTuple):
    """q(z | x; phi). `posterior` rebuilds q on each call, so transformations need only phi."""

    init: Callable[[Key[Array, ""]], Params]  # phi
    posterior: Callable[[Params, Any], Distribution]  # q(z | x; phi)

    def __call__(self, phi: Params) -> "Conditional":
        """q(z | x) with these parameters."""
        return Conditional(bindable(self), phi)


@partial(jax.tree_util.register_dataclass, data_fields=["phi"], meta_fields=["guide"])
@dataclass(frozen=True, eq=False)
class Conditional:
    """q(z | x): a guide with its parameters, `guide(phi)`; q(x) is the distribution of z.

    A pytree with the leaves of phi and static functions. Equal guides share compiled programs.
    """

    guide: Guide = field(repr=False)
    phi: Params

    def __call__(self, x: Any) -> Distribution:
        """q(z | x) of one data point, rebuilt from phi."""
        return self.guide.posterior(self.phi, x)


class Family(NamedTuple):
    """A family of distributions, as a function of unconstrained parameters eta.

    In a guide, eta is phi itself or a function of x with parameters phi.
    """

    init: Callable[[Key[Array, ""]], Params]  # eta
    build: Callable[[Params], Distribution]  # q
