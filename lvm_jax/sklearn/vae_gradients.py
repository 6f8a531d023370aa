"""The gradient estimator of a variational autoencoder, by the bound and the guide."""

from lvm_jax import gradients

UNBIASED = [
    name
    for name, row in gradients.ESTIMATORS.items()
    if row.latent == "reparameterized" and row.unbiased_theta and row.unbiased_phi
]


def choose_estimator(bound: str, estimator: str, guide: str) -> gradients.Surrogate:
    """The gradient estimator of a name, or for "auto" the one of least variance that is cheap.

    An inverse autoregressive q prices no z but its own draws without inverting itself, which STL
    and DReG ask of it.
    """
    if estimator == "auto":
        cheap = {"elbo": "reparameterized", "iwae": "reparameterized_iwae"}
        best = {"elbo": "sticking_the_landing", "iwae": "doubly_reparameterized"}
        estimator = (cheap if guide == "iaf" else best)[bound]
    row = gradients.ESTIMATORS[estimator]
    if row.bound != bound:
        fitting = [name for name in UNBIASED if gradients.ESTIMATORS[name].bound == bound]
        raise ValueError(
            f"estimator: expected 'auto' or one of the {bound}'s, {', '.join(fitting)}, got "
            f"{estimator!r}, which is of the {row.bound}"
        )
    return row.estimate
