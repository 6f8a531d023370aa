"""log p(x) = ELBO + KL(q || posterior) for q that leaves the posterior; Jensen's inequality (8 s).

The model is linear-Gaussian with a correlated 2-D posterior, so every term is known exactly. The
run measures the identity in both precisions, the ELBO as energy + entropy and as
reconstruction - KL(q || prior), histograms for Jensen's inequality, and the q that maximises the
energy alone.
"""

from dataclasses import dataclass
from typing import Annotated

from lvm_jax.report import Options, above, at_least, between


@dataclass(frozen=True)
class Config(Options):
    """Options of the experiment."""

    posterior_correlation: Annotated[float, between(-0.99, 0.99)] = -0.8
    """Correlation of z1 and z2 under the posterior."""
    num_points: Annotated[int, at_least(3)] = 81
    """Values of each parameter of q: location, scale, correlation."""
    shift: float = 0.7
    """Jensen's q: shift of its mean along the long axis [posterior standard deviations]."""
    scale: Annotated[float, above(0)] = 1.1
    """Jensen's q: its standard deviations, as multiples of the posterior's."""
    correlation: Annotated[float, between(-0.99, 0.99)] = 0.0
    """Jensen's q: its correlation; 0 is a mean-field q."""
    num_samples: tuple[Annotated[int, at_least(1)], ...] = (1, 4, 16, 64, 256)
    """Jensen: numbers S of weights in an average, increasing."""
    num_repeats: Annotated[int, at_least(100)] = 4000
    """Jensen: draws of each average; every S uses the first S of the same weights."""
    num_steps: Annotated[int, at_least(1)] = 300
    """Steps of gradient ascent on the energy alone, and on energy + entropy."""

    def check(self) -> None:
        """Refuse numbers S that do not rise."""
        super().check()
        self.check_rising("num_samples")
