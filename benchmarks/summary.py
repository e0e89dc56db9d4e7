"""Write benchmarks/results/README.md: targets of speed with what the CSV files beside it say.

python benchmarks/summary.py
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import tyro
from precision import compare
from timing import RESULTS

from igconv.files import write

GPU = "NVIDIA"  # how names of the devices begin on which the GPU targets hold


@dataclass(frozen=True)
class Target:
    """``column`` of the one row of ``<script>-*.csv`` that ``where`` picks is at most (at least) ``limit``."""

    text: str
    script: str
    where: dict
    column: str
    limit: float | None  # None: no target, shown beside the one above it
    at_least: bool = False
    on_gpu: bool = False
    relative_to: dict | None = None  # the value is divided by that of this row


X4 = dict(scales="x4", encoder="edsr_baseline", micro_batch=4, lr_patch=48, precision="32-true")
BANK = dict(form="igconv", width=64)
BOTH = dict(what="forward + backward")
TRAINED = dict(encoder="edsr_baseline", processes=1, batch=4, lr_patch=48, precision="bf16-mixed", graphs=True)
LARGE = dict(input="2000x1500", scale=2)
EARLIER = {  # cases of `against`: largest ratio
    "step x4, edsr_baseline igconv": 1.0, "step x4, edsr_baseline igconv+": 1.0,
    "step x4, edsr_baseline igconv, bf16 over float32": 0.75, "step x4, edsr_baseline igconv+, bf16 over float32": 0.75,
    "image 640x360 x2, smfanet_plus igconv+": 1.0, "image 640x360 x2, edsr_baseline igconv+": 1.0,
    "igconv upscale 300x300 x2": 0.87, "igconv upscale 2000x1500 x2": 0.61,
}  # fmt: skip
CONVERTED = {  # file of `conversion`: what, most seconds
    "smfanet_plus_df2k_x4-x234-512": ("SMFANet+ x4 converted to x2, x3, x4, 512 crops", 240),
    "smfanet_plus_df2k_x4-x234-1536": ("the same, 1,536 crops", 240),
    "smfanet_plus_df2k_x4-x234-embedded": ("the same, 128 crops of the embedded photographs", 60),
    "smfanet_plus_df2k_x4-x2345678-512": ("the same to x2 to x8, 512 crops", 1200),
    "edsr_baseline_untrained-x234-512": ("EDSR-baseline x4 converted to x2, x3, x4, 512 crops", 480),
}
CONVERSION = dict(upsampler="IGConv", dataset="Set5", scale=2)  # any one row: the cost is in all
TARGETS = (
    Target("step at x4, IGConv / SPConv", "step", X4 | dict(case="IGConv"), "ratio", 1.45),
    Target("the same by FLOPs", "step", X4 | dict(case="IGConv"), "flop_ratio", None),
    Target("step at x4, IGConv+ / SPConv", "step", X4 | dict(case="IGConv+"), "ratio", 1.75),
    Target("the same by FLOPs", "step", X4 | dict(case="IGConv+"), "flop_ratio", None),
    Target("step at x4, IGConv with dihedral averaging / without", "step", X4 | dict(case="IGConv, dihedral"), "ms",
           1.10, relative_to=X4 | dict(case="IGConv")),
    Target("kernel bank x4, time / layer by layer", "kernel_bank", BANK | BOTH | dict(scale=4), "ratio", 0.75),
    Target("kernel bank x4, peak memory / layer by layer", "kernel_bank", BANK | BOTH | dict(scale=4), "peak_ratio",
           0.70),
    Target("kernel bank x32, forward, peak MiB", "kernel_bank", BANK | dict(scale=32, what="forward"), "peak_mib",
           1000),
    Target("kernel bank x32, forward + backward, peak MiB", "kernel_bank", BANK | BOTH | dict(scale=32), "peak_mib",
           1000),
    Target("training, IGConv, steps/s", "processes", TRAINED | dict(upsampler="igconv"), "steps_per_s", 200, True,
           True),
    Target("training, IGConv+, steps/s", "processes", TRAINED | dict(upsampler="igconv+"), "steps_per_s", 150, True,
           True),
    Target("training, IGConv+, share of the time waiting for data", "processes", TRAINED | dict(upsampler="igconv+"),
           "data_wait_share", 0.03, on_gpu=True),
    Target("./run_all.sh after installation, s", "study-sample", dict(step="whole"), "seconds", 360),
    Target("igconv upscale, 2000x1500 px to x2, s", "upscale", LARGE, "seconds", 40),
    Target("the same, peak MiB", "upscale", LARGE, "peak_mib", 1600),
    Target("igconv upscale, 300x300 px to x2, s", "upscale", dict(input="300x300", scale=2), "seconds", 4.5),
    *(Target(f"{case}: time over that of f7699b2", "against", dict(case=case), "ratio", most)
      for case, most in EARLIER.items()),
    *(target for file, (text, seconds) in CONVERTED.items() for target in (
        Target(f"{text}, s", f"conversion_{file}", CONVERSION, "seconds", seconds),
        Target("the same, peak MiB", f"conversion_{file}", CONVERSION, "peak_memory_mb", 3072))),
    Target("a redraw of the explorer, 128x128 px to x2, s", "explorer", dict(control="column", scale=2), "seconds", 1),
    Target("igconv --help, s", "upscale", dict(input="--help", scale=2), "seconds", 0.5),
)  # fmt: skip


def tables(folder: Path, script: str) -> list[pd.DataFrame]:
    return [pd.read_csv(path) for path in sorted(folder.glob(f"{script}-*.csv"))]


def precision_table(folder: Path) -> str:
    """bf16 against float32 per scale (`precision.compare`), "not measured" without the file."""
    path = folder / "precision.csv"
    if not path.is_file():
        return "not measured"
    return compare(pd.read_csv(path)).to_markdown(index=False, floatfmt=".3f")


def pick(table: pd.DataFrame, where: dict) -> pd.DataFrame:
    for column, value in where.items():
        table = table[table[column] == value]
    return table


def measured(target: Target, folder: Path) -> list[tuple[float, str]]:
    """(value, device) of every file that has the row."""
    found = []
    for table in tables(folder, target.script):
        row = pick(table, target.where)
        if len(row) == 1 and row.device.str.startswith(GPU).item() == target.on_gpu:
            value = row[target.column].item()
            if target.relative_to:
                value /= pick(table, target.relative_to)[target.column].item()
            threads = "" if target.on_gpu else f", {row.threads.item()} thread(s)"
            found.append((value, row.device.item() + threads))
    return found


def target_table(folder: Path) -> str:
    lines = ["| what | target | measured | on |", "|---|---|---|---|"]
    for target in TARGETS:
        limit = "-" if target.limit is None else f"{'>=' if target.at_least else '<='} {target.limit:g}"
        for value, device in measured(target, folder) or [(None, "")]:
            number = "not measured" if value is None else f"{value:.3g}"
            met = None in (value, target.limit) or (value >= target.limit if target.at_least else value <= target.limit)
            lines.append(f"| {target.text} | {limit} | {number}{'' if met else ' (missed)'} | {device} |")
    return "\n".join(lines)


SHOWN: dict[str, tuple[str, Callable[[pd.DataFrame], pd.DataFrame]]] = {
    "step": ("Training steps", lambda t: t[["scales", "case", "ms", "ms_q25", "ms_q75", "ratio", "ratio_q25",
                                            "ratio_q75", "flop_ratio"]]),
    "profile_step": ("Parts of a step", lambda t: t[["upsampler", "part", "phase", "ms", "share", "of_peak"]]),
    "kernel_bank": ("Kernel banks", lambda t: t[["width", "scale", "what", "form", "ms", "ratio", "peak_mib",
                                                 "peak_ratio"]]),
    "starts": ("Starts of IGConv, 2 layers of 64", lambda t: t[["start", "step", "l1", "psnr_y_db"]]),
    "starts_paper_size": ("Starts of IGConv, 4 layers of 256", lambda t: t[["start", "step", "l1", "psnr_y_db"]]),
    "patches": ("Patches", lambda t: t[["case", "patches_per_s", "ratio"]]),
    "processes": ("Trainer over processes", lambda t: t[["upsampler", "processes", "step_ms", "ratio", "steps_per_s",
                                                         "data_wait_share"]]),
    "upscale": ("igconv upscale, the whole command", lambda t: t[["input", "scale", "seconds", "cpu_seconds",
                                                                  "peak_mib"]]),
    "exported": ("An image by exported models, x2", lambda t: t[["side_px", "case", "ms", "ratio"]]),
    "against": ("The code against f7699b2", lambda t: t[["case", "ms", "earlier_ms", "ratio"]]),
    "conversion_smfanet_plus_df2k_x4-x234-512": (
        "SMFANet+ (DF2K, x4) converted to x2, x3 and x4, 512 crops",
        lambda t: t[["upsampler", "dataset", "scale", "psnr_y_db", "seconds", "processor_seconds", "peak_memory_mb"]]),
    "study-sample": ("./run_all.sh, the longest steps", lambda t: t.nlargest(16, "seconds")[["step", "start_s",
                                                                                             "seconds"]]),
    "inference": ("Whole images", lambda t: t[["encoder", "lr_width_px", "lr_height_px", "case", "ms", "ratio"]]),
}  # fmt: skip


def main(folder: Path = RESULTS) -> None:
    """Write README.md into the folder of the CSV files."""
    parts = ["# Measured speed", "Written by `python benchmarks/summary.py` from the CSV files beside it; "
             "`benchmarks/README.md` says what the columns are.", "## Targets", target_table(folder),
             "## bf16 against float32: the sample study's IGConv+, three seeds each",
             precision_table(folder)]  # fmt: skip
    for script, (title, shown) in SHOWN.items():
        for table in tables(folder, script):
            parts.append(f"## {title}: {table.device[0]}, {table.threads[0]} CPU thread(s), PyTorch {table.torch[0]}")
            parts.append(shown(table).to_markdown(index=False, floatfmt=".3g").replace("nan", "   "))
    write(folder / "README.md", "\n\n".join(parts) + "\n")
    print(target_table(folder))


if __name__ == "__main__":
    tyro.cli(main)
