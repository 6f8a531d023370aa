"""Signal to noise of every gradient estimator against the number of samples S (50 s).

More importance samples tighten the bound, but can degrade the gradient of phi: the signal of IWAE
falls as 1/S, its noise only as S^-1/2 (Rainforth et al. 2018). Doubly-reparameterised gradients
avoid this (Tucker et al. 2019). The run measures every estimator for a Gaussian q on the problem of
both papers, with the slope of log SNR against log S and its standard error.
"""

from dataclasses import dataclass
from typing import Annotated

from lvm_jax.report import Options, above, at_least, between


@dataclass(frozen=True)
class Config(Options):
    """Options of the experiment."""

    dim: Annotated[int, at_least(1)] = 20
    """D, the dimension of both z and x."""
    perturbation: Annotated[float, above(0)] = 0.01
    """Standard deviation of the normal perturbation of every parameter from its optimum."""
    num_samples: tuple[Annotated[int, at_least(1)], ...] = (1, 4, 16, 64, 256, 1024)
    """Numbers S of importance samples, increasing."""
    num_repeats: Annotated[int, at_least(6)] = 2000
    """Gradients drawn for each S and estimator."""
    num_blocks: Annotated[int, at_least(3)] = 10
    """Independent blocks of the gradients, for standard errors (delete-one jackknife)."""
    num_groups: Annotated[int, at_least(2)] = 4
    """Groups of MIWAE and PIWAE, which need a multiple of it as S."""
    beta: Annotated[float, between(0, 1)] = 0.5
    """Weight of the ELBO in CIWAE; IWAE has 1 - beta."""
    fit_from: Annotated[int, at_least(1)] = 64
    """The smallest S in the fit of a slope, for the asymptotic law."""

    def check(self) -> None:
        """Refuse too few repeats, and too few S for a slope."""
        super().check()
        if self.num_repeats < 2 * self.num_blocks:
            raise ValueError(
                f"num_repeats: expected at least two a block, {2 * self.num_blocks}, "
                f"got {self.num_repeats}"
            )
        self.check_rising("num_samples")
        if sum(size >= self.fit_from for size in self.num_samples) < 2:
            raise ValueError(
                f"num_samples: expected at least two from fit_from of {self.fit_from} on, "
                f"got {self.num_samples}"
            )
