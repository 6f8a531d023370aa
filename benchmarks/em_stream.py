"""EM on files: rows/s and GB/s of a pass, beside arithmetic alone and reading alone; and devices.

A pass of `em.fit` over a file is measured with the pages of the file dropped from memory before
it ("disk"; an .npy file is read as one that exceeds the memory) and with them in memory ("memory").
Arithmetic alone runs the program of one chunk as often; reading alone makes the same chunks without
a program. The larger of the two limits the pass. The three are measured in turns, after each step,
and the medians are shown.
The memory is the peak of the fit above that of the process after its imports.

The table of devices divides rows over forced host devices, which share the cores of the machine:
it shows the cost of the division and of the all-reduce, not a speed-up.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness

DIM, COMPONENTS, STEPS = 16, 16, 4
FORMATS = ("npy", "memmap", "folder", "parquet")
BLOCK = 2**18


def write(folder: Path, rows: int, kind: str, seed: int) -> Path:
    """The file or folder of the data of this kind, written once."""
    path = folder / f"em-{rows}-{seed}{ {'folder': '', 'parquet': '.parquet'}.get(kind, '.npy') }"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    blocks = (min(BLOCK, rows - begin) for begin in range(0, rows, BLOCK))
    draws = (draw(seed, index, size) for index, size in enumerate(blocks))
    if kind == "folder":
        path.mkdir()
        for index, x in enumerate(draws):
            np.save(path / f"{index:06d}.npy", x)
    elif kind == "parquet":
        write_parquet(path, draws)
    else:
        out = np.lib.format.open_memmap(path, "w+", np.float32, (rows, DIM))
        for index, x in enumerate(draws):
            out[index * BLOCK :][: len(x)] = x
        out.flush()
    return path


def draw(seed: int, index: int, size: int) -> np.ndarray:
    """One block of overlapping clusters."""
    centres = means(seed)
    rng = np.random.default_rng([seed, index])
    x = rng.standard_normal((size, DIM), np.float32)
    x += centres[rng.integers(COMPONENTS, size=size)]
    return x


def means(seed: int) -> np.ndarray:
    """The centres of the clusters."""
    rng = np.random.default_rng(seed)
    return rng.normal(scale=2.0, size=(COMPONENTS, DIM)).astype(np.float32)


def write_parquet(path: Path, draws: Any) -> None:
    """Row groups of one block, without compression: float32 noise has none."""
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    names = [f"x{j}" for j in range(DIM)]
    schema = pyarrow.schema([(name, pyarrow.float32()) for name in names])
    with ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        for x in draws:
            writer.write_table(pyarrow.table(list(x.T), schema=schema), row_group_size=BLOCK)


def files(path: Path) -> list[Path]:
    """The file, or the files of the folder."""
    return sorted(path.iterdir()) if path.is_dir() else [path]


def drop(path: Path) -> None:
    """Drop the pages of the files from memory."""
    for file in files(path):
        handle = os.open(file, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def child(case: dict[str, Any]) -> dict[str, Any]:
    """One measurement in this process."""
    return {"pass": passes, "devices": devices}[case["kind"]](case)


def passes(case: dict[str, Any]) -> dict[str, Any]:
    """Seconds of a pass, of its arithmetic and of its reading, and the memory."""
    import jax

    from lvm_jax import em
    from lvm_jax.em.npy_files import NpyFiles, can_read_directly
    from lvm_jax.em.sources import as_source

    path = Path(case["path"])
    x = as_source(np.load(path, mmap_mode="r") if case["format"] == "memmap" else path)
    if isinstance(x, NpyFiles):
        x.direct = case["cold"] and all(map(can_read_directly, files(path)))
    centres = means(case["seed"])
    start = em.gaussian_mixture(
        np.full(COMPONENTS, 1 / COMPONENTS, np.float32), centres + np.float32(0.2),
        np.tile(np.eye(DIM, dtype=np.float32), (COMPONENTS, 1, 1)),
    )  # fmt: skip
    idle, peaks, times, begun = harness.peak_megabytes(), [], [], [time.perf_counter()]

    def on_progress(progress: dict[str, Any]) -> None:
        if progress["rows"] == 0:
            peaks.append(harness.peak_megabytes())
            times.append((time.perf_counter() - begun[0], *limits(case, x, start)))
            if case["cold"]:
                drop(path)
            begun[0] = time.perf_counter()

    fit = em.fit(
        jax.random.key(0), x, COMPONENTS, start=start, max_steps=STEPS, tolerance=0.0,
        on_progress=on_progress, throw=False,
    )  # fmt: skip
    seconds, arithmetic, reading = np.median(times[1:], axis=0).tolist()
    return {
        "seconds": seconds,
        "arithmetic": arithmetic,
        "reading": reading,
        "first_seconds": times[0][0],  # with the first pass over the data, and compilation
        "memory_mb": peaks[0] - idle,
        "log_likelihood": fit.info.log_likelihood,
        "bytes": sum(file.stat().st_size for file in files(path)),
    }


def limits(case: dict[str, Any], source: Any, start: Any) -> tuple[float, float]:
    """Seconds of the arithmetic of a pass alone, and of its reading alone."""
    import jax

    from lvm_jax.em import chunks
    from lvm_jax.em import passes as em_passes

    size = chunks.rows_of(source, case["rows"])
    if case["cold"]:
        drop(Path(case["path"]))
    reading = harness.seconds(lambda: [chunk.size for chunk in chunks.read(source, size)], 1)[0]
    pass_ = em_passes.Pass(start.family, np.asarray(start.origin), source, case["rows"])
    data = pass_.prepare(next(chunks.read(source, size)))
    parameters = jax.tree.map(lambda leaf: np.asarray(leaf)[None], start.parameters)
    total = pass_.add(None, parameters, data, False)
    times = harness.seconds(
        lambda: pass_.add(total, parameters, data, False), max(1, case["rows"] // size)
    )
    return sum(times) * case["rows"] / size / len(times), reading


def devices(case: dict[str, Any]) -> dict[str, Any]:
    """Seconds of a step on forced host devices, after a fit that compiles."""
    flags = os.environ.get("XLA_FLAGS", "")
    forced = f"--xla_force_host_platform_device_count={case['devices']}"
    os.environ["XLA_FLAGS"] = f"{flags} {forced}"
    import jax

    from lvm_jax import em, parallel

    x = np.concatenate([draw(case["seed"], i, case["each"]) for i in range(case["devices"])])
    start = em.gaussian_mixture(
        np.full(COMPONENTS, 1 / COMPONENTS, np.float32), means(case["seed"]) + np.float32(0.2),
        np.tile(np.eye(DIM, dtype=np.float32), (COMPONENTS, 1, 1)),
    )  # fmt: skip
    ends: list[float] = []
    mesh = parallel.data_mesh(jax.devices())
    fit = em.fit(
        jax.random.key(0), x, COMPONENTS, start=start, max_steps=8, tolerance=0.0, throw=False,
        mesh=mesh, on_progress=lambda _: ends.append(time.perf_counter()),
    )  # fmt: skip
    seconds = float(np.median(np.diff(ends)))
    return {"seconds": seconds, "log_likelihood": fit.info.log_likelihood}


HEADER = (
    "format", "rows in", "rows", "pass s", "rows/s", "GB/s", "arithmetic s", "reading s",
    "limit", "of the limit", "memory MB",
)  # fmt: skip


def row(case: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """One line of the table of passes."""
    if "failed" in found:
        return [case["format"], "", "", found["failed"], *[""] * 7]
    seconds, limits = found["seconds"], (found["arithmetic"], found["reading"])
    return [
        case["format"], "disk" if case["cold"] else "memory", f"{case['rows']:,}",
        f"{seconds:.2f}", f"{case['rows'] / seconds:,.0f}", f"{found['bytes'] / seconds / 1e9:.2f}",
        *(f"{limit:.2f}" for limit in limits),
        "arithmetic" if limits[0] >= limits[1] else "reading",
        f"{seconds / max(limits):.2f}", f"{found['memory_mb']:.0f}",
    ]  # fmt: skip


def tables(rows: int, folder: Path, formats: tuple[str, ...], rounds: int, seed: int) -> list[Any]:
    """Measure and print both tables."""
    results, lines = [], []
    for kind in formats:
        path = write(folder, rows, kind, seed)
        for cold in (True, False):
            case = {"kind": "pass", "rows": rows, "path": str(path), "format": kind, "cold": cold}
            case |= {"seed": seed, "timeout": 7_200.0}
            found = harness.summary(
                [harness.measure("benchmarks.em_stream", case) for _ in range(rounds)]
            )
            results.append({"case": case, "found": found})
            lines.append(row(case, found))
            print(harness.markdown(HEADER, lines[-1:]).splitlines()[2], flush=True)
    print(f"\nEM from files, D = {DIM}, K = {COMPONENTS}, full, float32\n")
    print(harness.markdown(HEADER, lines))
    lines = []
    for number in (1, 2, 4, 8):
        case = {"kind": "devices", "devices": number, "each": 50_000, "seed": seed}
        found = harness.summary(
            [harness.measure("benchmarks.em_stream", case) for _ in range(rounds)]
        )
        results.append({"case": case, "found": found})
        speed = number * case["each"] / found["seconds"]
        lines.append([str(number), f"{1e3 * found['seconds']:.0f}", f"{speed:,.0f}"])
    print(
        f"\nForced host devices, 50,000 rows each, on the {os.cpu_count()} cores of this machine\n"
    )
    print(harness.markdown(("devices", "ms/step", "rows/s"), lines))
    return results


def main() -> None:
    """Measure, print the tables, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.em_stream", description=__doc__)
    parser.add_argument("--rows", type=float, default=2e6, help="rows of 64 bytes, such as 1e8")
    parser.add_argument("--folder", type=Path, help="of the data, which are then kept")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS)
    options = harness.read_options(parser, child)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        given = (int(options.rows), folder, tuple(options.formats), options.rounds, options.seed)
        found = tables(*given)
    print(f"\nwritten: {harness.save('em_stream', options.out, options.seed, found)}")


if __name__ == "__main__":
    main()
