"""The tables of the mixture experiment's report."""

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from experiments.gmm_em_figures import majority
from lvm_jax.report import Table

if TYPE_CHECKING:
    from experiments.gmm_em import Result


def component_table(result: "Result") -> Table:
    """Weight, mean and standard deviation of every component, beside the truth if it is known."""
    mixture, dataset = result.fit.mixture, result.dataset
    weights, means = np.asarray(mixture.weights), np.asarray(mixture.means)
    deviations = np.sqrt(np.diagonal(np.asarray(mixture.covariances), axis1=1, axis2=2))
    shown = range(dataset.x.shape[1] if dataset.x.shape[1] <= 4 else 0)
    points = np.bincount(np.asarray(mixture.assign(dataset.x)), minlength=len(weights))
    header = ["component", "weight", "points", *(dataset.axis_labels[j] for j in shown)]
    rows = [
        [
            f"{k + 1}",
            f"{w:.4f}",
            f"{points[k]}",
            *(f"{means[k, j]:.3f} (sd {deviations[k, j]:.3f})" for j in shown),
        ]
        for k, w in enumerate(weights)
    ]
    truth = dataset.truth
    if truth is not None and len(truth.weights) == len(weights):
        distance = np.linalg.norm(means[:, None] - truth.means, axis=2)
        spread = np.sqrt(np.diagonal(truth.covariances, axis1=1, axis2=2))
        for k, t in zip(*linear_sum_assignment(distance), strict=True):
            cells = (f"{truth.means[t, j]:.3f} (sd {spread[t, j]:.3f})" for j in shown)
            rows.append([f"truth of {k + 1}", f"{truth.weights[t]:.4f}", "", *cells])
    if dataset.labels is not None and truth is None:
        header.append("class of most (share)")
        rows = [[*row, said] for row, said in zip(rows, majority(result), strict=True)]
    caption = "The components: their weights, and the points they are the most probable one of"
    if shown:
        caption += "; means and standard deviations of the columns"
    return Table(header, rows, f"{caption}.")


def expected_table(result: "Result") -> Table:
    """Known values, made by an independent implementation, beside those obtained."""
    rows = []
    for name, known, got in result.expected:
        agrees = "yes" if abs(got - known.value) <= known.within else "NO"
        rows.append([name, f"{known.value:.7g}", f"{got:.7g}", known.unit, agrees])
    caption = (
        "Numbers to expect (scikit-learn's GaussianMixture on the same data) and those obtained."
    )
    return Table(("number", "expected", "obtained", "unit", "agrees"), rows, caption)


def criteria_tables(result: "Result") -> list[Table]:
    """All criteria of the own covariance type; BIC of every type by K."""
    own = [c for c in result.candidates if c.covariance == result.config.covariance]
    own.sort(key=lambda c: c.num_components)
    rows = [
        (
            f"{c.num_components}",
            f"{c.criteria.num_parameters}",
            f"{c.criteria.log_likelihood:.3f}",
            *(f"{value:.2f}" for value in (c.criteria.aic, c.criteria.bic, c.criteria.icl)),
        )
        for c in own
    ]
    marked = [i for i, c in enumerate(own) if c.num_components == result.config.num_components]
    header = ("K", "p", "log-likelihood [nats]", "AIC", "BIC", "ICL")
    title = f"{result.config.covariance} covariances; the mixture of this report is marked."
    types = list(dict.fromkeys(c.covariance for c in result.candidates))
    by_cell = {(c.num_components, c.covariance): c for c in result.candidates}
    grid = [
        [str(k), *(bic_cell(by_cell.get((k, covariance)), result) for covariance in types)]
        for k in sorted({k for k, _ in by_cell})
    ]
    best = result.best
    best_row = [i for i, row in enumerate(grid) if best and row[0] == str(best.num_components)]
    note = (
        "BIC of every covariance type. ★ is the lowest. † is a fit in which a component shrank "
        "onto a few points (its variance in some direction is below 1/10,000 of the data's): such "
        "a likelihood is an artefact and does not count. ‡ did not converge."
    )
    return [Table(header, rows, title, marked), Table(("K", *types), grid, note, best_row)]


def bic_cell(candidate: Any, result: "Result") -> str:
    """A BIC with its mark, or a dash where nothing was fitted."""
    if candidate is None:
        return "–"
    mark = "† " if candidate.is_collapsed else "‡ " if candidate.outcome != "CONVERGED" else ""
    if candidate == result.best:
        mark = "★ "
    return f"{mark}{candidate.criteria.bic:.2f}"
