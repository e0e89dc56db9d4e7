"""A conversion and, if wanted, a training behind it, through the one training loop: what `igconv.convert` does."""

import copy
import hashlib
import re
from collections.abc import Sequence

import pandas as pd
import torch

from igconv.conversion.convert import BUNDLED, SIDE, conversion, fitting_and_held_out, measured
from igconv.conversion.sources import Source, opened
from igconv.errors import InputError, choose, positive_integer
from igconv.models import checkpoints
from igconv.models.arithmetic import chosen_device
from igconv.models.super_resolver import SuperResolver
from igconv.progress import follow
from igconv.study import results
from igconv.study.run import Run
from igconv.training.loop import train

PROFILE = "conversion"  # folder of the files of these trainings, below the results
LEARNING_RATE = 2e-5


def convert(
    network,
    scales: Sequence[int] = (2, 3, 4),
    *,
    images: Sequence[str] = BUNDLED,
    crops: int = 512,
    seed: int = 0,
    target: str = "hr",
    upsampler: str = "igconv",
    tune: int = 0,
    device="cpu",
) -> SuperResolver:
    """Make a network of one scale a network of several, without training: its encoder stays, its head is replaced.

    >>> model = igconv.convert("my_x4.pth", scales=(2, 3, 4))
    >>> igconv.save(model, "multi.safetensors")

    Every fit is a linear one on the encoder's features (`igconv.conversion`); the encoder of the largest scale serves
    the others best. Where the network's head is one convolution and a depth-to-space, the model at that scale is the
    network, to 1e-3 of the range. Prints how far it is, and a table of PSNR on held-out crops at the end.

    Args:
        network: a file (architectures that spandrel knows, SMFANet, EDSR, or written by `igconv.save`), the name of
            published weights (`igconv data list`), a spandrel model, an ``nn.Module`` (B, 3, H, W) -> (B, 3, r H, r W)
            with a head that can be told apart, or a `SuperResolver` with one fixed head.
        scales: the factors to fit, integers of 2 to 32. At others the model's images are of no use.
        images: names of image sets or folders to learn from. The default are the photographs that come with
            scikit-image; more of them make the fit better.
        crops: LR crops of 48 x 48 px per scale.
        seed: of crops and hyper-network. The same seed gives the same model.
        target: "hr", or "network": the network's own images, resized to the other scales.
        upsampler: "igconv", or "igconv+", whose kernels are symmetric (on an encoder that was not trained with such
            ones they need ``tune``) and add to what IGSample reads from the LR image, at first by bilinear
            interpolation.
        tune: steps of training that follow, of everything.
        device: "cpu", "cuda" or "mps", for the encoder's passes.

    Raises:
        InputError: what cannot be converted, scales outside the range, images too small or too few, features that are
            constant or not finite.
    """
    device = chosen_device(device)
    source = opened(network)
    if not isinstance(tune, int) or tune < 0:
        raise InputError(f"tune is a number of steps, 0 for none, got {tune!r}")
    if not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise InputError(f"seed must be an integer of 0 to 2^63 - 1, got {seed!r}")
    plus = choose(upsampler, ("igconv", "igconv+"), "upsampler") == "igconv+"
    options: dict = dict(images=images, crops=crops, seed=seed, target=target, device=device)
    done = conversion(source, scales, **options, dihedral=plus, igsample=plus)
    model, table = done.model, done.table
    if tune:
        model = tuned(model, tuning_run(model, source.name, images, sorted(scales), tune, seed), device)
        again = measured(
            {"tuned_db": model}, source, sorted(scales), fitting_and_held_out(images)[1], SIDE, seed, device
        )
        table = table.assign(tuned_db=again.tuned_db)
    print(table_text(table, source), flush=True)
    return model.cpu()


def table_text(table: pd.DataFrame, source: Source) -> str:
    """The table for people."""
    shown = table.rename(columns={"network_db": source.name}).round(3)
    return shown.to_string(index=False, na_rep="")


def tuning_run(
    model: SuperResolver, name: str, images: Sequence[str], scales: Sequence[int], steps: int, seed: int = 0, **changes
) -> Run:
    """The training of a converted model: 8 patches of 48 px per step, L1 and 0.05 of the frequency loss.

    The name holds a digest of the weights it starts from, so that the same conversion goes on where it was interrupted
    and another one starts anew. ``changes``: other fields of `Run`.
    """
    digest = hashlib.sha256()
    for key, value in model.state_dict().items():
        digest.update(key.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    settings: dict = dict(
        variant=f"converted_{digest.hexdigest()[:8]}",
        steps=positive_integer(steps, "tune"),
        micro_batch_size=2,
        learning_rate=LEARNING_RATE,
        ema=0.0,
        frequency_weight=0.05,
        degradation="matlab",
        record_every=min(50, steps),
        validate_every=0,
        checkpoint_every=min(50, steps),
    )
    encoder = re.sub(r"[^\w.+]", "_", name.rpartition("/")[2])
    plus = getattr(model, "sampler", None) is not None
    if plus:
        settings |= dict(dihedral=True, igsample=True)
    return Run(
        PROFILE,
        encoder,
        "igconv+" if plus else "igconv",
        scales=tuple(scales),
        seed=seed,
        train_sets=tuple(map(str, images)),
        **settings | changes,
    )


def tuned(model: SuperResolver, run: Run, device="cpu") -> SuperResolver:
    """The model after a training of `tuning_run`, in eval mode; the one given stays as it is.

    An interrupted training goes on from its last checkpoint, in ``results/conversion/runs/<run>``.
    """
    accelerator = torch.device(device).type
    for _ in follow(train(run, accelerator, model=model), run.steps, run.name):
        pass
    return checkpoints.load(results.model_file(run.profile, run.name), copy.deepcopy(model))
