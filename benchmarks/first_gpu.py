"""The first hour on a GPU; `first_gpu.sh` calls it. ``--plan`` prints the runs of block A with their minutes.

All results are left in one folder: tests.txt, rates.csv, profile.txt, plan.csv, state.json, results/ (the runs with
their checkpoints), and large files in parts for a way that takes small ones only (`travel.py unpack` joins them).
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import torch
import travel

from igconv.study import results
from igconv.study.run import Run
from igconv.study.runs import runs_of

PARTS = ("tests", "rates", "profile", "runs")
# Steps per second of the benchmark study on an H100, estimated from operations and FLOPs (+- 30 %), until measured.
ESTIMATES = {"spconv": 400.0, "spconv+": 300.0, "igconv": 340.0, "igconv+": 270.0}
KINDS = {"spconv": "SPConv", "igconv": "IGConv", "igconv+": "IGConv+"}  # in rates.csv
CHECKPOINT = 60.0  # seconds that have to be left for a run to be begun


def block_a(profile: str) -> list[Run]:
    """Main runs of seed 0 at the main budgets, in the order of the table: an encoder's before the ablations."""
    runs = list(runs_of(profile).values())
    first = runs[0]
    chosen = []
    for run in runs:
        if run.encoder != first.encoder or run.seed or run.variant not in ("", "third"):
            break
        chosen.append(run)
    return chosen


def rates(out: Path) -> dict[str, float]:
    """Steps per second of each upsampler: measured with graphs where that was done here, else the estimates."""
    found = dict(ESTIMATES)
    if (out / "rates.csv").is_file():
        table = pd.read_csv(out / "rates.csv")
        best = table.groupby("upsampler").steps_per_s.max()
        found |= {name: float(best[name]) for name in KINDS if name in best}
        found["spconv+"] = found["spconv"] * ESTIMATES["spconv+"] / ESTIMATES["spconv"]
    return found


