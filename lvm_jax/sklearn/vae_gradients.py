"""The gradient estimator of a variational autoencoder, by the bound and the guide."""

from lvm_jax import gradients

UNBIASED = [
    name
    for name, row in gradients.ESTIMATORS.items()
    if row.latent == "reparameterized" and row.unbiased_theta and row.unbiased_phi
]


def choose_estimator(bound: str, estimator: str, guide: str) -> gradients.Surrogate:
    """The named gradient estimator; for "auto" the cheap one of lowest variance.

    STL and DReG evaluate q at given z. An inverse autoregressive flow has to be inverted for that,
    which is expensive; "auto" then uses the plain reparameterised estimator.
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
