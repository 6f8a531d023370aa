"""The words of the bounds experiment's report."""

from typing import TYPE_CHECKING

import numpy as np

from experiments.importance_bounds_exact import iwae_coefficients
from experiments.importance_bounds_figures import with_error
from experiments.importance_bounds_measure import (
    BETAS,
    GROUPS,
    IWAE,
    LAWS,
    LIGHT,
    NUM_BATCHES,
    SIGNIFICANT,
    UPPER,
)
from lvm_jax.report import Block, Equation, Fact, Picture, Section, Table, Text

if TYPE_CHECKING:
    from experiments.importance_bounds import Found, Result

Page = tuple[str, str, list[Fact], list[Section]]
SIDES = {
    "ELBO": "below, always",
    IWAE: "below, always",
    "thermodynamic": "below, always",
    "CUBO, n = 2": "above, only for large S",
    "EUBO": "above, only for large S",
    UPPER: "above, always",
}


def page(result: "Result", figures: dict[str, bytes]) -> Page:
    """Title, lead, facts and sections."""
    gaussian, mixture = result.found[:2]
    elbo, iwae = gaussian.curves["ELBO"], gaussian.curves[IWAE]
    largest = int(iwae.num_samples[-1])
    facts = [
        Fact(
            with_error(elbo.gap[-1], elbo.standard_error[-1]),
            f"nats, ELBO − log p, {gaussian.bed.name}; exactly −0.456513",
        ),
        Fact(slope_said(gaussian, IWAE), "slope of IWAE there; the law says −1"),
        *(
            Fact(
                slope_said(mixture, f"jackknife {m}"), f"slope of jackknife {m}, mixture; −{m + 1}"
            )
            for m in (1, 2)
        ),
        Fact(
            f"{gaussian.curves[UPPER].gap[-1] - iwae.gap[-1]:.4f}",
            f"nats between IWAE from above and from below at S = {largest}, {gaussian.bed.name}",
        ),
    ]
    lead = (
        "More weights inside the logarithm bring a bound closer to log p(x), at a rate that theory "
        "names. Some bounds come from below, some from above, some only claim to, and all of them "
        "wait for the first weight from a mode that q misses."
    )
    sections = [
        Section("Three models whose weights are known", model_blocks(result, figures)),
        Section("Which side of log p(x)?", side_blocks(result, figures)),
        Section("How fast does the gap close?", law_blocks(result, figures)),
        Section("What does less bias cost?", cost_blocks(result, figures)),
        Section("How such small gaps can be measured", method_blocks(result)),
    ]
    return "Bounds on log p(x) against the number of samples", lead, facts, sections


def number(value: float, digits: int = 4) -> str:
    """A number with a real minus sign."""
    return f"{value:+.{digits}f}".replace("-", "−")


def slope_said(found: "Found", name: str) -> str:
    """A measured slope with its standard error."""
    slope = found.slopes[name]
    if slope is None:
        return "in the noise"
    return with_error(slope.value, slope.standard_error)


def model_blocks(result: "Result", figures: dict[str, bytes]) -> list[Block]:
    """The beds, and their weights."""
    rows = []
    for found in result.found:
        variance = found.bed.atoms.central_moment(2)
        a, b = iwae_coefficients(found.bed.atoms)
        rows.append(
            (
                *(found.bed.name, number(found.bed.log_evidence, 6), f"{variance:,.5g}"),
                *(f"{value:,.5g}".replace("-", "−") for value in (a, b)),
            )
        )
    header = ("model", "log p(x) [nats]", "Var(w) / p²", "a", "b")
    caption = (
        "The evidence, and the expansion log p − E[IWAE] = a/S + b/S² + …, a = Var(w) / (2 p²)."
    )
    return [
        Equation(r"\log\, w_s = \log\, p(x, z_s) - \log\, q(z_s), \qquad z_s \sim q"),
        *(Text(f"{f.bed.name}: {f.bed.said}.") for f in result.found),
        Picture(
            figures["weights"],
            "The log-weights, less log p(x), of draws from q and of draws from the posterior "
            "(100,000 of each; logarithmic scale). An average of weights from q must make up for "
            "what the second histogram has and the first has not. On the right that is a whole "
            "mode: log-weights far above log p(x), almost never drawn.",
        ),
        Table(header, rows, caption),
    ]


