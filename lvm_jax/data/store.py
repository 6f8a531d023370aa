"""Where the files of a published data set are looked for, and how they get there.

First the folder of the data set below $LVM_JAX_DATA, then the one in the user's cache, then where
the system's packages put it; what is nowhere is downloaded into the cache. A file counts zipped
(.gz) or not. A `flat` data set has no folder of its own: its file lies in $LVM_JAX_DATA itself.
"""

import hashlib
import os
from pathlib import Path

from lvm_jax.data.published import Collection, PublishedFile

VARIABLE = "LVM_JAX_DATA"
TIMEOUT = (10, 60)  # seconds to connect, and between two pieces of the answer


def find(collection: Collection, file: PublishedFile) -> Path:
    """The path of the file on this machine, downloaded if it is nowhere yet.

    Raises ValueError for a $LVM_JAX_DATA that is no folder, and FileNotFoundError, saying what to
    put where, for a file that is nowhere and cannot be downloaded. What is found is not checked
    here: see `check_content`.
    """
    for folder in folders(collection):
        for path in (folder / f"{file.name}.gz", folder / file.name):
            if path.is_file():
                return path
    return _download(collection, file)


def folders(collection: Collection) -> list[Path]:
    """The folders that a data set may lie in, in the order in which they are looked through."""
    chosen = os.environ.get(VARIABLE)
    if chosen and not Path(chosen).is_dir():
        raise ValueError(
            f"{VARIABLE}: expected an existing folder, got {chosen!r}; make it, correct the "
            "variable, or unset it"
        )
    mine = [Path(chosen) / _below(collection)] if chosen else []
    return [*mine, _cache(collection), *collection.system]


def check_content(content: bytes, file: PublishedFile, path: Path) -> None:
    """Refuse, by its path, a file whose unzipped content is not the published one."""
    algorithm, expected = file.content.split(":")
    got = hashlib.new(algorithm, content, usedforsecurity=False).hexdigest()
    if got != expected:
        raise ValueError(
            f"{path}: expected the published {file.name}, whose unzipped content has the "
            f"{algorithm} {expected}, got {got}: the file is damaged, or another one. Remove it "
            f"and get it again from {file.url}"
        )


def _cache(collection: Collection) -> Path:
    import pooch

    return Path(pooch.os_cache("lvm_jax")) / _below(collection)


def _below(collection: Collection) -> str:
    return "" if collection.flat else collection.name


def _download(collection: Collection, file: PublishedFile) -> Path:
    """Fetch the file into the cache: under a passing name until its checksum is right."""
    import pooch

    try:
        downloaded = pooch.retrieve(
            file.url,
            known_hash=file.served,
            fname=f"{file.name}.gz" if file.url.endswith(".gz") else file.name,
            path=_cache(collection),
            downloader=pooch.HTTPDownloader(timeout=TIMEOUT, chunk_size=1 << 20),
        )
    # OSError: the network (requests' errors are OSErrors) or the disk; ValueError: the checksum
    except (OSError, ValueError) as error:
        raise FileNotFoundError(_what_to_put_where(collection, file, error)) from error
    return Path(downloaded)


def _what_to_put_where(collection: Collection, file: PublishedFile, error: Exception) -> str:
    looked = ", ".join(str(folder) for folder in folders(collection))
    unset = "" if os.environ.get(VARIABLE) else f" (${VARIABLE} is not set)"
    names = ", ".join(f.name for f in collection.files)
    package = f", or run {collection.package!r}" if collection.package else ""
    other = "" if collection.flat else " The data set 'digits' needs no files."
    return (
        f"{collection.name}: no file {file.name}, zipped or not, in {looked}{unset}, and the "
        f"download of {file.url} failed: {type(error).__name__}: {error}. To do without the "
        f"internet, put {names} (each with or without .gz) into {_cache(collection)} or "
        f"{Path(f'${VARIABLE}') / _below(collection)}{package}.{other}"
    )
