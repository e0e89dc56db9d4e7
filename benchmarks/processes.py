"""The trainer itself over 1 and 2 processes: steps per second and share of the time spent waiting for data.

python benchmarks/processes.py                                   # gloo on the CPU, one thread per process
python benchmarks/processes.py --device cuda                     # nccl, one GPU per process
python benchmarks/processes.py --device cuda --processes 1 --precision bf16-mixed --graphs --steps 2000
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pandas as pd
import torch
import tyro
from timing import RESULTS, report

from igconv.study import results
from igconv.study.runs import PLUS, get_run
from igconv.training.loop import train

UPSAMPLERS = {"igconv": {}, "igconv+": PLUS}


def worker(settings: dict) -> None:
    """Train a shrunk run of the sample study; Fabric starts this script again for every further process."""
    upsampler, steps = settings["upsampler"], settings["steps"]
    run = replace(
        get_run("sample", "edsr_tiny-igconv-s0"), upsampler=upsampler, **UPSAMPLERS[upsampler],
        encoder=settings["encoder"], steps=steps, micro_batch_size=settings["batch"], lr_patch=settings["lr_patch"],
        hidden_dim=settings["hidden_dim"], num_layers=4, learning_rate=1e-4, precision=settings["precision"],
        threads=settings["threads"], record_every=steps // 2, validate_every=0, checkpoint_every=steps,
    )  # fmt: skip
    for _ in train(run, settings["device"], settings["processes"], graphs=settings["graphs"]):
        pass


def train_once(settings: dict) -> dict:
    """Last record of a training in new processes: its second half, when everything is warm."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"IGCONV_RESULTS": folder}
        done = subprocess.run([sys.executable, __file__, "--worker", json.dumps(settings)], env=environment,
                              capture_output=True, text=True)  # fmt: skip
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        (run,) = Path(folder).glob("sample/runs/*")
        facts = json.loads((run / "provenance.json").read_text())
        assert facts["world_size"] == settings["processes"]
        return results.read_table(run / "record.csv").iloc[-1].to_dict() | {"device": facts["device"]}


def main(
    device: Literal["cpu", "cuda"] = "cpu",
    encoder: str = "edsr_baseline",
    processes: tuple[int, ...] = (1, 2),
    batch: int = 4,
    lr_patch: int = 48,
    precision: Literal["32-true", "bf16-mixed"] = "32-true",
    graphs: bool = False,
    threads: int = 1,
    steps: int = 10,
    rounds: int = 3,
    out: Path = RESULTS,
    quick: bool = False,
) -> None:
    """Steps of 4 micro-batches, scales 2-3-4, by `igconv.training.loop.train` on the sample study's photographs.

    Args:
        batch: samples per micro-batch.
        threads: of the CPU, per process.
        steps: of a training; the second half is measured.
        rounds: trainings of each kind, in turn.
        quick: one tiny encoder, IGConv alone.
    """
    upsamplers = list(UPSAMPLERS)
    if quick:
        encoder, batch, lr_patch, steps, rounds, upsamplers = "edsr_tiny", 1, 8, 4, 1, ["igconv"]
    hidden_dim = 8 if quick else 256
    rows = []
    for upsampler in upsamplers:
        for number in range(rounds):
            for n in processes:
                settings = dict(device=device, encoder=encoder, upsampler=upsampler, processes=n, batch=batch,
                                lr_patch=lr_patch, precision=precision, graphs=graphs, threads=threads,
                                steps=steps, hidden_dim=hidden_dim)  # fmt: skip
                record = train_once(settings)
                rows.append(settings | dict(
                    round=number, step_ms=1000 * 4 * batch / record["images_per_s"],
                    data_wait_share=record["data_wait_share"], peak_memory_mb=record["peak_memory_mb"],
                ))  # fmt: skip
                print(f"{upsampler}, {n} process(es): {rows[-1]['step_ms']:.1f} ms", flush=True)
    table = pd.DataFrame(rows)
    keys = ["upsampler", "processes", "encoder", "batch", "lr_patch", "precision", "graphs", "steps"]
    table = table.groupby(keys, sort=False)[["step_ms", "data_wait_share", "peak_memory_mb"]].median().reset_index()
    table["steps_per_s"] = 1000 / table.step_ms
    table["ratio"] = table.step_ms / table.groupby("upsampler").step_ms.transform("first")
    torch.set_num_threads(threads)
    report(table.assign(rounds=rounds), "processes", device, out)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(json.loads(sys.argv[2]))
    else:
        tyro.cli(main)