def side_blocks(result: "Result", figures: dict[str, bytes]) -> list[Block]:
    """The picture that brackets log p, and the table."""
    caption = (
        "E[bound] − log p(x), zero being the truth: markers are means over draws with ± 2 standard "
        "errors (mostly smaller than the marker), lines the exact expectations, where there is a "
        "formula. Dashes at the right edge: the limits for S → ∞ of those that do not end at 0 "
        "(Rényi α = 2 has none on the right: q is so wide that E_q[1/w] is infinite). Dotted: no "
        "formula, the draws joined up. "
        "The scale is linear between −0.1 and 0.1 and logarithmic beyond. Hollow: SUMO, unbiased, "
        "at its mean cost. Look at CUBO and EUBO: with few samples these “upper bounds” lie "
        "BELOW the truth, and with one sample they are the ELBO."
    )
    return [
        Text(
            "A bound of finite S is a random number; it bounds in expectation. Lower bounds come "
            "from Jensen's inequality. From above, CUBO and EUBO are bounds in the limit only. One "
            "that holds for every S replaces one draw of q by a draw from the posterior, which one "
            "has on a test bed, or on data simulated from the model:"
        ),
        Equation(
            r"\mathbb{E}_{z_{1:S} \sim q}\left[\log\, \dfrac{1}{S} \sum_s\; w_s\right] \;\leq\; "
            r"\log\, p(x) \;\leq\; \mathbb{E}_{z_1 \sim p(z | x),\; z_{2:S} \sim q}"
            r"\left[\log\, \dfrac{1}{S} \sum_s\; w_s\right]"
        ),
        Picture(figures["bounds"], caption),
        *(value_table(found) for found in result.found),
        Text(
            f"Thermodynamic: left Riemann sum over β = {', '.join(f'{b:g}' for b in BETAS)}. MIWAE: "
            f"the mean of {GROUPS} IWAE bounds of S/{GROUPS} weights each, so its gap is that of S/{GROUPS}."
        ),
    ]


def value_table(found: "Found") -> Table:
    """The gap of every bound at three S, with its limit."""
    last = int(found.curves[IWAE].num_samples[-1])
    shown = (1, 16, last) if last > 16 else (1, last)
    rows = []
    for name, curve in found.curves.items():
        if name.startswith("jackknife"):
            continue
        cells = []
        for size in shown:
            at = np.flatnonzero(curve.num_samples == size)
            value = [with_error(curve.gap[i], curve.standard_error[i]) for i in at]
            cells.append(value[0] if value else "–")
        limit = number(curve.limit) if np.isfinite(curve.limit) else "−∞"
        side = SIDES.get(name, "below, always" if curve.limit <= 0 else "above, only for large S")
        rows.append((name, *cells, "0" if curve.limit == 0 else limit, side))
    header = ("bound", *(f"S = {size}" for size in shown), "S → ∞", "side")
    sumo = found.sumo
    caption = (
        f"{found.bed.name}: E[bound] − log p(x) in nats; in brackets the standard error of the "
        f"mean, in units of the last digit. SUMO: {with_error(sumo.gap, sumo.standard_error)} at {sumo.mean_cost:.1f} weights a draw."
    )
    return Table(header, rows, caption)


def law_blocks(result: "Result", figures: dict[str, bytes]) -> list[Block]:
    """Slopes, the picture, and where they cannot be seen."""
    rows = []
    for found in result.found:
        for name, law in LAWS.items():
            slope = found.slopes[name]
            if slope is None:
                cells = ("–", "–", "fewer than two points above the noise")
            else:
                end = f"; noise from {slope.floor}" if slope.floor else ""
                exact = f"{slope.exact:.3f}".replace("-", "−")
                cells = (slope_said(found, name), exact, f"{slope.first} to {slope.last}{end}")
            rows.append((found.bed.name, name, f"{law:g}".replace("-", "−"), *cells))
    caption = (
        "Slopes of log |gap| against log S: the asymptotic law; measured, its standard error in "
        "brackets in units of the last digit; the "
        "same fit to the exact gaps, which is what the measurement should give (the law itself is "
        "met only as S grows); and the S that were fitted. A gap below "
        f"{SIGNIFICANT:g} standard errors is noise, and no fit goes beyond the first."
    )
    header = ("model", "bound", "law", "measured", "exact, same fit", "S")
    picture = (
        "Above: |gap| with ± 2 standard errors, filled where it stands clear of the noise, hollow "
        "where it does not; solid lines are exact; dotted, Var(w) / (2 S p²). A dip is a change of "
        "sign. Below: the slope of the exact gap between S and 2 S, and the laws dashed. On the "
        "right the law holds only once S is far beyond Var(w) / p²: until then adding samples "
        "buys next to nothing, and the jackknife corrects a law that has not begun."
    )
    b = iwae_coefficients(result.found[0].bed.atoms)[1]
    return [
        Equation(
            r"\log\, p(x) - \mathbb{E}[L_S] = \dfrac{\mathrm{Var}(w)}{2\, S\, p(x)^2} + O(S^{-2}), "
            r"\qquad J_{m,S} = \sum_{j=0}^{m}\; c_j\, \bar{L}_{S-j}, \qquad "
            r"\log\, p(x) - \mathbb{E}[J_{m,S}] = O(S^{-(m+1)})"
        ),
        Picture(figures["laws"], picture),
        Table(header, rows, caption),
        Text(
            f"On the Gaussian the 1/S² coefficient of IWAE is only {number(b)}, near zero by chance: "
            "the jackknife of order 1 is better there than it has a right to be, changes sign on "
            "the way, and comes to its slope of −2 late."
        ),
    ]


