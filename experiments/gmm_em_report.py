"""The words of the mixture experiment's report."""

from typing import TYPE_CHECKING

import numpy as np

from experiments.gmm_em_figures import is_images, point_entropy
from experiments.gmm_em_tables import component_table, criteria_tables, expected_table
from lvm_jax.report import (
    Block,
    Equation,
    Fact,
    Picture,
    Section,
    Text,
)

if TYPE_CHECKING:
    from experiments.gmm_em import Result

OUTCOMES = {
    "CONVERGED": "converged",
    "MAX_STEPS": "stopped at the step limit, not converged",
    "DEGENERATE": "stopped: a covariance became singular",
    "DIVERGED": "stopped: the log-likelihood became infinite",
}


def page(result: "Result", figures: dict[str, bytes]) -> tuple[str, str, list[Fact], list[Section]]:
    """Title, lead, facts and sections."""
    config, info, held_out = result.config, result.fit.info, result.held_out
    lead = (
        f"A mixture of {config.num_components} Gaussians with {config.covariance} covariances, "
        f"fitted by expectation-maximisation to {result.original.source}."
    )
    best = result.best
    choice = f"K = {best.num_components}, {best.covariance}" if best else "none"
    facts = [
        Fact(f"{info.log_likelihood:.5f}", "log-likelihood, nats per point, on the data fitted"),
        Fact(
            f"{held_out.mean:.3f} ± {held_out.standard_error:.3f}",
            "nats per point on held-out data (± standard error)",
        ),
        Fact(choice, "what BIC would choose of all that was compared"),
        Fact(f"{info.num_steps} steps", OUTCOMES[info.outcome.name]),
    ]
    if result.agreement:
        rand = result.agreement["adjusted Rand index"]
        facts.append(Fact(f"{rand:.3f}", "adjusted Rand index with the true classes"))
    sections = [
        Section("The data", data_blocks(result)),
        Section("The model and how it is fitted", model_blocks()),
        Section("What was found", found_blocks(result, figures)),
        Section("Did EM converge?", convergence_blocks(result, figures)),
        Section("How many components?", choice_blocks(result, figures)),
        Section("Does it make data like these?", sample_blocks(result, figures)),
        Section("Where is it uncertain?", uncertainty_blocks(result, figures)),
    ]
    title = f"Gaussian mixture of {result.original.name.replace('_', ' ')}"
    return title, lead, facts, sections


def data_blocks(result: "Result") -> list[Block]:
    """What the data are and what was done to them before the fit."""
    config, original, x = result.config, result.original, result.dataset.x
    names = ", ".join(original.axis_labels[:6])
    more = f" and {len(original.columns) - 6} more" if len(original.columns) > 6 else ""
    said = f"N = {len(x):,} points in D = {len(original.columns)} columns: {names}{more}."
    blocks: list[Block] = [Text(f"{said} Source: {original.source}.")]
    if config.standardize:
        blocks.append(Text("Every column was first scaled to mean 0 and standard deviation 1."))
    if result.pca is not None:
        note = (
            f"The fit sees the first {config.pca_dim} principal components, which keep "
            f"{result.pca.share:.1%} of the variance. Likelihoods below are densities of these "
            f"{config.pca_dim} coordinates, not of the {len(original.columns)} columns."
        )
        blocks.append(Text(note, "note"))
    return blocks


def model_blocks() -> list[Block]:
    """The lecture's equations."""
    return [
        Text(
            "Each point x has a hidden component z, drawn with probability π; given z = k it is "
            "Gaussian. Summing over the hidden component gives the density of the data:"
        ),
        Equation(r"p(x) = \sum_{k=1}^{K} \pi_k\, \mathcal{N}(x;\, \mu_k, \Sigma_k)"),
        Text(
            "EM alternates two steps, and neither can lower the likelihood. The E-step computes "
            "the responsibilities, the posterior of the component given the point, at the present "
            "parameters:"
        ),
        Equation(
            r"r_{nk} = p(z_n = k\,|\,x_n) = \dfrac{\pi_k\, \mathcal{N}(x_n;\, \mu_k, \Sigma_k)}"
            r"{\sum_{j}\; \pi_j\, \mathcal{N}(x_n;\, \mu_j, \Sigma_j)}"
        ),
        Text("The M-step re-estimates the parameters with these weights held fixed:"),
        Equation(
            r"\mu_k = \dfrac{\sum_n\; r_{nk}\, x_n}{\sum_n\; r_{nk}} \qquad "
            r"\Sigma_k = \dfrac{\sum_n\; r_{nk}\, (x_n - \mu_k)(x_n - \mu_k)^{T}}"
            r"{\sum_n\; r_{nk}} \qquad "
            r"\pi_k = \dfrac{1}{N} \sum_n\; r_{nk}"
        ),
    ]


