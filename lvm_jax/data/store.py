"""Local files of the published data sets, and their download.

The search order is $LVM_JAX_DATA/<name>, the user's cache, and the folders of the system's
packages; a missing file is downloaded into the cache. A file may be compressed (.gz). The file of a
`flat` data set is in $LVM_JAX_DATA itself.
"""

import hashlib
import os
from pathlib import Path

from lvm_jax.data import idx
from lvm_jax.data.published import Collection, PublishedFile

VARIABLE = "LVM_JAX_DATA"
TIMEOUT = (10, 60)  # seconds to connect, and between two parts of the response


def find(collection: Collection, file: PublishedFile) -> Path:
    """The local path of the file, downloaded if it is missing.

    Raises ValueError if $LVM_JAX_DATA is not a folder, and FileNotFoundError, with instructions, if
    the file is missing and cannot be downloaded. `check_content` verifies the checksum.
    """
    for folder in folders(collection):
        for path in (folder / f"{file.name}.gz", folder / file.name):
            if path.is_file():
                return path
    return _download(collection, file)


def read_text(collection: Collection) -> str:
    """The verified text of a data set with one file."""
    (file,) = collection.files
    path = find(collection, file)
    content = idx.read_bytes(path)
    check_content(content, file, path)
    return content.decode()


def folders(collection: Collection) -> list[Path]:
    """The folders to search for a data set, in order."""
    chosen = os.environ.get(VARIABLE)
    if chosen and not Path(chosen).is_dir():
        raise ValueError(
            f"{VARIABLE}: expected an existing folder, got {chosen!r}; make it, correct the "
            "variable, or unset it"
        )
    mine = [Path(chosen) / _below(collection)] if chosen else []
    return [*mine, _cache(collection), *collection.system]


def check_content(content: bytes, file: PublishedFile, path: Path) -> None:
    """Raise ValueError for a file whose decompressed content is not the published one."""
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
    """Download the file into the cache; pooch renames it after its checksum is verified."""
    import pooch

    try:
        downloaded = pooch.retrieve(
            file.url,
            known_hash=file.served,
            fname=f"{file.name}.gz" if file.url.endswith(".gz") else file.name,
            path=_cache(collection),
            downloader=pooch.HTTPDownloader(timeout=TIMEOUT, chunk_size=1 << 20),
        )
    # OSError: the network (requests' errors are OSErrors) or the disk. ValueError: the checksum.
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
