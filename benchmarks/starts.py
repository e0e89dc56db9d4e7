"""Which part of another initialisation helps IGConv? The sample study's IGConv, shortly trained from several starts.

python benchmarks/starts.py [--paper-size]

Starts: the authors'; that with the mean of each colour's entries removed ("centred"); with the mean removed and
SPConv's spread over the entries ("centred, scaled"); `HyperNetwork.start_like_spconv`, which has both and hidden layers
that keep differences ("spconv"); and one encoder with three SPConv heads in place of IGConv. Writes
starts-<device>.csv: PSNR-Y of the averaged weights on validation crops (mean over scales) against the step.
"""

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
import tyro
from timing import RESULTS, report

from igconv import build_model
from igconv.models.hypernetwork import HyperNetwork
from igconv.progress import follow
from igconv.study.runs import get_run
from igconv.training.loop import train

STARTS = {
    "authors": lambda net: None,
    "centred": lambda net: net.standardise(scaled=False),
    "centred, scaled": HyperNetwork.standardise,
    "spconv": HyperNetwork.start_like_spconv,
}
HEADS = "one encoder, three heads"


def main(
    steps: int = 600, learning_rate: float = 2e-3, paper_size: bool = False, out: Path = RESULTS, quick: bool = False
) -> None:
    """Train and compare.

    Args:
        paper_size: a hyper-network of 4 layers of 256, as in the paper, instead of 2 of 64.
        quick: a few steps, numbers without meaning.
    """
    base = replace(get_run("sample", "edsr_tiny-igconv-s0"), steps=4 if quick else steps, profile="starts",
                   learning_rate=learning_rate)  # fmt: skip
    base = replace(base, record_every=base.steps // 4, validate_every=base.steps // 4, checkpoint_every=base.steps)
    if paper_size:
        base = replace(base, hidden_dim=256, num_layers=4)
    tables = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["IGCONV_RESULTS"] = folder  # these trainings are nobody's runs
        for start in (*STARTS, HEADS):
            run = replace(base, variant=start.replace(", ", "_"), upsampler="igconv" if start in STARTS else "spconv")
            torch.manual_seed(run.seed)
            model = build_model(run.encoder, run.upsampler, **run.model_options())
            if start in STARTS:
                STARTS[start](model.upsampler.hyper)
            records = list(follow(train(run, "cpu", model=model), run.steps, start))
            tables.append(pd.DataFrame(records)[["step", "l1", "psnr_y_db"]].assign(start=start))
    facts = dict(encoder=base.encoder, hidden_dim=base.hidden_dim, num_layers=base.num_layers, seed=base.seed,
                 learning_rate=base.learning_rate)  # fmt: skip
    name = "starts_paper_size" if paper_size else "starts"
    report(pd.concat(tables)[["start", "step", "l1", "psnr_y_db"]].assign(**facts), name, out=out)


if __name__ == "__main__":
    tyro.cli(main)
