"""A guide q(z | x; phi) as pure functions, for one data point."""

from collections.abc import Callable
from typing import NamedTuple

from lvm_jax.typing import Array, Distribution, Key, Params


class Guide(NamedTuple):
    """q(z | x; phi). `posterior` builds q afresh from phi, so that phi alone may be transformed."""

    init: Callable[[Key[Array, ""]], Params]  # phi
    posterior: Callable[[Params, Array], Distribution]  # q(z | x; phi)


class Family(NamedTuple):
    """A family of distributions, as a function of unconstrained parameters eta.

    A guide says where eta comes from: phi itself, or a function of x with parameters phi.
    """

    init: Callable[[Key[Array, ""]], Params]  # eta
    build: Callable[[Params], Distribution]  # q
