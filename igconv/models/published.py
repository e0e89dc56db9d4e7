"""Published models: fixed-scale ones as encoder + SPConv in our composition, and the authors' IGConv release.

`igconv.data.weights` has their catalogue and finds the files. Of architectures whose encoder is not here (BSRN, LKDN)
the SPConv kernels can be read.
"""

from torch import Tensor

from igconv.data import weights
from igconv.errors import InputError, choose
from igconv.models import state_files
from igconv.models.strict import load_strict
from igconv.models.super_resolver import SuperResolver, build_model

# architecture in the catalogue -> our encoder
ENCODERS = {"SMFANet": "smfanet", "SMFANet+": "smfanet_plus"}
# first part of the name of an authors' file -> our encoder, where it is not the same in lower case
RELEASE_ENCODERS = {"SMFANet": "smfanet_plus", "MambaIR_Light": "mambair_light"}


def runnable() -> list[str]:
    """Names of the published models that can be run here, downloaded or not."""
    return [name for name, entry in weights.catalogue().items() if entry.release or entry.architecture in ENCODERS]


def kind(name: str) -> tuple[str, str]:
    """(our encoder, upsampler) of a published model. Raises InputError for one that cannot be run here."""
    entry = weights.catalogue()[choose(name, runnable(), "published model that can be run here")]
    if not entry.release:
        return ENCODERS[entry.architecture], "spconv"
    encoder, upsampler = name.split("_IG")
    return RELEASE_ENCODERS.get(encoder, encoder.lower()), "igconv+" if "Plus" in upsampler else "igconv"


def family(name: str) -> str:
    """Architecture and training set of a published model: "SMFANet+ DF2K"."""
    entry = weights.catalogue()[name]
    return f"{entry.architecture} {entry.training}"


def load(name: str) -> SuperResolver:
    """A published model in eval mode; ``model(lr, scale)`` with a scale it was trained for.

    Raises InputError for a model that cannot be run here, and for weights that are not here or do not fit.
    """
    encoder, upsampler = kind(name)
    entry, path = weights.catalogue()[name], weights.find(name)
    if upsampler != "spconv":
        from igconv.models.official import RELEASE_FILES, load_official

        return load_official(path, RELEASE_FILES[entry.path])
    (scale,) = entry.scales
    model = build_model(encoder, "spconv", scales=(scale,))
    theirs, ours = f"{entry.upsampler}.", f"upsampler.heads.{scale}.0."
    state = state_files.read_weights(path)
    state = {ours + k[len(theirs) :] if k.startswith(theirs) else f"encoder.{k}": v for k, v in state.items()}
    load_strict(model, state, name, path)
    return model.eval()


def triples(runnable_only: bool = True) -> dict[str, dict[int, str]]:
    """Fixed-scale models of one architecture and one training set: {"SMFANet+ DF2K": {2: name, 3: name, 4: name}, ...}.

    ``runnable_only`` leaves out those whose encoder is not here, of which only `spconv_kernel` can be read.
    Raises InputError when a scale of a triple is not in the catalogue.
    """
    found: dict[str, dict[int, str]] = {}
    for name, entry in weights.catalogue().items():
        if entry.upsampler and (entry.architecture in ENCODERS or not runnable_only):
            found.setdefault(family(name), {})[entry.scales[0]] = name
    for title, models in found.items():
        for scale in (2, 3, 4):
            if scale not in models:
                raise InputError(f"{title} has no published model for x{scale}; a comparison across scales needs it")
    return {title: dict(sorted(models.items())) for title, models in found.items()}


def spconv_kernel(name: str) -> Tensor:
    """SPConv kernel of a published fixed-scale model: (3 r^2, C, 3, 3), ordered colour, sub-row, sub-column."""
    fixed = [key for key, entry in weights.catalogue().items() if entry.upsampler]
    entry = weights.catalogue()[choose(name, fixed, "published model with an SPConv")]
    path, (scale,) = weights.find(name), entry.scales
    kernel = state_files.read_weights(path).get(f"{entry.upsampler}.weight")
    if kernel is None or kernel.ndim != 4 or kernel.shape[0] != 3 * scale**2:
        raise InputError(f"{path} has no SPConv kernel {entry.upsampler}.weight with {3 * scale**2} output channels")
    return kernel
