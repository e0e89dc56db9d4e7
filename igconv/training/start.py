"""What a training starts from: its images and its first weights."""

import copy

import torch
from torch import Tensor

from igconv.data import datasets, leaks
from igconv.data.patches import PatchSource
from igconv.errors import InputError, reason
from igconv.models import checkpoints
from igconv.models.super_resolver import SuperResolver, build_model
from igconv.study import results
from igconv.study.run import WITH_CONSTANT, Run
from igconv.study.runs import runs_of


def training_patches(run: Run) -> PatchSource:
    """The run's training images as a source of patches. Raises InputError for missing sets and for test images."""
    for name in (*run.train_sets, *run.test_sets):
        datasets.image_set(name).paths()  # what is missing is said before the first step
    return PatchSource(
        leaks.training_images(run.train_sets), run.scales, run.lr_patch, run.micro_batch_size, run.seed, run.degradation
    )


def starting_model(run: Run, own: SuperResolver | None = None) -> SuperResolver:
    """The model before the first step, channels last: the seed's (or a copy of ``own``), with weights of
    ``run.start_from`` if there are."""
    source, constant = _source(run) if run.start_from else (None, None)
    # Published features need not hold a constant: their head did. Without one of its own, IGConv cannot make up for it.
    bias: dict = dict(bias="colour") if constant is not None and run.upsampler.startswith("igconv") else {}
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(run.seed)
        model = copy.deepcopy(own) if own else build_model(run.encoder, run.upsampler, **run.model_options(), **bias)
    if source is not None:
        target = model if run.start_from in runs_of(run.profile) else model.encoder
        try:
            target.load_state_dict(source.state_dict())
        except RuntimeError as error:
            raise InputError(f"{run.name} cannot start from {run.start_from}: {reason(error)}") from None
        # Where the LR image is added, it brings the brightness, and the constant starts at zero.
        if bias and target is model.encoder and model.sampler is None:
            model.upsampler.bias.data.copy_(constant)
    if run.freeze_encoder:
        model.encoder.requires_grad_(False)
    return model.to(memory_format=torch.channels_last)


def _source(run: Run) -> tuple[torch.nn.Module, Tensor | None]:
    """What ``run.start_from`` names, a whole model or an encoder, and the constant per colour of its head, if any.

    Published weights by their name alone are the encoder alone; with `WITH_CONSTANT` behind it the constant is there.
    """
    if run.start_from in runs_of(run.profile):
        path = results.model_file(run.profile, run.start_from)
        if not path.is_file():
            raise InputError(f"{run.name} starts from {run.start_from}, which is not trained yet")
        earlier = checkpoints.load(path)
        return earlier, getattr(earlier.upsampler, "bias", None)
    from igconv.models import published

    name = run.start_from.removesuffix(WITH_CONSTANT)
    model = published.load(name)
    if name == run.start_from:
        if run.freeze_encoder and run.upsampler.startswith("igconv"):
            print(
                f"{run.name}: the constant of {name}'s head stays behind, and frozen features may hold none", flush=True
            )
        return model.encoder, None
    heads = getattr(model.upsampler, "heads", {})
    if len(heads) != 1:
        raise InputError(f"{run.name} cannot start with the constant of {name}, which has no head of one scale")
    (head,) = heads.values()
    return model.encoder, head[0].bias.detach().unflatten(0, (3, -1)).mean(1)
