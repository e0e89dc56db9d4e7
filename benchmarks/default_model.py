"""The model that comes with the package: SMFANet+ (DF2K, x4) converted to x2 to x8, and trained on if asked for.

python benchmarks/default_model.py [--images T91 BSD200 SunHays80 FOLDER] [--steps N] [--output FILE]
python benchmarks/default_model.py --measure

The conversion is kept beside the files of the training (results/conversion/), so that it is made once, and the same
command resumes a training. Benchmark images are looked at by neither. With ``--output`` the weights are written there
in half precision, what they were made of into `benchmarks/results/default_model_made.csv`, with the PSNR of held-out
crops, and the record of a training into `default_model_record.csv`.
``--measure`` evaluates the model that the package has: a row per image and scale in
`benchmarks/results/default_model.csv`; above the network's own scale, its image enlarged by bicubic stands beside
(`default_model_enlarged.csv`).
"""

import json
import shutil
from pathlib import Path

import pandas as pd
import torch
import tyro
from conversion import enlarged, means

from igconv.conversion.convert import conversion
from igconv.conversion.sources import opened
from igconv.evaluation import benchmark
from igconv.files import sha256
from igconv.models import checkpoints, inference
from igconv.study import results
from igconv.study.run import Run
from igconv.training.converting import PROFILE, tuned, tuning_run
from igconv.upscaling import DEFAULT_WEIGHTS, default_model

SCALES = (2, 3, 4, 5, 6, 7, 8)
NETWORK = "smfanet_plus_df2k_x4"
LICENCE = "Apache-2.0 (igconv/pretrained/LICENSE-APACHE)"
TEST_SETS = ("Set5", "Set14", "B100", "Urban100")
FOLDER = Path(__file__).parent / "results"
SIDE = 40  # px of crops and patches, so that photographs of 320 px are large enough for x8
SETTINGS = dict(lr_patch=SIDE, learning_rate=1e-4, final_rate=1e-6, warmup=50, ema=0.995, max_scale=8, record_every=50,
                checkpoint_every=50)  # fmt: skip


def main(
    steps: int = 0, crops: int = 1_024, images: tuple[str, ...] = ("T91", "BSD200", "SunHays80"),
    start: Path | None = None, output: Path | None = None, threads: int = 1, measure: bool = False,
) -> None:  # fmt: skip
    """Convert, if that was not done yet, and train, if there are steps.

    Args:
        start: a converted model to start from, instead of one made here.
        output: file for the weights.
        threads: of the CPU.
        measure: evaluate the model of the package, and nothing else.
    """
    torch.set_num_threads(threads)
    if measure:
        print(measured().pivot_table(index="dataset", columns="scale", values="psnr_y_db", sort=False).round(2))
        return
    file = start or results.root(PROFILE) / f"{NETWORK}-x{''.join(map(str, SCALES))}-{crops}.safetensors"
    if not file.is_file():
        inference.keep_freed_memory()  # as `igconv convert` does
        done = conversion(
            opened(NETWORK), SCALES, images=images, crops=crops, side=SIDE, held_out=("sample_test",), keep_own=False
        )
        print(done.table.round(3).to_string(index=False))
        # A folder's place is one machine's business.
        made = dict(network=NETWORK, scales=list(SCALES), crops=crops, images=[Path(name).name for name in images])
        checkpoints.save(done.model, file, **made)
        results.write_table(done.table, file.with_suffix(".csv"), settings=made | dict(crop_px=SIDE))
    model = checkpoints.load(file)
    facts: dict = checkpoints.metadata(file)["meta"]
    if steps:
        run = tuning_run(model, NETWORK, images, SCALES, steps, **SETTINGS, threads=threads)
        model = tuned(model, run)
        facts |= dict(run=run.name, steps=steps, config_hash=run.config_hash())
    if output:
        checkpoints.save(model, output, torch.float16, **facts, licence=LICENCE)
        print(f"{output}: {output.stat().st_size / 1e6:.2f} MB, sha256 {sha256(output)}")
        for suffix in (".csv", ".provenance.json") if start is None else ():
            shutil.copy(file.with_suffix(suffix), FOLDER / f"default_model_made{suffix}")
        if steps:
            write_record(run)


def write_record(run: Run) -> None:
    record = results.read_table(results.run_folder(PROFILE, run.name) / "record.csv")
    trained = json.loads((results.run_folder(PROFILE, run.name) / "provenance.json").read_text())
    settings = run.config() | dict(train_sets=[Path(name).name for name in run.train_sets])
    results.write_table(record, FOLDER / "default_model_record.csv", settings=settings, training=trained)


def measured() -> pd.DataFrame:
    """Rows of the model of the package, which are written, and beside them the means of the network it was made of,
    whose image is enlarged further by bicubic."""
    model, weights_sha256 = default_model(), sha256(DEFAULT_WEIGHTS)
    meta = checkpoints.metadata(DEFAULT_WEIGHTS)["meta"]
    name = meta.get("run", f"{meta['network']}-converted")
    facts = dict(run=name, encoder="smfanet_plus", upsampler="igconv", variant="converted", seed=0,
                 train_scales="-".join(map(str, meta["scales"])), steps=meta.get("steps", 0))  # fmt: skip
    rows = benchmark.evaluate(PROFILE, facts, model, TEST_SETS, SCALES, weights_sha256)
    results.write_table(rows, FOLDER / "default_model.csv", weights_sha256=weights_sha256)
    network = opened(NETWORK)
    above = [scale for scale in SCALES if scale > network.scale]
    with torch.no_grad():
        others = pd.DataFrame(benchmark.measure(enlarged(network), TEST_SETS, above))
    results.write_table(means(others), FOLDER / "default_model_enlarged.csv", network=NETWORK)
    return rows


if __name__ == "__main__":
    tyro.cli(main)
