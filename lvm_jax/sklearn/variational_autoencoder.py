"""A variational autoencoder with scikit-learn's interface."""

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import jax
import numpy as np
import optax
from sklearn.base import _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import validate_data

from lvm_jax import training, vae
from lvm_jax._core import checks
from lvm_jax._core.keys import split
from lvm_jax._core.outcome import Outcome
from lvm_jax._core.warn import warn
from lvm_jax.likelihoods import LIKELIHOODS
from lvm_jax.networks import ACTIVATIONS
from lvm_jax.sklearn.autoencoder import FittedAutoencoder, check_data
from lvm_jax.sklearn.base import DTYPES, LARGEST_SEED
from lvm_jax.sklearn.vae_gradients import UNBIASED, choose_estimator
from lvm_jax.sklearn.vae_programs import Units, units_of
from lvm_jax.training import Parameters, Progress
from lvm_jax.vae import Architecture


class VariationalAutoencoder(FittedAutoencoder):
    """A deep latent Gaussian model, z ~ p(z), x | z ~ likelihood(decoder(z)), by amortised VI.

    `fit` maximises a lower bound of log p(x) with Adam; q(z | x) is an encoder network, and both
    networks are perceptrons. `score_samples` estimates log p(x) by importance sampling from q, and
    `evidence` returns the estimate with its error and diagnostics.

    A Gaussian likelihood is a model of (x - mean_) / scale_, whose training data have zero mean and
    unit variance; all reported densities, bounds and variances are in the units of X. The columns
    have a common `scale_` if they share a noise variance ("gaussian"), and their own if they do not
    ("gaussian_per_dimension", "gaussian_output"), so that the family of densities does not change;
    "gaussian_fixed" is only centred. Other likelihoods use x as it is, and raise ValueError for x
    outside their support.

    The computation uses the dtype of X (float32, which is faster, or float64). For other
    optimisers, schedules, checkpoints, several devices or layers use `lvm_jax.training.fit`.

    Parameters
    ----------
    n_components : int, default=2
        Dimensions of z.
    hidden_layer_sizes : int or sequence of int, default=(200, 200)
        Widths of the encoder's hidden layers, reversed for the decoder. () is linear.
    activation : str, default="tanh"
        Activation of the hidden layers: tanh, relu, elu, softplus, gelu, silu or identity.
    likelihood : str, default="gaussian"
        A name of `lvm_jax.likelihoods.LIKELIHOODS` that suits the data.
    likelihood_params : dict, default=None
        Options of the likelihood, e.g. {"num_levels": 17} for "categorical".
    guide : {"mean_field", "full_rank", "low_rank", "iaf", "coupling"}, default="mean_field"
        The family of q(z | x): a Gaussian, or a normalising flow.
    guide_params : dict, default=None
        `rank` (1) of "low_rank"; `num_layers`, `hidden`, `context_dim` of a flow.
    prior : {"standard_normal", "mixture", "vamp"}, default="standard_normal"
        p(z); "mixture" and "vamp" are learned.
    prior_params : dict, default=None
        `num_components` (10) of "mixture" and "vamp".
    bound : {"elbo", "iwae"}, default="elbo"
        The objective; "iwae" equals "elbo" for n_gradient_samples = 1.
    estimator : str, default="auto"
        An unbiased pathwise estimator of the bound's gradient, a name of
        `lvm_jax.gradients.ESTIMATORS`. "auto" is "sticking_the_landing" or
        "doubly_reparameterized"; for "iaf", which those would have to invert, it is
        "reparameterized" or "reparameterized_iwae".
    n_gradient_samples : int, default=1
        Draws of z per row and step.
    learning_rate : float, default=1e-3
        Learning rate of Adam.
    batch_size : int, default=100
        Rows per step, at most the number of training rows.
    max_iter : int, default=200
        Number of epochs; with early stopping the maximum.
    early_stopping : bool, default=False
        Hold out rows, stop when their bound no longer improves, and keep the best parameters.
    validation_fraction : float, default=0.1
        Fraction of the rows to hold out for early stopping.
    n_iter_no_change : int, default=10
        Epochs without a new best bound after which early stopping ends the training.
    n_importance_samples : int, default=1000
        Draws of z per row in `score_samples`, and in `transform` with a flow.
    warm_start : bool, default=False
        Start the next `fit` from the parameters and units of the previous fit.
    verbose : int, default=0
        Print the bound about once a second.
    random_state : int, RandomState instance or None, default=None
        Seed of `fit`, which also sets `seed_`, and of `sample`.

    Attributes
    ----------
    p_, q_ : models.Joint, guides.Conditional
        p(x, z; theta_) and q(z | x; phi_), with x in the model's units.
    theta_, phi_ : pytrees of ndarray
        Parameters of p_ and q_.
    mean_, scale_ : ndarray of shape (n_features,)
        The model's units are (x - mean_) / scale_; 0 and 1 unless the likelihood is Gaussian.
    noise_variance_ : float or ndarray of shape (n_features,)
        Noise variance of "gaussian" and "gaussian_per_dimension", in squared units of X.
    bound_curve_ : ndarray of shape (n_iter_,)
        The bound on the training rows in each epoch, in nats per row.
    validation_bound_curve_ : ndarray of shape (n_iter_,) or None
        The bound on the held-out rows after each epoch, in nats per row.
    n_iter_ : int
        Number of epochs.
    converged_ : bool
        Whether early stopping ended the training.
    seed_ : int
        Seed of the draws of `transform` and `score_samples`.
    n_features_in_ : int
        D of the fit.

    References
    ----------
    Kingma and Welling (2014); Rezende et al. (2014); Burda et al. (2016) for the bound "iwae".
    """

    _parameter_constraints: ClassVar[dict] = {
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "likelihood": [StrOptions(set(LIKELIHOODS))],
        "likelihood_params": [dict, None],
        "guide": [StrOptions(set(vae.ONE_LAYER))],
        "guide_params": [dict, None],
        "prior": [StrOptions(set(vae.PRIORS))],
        "prior_params": [dict, None],
        "bound": [StrOptions({"elbo", "iwae"})],
        "estimator": [StrOptions({"auto", *UNBIASED})],
        "n_gradient_samples": [Interval(Integral, 1, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "n_importance_samples": [Interval(Integral, 1, None, closed="left")],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        n_components: int = 2,
        *,
        hidden_layer_sizes: int | Sequence[int] = (200, 200),
        activation: str = "tanh",
        likelihood: str = "gaussian",
        likelihood_params: dict[str, Any] | None = None,
        guide: str = "mean_field",
        guide_params: dict[str, Any] | None = None,
        prior: str = "standard_normal",
        prior_params: dict[str, Any] | None = None,
        bound: str = "elbo",
        estimator: str = "auto",
        n_gradient_samples: int = 1,
        learning_rate: float = 1e-3,
        batch_size: int = 100,
        max_iter: int = 200,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        n_importance_samples: int = 1000,
        warm_start: bool = False,
        verbose: int = 0,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.likelihood = likelihood
        self.likelihood_params = likelihood_params
        self.guide = guide
        self.guide_params = guide_params
        self.prior = prior
        self.prior_params = prior_params
        self.bound = bound
        self.estimator = estimator
        self.n_gradient_samples = n_gradient_samples
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.n_importance_samples = n_importance_samples
        self.warm_start = warm_start
        self.verbose = verbose
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> Self:
        """Maximise the bound.

        Raises ValueError for data outside the likelihood's support and for invalid options, and
        FloatingPointError, with the step and the parameters, if training diverges.
        """
        X = validate_data(self, X, dtype=DTYPES, ensure_min_samples=2)
        architecture = self._describe(X.shape[1])
        pair = vae.build(architecture)
        check_data(pair.likelihood, self.likelihood, X)
        estimate = choose_estimator(self.bound, self.estimator, self.guide)
        random_state = check_random_state(self.random_state)
        seed, seed_split, seed_fit = map(int, random_state.randint(LARGEST_SEED, size=3))
        rows, held = X, None
        if self.early_stopping:
            rows, held = train_test_split(
                X, test_size=self.validation_fraction, random_state=seed_split
            )
        with jax.enable_x64(X.dtype == np.float64):
            key_start, key_fit = split(jax.random.key(seed_fit))
            units, initial = self._start(key_start, architecture, rows)
            fit = training.fit(
                *(key_fit, pair, initial, units.measure(rows)),
                estimate=estimate,
                num_samples=self.n_gradient_samples,
                optimizer=optax.adam(float(self.learning_rate)),
                batch_size=min(self.batch_size, len(rows)),
                num_epochs=self.max_iter,
                validation=None
                if held is None
                else training.Validation(units.measure(held), patience=self.n_iter_no_change),
                on_progress=self._printer(units) if self.verbose else None,
            )
        self._architecture, self.seed_ = architecture, seed
        self._write(fit, units)
        return self

    def _describe(self, num_features: int) -> Architecture:
        hidden = self.hidden_layer_sizes
        widths = tuple(hidden) if np.iterable(hidden) else (hidden,)
        return Architecture(
            shape=(num_features,),
            latent_dims=(int(self.n_components),),
            hidden=(tuple(checks.integer(width, "hidden_layer_sizes", 1) for width in widths),),
            activation=self.activation,
            likelihood=self.likelihood,
            likelihood_options=self.likelihood_params or {},
            guide=self.guide,
            guide_options=self.guide_params or {},
            prior=self.prior,
            prior_options=self.prior_params or {},
        )

    def _start(
        self, key: Any, architecture: Architecture, rows: np.ndarray
    ) -> tuple[Units, Parameters]:
        """The initial units and parameters."""
        if not (self.warm_start and hasattr(self, "theta_")):
            units = units_of(rows, self.likelihood)
            return units, vae.start(key, architecture, units.measure(rows))
        if architecture != self._architecture:
            raise ValueError(
                f"warm_start: expected the architecture of the last fit, {self._architecture}, "
                f"got {architecture}; set warm_start=False"
            )
        last = (self._units, Parameters(self.theta_, self.phi_))
        return jax.tree.map(lambda leaf: leaf.astype(rows.dtype), last)

    def _printer(self, units: Units) -> Any:
        def show(progress: Progress) -> None:
            bound = progress.bound - units.log_volume
            print(f"Epoch {progress.epoch}, {self.bound} {bound:.4f} nats per row")  # noqa: T201

        return show

    def _write(self, fit: training.Fit, units: Units) -> None:
        """Set the attributes, with bounds in the units of X."""
        self.theta_, self.phi_ = jax.tree.map(np.asarray, fit.params)
        self.mean_, self.scale_ = units
        self.bound_curve_ = fit.history.bound - units.log_volume
        validated = fit.history.validation_bound - units.log_volume
        self.validation_bound_curve_ = validated if self.early_stopping else None
        self.n_iter_ = len(self.bound_curve_)
        self.converged_ = fit.outcome == Outcome.CONVERGED
        if self.early_stopping and not self.converged_:
            warn(
                f"VariationalAutoencoder still improved within its {self.max_iter} epochs; "
                "increase max_iter or learning_rate.",
                ConvergenceWarning,
            )
