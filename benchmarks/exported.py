"""Exported models beside the model itself: time of an image as PyTorch runs it, as a .pt2, and in onnxruntime.

python benchmarks/exported.py [--scale 2] [--sides 64 256] [--threads 2]

The model is that of the package; kernels are made before, in all forms. The forms are called in turn.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import torch
import tyro
from timing import RESULTS, interleaved, report, summary

from igconv import build_model
from igconv.models import exports
from igconv.models.super_resolver import SuperResolver
from igconv.upscaling import default_model

MODEL = "model"


def forms(model: SuperResolver, scale: int, threads: int, folder: Path) -> dict[str, Callable[[torch.Tensor], object]]:
    """Name -> (lr) -> image, of the model and of its exports."""
    program, graph = folder / "model.pt2", folder / "model.onnx"
    program.write_bytes(exports.to_torch(model, scale, {})[0])
    graph.write_bytes(exports.to_onnx(model, scale, {})[0])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    fixed, loaded = model.instantiate(scale), torch.export.load(program).module()
    return {
        MODEL: lambda lr: fixed(lr.to(memory_format=torch.channels_last)),
        "torch, .pt2": loaded,
        "onnxruntime": lambda lr: session.run(None, {exports.INPUT: np.ascontiguousarray(lr.numpy())})[0],
    }


def main(
    scale: int = 2, sides: tuple[int, ...] = (64, 256), threads: int = 2, rounds: int = 7, out: Path = RESULTS,
    quick: bool = False,
) -> None:  # fmt: skip
    """Medians over the rounds; ratio is to the model in PyTorch.

    Args:
        sides: of the square LR image.
        quick: a tiny model and image; numbers without meaning.
    """
    if quick:
        sides, threads, rounds = (24,), 1, 1
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = build_model("edsr_tiny", "igconv", scales=(scale,), hidden_dim=8) if quick else default_model()
    tables = []
    with tempfile.TemporaryDirectory() as folder:
        made = forms(model.eval(), scale, threads, Path(folder))
        for side in sides:
            calls = {name: partial(form, torch.rand(1, 3, side, side)) for name, form in made.items()}
            with torch.inference_mode():
                tables.append(summary(interleaved(calls, rounds=rounds), MODEL).assign(side_px=side))
    report(pd.concat(tables).assign(scale=scale), "exported", out=out)


if __name__ == "__main__":
    tyro.cli(main)
