"""Bad options of every experiment: refused by name, and before anything is written."""

import importlib

import pytest

from experiments import __main__ as cli

# Of each experiment: options, or arguments of the command line, and what the refusal says.
REFUSED = {
    "bdmc": [
        ({"num_temperatures": (16, 4)}, "num_temperatures: expected rising numbers"),
        ({"num_temperatures": (0, 4)}, "num_temperatures: expected an integer >= 1"),
        ({"num_points": 1}, "num_points: expected an integer >= 2"),
        ({"noise": 0.0}, "noise: expected a number > 0"),
        ({"transition": "hcm"}, "did you mean 'hmc'"),
    ],
    "discrete_gradients": [
        ({"num_samples": 3}, "num_samples: expected an even number"),
        ({"num_latents": 8}, "num_latents: expected at most 14"),
        ({"targets": (0.5, 1.2)}, "targets: expected numbers between 0 and 1"),
        ({"temperatures": (0.0, 1.0)}, "temperatures: expected rising positive"),
        ({"num_repeats": 9}, "num_repeats: expected an integer >= 40"),
    ],
    "elbo_decomposition": [
        ({"posterior_correlation": 1.0}, "posterior_correlation: expected a correlation"),
        ({"num_samples": (4, 2)}, "num_samples: expected rising numbers"),
        ({"scale": 0.0}, "scale: expected a number > 0"),
    ],
    "evidence_lab": [
        ({"models": ("two_mode",)}, "did you mean 'two_modes'"),
        ({"models": ()}, "models: expected at least one"),
        ({"dims": (8, 2)}, "dims: expected rising numbers"),
        ({"budgets": (5, 20_000)}, "budgets: expected an integer >= 10"),
        ({"budgets": (100, 3_000)}, "budgets: expected the last to pay for a pilot and 64 chains"),
        ({"num_points": 1}, "num_points: expected an integer >= 2"),
        ({"num_certified": 50}, "num_certified: expected an integer >= 200"),
        ({"num_leapfrogs": 0}, "num_leapfrogs: expected an integer >= 1"),
        ({"tolerance": 0.0}, "tolerance: expected a number > 0"),
        ({"level": 1.0}, "level: expected a probability in"),
    ],
    "gradient_snr": [
        ({"num_samples": (16, 4)}, "num_samples: expected rising"),
        ({"num_samples": (1, 4), "fit_from": 4}, "num_samples: expected rising"),
        ({"perturbation": 0.0}, "perturbation: expected a number > 0"),
        ({"num_repeats": 9}, "num_repeats: expected an integer >= 20"),
        ({"beta": 1.5}, "beta: expected a number from 0 to 1"),
    ],
    "infinite_mixture": [
        ({"data": "pinwhel"}, "did you mean 'pinwheel'"),
        ({"held_out": 1.0}, "held_out: expected a share between 0 and 1"),
        ({"num_steps": 7}, "num_steps: expected a multiple of num_records"),
        ({"data": "digits"}, "data: expected two columns, got 64"),
    ],
    "iwae_table": [
        ({"num_stages": 9}, "num_stages: expected 1 to 8, got 9"),
        ({"samples": ()}, "samples: expected at least one"),
        ({"samples": (0,)}, "samples: expected an integer >= 1"),
        ({"budget": -1.0}, "budget: expected a finite number >= 0"),
        ({"short_rate": 0.0}, "short_rate: expected a number > 0"),
        ({"batch_size": 5_000}, "batch_size: expected at most 1297"),
    ],
    "linear_vae": [
        ({"latent_dim": 0}, "latent_dim: expected an integer >= 1, got 0"),
        ({"latent_dim": 64}, "latent_dim: expected fewer than the 64 columns"),
        ({"latent_dim": 62}, "latent_dim: expected fewer than the 60 dimensions"),
        ({"noise_variances": (0.1, 0.0)}, "noise_variances: expected numbers > 0, got 0"),
        ({"learning_rate": 0.0}, "learning_rate: expected a number > 0"),
        ({"estimator": "leave_one_out"}, "num_samples: expected at least 2"),
        ({"data": "digts"}, "data: expected .*digits.*, got 'digts'"),
        ({"columns": ("a",)}, "columns: expected none, digits is taken as whole images"),
        ({"standardize": True}, "expected columns that vary, got the constant"),
    ],
    "vae": [
        ({"dataset": "digit"}, "did you mean 'digits'"),
        ({"likelihood": "bernouli"}, "did you mean 'bernoulli'"),
        ({"guide": "full_rnak"}, "did you mean 'full_rank'"),
        ({"bound": "iwea"}, "did you mean 'iwae'"),
        ({"estimator": "vimko"}, "did you mean 'vimco'"),
        ({"binarization": "dynamical"}, "did you mean 'dynamic'"),
        ({"estimator": "disarm"}, "got 'disarm', which is for discrete z"),
        ({"estimator": "annealed"}, "'annealed', which is for bounds on annealed chains"),
        ({"latent_dims": (3, 2), "guide": "iaf"}, "expected bottom_up or ladder for 2"),
        ({"layers": 2, "guide": "iaf"}, "expected bottom_up or ladder for 2"),
        ({"layers": 1, "guide": "ladder"}, "expected one of mean_field, .* for 1 stochastic"),
        ({"layers": 3, "latent_dims": (4, 2)}, "layers: expected 2, .* has 4 2, .* got 3"),
        ({"layers": 0}, "layers: expected an integer >= 1, got 0"),
        ({"latent_dims": ()}, "latent_dims: expected at least one number"),
        ({"devices": 4, "batch_size": 52}, "devices: expected at most 1, .* got 4"),
        ({"devices": 4}, "batch_size: expected a multiple of devices = 4, got 50"),
        ({"guide": "ladder", "prior": "vamp"}, "with several stochastic layers, got 'vamp'"),
        ({"guide": "iaf", "refine_steps": 2}, "local steps work for mean_field"),
        ({"likelihood": "bernoulli", "binarization": "none"}, "expected bits, 0 or 1, got"),
        ({"guide": "low_rank", "rank": 2}, "rank: expected fewer than dim = 2"),
        ({"guide": "coupling", "latent_dims": (1,)}, "dim: expected an integer >= 2"),
        ({"bound": "miwae", "num_samples": 5}, "expected a multiple of num_groups = 2"),
        ({"warm_up": 2, "free_bits": 0.1}, "expected one of the two, got both"),
        ({"prior": "mixture", "free_bits": 0.1}, "free_bits_group: expected 'all'"),
        ({"warm_up": 2, "estimator": "sticking_the_landing"}, "expected 'reparameterized'"),
        ({"batch_size": 5000}, "batch_size: expected at most 1297"),
        ({"resume": True, "out": None}, "resume: expected --out with it"),
        ({"epochs": 7, "decay_epochs": 6}, "decay_epochs: expected at least epochs = 7"),
        ({"guide": "iaf", "evidence": "certify"}, "evidence: .* importance or annealed"),
        ({"evidence_tolerance": 0.0}, "evidence_tolerance: expected a number > 0"),
        ({"evidence_temperatures": 0}, "evidence_temperatures: expected an integer"),
        ({"schedule": "burda", "decay_epochs": 9}, "expected --schedule cosine with it"),
    ],
    "importance_bounds": [
        (["--largest", "100"], "largest: expected a power of 2, got 100"),
        (["--num-weights", "1024"], "--num-weights: expected at least 64 times largest"),
        (["--alphas", "1.0"], "alphas: expected finite numbers other than 0 and 1"),
    ],
    "marginal_likelihood": [
        (["--dims", "4", "2"], "dims: expected rising numbers"),
        (["--num-variables", "20"], "at most 4,194,304 values of z"),
        (["--widen", "0.7"], "widen: expected more than 0.7071"),
        (["--defensive", "0"], "defensive: expected a share above 0"),
        (["--num-samples", "1"], "--num-samples: expected an integer >= 2, got 1"),
    ],
}
ROWS = [(name, *row) for name, rows in REFUSED.items() for row in rows]


@pytest.mark.parametrize(("name", "options", "message"), ROWS)
def test_bad_options_are_refused_before_anything_is_written(
    name, options, message, tmp_path, capsys
):
    out = tmp_path / "run"
    if isinstance(options, list):
        assert cli.main([name, *options, "--out", str(out)]) == 1
        assert message in capsys.readouterr().err
    else:
        experiment = importlib.import_module(f"experiments.{name}")
        with pytest.raises(ValueError, match=message):
            experiment.main(experiment.Config(**{"out": out} | options))
    assert not out.exists()
