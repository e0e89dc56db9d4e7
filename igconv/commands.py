"""The commands of ``igconv``, one function each; `igconv.cli` is the entrance."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from igconv import files
from igconv.errors import InputError, choose, positive_integer, reason

# What may be left out: help says in words what happens then, and not "None".
Number = Annotated[int | None, arg(metavar="INT", help_behavior_hint="")]
Flag = Annotated[bool, arg(help_behavior_hint="")]


def train(
    run: Annotated[Positional[str], arg(metavar="RUN")],
    profile: str = "sample",
    accelerator: str = "auto",
    devices: int = 1,
    nodes: int = 1,
    graphs: bool | None = None,
    tensorboard: Flag = False,
) -> None:
    """Train one run of the table (igconv/study/runs.py); the same command resumes it.

    Args:
        run: name of the run (an unknown one lists the names).
        profile: sample, cpu, benchmark or paper.
        accelerator: auto, cpu, cuda or mps (Apple's chips).
        devices: number of devices on this machine (or per node).
        nodes: number of machines, each of which is given this command by torchrun or SLURM.
        graphs: launch every step as one CUDA graph; by default on one GPU.
        tensorboard: write TensorBoard events beside the records.
    """
    from igconv import progress
    from igconv.study import results
    from igconv.study.runs import get_run

    chosen = get_run(profile, run)
    from igconv.training.identity import is_finished

    if is_finished(chosen) and not tensorboard:
        print(f"{run} is already trained; {results.run_folder(profile, run)}")
        return
    from igconv.training.loop import train as train_run

    records = train_run(chosen, accelerator, devices, nodes=nodes, graphs=graphs)
    if tensorboard:
        records = progress.to_tensorboard(records, results.run_folder(profile, run) / "tensorboard")
    for record in progress.follow(records, chosen.steps, run):
        last = record
    print(f"{run}: {last['psnr_y_db']:.2f} dB on the validation crops; {results.run_folder(profile, run)}")


def evaluate(
    name: Annotated[Positional[str], arg(metavar="NAME")],
    profile: str = "sample",
    device: str = "auto",
    lr: Literal["made", "stored"] = "made",
    self_ensemble: Flag = False,
    tile: int = 0,
    protocol: Literal["study", "authors"] = "study",
) -> None:
    """Measure a model on the test sets and print the means; an interrupted evaluation goes on where it stopped.

    Args:
        name: of a run, of published weights (smfanet_plus_df2k_x2), or bicubic.
        profile: sample, cpu, benchmark or paper.
        device: cpu, cuda, mps (Apple's chips), or auto: the CUDA GPU where there is one.
        lr: made (MATLAB's bicubic of HR) or stored (LR_bicubic/X2/... beside HR).
        self_ensemble: mean over the eight flips and rotations of the input.
        tile: side of tiles in LR pixels, 0 for whole images; equal results for convolutional encoders only.
        protocol: study, or authors (their tiles with 10 % overlap for sides of 200 LR pixels and more).
    """
    from igconv.evaluation import benchmark
    from igconv.models import inference, published
    from igconv.models.arithmetic import chosen_device
    from igconv.study import results
    from igconv.study.runs import get_run, runs_of

    device = chosen_device(device)
    if device == "cpu":
        inference.keep_freed_memory()
    runs = runs_of(profile)
    chosen = benchmark.Protocol(lr, self_ensemble, tile, protocol == "authors")
    test_sets = next(iter(runs.values())).test_sets
    if name == "bicubic":
        table = benchmark.evaluate_bicubic(profile, test_sets, (2, 3, 4), protocol=chosen)
    elif name not in runs and name in published.runnable():
        table = benchmark.evaluate_published(profile, name, test_sets, device, protocol=chosen)
    else:
        table = benchmark.evaluate_run(get_run(profile, name), device, chosen)
    print(table.groupby(["dataset", "scale"])[["psnr_y_db", "ssim_y"]].mean().round(4).to_string())
    print(f"rows: {results.rows_file(profile, name, chosen.label())}")


def data(
    action: Positional[Literal["list", "fetch", "verify"]],
    name: Annotated[Positional[str], arg(metavar="[NAME]", help_behavior_hint="")] = "",
    data_dir: Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="")] = None,
) -> None:
    """List the image sets and published weights, get them, or check those on this machine.

    Args:
        action: list, fetch or verify.
        name: an image set or weights; all (to verify: all that are here) if left out.
        data_dir: root of the data, instead of IGCONV_DATA or data/ of the project.
    """
    from igconv.data import datasets, download, verify, weights

    both = {**datasets.catalogue(), **weights.catalogue()}
    chosen = [both[choose(name, both, "image set or weights")]] if name else list(both.values())
    if action == "list":
        print("\n".join(entry.summary(data_dir) for entry in chosen))
        return
    if action == "fetch":
        if not name:
            raise InputError("name what to fetch; igconv data list shows what there is")
        print(download.fetch(name, data_dir))
        return
    wrong = []
    if not name:  # the parts of a union are there themselves
        chosen = [entry for entry in chosen if not isinstance(entry, datasets.Union)]
    for entry in chosen:
        if not name and not entry.found(data_dir):
            print(f"{entry.name}: not here")
            continue
        lines = (weights if entry.name in weights.catalogue() else verify).verify(entry.name, data_dir)
        print("\n".join([f"{entry.name}: {'wrong' if lines else 'ok'}", *(f"    {line}" for line in lines)]))
        wrong += [entry.name] if lines else []
    if wrong:
        raise InputError(f"not as catalogued: {', '.join(wrong)}")


def upscale(
    images: Annotated[Positional[list[Path]], arg(metavar="IN [IN ...]", help_behavior_hint="")],
    output: Annotated[Path, arg(aliases=["-o"])],
    scale: Annotated[int | None, arg(aliases=["-s"], metavar="INT", help_behavior_hint="")] = None,
    width: Number = None,
    height: Number = None,
    weights: Annotated[Path | None, arg(aliases=["--model"], metavar="FILE", help_behavior_hint="")] = None,
    device: str = "cpu",
    self_ensemble: Flag = False,
    tile: Number = None,
    halo: Number = None,
    overwrite: Flag = False,
    quality: Number = None,
    json: Flag = False,
) -> int:
    """Upscale images by an integer factor, with their transparency, depth and colour profile (docs/images.md).

    Args:
        images: files, folders whose images are meant, or patterns such as "holiday/*.jpg".
        output: where to write: a file, whose suffix says the format, or, for several images, a folder; names are kept.
        scale: the factor, an integer >= 1, 2 if left out; the default model has 2 to 8.
        width: of the result in pixels, instead of a factor: by the next integer factor, then smaller. The height
            follows unless it is given, too.
        height: the same for the height.
        weights: a model.safetensors of a run; left out, the model that comes with the package.
        device: cpu, cuda or mps (Apple's chips).
        self_ensemble: mean over the eight flips and rotations of the input.
        tile: side of tiles in input pixels; 0 for the whole image at once, left out for tiles where it is large.
        halo: pixels that tiles see of their surroundings; needed with --tile for encoders that see the whole image,
            such as the default model's.
        overwrite: replace files that exist; a source never.
        quality: 1 to 100 for .jpg (95 if left out) and .webp (lossless if left out).
        json: one JSON object per image on standard output, also for those that are skipped.
    """
    from json import dumps

    from igconv import progress, upscaling
    from igconv.data.sizes import wanted_size
    from igconv.models import inference
    from igconv.models.arithmetic import chosen_device

    device = chosen_device(device)
    wanted = wanted_size(scale, width, height)
    if isinstance(wanted, int):
        upscaling.check_scale(weights, wanted)
    if device == "cpu":
        inference.keep_freed_memory()
    work, skipped = upscaling.plan(images, output, overwrite, quality)
    model = upscaling.upscaler(weights, device, self_ensemble, tile, halo)
    scales = upscaling.scales_of(weights)
    for number, (source, target) in enumerate(work, 1):
        label = "" if json else f"{source.name} ({number}/{len(work)})"
        try:
            with progress.following_parts(label):
                done = upscaling.upscale_file(model, source, target, wanted, device, tile, quality, scales)
        except InputError as error:
            if len(work) + len(skipped) == 1:
                raise
            skipped.append(str(error))
        else:
            line = f"{target}: {done['width']}x{done['height']} pixels, {done['seconds']:.2f} s"
            print(dumps(done) if json else line, flush=True)
    for line in skipped:
        if json:
            print(dumps({"skipped": reason(line, None)}), flush=True)
        else:
            print(f"skipped: {reason(line, None)}", file=sys.stderr)
    return 1 if skipped else 0


def convert(
    network: Positional[str],
    output: Annotated[Path, arg(aliases=["-o"])],
    scales: tuple[int, ...] = (2, 3, 4),
    images: tuple[str, ...] = ("sample_train",),
    crops: int = 512,
    seed: int = 0,
    target: Literal["hr", "network"] = "hr",
    upsampler: Literal["igconv", "igconv+"] = "igconv",
    tune: int = 0,
    device: str = "cpu",
) -> None:
    """Make a network of one scale a network of several: its encoder stays, an IGConv is fitted to it in closed form.

    Args:
        network: a weight file (of an architecture that spandrel knows, SMFANet, EDSR, or of this package), or the name
            of published weights (igconv data list).
        output: safetensors file for igconv upscale --weights.
        scales: the factors to fit, 2 to 32; the model is of no use at others, and igconv upscale refuses them.
        images: image sets or folders to learn from; left out, the photographs that come with scikit-image.
        crops: of 48 x 48 input pixels per scale; 192 are quick, 1536 better.
        seed: of crops and kernels.
        target: hr, or network for the network's own images at the other scales.
        upsampler: igconv, or igconv+, which needs --tune to be as good.
        tune: steps of training that follow; the same command resumes it.
        device: cpu, cuda or mps (Apple's chips).
    """
    from igconv.data.picture_files import check_place
    from igconv.models import checkpoints, inference
    from igconv.models.arithmetic import chosen_device
    from igconv.training.converting import convert as convert_network

    device = chosen_device(device)
    if output.suffix != ".safetensors":
        raise InputError(f"cannot write {output}: choose a name that ends in .safetensors")
    if output.exists():
        raise InputError(f"{output} exists; choose another name or remove it")
    check_place(output)
    if device == "cpu":
        inference.keep_freed_memory()
    options = dict(images=images, crops=crops, seed=seed, target=target, upsampler=upsampler, tune=tune, device=device)
    model = convert_network(network, scales, **options)
    checkpoints.save(model, output, converted_from=Path(network).name, scales=sorted(scales))
    print(f"{output}: {output.stat().st_size / 1e6:.2f} MB, sha256 {files.sha256(output)}")


def export(
    # A list that may be empty is tyro's way of saying that there may be none.
    models: Annotated[Positional[list[str]], arg(metavar="[MODEL ...]", help_behavior_hint="")] = [],  # noqa: B006
    format: Literal["weights", "onnx", "torch", "spandrel"] = "weights",
    scale: Number = None,
    profile: str = "sample",
    output: Annotated[Path | None, arg(aliases=["-o"], metavar="FILE", help_behavior_hint="")] = None,
    overwrite: Flag = False,
) -> None:
    """Write a model for passing on: the weights of trained runs, or one scale for other programs (docs/export.md).

    Args:
        models: names of runs, for their weights. For the other formats one name, or one model.safetensors; left out,
            the model that comes with the package.
        format: weights in half precision, half the size, for this package; onnx; torch, a .pt2 for torch.export.load;
            spandrel, weights of a network that chaiNNer and ComfyUI load, where its encoder was taken from one.
        scale: the factor, for all formats but weights.
        profile: sample, cpu, benchmark or paper, of a run.
        output: the file; left out, results/<profile>/weights/<run>.safetensors for weights, and
            <model>_x<scale>.onnx, .pt2 or .safetensors here for the others.
        overwrite: replace a file that exists; for weights only -o is protected.
    """
    from igconv.models import run_weights
    from igconv.study import results
    from igconv.study.runs import get_run

    if format != "weights":
        return _export_scale(models, format, scale, profile, output, overwrite)
    if scale is not None:
        raise InputError("weights hold all scales; a scale is for --format onnx, torch or spandrel")
    if not models or (output and len(models) > 1):
        raise InputError(f"name {'one run for -o' if models else 'the runs to export'}; got {len(models)}")
    for name in models:
        run = get_run(profile, name)
        path = output or results.weights_file(profile, name)
        if output and output.exists() and not overwrite:
            raise InputError(f"{output} exists; --overwrite replaces it")
        run_weights.export_run(run, path)
        print(f"{path}: {path.stat().st_size / 1e6:.2f} MB, sha256 {files.sha256(path)}")
    return None


def _export_scale(
    models: list[str], format: str, scale: int | None, profile: str, output: Path | None, overwrite: bool
) -> None:
    """One scale of one model, found, compared and written."""
    from igconv import upscaling
    from igconv.data import picture_files
    from igconv.models import checkpoints, exports, run_weights, spandrel_states
    from igconv.study.runs import get_run

    if len(models) > 1:
        raise InputError(f"name one model for --format {format}; got {len(models)}")
    if scale is None:
        raise InputError(f"say which scale the model for --format {format} is to have (--scale 2)")
    positive_integer(scale, "scale")
    source, name, run = upscaling.DEFAULT_WEIGHTS, models[0] if models else "", None
    if name and (Path(name).suffix or Path(name).exists()):
        source = Path(name)
    elif name:
        run = get_run(profile, name)
        source = run_weights.find(run)
    suffixes = exports.SUFFIXES[format]
    output = output or Path(f"{Path(name).stem if name else 'igconv'}_x{scale}{suffixes[0]}")
    if output.suffix not in suffixes:
        raise InputError(f"cannot write {output}: choose a name that ends in {' or '.join(suffixes)}")
    upscaling.check_scale(source, scale)
    picture_files.check_target(output, [source], overwrite)
    picture_files.check_place(output)
    model = run_weights.load_run(run) if run else checkpoints.load(source)
    facts = upscaling.exported_facts(source)
    if format == "spandrel":
        state, difference = spandrel_states.to_spandrel(model, scale)
        content = spandrel_states.encoded(state, output, {**exports.conventions(scale), **facts})
    else:
        content, difference = (exports.to_onnx if format == "onnx" else exports.to_torch)(model, scale, facts)
    files.write(output, content)
    print(f"{output}: x{scale}, {len(content) / 1e6:.2f} MB, within {difference:.1e} of the model, "
          f"sha256 {files.sha256(output)}")  # fmt: skip


def info(
    file: Annotated[Positional[Path | None], arg(metavar="[FILE]", help_behavior_hint="")] = None, json: Flag = False
) -> None:
    """Say what a model file is: encoder, upsampler, scales, size, where it comes from, licence.

    Args:
        file: a model.safetensors; left out, the model that comes with the package.
        json: one JSON object instead of lines.
    """
    from json import dumps

    from igconv.models.description import describe
    from igconv.upscaling import DEFAULT_WEIGHTS

    facts = describe(file or DEFAULT_WEIGHTS)
    if json:
        print(dumps(facts))
        return
    scales = f"{', '.join(map(str, facts['scales']))}{' and others' if facts['other_scales'] else ''}"
    lines = facts | dict(
        scales=scales,
        parameters=f"{facts['parameters']:,}",
        precision=", ".join(facts["precision"]),
        licence=facts["licence"] or "not stated in the file",
    )
    del lines["other_scales"]  # the scales say so
    for name in ("options", "provenance"):
        lines[name] = ", ".join(f"{key} {value}" for key, value in facts[name].items()) or "none in the file"
    for name, value in lines.items():
        print(f"{name.replace('_', ' '):13} {value}")
