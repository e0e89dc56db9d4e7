"""Which training a result comes from: its settings, its images and the weights it starts from.

The three hashes are kept in the metadata of model.safetensors, in last.ckpt and in provenance.json. Those of older
versions lack some; what is not there is not compared.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from igconv import files
from igconv.data import datasets
from igconv.errors import InputError
from igconv.models import checkpoints, published
from igconv.study import results
from igconv.study.runs import Run, runs_of


def identity(run: Run, own: nn.Module | None = None, known_only: bool = False) -> dict[str, str]:
    """config_hash, data_hash (of the training images' files) and start_hash (of the weights it starts from; "" for
    those of the seed). "" where a set or a start is not here.

    Args:
        own: the model given to `igconv.training.loop.train`.
        known_only: read no images; data_hash is "" unless it was found before.
    """
    try:
        data = datasets.data_hash(run.train_sets, known_only)
    except InputError:  # a finished run needs no images; an unfinished one says later what is missing
        data = ""
    return dict(config_hash=run.config_hash(), data_hash=data, start_hash=_start_hash(run, own))


def _start_hash(run: Run, own: nn.Module | None) -> str:
    parts = [weights_hash(own)] if own is not None else []
    if run.start_from:
        entry = (
            None if run.start_from in runs_of(run.profile) else published.weights.catalogue().get(run.published_start)
        )
        path = entry.found() if entry else results.model_file(run.profile, run.start_from)
        if path is None or not path.is_file():
            return ""
        parts.append(files.sha256(path))
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:16] if parts else ""


def weights_hash(model: nn.Module) -> str:
    """16 hex digits over the weights of a model and the classes of its parts."""
    digest = hashlib.sha256(json.dumps([(n, type(part).__qualname__) for n, part in model.named_modules()]).encode())
    for name, value in model.state_dict().items():
        value = value.detach().cpu().contiguous()
        digest.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy() if value.numel() else b"")
    return digest.hexdigest()[:16]


def changed(run: Run, now: Mapping[str, str], stored: Mapping) -> str:
    """What differs from a stored result of the same settings, "" if nothing does."""

    def differs(name: str) -> bool:
        return bool(now.get(name) and stored.get(name) and now[name] != stored[name])

    if differs("data_hash"):
        return f"the files of its training images ({', '.join(run.train_sets)}) have changed since"
    if differs("start_hash") or (
        "start_hash" in stored and bool(now["start_hash"]) != bool(stored["start_hash"]) and not run.start_from
    ):
        return (
            "it started from another model (one that is built anew has other weights, unless torch.manual_seed "
            "comes before)"
        )
    return ""


def stored_identity(run: Run) -> dict | None:
    """The hashes that the result of a run has, None if there is none of these settings."""
    path = results.model_file(run.profile, run.name)
    if not path.is_file():
        return None
    meta = checkpoints.metadata(path).get("meta", {})
    if meta.get("config_hash") != run.config_hash():
        return None
    return _provenance(path.with_name("provenance.json"), run) | meta


def _provenance(path: Path, run: Run) -> dict:
    """data_hash as older versions kept it, of these settings."""
    try:
        facts = json.loads(path.read_text())
        return {"data_hash": facts["data_hash"]} if facts["config_hash"] == run.config_hash() else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def is_finished(run: Run, own: nn.Module | None = None) -> bool:
    """Whether the run's result is here. Raises InputError when it is that of other images or another start."""
    stored = stored_identity(run)
    if stored is None:
        return False
    what = changed(run, identity(run, own), stored)
    if what:
        folder = results.run_folder(run.profile, run.name)
        raise InputError(
            f"{run.name} is trained already, but {what}; move {folder} away to train again, "
            "or give the run another variant"
        )
    return True


def outdated(run: Run, known_only: bool = True) -> bool:
    """Whether a result is here whose training images have changed; with ``known_only`` as far as is known without
    reading them."""
    stored = stored_identity(run)
    now = identity(run, known_only=known_only) if stored else {}
    return bool(stored and changed(run, now, {"data_hash": stored.get("data_hash", "")}))
