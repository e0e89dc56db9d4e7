"""Are these the authors' networks? One table of every encoder with every upsampler: sizes, reference errors, cost.

Reference vectors exist for one model of each of the authors' classes, in a small configuration; the parameter counts
are those of the full size.

IGCONV_REFERENCE=<folder of the reference vectors> python benchmarks/parity.py [encoder ...]
writes results/parity.
"""

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import torch

from igconv import files
from igconv.analysis.efficiency import cost, parameters
from igconv.errors import InputError, choose
from igconv.models.official import CLASSES, UPSAMPLERS, load_official
from igconv.models.super_resolver import SuperResolver, build_model
from igconv.study import results

# encoder -> its fixed-scale head in the literature, options of that head, and sizes of the authors' modules: encoder
# (millions), IGConv, IGSample (thousands), IGConv+ model (millions). FACTS section 5, measured on their classes.
PAPER = {
    "edsr": ("spconv+", {}, (38.362, 1443.8, 1247.5, 41.054)),
    "rcan": ("spconv+", {}, (15.295, 559.1, 362.8, 16.217)),
    "rdn": ("spconv+", {}, (21.974, 559.1, 362.8, 22.896)),
    "smfanet_plus": ("spconv", {}, (0.475, 485.4, 289.0, 1.250)),
    "plksr": ("spconv", {}, (7.358, 559.1, 362.8, 8.280)),
    "swinir": ("spconv+", dict(width=64), (11.499, 1093.6, 897.3, 13.490)),
    "srformer": ("spconv+", dict(width=64), (10.124, 1093.6, 897.3, 12.115)),
    "hit_srf": ("spconv", {}, (0.840, 540.7, 344.3, 1.725)),
    "mambair": ("spconv+", dict(width=64), (20.169, 1093.6, 897.3, 22.160)),
    "mambair_light": ("spconv", {}, (1.616, 540.7, 344.3, 2.501)),
    "hat": ("spconv+", dict(width=64), (20.372, 1093.6, 897.3, 22.363)),
    "atd": ("spconv+", dict(width=64), (19.843, 1231.9, 1035.5, 22.110)),
}
BASELINE_ENCODERS = {"mambair_light": "mambair_light_baseline"}  # fixed-scale models whose encoder is another one
CASES = {"smfanet_plus": "smfanet", "mambair_light": "mambair"}  # encoders that share a class of the authors
COLUMNS = ("encoder", "upsampler", "encoder_m", "authors_encoder_m", "parameters_m", "authors_m", "official_class",
           "weights_load", "reference_error", "share_of_tolerance", "latency_ms", "peak_memory_mib", "lr_height_px",
           "lr_width_px", "scale", "device", "threads")  # fmt: skip


def models(encoder: str, scale: int = 2) -> dict[str, SuperResolver]:
    """The encoder's fixed-scale model for ``scale``, its IGConv and its IGConv+ model, full size, fresh weights."""
    head, options, *_ = PAPER[encoder]
    fixed = build_model(BASELINE_ENCODERS.get(encoder, encoder), head, scales=(scale,), **options)
    return {head: fixed} | {name: build_model(encoder, name, scales=(2, 3, 4)) for name in ("igconv", "igconv+")}


@torch.no_grad()
def reference_errors(folder: Path) -> pd.DataFrame:
    """Every network of the reference vectors in ``folder``: case, encoder, upsampler, official_class, weights_load,
    reference_error (largest absolute difference over the scales), share_of_tolerance (at most 1 is a pass).

    ``weights_load`` is "yes", or the error.
    """
    from safetensors.torch import load_file

    rows = []
    for case, entry in json.loads((Path(folder) / "index.json").read_text())["cases"].items():
        if "network_g" not in entry:
            continue
        kind, tensors = entry["network_g"]["type"], load_file(Path(folder) / entry["file"])
        state = {key.removeprefix("state."): value for key, value in tensors.items() if key.startswith("state.")}
        igsample = CLASSES[kind].igsample
        if igsample is None:
            igsample = UPSAMPLERS[entry["network_g"]["upsampler"]]
        row = dict(case=case, encoder=CLASSES[kind].encoder, upsampler="igconv+" if igsample else "igconv",
                   official_class=kind, weights_load="yes", reference_error=float("nan"),
                   share_of_tolerance=float("nan"))  # fmt: skip
        try:
            model, atol, rtol = load_official(state, entry["network_g"]), entry["tol"]["atol"], entry["tol"]["rtol"]
            pairs = [(model(tensors["in.x"], s), tensors[f"out.x{s}"]) for s in entry["scales"]]
            row["reference_error"] = max((ours - ref).abs().max().item() for ours, ref in pairs)
            row["share_of_tolerance"] = max(
                ((ours - ref).abs() / (atol + rtol * ref.abs())).max().item() for ours, ref in pairs
            )
        except InputError as error:
            row["weights_load"] = str(error)
        rows.append(row)
    return pd.DataFrame(rows)


