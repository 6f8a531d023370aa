"""A disk cache of compiled programs, so that a second process does not compile them again.

This is JAX's persistent compilation cache with a default folder, no minimum compile time, and a
size limit. `python -m experiments` enables it; a library user calls `enable` before the first
computation. The environment variable JAX_ENABLE_COMPILATION_CACHE=0 disables it.
"""

import contextlib
import os
from pathlib import Path

import jax

FOLDER = "compiled"
MAX_BYTES = 1 << 30  # 1 GiB: about 50,000 programs
FILES = "*-cache"  # the file names of JAX's entries


def enable(folder: str | Path | None = None) -> Path | None:
    """Store compiled programs in `folder` and load them from there; return the folder.

    The default is lvm_jax/compiled in the user's cache folder. A folder of
    JAX_COMPILATION_CACHE_DIR or `jax.config` takes precedence. Above 1 GiB the oldest entries are
    removed. Returns None, without a cache, if it is disabled or the folder is not writable.

    An entry is valid only for the same program, versions, options and processor, so that results
    do not change. JAX trusts its entries: use a folder that only you can write to. Processes may
    share a folder; JAX warns about an unreadable entry and compiles again.
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
    """Remove the oldest entries until the rest have at most `max_bytes`."""
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