def found_blocks(result: "Result", figures: dict[str, bytes]) -> list[Block]:
    """The clusters, the parameters, and the known values they should agree with."""
    levels = (
        "The ellipses hold 50% (solid) and 90% (dashed) of their component's probability: radius "
        "√(−2 ln(1 − p)) in Mahalanobis distance, 1.18 and 2.15. Crosses are the means, numbered as in the table."
    )
    view = ""
    if result.dataset.x.shape[1] > 2:
        view = (
            " The picture is a projection onto the two main principal axes; ellipses are those of "
            "the projected Gaussians, so overlap here need not be overlap in all dimensions."
        )
    caption = "The data as they came, and coloured by their most probable component. "
    if result.dataset.x.shape[1] == 1:
        caption = "A histogram of the data, and the fitted density over it. "
        levels = "Coloured curves are the weighted components; the dark one is their sum."
    blocks: list[Block] = [Text(warning, "note") for warning in warnings(result)]
    blocks += [Picture(figures["clusters"], caption + levels + view)]
    blocks.append(component_table(result))
    if result.agreement:
        blocks.append(agreement_text(result))
    if is_images(result):
        caption = (
            "Top row: the component means, led back to pixels, with the class that most points of "
            "the component have. Below: real digits, what the PCA keeps of them (no sample can be "
            "sharper than that), and draws from the fitted mixture."
        )
        blocks.append(Picture(figures["images"], caption))
    if result.expected:
        blocks.append(expected_table(result))
    return blocks


def warnings(result: "Result") -> list[str]:
    """What a reader must know before believing the fit."""
    said = []
    if result.fit.info.outcome.name != "CONVERGED":
        cure = "raise --max-steps, --tolerance or --regularization"
        said.append(f"The fit {OUTCOMES[result.fit.info.outcome.name]}; {cure}.")
    if result.candidates[0].is_collapsed:
        said.append(
            "A component has shrunk onto a few points (smallest variance "
            f"{result.candidates[0].smallest_spread:.1e} of the data's in that direction). The "
            "likelihood has no bound there, so its value is an artefact of the regularisation: take "
            "a smaller --num-components or a larger --regularization."
        )
    if not np.isfinite(result.held_out.mean):
        said.append(
            "A fit without one of the folds failed, so nothing is known of held-out data; raise "
            "--regularization or lower --num-components."
        )
    if result.fit.info.empty_components:
        number = len(result.fit.info.empty_components)
        said.append(f"{number} components lost all their points; lower --num-components.")
    return said


def agreement_text(result: "Result") -> Text:
    """How well the clusters match classes that the fit never saw."""
    scores = result.agreement
    said = (
        "The fit never saw the true classes. Its clusters agree with them to an adjusted Rand "
        f"index of {scores['adjusted Rand index']:.4f} (1 is the same partition, 0 is chance) "
        f"and a normalised mutual information of {scores['normalised mutual information']:.4f}."
    )
    if "adjusted Rand index of the true mixture" in scores:
        said += (
            " The mixture that made the data, whose assignment no method can beat on average, "
            f"reaches {scores['adjusted Rand index of the true mixture']:.4f}; its log-likelihood, "
            f"{scores['log-likelihood per point of the true mixture']:.5f} nats per point, must be "
            f"below the fitted {result.fit.info.log_likelihood:.5f}: the fit maximises it on these "
            "very points."
        )
    return Text(said)


