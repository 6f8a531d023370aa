"""The numbers of the marginal-likelihood experiment's report."""

import math
from typing import TYPE_CHECKING

from experiments.marginal_likelihood_beds import GOOD, MEAN_FIELD
from experiments.marginal_likelihood_measure import WITHIN
from lvm_jax.report import Table

if TYPE_CHECKING:
    from experiments.marginal_likelihood import Result


def failure(result: "Result", method: str) -> str:
    """The first dimension at which the method gives fewer than half good estimates."""
    for bed, cells in zip(result.beds["gaussian"], result.cells["gaussian"], strict=True):
        if cells[method][-1].share_within < 0.5:
            return f"D = {bed.size}"
    return "nowhere"


def table(result: "Result", kind: str) -> Table:
    """Every method at the largest S: error, spread, what it reports."""
    letter = "D" if kind == "gaussian" else "K"
    header = (letter, "drawn from", "mean error", "sd", "reports", "holds", "good", "ESS")
    header += ("k-hat",) if kind == "gaussian" else ()
    rows, marked = [], []
    for bed, cells in zip(result.beds[kind], result.cells[kind], strict=True):
        for name, column in cells.items():
            c = column[-1]
            if name == GOOD:
                marked.append(len(rows))
            row = (
                *(
                    str(bed.size),
                    name,
                    f"{c.mean_error:+.3f}".replace("-", "−"),
                    f"{c.sd_error:.3f}",
                ),
                *(f"{c.reported_error:.3f}", f"{c.coverage:.0%}", f"{c.share_within:.0%}"),
                f"{c.ess:,.0f}",
            )
            k_hat = f"{c.k_hat:.2f}".replace("-", "−") if math.isfinite(c.k_hat) else "–"
            rows.append((*row, k_hat) if kind == "gaussian" else row)
    truths = ", ".join(f"{bed.log_evidence:.3f}" for bed in result.beds[kind])
    caption = (
        f"S = {result.config.num_samples[-1]:,}. Errors of log p̂(x) in nats, mean and standard "
        "deviation over the repeats; “reports”: the median standard error that an estimate gives "
        "for itself; “holds”: how many intervals of ± 2 of them hold the truth; “good”: how many "
        f"estimates are within {WITHIN:g} nat; median ESS"
        f"{' and k-hat' if kind == 'gaussian' else ''}. log p(x) = "
        f"{truths.replace('-', '−')} nats, for {letter} in this order."
    )
    if kind == "gaussian":
        caption += " A dash: so few weights differ from 0 that there is no tail to fit."
        if any(bed.log_second_moment[MEAN_FIELD] < 1e-9 for bed in result.beds[kind]):
            caption += " In one dimension the mean-field q IS the posterior: rounding, no errors."
    return Table(header, rows, caption, marked)
