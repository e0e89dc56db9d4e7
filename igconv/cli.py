"""The command ``igconv``: train, evaluate, data, upscale."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional, arg

from igconv.errors import InputError, positive_integer


def train(run: Positional[str], profile: str = "sample", accelerator: str = "auto", devices: int = 1) -> None:
    """Train one run of the table in study.py; the same command resumes it.

    Args:
        run: name of the run (an unknown one lists the names).
        profile: sample, benchmark or paper.
        accelerator: auto, cpu or cuda.
        devices: number of devices on this machine.
    """
    from igconv import results, study

    chosen = study.get(profile, run)
    from igconv.progress import follow
    from igconv.training import train as records

    for record in follow(records(chosen, accelerator, devices), chosen.steps, run):
        last = record
    print(f"{run}: {last['psnr_y_db']:.2f} dB on the validation crops; {results.run_folder(profile, run)}")


def evaluate(run: Positional[str], profile: str = "sample", device: str = "cpu") -> None:
    """Measure a trained run on its test sets and print the means.

    Args:
        run: name of the run, or bicubic.
        profile: sample, benchmark or paper.
        device: cpu or cuda.
    """
    from igconv import evaluation, results, study

    if run == "bicubic":
        first = next(iter(study.runs(profile).values()))
        table = evaluation.evaluate_bicubic(profile, first.test_sets, (2, 3, 4))
    else:
        table = evaluation.evaluate_run(study.get(profile, run), device)
    print(table.groupby(["dataset", "scale"])[["psnr_y_db", "ssim_y"]].mean().round(4).to_string())
    print(f"rows: {results.rows_file(profile, run)}")


def data(action: Positional[Literal["list", "verify"]], name: Positional[str] = "") -> None:
    """List the image sets of the catalogue, or check those on this machine.

    Args:
        action: list or verify.
        name: one set; all that are here if left out.
    """
    from igconv import datasets

    if name:
        datasets.image_set(name)
    if action == "list":
        for entry in datasets.catalogue().values():
            if name in ("", entry.name):
                print(f"{entry.name:13} {entry.use:5} {entry.images:5} images  {entry.source}; {entry.licence}")
        return
    problems = []
    for entry in datasets.catalogue().values():
        if name not in ("", entry.name):
            continue
        found = datasets.verify(entry.name)
        absent = any("not found" in line for line in found)
        print(f"{entry.name:13} {'not here' if absent else 'wrong' if found else 'ok'}")
        problems += found if name or not absent else []
    if problems:
        raise InputError("; ".join(problems))


def upscale(
    image: Positional[Path],
    output: Annotated[Path, arg(aliases=["-o"])],
    weights: Path,
    scale: int = 2,
    device: str = "cpu",
) -> None:
    """Upscale an image by an integer factor with a trained model.

    Args:
        image: an 8-bit RGB image.
        output: where to write the result; the suffix says the format.
        weights: a model.safetensors of a run.
        scale: the factor; IGConv takes any integer >= 1.
        device: cpu or cuda.
    """
    import igconv
    from igconv import evaluation
    from igconv.images import read_image, write_image

    positive_integer(scale, "scale")
    lr = read_image(image)
    model = igconv.load(weights).to(device)
    sr, seconds = evaluation.upscale(model, lr, scale, device)
    write_image(sr, output)
    print(f"{output}: {sr.shape[2]}x{sr.shape[1]} pixels, {seconds:.2f} s")


def main(words: list[str] | None = None) -> int:
    commands = {"train": train, "evaluate": evaluate, "data": data, "upscale": upscale}
    try:
        tyro.extras.subcommand_cli_from_dict(commands, prog="igconv", description=__doc__, args=words)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:  # a TrainingError, or a device that refuses
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