def plan(out: Path, profile: str) -> pd.DataFrame:
    """One row per run of block A: steps, rate, minutes, and whether the rate was measured."""
    speed, measured = rates(out), (out / "rates.csv").is_file()
    rows = [
        dict(run=run.name, steps=run.steps, steps_per_s=round(speed[run.upsampler], 1),
             minutes=round(run.steps / speed[run.upsampler] / 60, 1))
        for run in block_a(profile)
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    return table.assign(minutes_so_far=table.minutes.cumsum().round(1), rate="measured" if measured else "estimated")


def run_tests(out: Path, seconds: float) -> dict:
    """`counted` of the GPU tests; what they printed goes into tests.txt."""
    command = [sys.executable, "-m", "pytest", "tests/test_gpu.py", "-s", "-p", "no:cacheprovider"]
    environment = os.environ | {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=environment, check=False)
        text, status = done.stdout + done.stderr, done.returncode
    except subprocess.TimeoutExpired as error:
        said = (error.stdout or b"").decode(errors="replace")  # bytes, whatever was asked for
        text, status = f"{said}\nout of time after {seconds:.0f} s\n", 1
    (out / "tests.txt").write_text(text)
    print("\n".join(text.splitlines()[-8:]), flush=True)
    return counted(text, status)


def counted(text: str, status: int) -> dict:
    """Of what pytest printed: how many passed, failed, ..., and ``ok``: skipped tests have shown nothing."""
    kinds = r"(\d+) (passed|failed|skipped|errors?)"
    summaries = [line for line in text.splitlines() if re.search(rf"{kinds}.* in [\d.]+s", line)]  # warnings may follow
    counts = {word: int(number) for number, word in re.findall(kinds, summaries[-1])} if summaries else {}
    return counts | {"ok": status == 0 and counts.get("passed", 0) > 0}


def _one_run(name: str, profile: str, steps: int, precision: str | None) -> Run:
    """A run of block A at a budget of seconds, under a name of its own."""
    run = next(run for run in block_a(profile) if run.upsampler == name and run.variant == "")
    return replace(run, steps=steps, record_every=steps // 2, checkpoint_every=0, validate_every=0, variant="rate",
                   precision=precision or run.precision)  # fmt: skip


def measure_rates(out: Path, profile: str, device: str, steps: int) -> None:
    """Steps per second of real trainings, feed included: the second half of ``steps``, when all graphs are recorded.

    What rates.csv has of this device, PyTorch and number of steps is not measured again.
    """
    from igconv.training.loop import train

    path, rows = out / "rates.csv", []
    known = pd.read_csv(path).to_dict("records") if path.is_file() else []
    for name in KINDS:
        for graphs in (True, False) if device == "cuda" else (False,):
            run = _one_run(name, profile, steps, None)
            facts = dict(upsampler=name, graphs=graphs, encoder=run.encoder, steps=steps, precision=run.precision,
                         device=results.device_name(device), torch=torch.__version__)  # fmt: skip
            row = next((row for row in known if facts.items() <= row.items()), None)
            if row is None:
                with TemporaryDirectory() as folder:  # nobody wants these weights back
                    os.environ["IGCONV_RESULTS"] = folder
                    last = list(train(run, device, graphs=graphs))[-1]
                rate, memory = last["images_per_s"] / run.batch, last["peak_memory_mb"]
                row = facts | dict(steps_per_s=rate, peak_memory_mb=memory)
            rows.append(row)
            print(f"{name}, graphs {graphs}: {row['steps_per_s']:.1f} steps/s", flush=True)
            pd.DataFrame(rows).to_csv(path, index=False)


def profile_steps(out: Path, profile: str, device: str, steps: int) -> None:
    """Kernels of some steps of IGConv+ by their time, after all combinations were recorded."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as watched

    from igconv.training.loop import train

    run = _one_run("igconv+", profile, steps, None)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with TemporaryDirectory() as folder:  # a new one: what is trained already would give its records without a step
        os.environ["IGCONV_RESULTS"] = folder
        with closing(train(run, device)) as records:
            next(records)
            with watched(activities=activities) as kernels:
                next(records)
    sort = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    text = kernels.key_averages().table(sort_by=sort, row_limit=60, max_name_column_width=90)
    (out / "profile.txt").write_text(
        f"{run.name}: {steps - steps // 2} steps on {results.device_name(device)}\n{text}\n"
    )
    print("\n".join(text.splitlines()[:12]), flush=True)


def train_runs(out: Path, profile: str, device: str, deadline: float, wanted: list[Run]) -> list[str]:
    """Train until the time is over; a run that is not finished then has a checkpoint to go on from."""
    from igconv.training.loop import train

    os.environ["IGCONV_RESULTS"] = str(out / "results")
    finished = []
    for run in wanted:
        if time.monotonic() > deadline - CHECKPOINT and len(finished):
            break
        with closing(train(run, device)) as records:
            for record in records:
                saved = record["step"] % run.checkpoint_every == 0 if run.checkpoint_every else False
                if saved:
                    print(f"{run.name}: step {record['step']}/{run.steps}, loss {record['loss']:.4f}", flush=True)
                if record["step"] == run.steps:
                    continue  # the files are written when the iterator ends
                if saved and time.monotonic() > deadline:
                    return finished
        finished.append(run.name)
        print(f"{run.name}: finished", flush=True)
    return finished


def split(folder: Path, mib: float) -> list[Path]:
    """Files above ``mib`` MiB as <name>.part000, ... beside them; returns the parts."""
    made = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and ".part" not in p.suffix):
        travel.remove_parts(path)
        if path.stat().st_size > mib * 2**20:
            made += travel.in_parts(path, mib)
    return made


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="first_gpu.sh", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="time for all parts together")
    parser.add_argument("--part-mib", type=float, default=0.0, help="split larger files of the results; 0: none")
    parser.add_argument("--parts", default=",".join(PARTS), help="which of them, with commas")
    parser.add_argument("--out", type=Path, default=Path("first_gpu"))
    parser.add_argument("--plan", action="store_true", help="print the runs with their minutes and stop")
    parser.add_argument(
        "--tiny", action="store_true", help="a trial of seconds on the bundled photographs, on any device"
    )
    options = parser.parse_args(words)
    began, out = time.monotonic(), options.out.resolve()
    unknown = set(options.parts.split(",")) - set(PARTS)
    if unknown:
        parser.error(f"unknown part {unknown.pop()!r}; choose from {', '.join(PARTS)}")
    profile, device = ("smoke" if options.tiny else "benchmark"), ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cpu" and not (options.tiny or options.plan):
        parser.error("no CUDA device; --tiny tries everything on a CPU")
    if options.plan:
        print(plan(out, "benchmark").to_string(index=False))
        return 0
    out.mkdir(parents=True, exist_ok=True)
    deadline, steps, wanted = began + 60 * options.minutes, (40 if options.tiny else 400), options.parts.split(",")
    state = dict(device=results.device_name(device), profile=profile, parts={})
    if "tests" in wanted:
        state["parts"]["tests"] = run_tests(out, max(60.0, deadline - time.monotonic()))
    if "rates" in wanted:
        measure_rates(out, profile, device, steps)
        state["parts"]["rates"] = True
    if "profile" in wanted:
        profile_steps(out, profile, device, steps // 2)
        state["parts"]["profile"] = True
    if "runs" in wanted:
        if not options.tiny:
            plan(out, profile).to_csv(out / "plan.csv", index=False)
        state["parts"]["runs"] = train_runs(out, profile, device, deadline, block_a(profile))
    results.write_json(
        results.provenance(**state, minutes=round((time.monotonic() - began) / 60, 2)), out / "state.json"
    )
    if options.part_mib:
        print(f"{len(split(out, options.part_mib))} parts of at most {options.part_mib:g} MiB")
    print(json.dumps(state["parts"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
