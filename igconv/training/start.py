"""What a training starts from: its images and its first weights."""

import copy

import torch

from igconv.data import cache, datasets, leaks
from igconv.data.patches import PatchSource
from igconv.errors import InputError, reason
from igconv.models import checkpoints
from igconv.models.super_resolver import SuperResolver, build_model
from igconv.study import results
from igconv.study.runs import Run, get_run, runs_of


def training_patches(run: Run) -> PatchSource:
    """The run's training images as a source of patches. Raises InputError for missing sets and for test images."""
    for name in (*run.train_sets, *run.test_sets):
        datasets.image_set(name).paths()  # what is missing is said before the first step
    sets = [cache.decoded(name) for name in run.train_sets]
    pixels = {stem: digest for images in sets for stem, digest in zip(images.names, images.pixels_sha256, strict=True)}
    leaks.refuse_leaks(run.train_sets, pixels)
    images = [image for decoded in sets for image in decoded.images]
    return PatchSource(images, run.scales, run.lr_patch, run.micro_batch_size, run.seed, run.degradation)


def starting_model(run: Run, own: SuperResolver | None = None) -> SuperResolver:
    """The model before the first step, channels last: the seed's (or a copy of ``own``), with weights of
    ``run.start_from`` if there are."""
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(run.seed)
        model = copy.deepcopy(own) if own else build_model(run.encoder, run.upsampler, **run.model_options())
    if run.start_from and run.start_from in runs_of(run.profile):
        earlier = get_run(run.profile, run.start_from)
        path = results.model_file(run.profile, run.start_from)
        if not path.is_file():
            raise InputError(f"{run.name} starts from {earlier.name}, which is not trained yet")
        source, target = checkpoints.load(path), model
    elif run.start_from:
        from igconv.models import published

        source, target = published.load(run.start_from).encoder, model.encoder
    if run.start_from:
        try:
            target.load_state_dict(source.state_dict())
        except RuntimeError as error:
            raise InputError(f"{run.name} cannot start from {run.start_from}: {reason(error)}") from None
    if run.freeze_encoder:
        model.encoder.requires_grad_(False)
    return model.to(memory_format=torch.channels_last)
