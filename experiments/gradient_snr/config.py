"""Signal to noise of every gradient estimator against the number of samples S (50 s).

More importance samples tighten the bound, but can ruin the gradient of phi: the signal of IWAE
falls as 1/S, its noise as S^-1/2 only (Rainforth et al. 2018). Doubly-reparameterised gradients
mend that (Tucker et al. 2019). Measured on the problem of both papers, for every estimator that
takes a Gaussian q, with the slope of log SNR against log S and its standard error.
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
    """Every parameter is moved off its optimum by this times N(0, 1)."""
    num_samples: tuple[Annotated[int, at_least(1)], ...] = (1, 4, 16, 64, 256, 1024)
    """Numbers S of importance samples, rising."""
    num_repeats: Annotated[int, at_least(6)] = 2000
    """Gradients drawn for each S and estimator."""
    num_blocks: Annotated[int, at_least(3)] = 10
    """Independent blocks of these, for the standard errors (delete-one jackknife)."""
    num_groups: Annotated[int, at_least(2)] = 4
    """Groups of MIWAE and PIWAE; they need S to be a multiple of it."""
    beta: Annotated[float, between(0, 1)] = 0.5
    """Weight of the ELBO in CIWAE, against 1 - beta of IWAE."""
    fit_from: Annotated[int, at_least(1)] = 64
    """Slopes are fitted to the S from here on, where the asymptotic law may hold."""

    def check(self) -> None:
        """Refuse options that leave nothing to measure."""
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
