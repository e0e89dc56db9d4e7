"""Training a converted model on: everything together, at a small rate, through the one training loop."""

import copy
import hashlib
import re
from collections.abc import Sequence

import torch

from igconv.errors import positive_integer
from igconv.models import checkpoints
from igconv.models.super_resolver import SuperResolver
from igconv.progress import follow
from igconv.study import results
from igconv.study.run import Run
from igconv.training.loop import train

PROFILE = "conversion"  # folder of the files of these trainings, below the results
LEARNING_RATE = 2e-5


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
    settings = dict(
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
