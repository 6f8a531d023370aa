"""q(y, z) = q(y) q(z | y): a latent of two parts, of which the second may depend on the first."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from lvm_jax.distributions.base import is_discrete, is_reparameterized
from lvm_jax.typing import Array, Distribution, Key, Latent, Scalar


class Successive(NamedTuple):
    """The distribution of {names[0]: y, names[1]: z} with y ~ first and z | y ~ second(y).

    It serves as a prior or as q(y | x) q(z | x, y). The parts may be of different kinds: for a
    finite first part, such as `Categorical`, `gradients.enumerated` sums over y. Rebuild it on
    each call: the closure `second` holds parameters.
    """

    first: Distribution
    second: Callable[[Latent], Distribution]
    names: tuple[str, str] = ("y", "z")

    @property
    def reparameterized(self) -> bool:
        """Whether draws of both parts carry gradients to the parameters."""
        return self._both(is_reparameterized)

    @property
    def discrete(self) -> bool:
        """Whether both parts are discrete."""
        return self._both(is_discrete)

    def _both(self, test: Callable[[Distribution], bool]) -> bool:
        """Whether both parts pass a test of their type."""
        found = [test(self.first)]

        def trace(key: Key[Array, ""]) -> None:
            found.append(test(self.second(self.first.sample(seed=key))))

        jax.eval_shape(trace, jax.random.key(0))
        return all(found)

    def join(self, y: Latent, z: Latent) -> dict[str, Latent]:
        """The value z of the whole distribution from its two parts."""
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
