"""A Gaussian mixture by EM: clusters, samples, how many components, held-out likelihood (1 min).

EM runs from several starts at once, such as k-means, and the fitted mixture draws samples. Three
criteria compare numbers of components in four covariance types, and BIC in fourteen. Cross-validation
measures the log-likelihood of held-out points, and entropy the uncertainty of the assignment.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from lvm_jax.report import Options, at_least

Covariance = Literal["full", "tied", "diag", "spherical"]


@dataclass(frozen=True)
class Config(Options):
    """Options of the experiment; None means the default that fits the data."""

    x64: ClassVar[bool] = True  # float32 has too few digits for the known likelihoods

    data: str = "three_clusters"
    """three_clusters, old_faithful, digits, or the path of a .csv, .tsv, .npy or .parquet file or
    of a folder of .npy or .parquet files. Missing values (NaN, empty cells) are missing at random: EM uses the values that are there."""
    max_rows: Annotated[int, at_least(100)] = 2_000_000
    """A folder of .npy or Parquet files, and a file with more rows than this, stream: the mixture is
    fitted to all rows, from the fit to a sample of at most 65,536, which the figures and the
    comparison use."""
    columns: tuple[str, ...] | None = None
    """Columns to use, by name; None uses all."""
    standardize: bool = False
    """Standardise every column to mean 0 and standard deviation 1."""
    pca_dim: Annotated[int, at_least(1)] | None = None
    """Fit in this many principal components; None means 16 for digits, otherwise no PCA."""
    num_components: Annotated[int, at_least(1)] | None = None
    """K; None means 3 for three_clusters, 2 for old_faithful, 10 for digits and 3 for a file."""
    covariance: Covariance = "full"
    """Covariance type of the mixture."""
    start: Literal["kmeans", "k-means++", "random", "random_from_data"] = "kmeans"
    """Initialisation of each restart."""
    num_restarts: Annotated[int, at_least(1)] = 10
    """Restarts, run together; the one with the highest likelihood is kept."""
    max_steps: Annotated[int, at_least(1)] = 2000
    """Maximum number of EM steps of a restart."""
    tolerance: Annotated[float, at_least(0)] = 1e-8
    """Stop when the mean log-likelihood changes by less [nats per point]."""
    regularization: Annotated[float, at_least(0)] = 1e-6
    """Added to every variance [squared units of the data]."""
    max_components: Annotated[int, at_least(1)] | None = None
    """Compare K from 1 to this by AIC, BIC and ICL; None means 6, or 2 K if that is more."""
    compare: tuple[Covariance, ...] = ("full", "tied", "diag", "spherical")
    """Covariance types to compare; that of the mixture is always included."""
    search: tuple[str, ...] | None = None
    """Covariance models of mclust, such as VEV, to search by BIC with K from 1 to `max_components`.
    None means all fourteen for complete data of at most 2,000 rows in 2 to 5 columns; "none" is no search."""
    num_refits: Annotated[int, at_least(0)] | None = None
    """Refits of the bootstrap; 0: none. None means 200, or 0 if N K D^2 is above a million."""
    num_folds: Annotated[int, at_least(2)] = 5
    """Folds of the cross-validated log-likelihood."""
