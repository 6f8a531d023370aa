"""A linear VAE against PPCA: the ELBO reaches log p, the eigenvalues decide the collapse (100 s).

p(x | z) = N(W z + b, s2 I) with an amortised q whose mean is linear in x is trained from a random
start by stochastic gradients, once with s2 learned and once for each given s2. Log p(x), ELBO, axes
and collapsed units are compared with the closed form, probabilistic PCA. The ELBO can reach
log p(x), a mean-field q selects the principal axes, and a unit collapses if its eigenvalue is at
most s2.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from lvm_jax.report import Options, above, at_least


@dataclass(frozen=True)
class Config(Options):
    """Options of the experiment; None means a default that fits the data."""

    data: str = "digits"
    """digits, mnist, binarized_mnist, fashion_mnist, old_faithful, three_clusters, or a table's path."""
    columns: tuple[str, ...] | None = None
    """The columns of a table to use, by name."""
    standardize: bool = False
    """Divide each column by its standard deviation: PCA of correlations."""
    latent_dim: Annotated[int, at_least(1)] | None = None
    """Units of z; None means 10, or one fewer than the columns if there are fewer than 11."""
    noise_variances: tuple[Annotated[float, above(0)], ...] | None = None
    """Given s2, in squared units of the data; None means five values within the spectrum."""
    guide: Literal["mean_field", "full_rank"] = "mean_field"
    """The covariance of q(z | x)."""
    covariance: Literal["shared", "per_x"] = "shared"
    """Whether the covariance of q(z | x) is shared by all x, or depends on x."""
    estimator: Literal["sticking_the_landing", "reparameterized", "leave_one_out"] = (
        "sticking_the_landing"
    )
    """The gradient estimator of the ELBO."""
    num_samples: Annotated[int, at_least(1)] = 1
    """Draws of z per data point and step."""
    num_epochs: Annotated[int, at_least(1)] = 2000
    """Passes over the data of each training."""
    batch_size: Annotated[int, at_least(1)] = 400
    """Rows in each step."""
    learning_rate: Annotated[float, above(0)] = 0.02
    """Initial learning rate of Adam, with a cosine decay to 0."""
    num_records: Annotated[int, at_least(1)] = 20
    """Points of the learning curves."""
    ascent_steps: Annotated[int, at_least(0)] = 4000
    """Maximum number of steps of the exact ascent after each training; 0 for none."""

    def check(self) -> None:
        """Refuse an estimator without a baseline."""
        super().check()
        if self.estimator == "leave_one_out" and self.num_samples < 2:
            raise ValueError(
                f"num_samples: expected at least 2 for leave_one_out, got {self.num_samples}"
            )
