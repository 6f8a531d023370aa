"""Options that the experiments refuse, each before anything is written."""

from importlib import import_module

import numpy as np
import pytest

from lvm_jax.report import execute

pytestmark = pytest.mark.experiments

REFUSED = {
    "bdmc": [
        ({"num_temperatures": (8, 4)}, "num_temperatures: expected rising numbers"),
        ({"starts": ()}, "starts: expected at least one"),
    ],
    "discrete_gradients": [
        ({"num_samples": 3}, "num_samples: expected an even number"),
        ({"num_latents": 8}, "num_latents: expected at most 14"),
        ({"temperatures": (1.0, 0.5)}, "temperatures: expected rising numbers"),
    ],
    "elbo_decomposition": [
        ({"posterior_correlation": 1.0}, "posterior_correlation: expected a finite number that is"),
        ({"num_samples": (4, 2)}, "num_samples: expected rising numbers"),
    ],
    "evidence_lab": [
        ({"budgets": (100, 500)}, "budgets: expected the last to pay for a pilot and the chains"),
        ({"budgets": (900, 300)}, "budgets: expected rising numbers"),
        ({"models": ("gauss",)}, "models: expected one of .* did you mean 'gaussian'"),
        ({"num_certified": 10}, "num_certified: expected at least num_points = 200, got 10"),
    ],
    "gradient_snr": [
        ({"num_samples": (16, 4)}, "num_samples: expected rising numbers"),
        ({"num_samples": (1, 4), "fit_from": 4}, "num_samples: expected at least two .* of 4 on"),
        ({"num_repeats": 19}, "num_repeats: expected at least two a block, 20, got 19"),
    ],
    "importance_bounds": [
        ({"largest": 100}, "largest: expected a power of 2, got 100"),
        ({"num_weights": 2**10}, "num_weights: expected at least 64 times largest = 256"),
        ({"alphas": (1.0,)}, "alphas: expected finite numbers other than 0 and 1"),
    ],
    "inference_gaps": [
        ({"num_points": 1}, "num_points: expected an integer that is at least 2, got 1"),
        ({"guides": ("mean_feild",)}, "did you mean 'mean_field'"),
        ({"guides": ("iaf", "iaf")}, "guides: expected different names"),
        ({"guides": ()}, "guides: expected different names, at least one"),
        ({"account": "full_rnak"}, "account: expected one of mean_field, full_rank, coupling"),
        ({"dataset": "cifar"}, "expected digits, mnist, .* got 'cifar'"),
        ({"activation": "rleu"}, "activation: .* did you mean 'relu'"),
        ({"guides": ("iaf",), "start": "guide"}, "start: expected prior with an iaf guide"),
        ({"epochs": 201}, "decay_epochs: expected at least epochs = 201"),
    ],
    "infinite_mixture": [
        ({"data": "pinwhel"}, "did you mean 'pinwheel'"),
        ({"data": "digits"}, "data: expected two columns, got 64"),
        ({"columns": ("x1", "x2")}, "columns: expected none, pinwheel has only"),
        ({"num_points": 30, "held_out": 0.1}, "data: expected at least 20 rows to fit and 10"),
        ({"num_steps": 7}, "num_steps: expected a multiple of 30, got 7"),
    ],
    "linear_vae": [
        ({"latent_dim": 62}, "latent_dim: expected fewer than the 60 dimensions"),
        ({"estimator": "leave_one_out"}, "num_samples: expected at least 2"),
        ({"data": "digts"}, "data: expected .*digits.*, got 'digts'"),
        ({"columns": ("a",)}, "columns: expected none, digits is taken as whole images"),
        ({"standardize": True}, "expected columns that vary, got the constant"),
        ({"data": "flat.npy"}, "data: expected rows that differ"),
    ],
    "marginal_likelihood": [
        ({"widen": 0.7}, "widen: expected a finite number that is above 0.707107, got 0.7"),
        ({"dims": (4, 2)}, r"dims: expected rising numbers, as 1 4 16, got \(4, 2\)"),
        ({"num_variables": (40,)}, "num_variables: expected at most .* values of z"),
    ],
    "vae": [
        ({"devices": 4, "batch_size": 52}, "devices: expected at most 1, .* got 4"),
        ({"devices": 4}, "batch_size: expected a multiple of devices = 4, got 50"),
        ({"likelihood": "bernoulli", "binarization": "none"}, "expected bits, 0 or 1, got"),
        ({"bound": "miwae", "num_samples": 5}, "expected a multiple of num_groups = 2"),
        ({"estimator": "vimco", "num_samples": 1}, "num_samples: expected at least 2, got 1"),
        ({"warm_up": 2, "free_bits": 0.1}, "free_bits: expected 0 with warm_up"),
        ({"warm_up": 2, "estimator": "sticking_the_landing"}, "expected reparameterized with"),
        ({"bound": "iwae", "free_bits": 0.1}, "bound: expected elbo with free_bits"),
        ({"batch_size": 5000}, "batch_size: expected at most 1297"),
        ({"epochs": 7, "decay_epochs": 6}, "decay_epochs: expected at least epochs = 7"),
        ({"guide": "iaf", "evidence": "certify"}, "evidence: .* importance or annealed"),
    ],
    "vi_lab": [
        ({"budgets": (2_000, 500)}, "budgets: expected rising numbers"),
        ({"targets": ()}, "targets: expected at least one, none twice"),
        ({"targets": ("all", "funnel")}, "targets: expected all alone, or names"),
        ({"methods": ("laplce",)}, "methods: expected one of .* did you mean 'laplace'"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [(name, *row) for name, rows in REFUSED.items() for row in rows],
)
def test_bad_options_are_refused(name, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("flat.npy", np.ones((20, 4)))
    config = import_module(f"experiments.{name}.config").Config(**options)
    with pytest.raises(ValueError, match=message):
        execute(f"experiments.{name}", config, tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["flat.npy"]
