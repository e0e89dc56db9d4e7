"""Models as folders, as people pass them on: ``config.json`` beside ``model.safetensors``, here or on the Hub.

The names are those of huggingface_hub's ``PyTorchModelHubMixin``. The mixin itself rebuilds a model from the arguments
of its constructor, which for a `SuperResolver` are modules, and as a base class would have to be installed to import
one. What it would do are two functions here, and the package is needed for models that are not in a local folder.
"""

import json
import os
from pathlib import Path

from igconv.errors import InputError, reason
from igconv.files import write
from igconv.models import checkpoints
from igconv.models.super_resolver import SuperResolver

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def save_pretrained(model: SuperResolver, folder: str | Path, **meta) -> None:
    """Write a model as a folder that `from_pretrained` reads, here and on the Hub (``huggingface-cli upload``).

    Args:
        model: one that `igconv.save` can write.
        folder: made if it is not there; files of other names in it stay.
        meta: JSON values about it, such as ``licence="MIT"``.

    Raises InputError for a model that cannot be rebuilt and a place that cannot be written.
    """
    if os.path.lexists(folder) and not os.path.isdir(folder):
        raise InputError(f"cannot write {folder}: it is not a folder")
    checkpoints.save(model, Path(folder) / WEIGHTS, **meta)
    write(
        Path(folder) / CONFIG, json.dumps({"library_name": "igconv", **(model.config or {}), **meta}, indent=2) + "\n"
    )


def from_pretrained(name: str | Path, revision: str | None = None) -> SuperResolver:
    """The model of a folder that `save_pretrained` wrote, float32 and in eval mode.

    Args:
        name: the folder, or where there is none, a repository of the Hub ("owner/name"), which is downloaded into
            huggingface_hub's cache or taken from there.
        revision: of the repository.

    Raises InputError for a folder without such a model, a damaged file, no huggingface_hub, or no such repository.
    """
    if os.path.isdir(name):
        return checkpoints.load(Path(name) / WEIGHTS)
    if os.path.lexists(name):
        raise InputError(f"{name} is not a folder; igconv.load reads a file")
    try:
        from huggingface_hub import hf_hub_download  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise InputError(
            f"no folder {name}; models of the Hub need huggingface_hub (pip install 'igconv[hub]')"
        ) from None
    try:
        path = hf_hub_download(repo_id=str(name), filename=WEIGHTS, revision=revision)
    except Exception as error:  # of the network, of the Hub, of a name that is none
        raise InputError(f"no folder {name}, and no such model on the Hub ({reason(error, 120)})") from None
    return checkpoints.load(path)
