"""Why a VAE's ELBO is loose: approximation and amortisation gap, by guide and family (4 min).

The run trains or loads VAEs with one decoder and several guides (mean-field, full-covariance, flow).
It splits log p - ELBO of training and test images in two (Cremer, Li and Duvenaud 2018). The
approximation gap is that of the best q of a family for one image; the amortisation gap is the
difference to the guide, one network for all images. Annealed chains give log p; bidirectional Monte
Carlo validates them on data simulated from each model.

The run's folder keeps the models. --account writes account.html, all decompositions of one model.
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
    """Folders of runs of `vae`, or of models of this experiment, to load instead of training. The
    images are then their training and test images."""
    guides: tuple[Literal[GUIDES], ...] = ("mean_field", "full_rank", "coupling")
    """Guides, one VAE each; iaf and coupling are flows."""
    dataset: str = "digits"
    """digits (8x8), mnist, binarized_mnist, fashion_mnist, or the path of a .npy file of images."""
    split: str | None = None
    """Numbers of images for train/validation/test, as 50000/10000/10000."""
    binarization: Literal["dynamic", "fixed", "threshold", "none"] | None = None
    """As in `vae`; None is threshold for the digits."""
    likelihood: str = "bernoulli"
    """Likelihood of the pixels, as in `vae`."""
    latent_dim: Annotated[int, at_least(2)] = 8
    """Dimensions of z."""
    hidden: tuple[Annotated[int, at_least(1)], ...] = (100, 100)
    """Widths of the encoder, reversed for the decoder."""
    activation: str = "tanh"
    """Activation of the networks, as in `vae`."""
    epochs: Annotated[int, at_least(1)] = 200
    """Passes over the training images; a larger number extends a finished run."""
    decay_epochs: Annotated[int, at_least(1)] = 200
    """Epochs in which the learning rate falls to 0; a run can be extended up to them."""
    batch_size: Annotated[int, at_least(2)] = 50
    """Images in each step."""
    learning_rate: Annotated[float, above(0)] = 2e-3
    """Initial learning rate of Adam, which falls to 0."""
    flow: Literal["coupling", "iaf"] = "coupling"
    """Local flow of the Gaussian guides; a flow guide uses its own kind."""
    flow_layers: Annotated[int, at_least(1)] = 4
    """Layers of a flow, of the guide and local."""
    flow_hidden: tuple[Annotated[int, at_least(1)], ...] = (32,)
    """Widths of the networks in a flow."""
    num_points: Annotated[int, at_least(2)] = 40
    """Training images to measure, and equally many test images."""
    num_samples: Annotated[int, at_least(2)] = 1000
    """Draws for the ELBO of every q."""
    num_steps: Annotated[int, at_least(1)] = 1000
    """Steps of the local ascent."""
    num_draws: Annotated[int, at_least(1)] = 20
    """Draws of z in each step of the local ascent."""
    num_starts: Annotated[int, at_least(1)] = 2
    """Starts of the local ascent: the guide's q, the family's own, and draws of the prior."""
    num_temperatures: Annotated[int, at_least(1)] = 500
    """Temperatures of the annealed chains."""
    num_chains: Annotated[int, at_least(2)] = 50
    """Annealed chains for every image."""
    num_leapfrogs: Annotated[int, at_least(1)] = 5
    """Steps of each HMC move."""
    start: Literal["prior", "guide"] = "prior"
    """Initial distribution of the annealed chains; an iaf guide needs prior."""
    num_simulated: Annotated[int, at_least(2)] = 40
    """Images simulated from each model, to validate the chains in both directions."""
    importance_samples: Annotated[int, at_least(2)] = 5000
    """Draws of the guide for log p by importance sampling."""
    reference: Literal["annealed", "larger"] = "annealed"
    """log p of the gaps: annealed chains, or the larger of both estimates of each image."""
    account: str | None = None
    """Guide of the model whose account is written too: aggregate posterior, rate and distortion,
    calibration."""

    def check(self) -> None:
        """Refuse repeated guides; the options of `vae` check each VAE."""
        super().check()
        if not self.models and len(set(self.guides)) < max(1, len(self.guides)):
            raise ValueError(f"guides: expected different names, at least one, got {self.guides}")
