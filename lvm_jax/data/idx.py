"""Readers of the two formats of MNIST: IDX (bytes) and .amat (bits as text).

Each takes the content of a file and its path, and returns unsigned bytes. Raises ValueError with
the path for a file that is truncated, damaged or of another format.
"""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

GZIP_MAGIC = b"\x1f\x8b"
UNSIGNED_BYTE = 0x08  # type code, the third byte of an IDX file
MOST_AXES = 32  # maximum number of axes; NumPy allows 64, images have 3
AGAIN = "Copy or download it again."


def read_bytes(path: Path) -> bytes:
    """The content of a file, decompressed if it is gzip, whatever its name.

    Raises ValueError for a gzip file that is truncated or has a wrong checksum.
    """
    content = path.read_bytes()
    if not content.startswith(GZIP_MAGIC):
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path}: not a whole gzip file ({error}). {AGAIN}") from error


def parse_idx(content: bytes, path: Path) -> UInt8[np.ndarray, "..."]:
    """The array of an IDX file of unsigned bytes, a read-only view of its content.

    The header is 0, 0, the type code, the number of axes, and the length of each axis in four
    big-endian bytes (LeCun, "The MNIST database", file formats).
    """
    if len(content) < 4 or content[:2] != b"\0\0" or content[3] == 0:
        raise ValueError(
            f"{path}: expected an IDX file, which begins with two zero bytes, the type and the "
            f"number of axes, got {_shown(content)}. {AGAIN}"
        )
    if content[2] != UNSIGNED_BYTE:
        raise ValueError(
            f"{path}: expected an IDX file of unsigned bytes (type 0x08), got type "
            f"0x{content[2]:02x}. {AGAIN}"
        )
    if content[3] > MOST_AXES:
        raise ValueError(
            f"{path}: expected an IDX file of at most {MOST_AXES} axes, got {content[3]}. {AGAIN}"
        )
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise ValueError(f"{path}: cut off within its header, after {len(content)} bytes. {AGAIN}")
    axes = tuple(int(n) for n in np.frombuffer(content, ">u4", count=content[3], offset=4))
    if 0 in axes:
        raise ValueError(f"{path}: expected numbers, got an axis of length 0: {axes}. {AGAIN}")
    got, size = len(content) - start, math.prod(axes)
    if got != size:
        raise ValueError(
            f"{path}: expected {' x '.join(map(str, axes))} = {size} bytes by its header, got "
            f"{got}: {'cut off' if got < size else 'something was added'}. {AGAIN}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(axes)


def parse_amat(content: bytes, path: Path, dim: int) -> UInt8[np.ndarray, "N D"]:
    """The bits of a .amat file: `dim` digits 0 or 1 per line, separated by single spaces.

    Every line has 2 dim bytes, so that the digits are the even columns of a byte array and the
    text needs no parser.
    """
    if not content or len(content) % (2 * dim):
        raise ValueError(
            f"{path}: expected lines of {dim} bits, {2 * dim} bytes each, got {len(content)} "
            f"bytes: cut off, or another format. {AGAIN}"
        )
    text = np.frombuffer(content, np.uint8).reshape(-1, 2 * dim)
    bits = text[:, ::2] - np.uint8(ord("0"))  # every other character gives 2 or more
    gaps = text[:, 1::2]
    wrong = (bits > 1).any(axis=1) | (gaps[:, :-1] != ord(" ")).any(axis=1) | (gaps[:, -1] != 10)
    if wrong.any():
        line = int(wrong.argmax())
        raise ValueError(
            f"{path}: expected {dim} bits on every line, a blank between two, got "
            f"{_shown(content[2 * dim * line :])} as line {line + 1}: damaged, or another format. "
            f"{AGAIN}"
        )
    return bits


def check_pair(
    images: np.ndarray, labels: np.ndarray, images_path: Path, labels_path: Path
) -> None:
    """Raise ValueError unless images are [N, H, W] and labels [N]."""
    if images.ndim != 3:
        raise ValueError(
            f"{images_path}: expected images [N, H, W], got {images.ndim} axes: {images.shape}. "
            "Is it another file under this name?"
        )
    if labels.shape != images.shape[:1]:
        raise ValueError(
            f"{labels_path}: expected {images.shape[0]} labels, one for each image in "
            f"{images_path}, got shape {labels.shape}. Take both files from the same source."
        )


def _shown(content: bytes) -> str:
    return f"{content[:12]!r}" if content else "an empty file"
