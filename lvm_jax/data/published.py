"""The published data sets: their files, addresses and checksums."""

from pathlib import Path
from typing import NamedTuple


class PublishedFile(NamedTuple):
    """One published file of a data set.

    `name` is the name of the decompressed file. `served` is the checksum of the download from
    `url`, `content` that of the decompressed file, both as "algorithm:digest". A recompressed copy,
    such as Debian's, has the same `content` and another `served`.
    """

    name: str
    url: str
    served: str
    content: str


class Collection(NamedTuple):
    """The files of one data set, the name of its folder, and the system's folders.

    A `flat` data set is a single table without a folder of its own.
    """

    name: str
    files: tuple[PublishedFile, ...]
    system: tuple[Path, ...] = ()
    package: str = ""  # command that installs the files into `system`
    flat: bool = False


def _idx(address: str, checksums: dict[str, tuple[str, str]]) -> tuple[PublishedFile, ...]:
    return tuple(
        PublishedFile(name, f"{address}/{name}.gz", f"md5:{served}", f"md5:{content}")
        for name, (served, content) in checksums.items()
    )


def _amat(address: str, checksums: dict[str, str]) -> tuple[PublishedFile, ...]:
    return tuple(
        PublishedFile(name, f"{address}/{name}", f"sha1:{digest}", f"sha1:{digest}")
        for name, digest in checksums.items()
    )


# LeCun, Cortes and Burges (1998); the address is the mirror of the Common Visual Data Foundation.
MNIST = Collection(
    "mnist",
    _idx(
        "https://storage.googleapis.com/cvdf-datasets/mnist",
        {
            "train-images-idx3-ubyte": (
                "f68b3c2dcbeaaa9fbdd348bbdeb94873",
                "6bbc9ace898e44ae57da46a324031adb",
            ),
            "train-labels-idx1-ubyte": (
                "d53e105ee54ea40749a09fcbcd1e9432",
                "a25bea736e30d166cdddb491f175f624",
            ),
            "t10k-images-idx3-ubyte": (
                "9fb629c4189551a2d022fa330f9573f3",
                "2646ac647ad5339dbf082846283269ea",
            ),
            "t10k-labels-idx1-ubyte": (
                "ec29112dd5afa0611ce80d1b7f02629c",
                "27ae3e4e09519cfbb04c329615203637",
            ),
        },
    ),
)

# Xiao, Rasul and Vollgraf (2017). The authors' repository; their other address has no https.
FASHION_MNIST = Collection(
    "fashion_mnist",
    _idx(
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
        {
            "train-images-idx3-ubyte": (
                "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                "f4a8712d7a061bf5bd6d2ca38dc4d50a",
            ),
            "train-labels-idx1-ubyte": (
                "25c81989df183df01b3e8a0aad5dffbe",
                "9018921c3c673c538a1fc5bad174d6f9",
            ),
            "t10k-images-idx3-ubyte": (
                "bef4ecab320f06d8554ea6380940ec79",
                "8181f5470baa50b63fa0f6fddb340f0a",
            ),
            "t10k-labels-idx1-ubyte": (
                "bb300cfdad3c16e7a12a480ee83cd310",
                "15d484375f8d13e6eb1aabb0c3f46965",
            ),
        },
    ),
    system=(Path("/usr/share/datasets/fashion-mnist"),),
    package="apt install dataset-fashion-mnist",
)

# Larochelle and Murray (2011), the standard fixed binarisation of MNIST.
BINARIZED_MNIST = Collection(
    "binarized_mnist",
    _amat(
        "https://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist",
        {
            "binarized_mnist_train.amat": "cf70514ec5f481e54ad3eb0e6c03c83326ff96f8",
            "binarized_mnist_valid.amat": "13418487742e6ea6d48db7b5187353a20b1b1f8c",
            "binarized_mnist_test.amat": "ca70bd7775e182596dec148d4dc1bc6bd6c4c5f4",
        },
    ),
)


def _table(name: str, file: str, url: str, md5: str) -> Collection:
    return Collection(name, (PublishedFile(file, url, f"md5:{md5}", f"md5:{md5}"),), flat=True)


# Hofmann (1994), in the numeric version of Strathclyde University: 1,000 rows of 24 attributes and
# a class, 1 for a good and 2 for a bad credit risk. CC BY 4.0, doi:10.24432/C5NC77.
GERMAN_CREDIT = _table(
    "german_credit",
    "german.data-numeric",
    "https://archive.ics.uci.edu/ml/machine-learning-databases/statlog/german/german.data-numeric",
    "dd6d1bd8f4bcc4555b900b9c00955c33",
)

# `finpines` of R's spatstat, Penttinen, Stoyan and Henttonen (1992), scaled to the unit square by
# Buchholz, Chopin and Jacob (2021), whose file later benchmarks use.
FINNISH_PINES = _table(
    "finnish_pines",
    "pines.csv",
    "https://raw.githubusercontent.com/alexanderbuchholz/hsmc/"
    "3ab7cf30007f28918793fd6589a7ec9fce8b2cf2/smc_sampler_functions/df_pines.csv",
    "fd16af8f0925e58243a54966707ad77d",
)
