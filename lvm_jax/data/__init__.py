"""Named data sets with units and known truth, and readers of a user's tables and images."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from lvm_jax._core.nearest import suggestion
from lvm_jax.data.binarize import BINARIZATIONS, Binarization, binarized
from lvm_jax.data.curved import CURVED, curved
from lvm_jax.data.dataset import Dataset, Truth
from lvm_jax.data.embedded import PCA, digits, old_faithful, pca, reduce
from lvm_jax.data.images import ImageData, from_array, load_images
from lvm_jax.data.levels import NAMED_IMAGES
from lvm_jax.data.synthetic import three_clusters
from lvm_jax.data.tables import load_table

NAMED: dict[str, Callable[[], Dataset]] = {
    "three_clusters": three_clusters,
    "old_faithful": old_faithful,
    "digits": digits,
    **{name: partial(curved, name, 3_000, 0) for name in CURVED},
}


def load(name_or_path: str, columns: Sequence[str] | None = None, missing: bool = False) -> Dataset:
    """Load a data set by its name, or a table by the path of its file.

    Names: three_clusters, old_faithful, digits, and banana, moons, pinwheel (3,000 points of seed
    0). A word without a folder or an extension is a name; ValueError for an unknown name. With
    `missing` a missing value of a table is NaN, otherwise an error.
    """
    if name_or_path in NAMED:
        dataset = NAMED[name_or_path]()
        return dataset if columns is None else dataset.select(columns)
    path = Path(name_or_path)
    if path.suffix or len(path.parts) > 1 or path.exists():
        return load_table(path, columns, missing)
    hint = suggestion(name_or_path, NAMED)
    raise ValueError(
        f"data: expected {', '.join(NAMED)} or the path of a table, got {name_or_path!r}{hint}"
    )


__all__ = [
    "BINARIZATIONS",
    "CURVED",
    "NAMED_IMAGES",
    "PCA",
    "Binarization",
    "Dataset",
    "ImageData",
    "Truth",
    "binarized",
    "curved",
    "digits",
    "from_array",
    "load",
    "load_images",
    "load_table",
    "old_faithful",
    "pca",
    "reduce",
    "three_clusters",
]
