"""The page of a certificate: what to publish beside the intervals of `evidence.certify`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lvm_jax._core import checks
from lvm_jax.report.page import Page, Table, number

if TYPE_CHECKING:
    from lvm_jax.evidence import Certificate, Simulated

TEMPLATE = Path(__file__).with_name("certificates.md")
HEADER = (
    "point",
    "log p(x)",
    "low",
    "high",
    "method",
    "modes",
    "masses",
    "unseen",
    "cost",
    "verdict",
)
MASSES = 3  # shares of modes in a row


def certificate(
    found: "Certificate", simulated: "Simulated | None" = None, *, most: int = 200
) -> str:
    """One HTML page: the figure, every point with its condition, and the coverage measured.

    found: of `evidence.certify`. simulated: of `evidence.certify_on_simulated` with the same
    settings, whose coverage, with its binomial interval, belongs beside the certificates. most:
    points in the table, the open ones and then the widest.

        Path("certificate.html").write_text(report.certificate(found, check))

    Raises ValueError for most < 1.
    """
    from lvm_jax import plotting

    most = checks.integer(most, "most", 1)
    half = np.where(found.reliable, found.high - found.low, np.inf)
    order = np.argsort(-half, kind="stable")[:most]
    return Page().render(
        TEMPLATE.read_text(encoding="utf-8"), TEMPLATE.name, found=found, simulated=simulated,
        order=order, rows=Table(HEADER, [_row(found, int(point)) for point in order]),
        figure_of=plotting.certificate(found), widest=int(order[0]),
    )  # fmt: skip


def _row(found: "Certificate", point: int) -> list[Any]:
    from lvm_jax.evidence.result import describe

    search, modes, masses, unseen = found.search, "–", "–", "–"
    if search is not None:
        own = np.sort(search.masses[point][search.is_mode[point]])[::-1]
        modes, unseen = str(len(own)), f"{search.unseen[point]:.2%}"
        masses = ", ".join(f"{mass:.3g}" for mass in own[:MASSES]) + ", …" * (len(own) > MASSES)
    verdict = describe(np.asarray(found.failed[point]))
    if found.reliable[point] and not found.within[point]:
        verdict = "reliable, wider than the tolerance"
    low, high = (number(float(end), ".3f") for end in (found.low[point], found.high[point]))
    low, high = (end.replace("inf", "∞").replace("-", "−") for end in (low, high))
    return [
        point, number(float(found.log_evidence[point]), ".3f"), low, high, str(found.method[point]),
        modes, masses or "–", unseen, f"{found.cost[point]:,.0f}", verdict,
    ]  # fmt: skip
