"""Compiled programs on the disk, so that a second process does not compile them again.

JAX's persistent compilation cache, with a folder, a threshold and a limit for small programs on a
CPU. `python -m experiments` switches it on; a library user calls `enable` once, before the first
computation. The environment variable JAX_ENABLE_COMPILATION_CACHE=0 switches it off everywhere.
"""

import contextlib
import os
from pathlib import Path

import jax

FOLDER = "compiled"
MAX_BYTES = 1 << 30  # 1 GiB: about 50,000 programs
FILES = "*-cache"  # the names that JAX gives to its entries


def enable(folder: str | Path | None = None) -> Path | None:
    """Keep compiled programs in `folder` and load them from there; return the folder.

    The default is lvm_jax/compiled in the user's cache folder, beside downloaded data sets. A
    folder that JAX_COMPILATION_CACHE_DIR or `jax.config` names already takes precedence. Above
    1 GiB the oldest entries are removed. None, and no cache, where it is switched off or the folder
    cannot be written to.

    An entry is used for the same program, versions, options and processor only, so no number
    changes. JAX trusts its entries: use a folder that only you can write to. Processes may share a
    folder; an entry that cannot be read is compiled again, with a warning from JAX.
    """
    settings = jax.config.values
    if not settings["jax_enable_compilation_cache"]:
        return None
    chosen = settings["jax_compilation_cache_dir"]
    if chosen:
        return Path(chosen)
    path = Path(folder) if folder is not None else default_folder()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    if not os.access(path, os.W_OK | os.X_OK):
        return None
    prune(path, MAX_BYTES)
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    return path


def default_folder() -> Path:
    """lvm_jax/compiled in the user's cache folder."""
    import pooch

    return Path(pooch.os_cache("lvm_jax")) / FOLDER


def prune(folder: Path, max_bytes: int) -> None:
    """Remove the oldest entries until the others hold at most `max_bytes`."""
    total = 0
    entries = []
    for file in folder.glob(FILES):
        with contextlib.suppress(OSError):  # removed by another process
            entries.append((file.stat().st_mtime, file.stat().st_size, file))
    for _, size, file in sorted(entries, reverse=True):
        total += size
        if total > max_bytes:
            with contextlib.suppress(OSError):
                file.unlink()
