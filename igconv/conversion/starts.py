"""Trainings that start from a conversion: which model that is, by the settings of a run."""

from igconv.conversion.convert import conversion, with_spconvs
from igconv.conversion.sources import opened
from igconv.errors import InputError
from igconv.models.super_resolver import SuperResolver
from igconv.study.run import Run

CROPS = 512  # per scale
HELD_OUT = ("sample_test",)  # for the conversion's own table; benchmark images are for the evaluation


def converted(run: Run) -> SuperResolver:
    """The published network ``run.published_start`` with the upsampler of a run, each from its best closed form.

    "spconv" has SPConvs solved for the run's scales, and the network's own one at its scale; "igconv" one function
    fitted to these; "igconv+" symmetric kernels, fitted to what the LR image enlarged by bilinear interpolation lacks,
    and an IGSample without offsets. Statistics are those of `CROPS` crops per scale of the run's training images.

    Raises InputError for a run of another kind.
    """
    if run.upsampler not in ("spconv", "igconv", "igconv+") or run.dihedral != run.igsample:
        raise InputError(f"{run.name}: a conversion has SPConvs, IGConv or IGConv+")
    source = opened(run.published_start)
    done = conversion(
        source,
        run.scales,
        images=run.train_sets,
        crops=CROPS,
        seed=run.seed,
        held_out=HELD_OUT,
        dihedral=run.dihedral,
        igsample=run.igsample,
        hidden_dim=run.hidden_dim,
        num_layers=run.num_layers,
    )
    if run.upsampler == "spconv":
        return with_spconvs(source, done.closed, done.basis).requires_grad_(True)
    if not done.fitted:
        raise InputError(f"{run.name}: the fit of the hyper-network did not converge")
    return done.model.requires_grad_(True)