def parity(
    encoders: Iterable[str] = PAPER, reference: Path | None = None, side: int = 48, device="cpu", seconds: float = 0.0
) -> pd.DataFrame:
    """`COLUMNS` for each encoder with its fixed-scale head (x2), IGConv and IGConv+.

    Args:
        encoders: names in `PAPER`; one whose package is not installed raises InputError.
        reference: folder of the reference vectors; without it their columns stay empty.
        side: sides of the LR image in px for latency and memory, whole models at x2, kernels made beforehand.
        device, seconds: as in `igconv.analysis.efficiency.cost`.
    """
    rows, errors = [], reference_errors(reference).to_dict("records") if reference else []
    for encoder in encoders:
        encoder_m, _, _, plus_m = PAPER[choose(encoder, PAPER, "encoder")][2]
        for upsampler, model in models(encoder).items():
            found = [e for e in errors if (e["encoder"], e["upsampler"]) == (CASES.get(encoder, encoder), upsampler)]
            rows.append((found[0] if found else {}) | dict(
                encoder=encoder, upsampler=upsampler, scale=2, lr_height_px=side, lr_width_px=side,
                encoder_m=parameters(model.encoder) / 1e6, parameters_m=parameters(model) / 1e6,
                authors_encoder_m=encoder_m if upsampler.startswith("igconv") else None,
                authors_m=plus_m if upsampler == "igconv+" else None,
            ) | cost(model, (torch.rand(1, 3, side, side), 2), device, seconds))  # fmt: skip
    return pd.DataFrame(rows).reindex(columns=COLUMNS)


def write(table: pd.DataFrame, folder: Path) -> None:
    """``parity.csv`` with its provenance, and the same as a page, README.md."""
    results.write_table(table, folder / "parity.csv", device=table.device.iloc[0], encoders=sorted(set(table.encoder)))
    shown = table.drop(columns=["lr_height_px", "lr_width_px", "scale", "device", "threads"])
    for name in ("encoder_m", "parameters_m", "authors_encoder_m", "authors_m"):
        shown[name] = shown[name].map("{:.3f}".format, na_action="ignore")
    shown["reference_error"] = shown.reference_error.map("{:.1e}".format, na_action="ignore")
    shown["share_of_tolerance"] = shown.share_of_tolerance.map("{:.2f}".format, na_action="ignore")
    for name in ("latency_ms", "peak_memory_mib"):
        shown[name] = shown[name].map("{:.0f}".format)
    first = table.iloc[0]
    files.write(folder / "README.md", "\n".join([
        "# Parity", "", "Made by `python benchmarks/parity.py` from `parity.csv`; do not edit.", "",
        f"Latency and memory: one image of {first.lr_width_px}x{first.lr_height_px} px, x2, float32, whole models, "
        f"{first.device}, {first.threads} thread(s); kernels of IGConv made beforehand. Parameters in millions; SPConv "
        "models hold one scale, IGConv models all. Reference errors: small configurations of the authors' classes, "
        "largest absolute difference over x2, x3, x4, and what share of the tolerance it uses.", "",
        shown.fillna("").to_markdown(index=False, disable_numparse=True), "",
    ]))  # fmt: skip


if __name__ == "__main__":
    reference = os.environ.get("IGCONV_REFERENCE")
    table = parity(sys.argv[1:] or PAPER, Path(reference) if reference else None)
    write(table, results.root("parity"))
    print(table.to_string(index=False))
    print(f"written to {results.root('parity')}")