def convergence_blocks(result: "Result", figures: dict[str, bytes]) -> list[Block]:
    """The trace in words: outcome, monotony, agreement of the restarts."""
    info = result.fit.info
    ends = info.restart_objectives
    near = int(np.sum(ends > np.nanmax(ends) - 1e-3))
    worst = float(np.diff(info.trace).min()) if len(info.trace) > 1 else 0.0
    falls = (
        "The log-likelihood never fell"
        if worst >= -1e-9
        else f"The largest fall of the log-likelihood was {-worst:.1e} nats (regularisation or rounding)"
    )
    said = (
        f"The best of {len(ends)} restarts {OUTCOMES[info.outcome.name]} after {info.num_steps} "
        f"steps. {falls}. {near} of {len(ends)} restarts ended within 0.001 nats per point of the "
        "best one; when few do, the likelihood has many local maxima and more restarts are worth "
        "their time."
    )
    caption = (
        "Left: the log-likelihood at every EM step, which must rise to a plateau; a plateau with a "
        "second rise is EM passing a saddle. Right: where each restart ended, best first."
    )
    return [Text(said), Picture(figures["convergence"], caption)]


def choice_blocks(result: "Result", figures: dict[str, bytes]) -> list[Block]:
    """The criteria against K, for every covariance type."""
    held_out, best = result.held_out, result.best
    blocks: list[Block] = [
        Text(
            "More components always fit better, so the likelihood is charged for its p free "
            "parameters. ICL also charges for uncertain assignments, and so prefers clusters that "
            "stand apart. Lower is better."
        ),
        Equation(
            r"\mathrm{AIC} = -2\ell + 2p \qquad \mathrm{BIC} = -2\ell + p \ln N \qquad "
            r"\mathrm{ICL} = \mathrm{BIC} - 2 \sum_n\; \ln\, \max_k\; r_{nk}"
        ),
    ]
    if best is not None:
        blocks.append(
            Text(
                f"BIC is lowest at K = {best.num_components} with {best.covariance} covariances "
                f"({best.criteria.bic:.3f}){own_bic(result)}. A difference below 2 says little, "
                "one above 10 a lot."
            )
        )
    caption = (
        "Rings mark the minimum of each curve. Left: the three criteria for the covariance type of "
        "this report. Right: BIC for every type, cut where the other types are far worse; crosses "
        "at the foot, if any, are fits that collapsed, left out of the curves."
    )
    blocks += [Picture(figures["criteria"], caption), *criteria_tables(result)]
    blocks.append(
        Text(
            f"On points that the fit did not see ({result.config.num_folds} folds) the mixture of "
            f"this report scores {held_out.mean:.4f} ± {held_out.standard_error:.4f} nats per "
            f"point, against {held_out.in_sample:.4f} on the points it saw: "
            f"{held_out.in_sample - held_out.mean:.4f} nats of optimism. The standard error is "
            f"over the {held_out.num_points:,} points."
        )
    )
    return blocks


def own_bic(result: "Result") -> str:
    """How the mixture of the report compares with the lowest BIC."""
    own = result.criteria.bic
    if result.best == result.candidates[0]:
        return ", the mixture of this report"
    return f"; the mixture of this report has {own:.3f}, {own - result.best.criteria.bic:.1f} more"


def sample_blocks(result: "Result", figures: dict[str, bytes]) -> list[Block]:
    """Samples beside data."""
    caption = (
        "As many points drawn from the fitted mixture as there are data, on the same axes: first z "
        "from π, then x from component z. Look for what the samples lack (edges, curvature, ties, "
        "outliers): that is what a mixture of this size does not know."
    )
    return [Picture(figures["samples"], caption)]


def uncertainty_blocks(result: "Result", figures: dict[str, bytes]) -> list[Block]:
    """The entropy of the assignment, in numbers and as a map."""
    entropy = point_entropy(result)
    unsure = int(
        np.sum(np.asarray(result.fit.mixture.responsibilities(result.dataset.x)).max(1) < 0.9)
    )
    said = (
        f"Points without a component of posterior 90% or more: {unsure:,} of {len(entropy):,}. "
        f"The mean entropy of the assignment is {entropy.mean():.4f} nats; certainty is 0, "
        f"and complete ignorance ln K = {np.log(result.config.num_components):.4f}. This is the "
        "model's own certainty, which is only as good as its Gaussians."
    )
    caption = (
        "Left: contours around the smallest regions that hold 50%, 90% and 99% of the fitted "
        "density; about that share of the points should lie inside. Right: the entropy of p(z | x) "
        "in nats, dark where components compete."
    )
    if result.dataset.x.shape[1] == 1:
        caption = "The entropy of p(z | x) along the line; peaks are borders between components."
    return [Text(said), Picture(figures["uncertainty"], caption)]
