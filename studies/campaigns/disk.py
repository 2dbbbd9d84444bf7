"""What reaches the disk: the write path beside plain h5py, memory of a large campaign, codecs."""

from __future__ import annotations

__all__ = ["compression", "memory", "write_path"]

import os
import resource
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from torch.distributions import Uniform

import simgen
import simulators

from .table import Part

PIXELS = (64, 64)
BLOCK = 256


def copies(name: str = "copies") -> simgen.Simulator:
    """A simulator that does nothing: the same block of noise maps each time."""
    maps = np.random.default_rng(0).standard_normal((BLOCK, *PIXELS)).astype(np.float32)

    def function(theta: Any, rng: np.random.Generator) -> Any:
        return maps

    prior = simgen.Prior(mu=Uniform(-1.0, 1.0))
    return simgen.simulator(function, prior=prior, batched=True, name=name)


def write_path(folder: Path, rows: int = 24_576, repeats: int = 16) -> Part:
    """A campaign of a simulator that does nothing, against h5py into one contiguous dataset."""
    width = 4 * PIXELS[0] * PIXELS[1] + 4
    ours, plain = [], []
    for _ in range(repeats):
        ours.append(_timed(folder, lambda path: _simulate(path, rows)))
        plain.append(_timed(folder, lambda path: _plain(path, rows)))
    speed = [rows * width / min(seconds) / 1e6 for seconds in (ours, plain)]
    pairs = ", ".join(f"{b / a:.2f}" for a, b in zip(ours, plain))
    return Part(
        [
            (
                "write path against a raw contiguous h5py write of the same bytes",
                "≥ 70 %",
                f"{100 * speed[0] / speed[1]:.0f} %",
            )
        ],
        f"Write path: {rows:,} maps of 64 by 64 float32 and theta "
        f"({rows * width / 2**30:.1f} GiB), {repeats} runs side by side, the best of each: simgen "
        f"{speed[0]:.0f} MB/s with checksum, fsync and rename of each shard; h5py "
        f"{speed[1]:.0f} MB/s with one fsync at the end "
        f"(ratios pair by pair: {pairs}).",
    )


def _timed(folder: Path, work: Callable[[Path], None]) -> float:
    path = folder / "written"
    os.sync()
    began = time.perf_counter()
    work(path)
    seconds = time.perf_counter() - began
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    return seconds


def _simulate(path: Path, rows: int) -> None:
    simgen.simulate(copies(), rows, path, progress=False)


def _plain(path: Path, rows: int) -> None:
    maps = np.random.default_rng(0).standard_normal((8 * BLOCK, *PIXELS)).astype(np.float32)
    theta = np.zeros((8 * BLOCK, 1), np.float32)
    with h5py.File(path, "w") as file:
        x = file.create_dataset("x", (rows, *PIXELS), np.float32)
        t = file.create_dataset("theta", (rows, 1), np.float32)
        for start in range(0, rows, len(maps)):
            count = min(len(maps), rows - start)
            x[start : start + count], t[start : start + count] = maps[:count], theta[:count]
    _flush(path)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def memory(folder: Path, gibibytes: float = 8.0) -> Part:
    """The peak resident memory of coordinators that write so much, with one and two workers."""
    rows = int(gibibytes * 2**30 / (4 * PIXELS[0] * PIXELS[1]))
    peaks, start = {}, 0.0
    for workers in (1, 2):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            measured = pool.submit(_peak, folder / "memory", rows, workers)
            start, peaks[workers] = measured.result()
        shutil.rmtree(folder / "memory")
    found = " and ".join(f"{peak:.2f} GiB" for peak in peaks.values())
    return Part(
        [(f"peak memory of the coordinator, writing {gibibytes:g} GiB", "< 1 GiB", found)],
        f"Memory: {rows:,} maps with 1 and with 2 workers; {start:.2f} GiB of it is there before "
        "the first row (Python, torch).",
    )


def _peak(path: Path, rows: int, workers: int) -> tuple[float, float]:
    def resident() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

    simulator, before = copies(), resident()
    simgen.simulate(simulator, rows, path, workers=workers, progress=False)
    return before, resident()


def compression(folder: Path, repeats: int = 5) -> Part:
    """Codecs on one shard of maps with and without noise, and of vectors."""
    import hdf5plugin

    clean = simulators.get("map-quick")
    maps = clean(clean.prior.sample((1024,), seed=0).numpy(), seed=0)["x"]
    noisy = maps + maps.std() * np.random.default_rng(1).standard_normal(maps.shape)
    slcp = simulators.get("slcp")
    vectors = slcp(slcp.prior.sample((131_072,), seed=0).numpy(), seed=0)["x"]
    samples = {"smooth maps": maps, "noisy maps": noisy, "vectors": vectors}
    codecs: dict[str, dict[str, Any]] = {
        "none": {},
        "lzf, shuffled": {"compression": "lzf", "shuffle": True},
        "gzip 1, shuffled": {"compression": "gzip", "compression_opts": 1, "shuffle": True},
        "gzip 4, shuffled": {"compression": "gzip", "compression_opts": 4, "shuffle": True},
        "blosc lz4": dict(hdf5plugin.Blosc(cname="lz4", clevel=5, shuffle=1)),
        "blosc zstd": dict(hdf5plugin.Blosc(cname="zstd", clevel=3, shuffle=1)),
    }
    lines = [
        "| codec | " + " | ".join(samples) + " |",
        "| --- |" + " ---: |" * len(samples),
    ]
    for name, codec in codecs.items():
        cells = [_codec(folder / "codec.h5", x, codec, repeats) for x in samples.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return Part(
        [("compression, by measurement", "a choice", "none: see below")],
        "Compression: size of a shard against its arrays, and MB/s to write with fsync and to "
        f"read from the page cache (best of {repeats}). Float32 of simulations is noise in its "
        "low bits: a codec saves a twentieth to a seventh of it. Those of HDF5 itself write a "
        "tenth as fast as no codec, or slower; blosc, of which lz4 writes half as fast, needs a "
        "plugin that readers of HDF5 do not have by default; and only what is stored contiguously "
        "can be read in place. So shards are not compressed.\n\n" + "\n".join(lines),
    )


def _codec(path: Path, x: np.ndarray, codec: dict[str, Any], repeats: int) -> str:
    x = np.ascontiguousarray(x, np.float32)
    chunks = None if not codec else (min(len(x), max(1, (1 << 20) // x[0].nbytes)), *x.shape[1:])
    write, read, size = np.inf, np.inf, 0
    for _ in range(repeats):
        began = time.perf_counter()
        with h5py.File(path, "w") as file:
            file.create_dataset("x", data=x, chunks=chunks, **codec)
        _flush(path)
        write = min(write, time.perf_counter() - began)
        size = path.stat().st_size
        began = time.perf_counter()
        with h5py.File(path) as file:
            assert np.array_equal(file["x"][()], x)
        read = min(read, time.perf_counter() - began)
    path.unlink()
    return f"{size / x.nbytes:.2f}, {x.nbytes / write / 1e6:.0f}, {x.nbytes / read / 1e6:.0f}"
