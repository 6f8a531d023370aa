"""Bias, variance and cost of every gradient estimator for discrete latent variables (1 min).

The first problem is the published toy, E[(b - t)^2] of one bit b, with derived biases and variances
to compare, and gradient descent with each estimator. The second is a model of digits with a few
Bernoulli latents, where a sum over all z gives the exact gradient: bias and variance for theta and
for phi, and those of the relaxed estimators against their temperature.
"""

from dataclasses import dataclass
from typing import Annotated

from lvm_jax.report import Options, above, at_least, inside

MOST_BITS = 14  # IWAE is summed over 2^(num_latents num_samples) values


@dataclass(frozen=True)
class Config(Options):
    """Options of the experiment."""

    targets: tuple[Annotated[float, inside(0, 1)], ...] = (0.45, 0.499)
    """Toy: values of t in E[(b - t)^2], increasing."""
    toy_repeats: Annotated[int, at_least(10_000)] = 200_000
    """Toy: gradients drawn for each estimator."""
    toy_steps: Annotated[int, at_least(1)] = 600
    """Toy: steps of gradient descent on the first target."""
    toy_seeds: Annotated[int, at_least(1)] = 200
    """Toy: descents of each estimator with different seeds."""
    num_latents: Annotated[int, at_least(1)] = 6
    """Digits: K, the number of Bernoulli latent variables (2^K values of z)."""
    num_points: Annotated[int, at_least(1)] = 8
    """Digits: images whose gradients are averaged."""
    num_samples: Annotated[int, at_least(2)] = 2
    """Digits: S, draws of z for each image (ARM and DisARM draw S / 2 pairs)."""
    num_repeats: Annotated[int, at_least(40)] = 4000
    """Digits: gradients drawn for each estimator."""
    train_steps: Annotated[int, at_least(1)] = 60
    """Digits: steps of Adam on the exact ELBO of 200 images before the measurement."""
    temperatures: tuple[Annotated[float, above(0)], ...] = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
    """Digits: temperatures of the relaxed estimators, increasing."""
    adapt_steps: Annotated[int, at_least(1)] = 150
    """Digits: steps that minimise the variance over the control variate of RELAX."""

    def check(self) -> None:
        """Refuse an odd number of draws, too many bits, and values that do not rise."""
        super().check()
        if self.num_samples % 2:
            raise ValueError(
                f"num_samples: expected an even number (ARM draws pairs), got {self.num_samples}"
            )
        if self.num_latents * self.num_samples > MOST_BITS:
            raise ValueError(
                f"num_latents: expected at most {MOST_BITS} / num_samples, for IWAE is summed over "
                f"2^(num_latents x num_samples) values; got {self.num_latents}"
            )
        self.check_rising("targets", "temperatures")
