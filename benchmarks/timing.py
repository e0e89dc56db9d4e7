"""What the benchmarks share: interleaved repetitions, peak memory, fresh processes, tables.

Times of one machine at one moment can be compared, others cannot: cases that belong together are called in turn,
round by round, and compared within a round.
"""

import multiprocessing
import re
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pandas as pd
import torch

from igconv.study import results

RESULTS = Path(__file__).resolve().parent / "results"
PRELOAD = ["torch", "igconv.training.loop"]


def settle(device) -> None:
    """Wait for what the device still has to do."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def timed(call: Callable[[], object], device="cpu", calls: int = 1) -> tuple[float, float]:
    """(milliseconds, milliseconds of processor time over all threads) per call; CUDA events on a GPU."""
    cpu_start, start = time.process_time(), time.perf_counter()
    if torch.device(device).type == "cuda":
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        for _ in range(calls):
            call()
        after.record()
        after.synchronize()
        elapsed = before.elapsed_time(after)
    else:
        for _ in range(calls):
            call()
        elapsed = (time.perf_counter() - start) * 1000
    return elapsed / calls, (time.process_time() - cpu_start) * 1000 / calls


def interleaved(
    cases: dict[str, Callable[[], object]], device="cpu", rounds: int = 10, warmup: int = 2, calls: int = 1
) -> pd.DataFrame:
    """Time the cases in turn, ``rounds`` times: columns case, round, ms, cpu_ms."""
    for _ in range(warmup):
        for call in cases.values():
            call()
    settle(device)
    rows = []
    for number in range(rounds):
        for case, call in cases.items():
            ms, cpu_ms = timed(call, device, calls)
            rows.append(dict(case=case, round=number, ms=ms, cpu_ms=cpu_ms))
    return pd.DataFrame(rows)


def summary(times: pd.DataFrame, baseline: str | None = None) -> pd.DataFrame:
    """One row per case of `interleaved`: median and quartiles of ms, and of the ratios to the baseline.

    A ratio is taken within each round, so that a machine that slows down slows both. ``cpu_ratio`` compares
    processor time, the better measure while others use the same machine.
    """
    wide, cpu = (times.pivot(index="round", columns="case", values=column) for column in ("ms", "cpu_ms"))
    rows = []
    for case in times.case.unique():
        row = dict(case=case, ms=wide[case].median(), ms_q25=wide[case].quantile(0.25),
                   ms_q75=wide[case].quantile(0.75), cpu_ms=cpu[case].median(), rounds=len(wide))  # fmt: skip
        if baseline is not None:
            ratio = wide[case] / wide[baseline]
            row |= dict(ratio=ratio.median(), ratio_q25=ratio.quantile(0.25), ratio_q75=ratio.quantile(0.75),
                        cpu_ratio=(cpu[case] / cpu[baseline]).median())  # fmt: skip
        rows.append(row)
    return pd.DataFrame(rows)


def peak_memory_mib(call: Callable[[], object], device="cpu") -> float:
    """MiB that a call adds to what was in use before: allocated on a GPU, resident on a CPU.

    On a CPU this is the kernel's high-water mark, which a process can only be trusted with once: see
    `in_fresh_process`.
    """
    if torch.device(device).type == "cuda":
        settle(device)
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        settle(device)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again at what is resident now
    before = _resident_mib("VmHWM")
    call()
    return _resident_mib("VmHWM") - before


def _resident_mib(field: str) -> float:
    # Not ru_maxrss: a child process inherits that from its parent.
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)[1]) / 1024


def in_fresh_process(function: Callable, *args):
    """``function(*args)`` in a new Python process; the function is at the top level of its module.

    It is forked, where that is possible, from one that has its imports and has run nothing.
    """
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    multiprocessing.set_forkserver_preload(PRELOAD)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        return pool.submit(function, *args).result()


def report(rows: pd.DataFrame, script: str, device="cpu", out: Path = RESULTS) -> Path:
    """Print a table and write it as ``<script>-<device>.csv`` with device, threads and PyTorch's version."""
    name = results.device_name(device)
    table = rows.assign(device=name, threads=torch.get_num_threads(), torch=torch.__version__)
    print(rows.to_string(index=False, float_format=lambda x: f"{x:.4g}"))
    path = out / f"{script}-{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}.csv"
    results.write_table(table.round(4), path, device=name, threads=torch.get_num_threads())
    print(f"written to {path}")
    return path
