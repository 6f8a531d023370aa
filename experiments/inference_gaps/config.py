"""Why a VAE's ELBO is loose: approximation and amortisation gap, by guide and family (4 min).

VAEs with one decoder and several guides (mean-field, full-covariance, flow) are trained, or loaded.
For training and test images log p - ELBO is split in two for each image, after Cremer, Li and Duvenaud
(2018). The approximation gap is left by the best q of a family for that image alone; the amortisation
gap is the price of one network for all images. log p comes from annealed chains, which bidirectional
Monte Carlo checks on data of each model's own.

The models are kept in the run's folder. With --account, account.html there has the whole
decomposition of one model.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from lvm_jax.report import Options, above, at_least

GUIDES = ("mean_field", "full_rank", "iaf", "coupling")  # one layer of z, and a family of its own


@dataclass(frozen=True)
class Config(Options):
    """Options of the experiment."""

    growing = ("epochs",)

    models: tuple[Path, ...] = ()
    """Folders of runs of `vae`, or of models of this experiment, to load instead of training; the
    images are then those that they were trained on."""
    guides: tuple[Literal[GUIDES], ...] = ("mean_field", "full_rank", "coupling")
    """A VAE is trained with each; iaf and coupling are flows."""
    dataset: str = "digits"
    """digits (8x8), mnist, binarized_mnist, fashion_mnist, or the path of a .npy file of images."""
    split: str | None = None
    """Numbers of images for train/validation/test, as 50000/10000/10000."""
    binarization: Literal["dynamic", "fixed", "threshold", "none"] | None = None
    """As in `vae`; None is threshold for the digits."""
    likelihood: str = "bernoulli"
    """Of the pixels, as in `vae`."""
    latent_dim: Annotated[int, at_least(2)] = 8
    """Dimensions of z."""
    hidden: tuple[Annotated[int, at_least(1)], ...] = (100, 100)
    """Widths of the encoder, and backwards of the decoder."""
    activation: str = "tanh"
    """Of the networks, as in `vae`."""
    epochs: Annotated[int, at_least(1)] = 200
    """Passes over the training images; a finished run is extended to them."""
    decay_epochs: Annotated[int, at_least(1)] = 200
    """Epochs in which the learning rate falls to 0, and up to which a run can be extended."""
    batch_size: Annotated[int, at_least(2)] = 50
    """Images in each step."""
    learning_rate: Annotated[float, above(0)] = 2e-3
    """Of Adam, falling to 0."""
    flow: Literal["coupling", "iaf"] = "coupling"
    """Local flow of the Gaussian guides; a flow guide has its own kind."""
    flow_layers: Annotated[int, at_least(1)] = 4
    """Layers of a flow, the guide's and the local one."""
    flow_hidden: tuple[Annotated[int, at_least(1)], ...] = (32,)
    """Widths of the networks in a flow."""
    num_points: Annotated[int, at_least(2)] = 40
    """Images that are measured, of the training and of the test images each."""
    num_samples: Annotated[int, at_least(2)] = 1000
    """Draws for the ELBO of every q."""
    num_steps: Annotated[int, at_least(1)] = 1000
    """Of the local ascent."""
    num_draws: Annotated[int, at_least(1)] = 20
    """Of z in each of these steps."""
    num_starts: Annotated[int, at_least(1)] = 2
    """Of the local ascent: the guide's q, the family's own, and then draws of the prior."""
    num_temperatures: Annotated[int, at_least(1)] = 500
    """Of the annealed chains."""
    num_chains: Annotated[int, at_least(2)] = 50
    """For every image."""
    num_leapfrogs: Annotated[int, at_least(1)] = 5
    """Steps of each HMC move."""
    start: Literal["prior", "guide"] = "prior"
    """Distribution from which the annealed chains start; not the guide if that is an iaf."""
    num_simulated: Annotated[int, at_least(2)] = 40
    """Images that each model simulates, on which the chains are checked in both directions."""
    importance_samples: Annotated[int, at_least(2)] = 5000
    """Draws of the guide for the estimate of log p beside the annealed one."""
    reference: Literal["annealed", "larger"] = "annealed"
    """log p of the gaps: the annealed chains', or the larger of both estimates, image by image."""
    account: str | None = None
    """Name of a model, a guide's, whose whole account is written too: aggregate posterior, rate and
    distortion, calibration."""

    def check(self) -> None:
        """Refuse guides that repeat; each VAE is checked by the options of `vae`."""
        super().check()
        if not self.models and len(set(self.guides)) < max(1, len(self.guides)):
            raise ValueError(f"guides: expected different names, at least one, got {self.guides}")
