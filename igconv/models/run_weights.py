"""The weights of runs: which file has them, and the model in it."""

from pathlib import Path

import torch

from igconv import files
from igconv.errors import InputError
from igconv.models import checkpoints
from igconv.study import results
from igconv.study.runs import Run


def trained_weights(run: Run) -> Path | None:
    """File with the final weights of a run: those of its training, or else the exported ones; None if neither is here.

    Exported weights (`export_run`) are those that a clone has of the committed study.
    """
    own = results.model_file(run.profile, run.name)
    return next((file for file in (own, results.weights_file(run.profile, run.name)) if file.is_file()), None)


def is_trained(run: Run) -> bool:
    """Whether the run has final weights here, of these settings or others."""
    return trained_weights(run) is not None


def find(run: Run) -> Path:
    """The file of `trained_weights`. Raises InputError when there is none."""
    path = trained_weights(run)
    if path is None:
        raise InputError(f"run {run.name} of profile {run.profile} is not trained yet (igconv train {run.name})")
    return path


def load_run(run: Run):
    """The trained model of a run, in eval mode. Raises InputError when the run was not made with these settings."""
    path = find(run)
    if checkpoints.metadata(path).get("meta", {}).get("config_hash") != run.config_hash():
        raise InputError(f"{path} was trained with other settings of {run.name}; move it away and train again")
    return checkpoints.load(path)


def export_run(run: Run, path: Path) -> None:
    """Write the trained weights of a run in half precision, with the sha256 of the file they come from.

    Raises InputError for a run that is not trained here, or has weights beyond the range of half precision.
    """
    source = results.model_file(run.profile, run.name)
    model = load_run(run)
    if not source.is_file():
        raise InputError(f"{run.name} was not trained here; {results.shown(find(run))} is an export itself")
    large = [name for name, value in model.state_dict().items() if not torch.isfinite(value.half()).all()]
    if large:
        raise InputError(f"{run.name}: weights beyond the range of half precision: {', '.join(large[:3])}")
    checkpoints.save(
        model,
        path,
        torch.float16,
        profile=run.profile,
        run=run.name,
        config_hash=run.config_hash(),
        source_sha256=files.sha256(source),
    )