def cost_blocks(result: "Result", figures: dict[str, bytes]) -> list[Block]:
    """Bias against spread, and SUMO."""
    sumo = result.found[0].sumo
    return [
        Text(
            "SUMO adds up the differences of successive IWAE bounds, each divided by the "
            "probability that a random stop has not come before it: unbiased for log p(x), at a "
            "finite cost. Unbiased is not close."
        ),
        Picture(
            figures["noise"],
            "The standard deviation of ONE draw of a bound (solid), and its exact bias (dashed), "
            "against the weights spent on it. A jackknife takes the bias away and leaves the "
            "spread; SUMO has no bias and the largest spread by far.",
        ),
        Text(
            f"On the Gaussian a draw of SUMO costs {sumo.mean_cost:.1f} weights on average (the "
            f"longest of {result.config.sumo_draws:,} took {sumo.largest_cost}) and scatters by "
            f"{sumo.sd:.1f} nats. Its own standard error is optimistic: a part of its variance is "
            "in draws so long that a sample hardly has any. Where q misses a mode, so do most of "
            "its draws, and the mean is low until a rare one makes up for it.",
            "note",
        ),
    ]


def method_blocks(result: "Result") -> list[Block]:
    """Control variates, batches, and the exact expectations."""
    return [
        Text(
            f"{result.config.num_weights:,} weights of each model are cut into rows of S, so every "
            "bound and every S sees the same draws (a jackknife, whose cost grows as S^(m+1), only "
            "a part of them). With p(x) known, y = w/p(x) − 1 has mean 0, and so have the averages "
            "of products of up to six distinct y in a row. They are the noise of a bound to first, "
            "second, … order; their regression is subtracted "
            f"(not where Var(w)/p² exceeds {LIGHT:g}: such coefficients cannot be had from draws). "
            f"Standard errors are from {NUM_BATCHES} batches of draws; that of a slope uses the "
            "covariance of its points."
        ),
        Text(agreement(result)),
        Text("The exact curves are Frullani's integral, for weights whose law is known:"),
        Equation(
            r"\mathbb{E}\left[\log\, \dfrac{1}{S} \sum_s\; w_s\right] = \int_0^\infty "
            r"\dfrac{e^{-S u} - \varphi(u)^S}{u}\, du, \qquad \varphi(u) = \mathbb{E}_q\left[e^{-u w}\right]"
        ),
        Text(
            "for IWAE, and with powers of w for Rényi and CUBO. MIWAE and the jackknife combine "
            "it at several S; the upper bound has one factor φ of the posterior in place of one of "
            "q. EUBO and the thermodynamic bound have exact limits only."
        ),
    ]


def agreement(result: "Result") -> str:
    """How well all the means over draws agree with the exact expectations."""
    curves = [curve for found in result.found for curve in found.curves.values()]
    z = np.concatenate([(c.gap - c.exact) / c.standard_error for c in curves])
    z = np.abs(z[np.isfinite(z)])
    return (
        f"Of {len(z)} means over draws that have an exact expectation, the farthest is "
        f"{z.max():.1f} of its standard errors away, and {np.mean(z <= 2):.0%} are within 2. (They "
        "share draws, so they are far from independent.)"
    )
