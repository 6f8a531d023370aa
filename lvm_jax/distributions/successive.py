"""q(y, z) = q(y) q(z | y): a latent of two parts, of which the second may depend on the first."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from lvm_jax.distributions.base import is_discrete, is_reparameterized
from lvm_jax.typing import Array, Distribution, Key, Latent, Scalar


class Successive(NamedTuple):
    """The distribution of {name: y, other: z}, y ~ first, z | y ~ second(y).

    A prior, or a q(y | x) q(z | x, y), whose parts may be of different kinds: with a finite first
    part, such as `Categorical`, `gradients.enumerated` sums over y. Build it anew for
    each use, as any distribution: `second` is a function, and carries its parameters with it.
    """

    first: Distribution
    second: Callable[[Latent], Distribution]
    names: tuple[str, str] = ("y", "z")

    @property
    def reparameterized(self) -> bool:
        """Do both parts carry gradients?"""
        y = jax.eval_shape(lambda key: self.first.sample(seed=key), jax.random.key(0))
        if not is_reparameterized(self.first):
            return False
        found: list[bool] = []
        jax.eval_shape(lambda y: found.append(is_reparameterized(self.second(y))), y)
        return found[0]

    @property
    def discrete(self) -> bool:
        """Are both parts discrete?"""
        y = jax.eval_shape(lambda key: self.first.sample(seed=key), jax.random.key(0))
        found: list[bool] = []
        jax.eval_shape(lambda y: found.append(is_discrete(self.second(y))), y)
        return is_discrete(self.first) and found[0]

    def join(self, y: Latent, z: Latent) -> dict[str, Latent]:
        """A value from its parts."""
        return dict(zip(self.names, (y, z), strict=True))

    def log_prob(self, value: dict[str, Latent]) -> Scalar:
        """log q(y) + log q(z | y), in nats."""
        y, z = (value[name] for name in self.names)
        return self.first.log_prob(y) + self.second(y).log_prob(z)

    def sample(
        self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()
    ) -> dict[str, Latent]:
        """y, then z; leaves [*sample_shape, ...]."""
        key_first, key_second = jax.random.split(seed)
        draw = lambda key, y: self.second(y).sample(seed=key)  # noqa: E731
        if not sample_shape:
            y = self.first.sample(seed=key_first)
            return self.join(y, draw(key_second, y))
        y = self.first.sample(seed=key_first, sample_shape=sample_shape)
        keys = jax.random.split(key_second, sample_shape)
        for _ in sample_shape:
            draw = jax.vmap(draw)
        return self.join(y, draw(keys, y))
