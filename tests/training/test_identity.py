"""A result belongs to its settings, its training images and its start; none of the three is taken for another."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from igconv import InputError, cli
from igconv.models import checkpoints, state_files
from igconv.models.super_resolver import build_model
from igconv.study import results
from igconv.training import identity, loop
from igconv.training.loop import train


def folder_of(run):
    return results.run_folder(run.profile, run.name)


def network(seed: int):
    torch.manual_seed(seed)
    return build_model(torch.nn.Conv2d(3, 5, 3, padding=1), "igconv", scales=(2, 3, 4), hidden_dim=8, num_layers=1)


@pytest.fixture
def other_images(image_sets, photograph, write_png):
    """``other_images()``: one training image is replaced."""
    return lambda: write_png(photograph(72, 80, 99), image_sets / "train" / "tiny" / "1.png")


def test_another_model_is_another_run(tiny_run):
    """The second network of a name is refused, not answered with the first one's weights; the first may come again."""
    run = replace(tiny_run, encoder="mine")
    first = list(train(run, accelerator="cpu", model=network(1)))
    for model in (network(2), None):
        with pytest.raises(InputError, match=r"is trained already, but it started from another model.*move ") as error:
            list(train(run, accelerator="cpu", model=model))
        assert "\n" not in str(error.value)
    assert len(list(train(run, accelerator="cpu", model=network(1)))) == len(first)
    meta = checkpoints.metadata(folder_of(run) / "model.safetensors")["meta"]
    facts = json.loads((folder_of(run) / "provenance.json").read_text())
    for name in ("config_hash", "data_hash", "start_hash"):
        assert meta[name] == facts[name] != ""


def test_an_interrupted_model_is_not_continued_by_another(tiny_run):
    run = replace(tiny_run, encoder="mine")
    generator = train(run, accelerator="cpu", model=network(1))
    next(generator)
    generator.close()
    with pytest.raises(InputError, match=r"last\.ckpt cannot be continued: it started from another model"):
        next(train(run, accelerator="cpu", model=network(2)))


def test_the_class_of_a_part_counts():
    """Two networks can have equal weights and be different functions."""
    parts = [torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), act) for act in (torch.nn.ReLU(), torch.nn.GELU())]
    parts[1].load_state_dict(parts[0].state_dict())
    assert identity.weights_hash(parts[0]) != identity.weights_hash(parts[1])


def test_changed_images_are_said_before_an_old_result_is_taken(tiny_run, go, other_images):
    go(tiny_run)
    other_images()
    with pytest.raises(InputError, match=r"the files of its training images \(tiny_train\) have changed since; move "):
        go(tiny_run)


def test_changed_images_are_said_before_resuming(tiny_run, go, other_images):
    generator = train(tiny_run, accelerator="cpu")
    next(generator)
    generator.close()
    other_images()
    with pytest.raises(InputError, match=r"last\.ckpt cannot be continued: the files of its training images"):
        go(tiny_run)


def test_a_lost_result_of_other_images_is_made_again(tiny_run, go, other_images, weights_of):
    """As Snakemake asks for it: it has deleted the old result."""
    go(tiny_run)
    before = weights_of(tiny_run)
    (folder_of(tiny_run) / "model.safetensors").unlink()
    other_images()
    go(tiny_run)
    assert any(not torch.equal(value, before[name]) for name, value in weights_of(tiny_run).items())


def test_results_of_older_versions_stay_valid(tiny_run, go, other_images):
    """Without the hashes in the weights; data_hash is compared where provenance.json has it."""
    go(tiny_run)
    path = folder_of(tiny_run) / "model.safetensors"
    checkpoints.save(checkpoints.load(path), path, run=tiny_run.name, config_hash=tiny_run.config_hash())
    facts = folder_of(tiny_run) / "provenance.json"
    assert len(go(tiny_run)) == 3
    other_images()
    with pytest.raises(InputError, match="have changed since"):
        go(tiny_run)
    facts.unlink()
    assert len(go(tiny_run)) == 3


def test_a_finished_run_needs_no_images(tiny_run, go, image_sets):
    go(tiny_run)
    for path in (image_sets / "train" / "tiny").iterdir():
        path.unlink()
    assert len(go(tiny_run)) == 3


def test_trained_already_is_one_line(tiny_run, go, monkeypatch, capsys):
    """No steps and no remaining time."""
    from igconv.study import runs

    monkeypatch.setattr(runs, "get_run", lambda *_: tiny_run)
    go(tiny_run)
    monkeypatch.setattr(loop, "train", lambda *_, **__: pytest.fail("trained again"))
    assert cli.main(["train", tiny_run.name, "--profile", tiny_run.profile]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{tiny_run.name} is already trained; ")


def test_checkpoints_by_time(tiny_run, go, weights_of, monkeypatch, tmp_path):
    """Between records, too; what goes on from there has the same weights and records as one that was not stopped."""
    run = replace(tiny_run, record_every=3, checkpoint_every=100, validate_every=0)
    whole, weights = go(run), weights_of(run)
    monkeypatch.setenv("IGCONV_RESULTS", str(tmp_path / "stopped"))
    monkeypatch.setattr(loop, "CHECKPOINT_S", 0.0)
    steps, original = [], loop.check_finite

    def stop(run, state, meter):
        original(run, state, meter)
        steps.append(state.step)
        if len(steps) == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "check_finite", stop)
    with pytest.raises(KeyboardInterrupt):
        go(run)
    stored = state_files.read_pickle(folder_of(run) / "last.ckpt")
    assert stored["step"] == 5  # two steps after the last record
    monkeypatch.setattr(loop, "check_finite", original)
    again = go(run)
    for name in ("step", "loss", "l1", "gradient_norm"):
        assert [record[name] for record in again] == [record[name] for record in whole]
    assert all(torch.equal(value, weights[name]) for name, value in weights_of(run).items())


def test_broken_numbers_in_a_checkpoint_are_named(tiny_run, go):
    generator = train(tiny_run, accelerator="cpu")
    next(generator)
    generator.close()
    path = folder_of(tiny_run) / "last.ckpt"
    state = state_files.read_pickle(path)
    next(iter(state["model"].values())).fill_(torch.nan)
    torch.save(state, path)
    with pytest.raises(InputError, match=r"last\.ckpt has NaN weights"):
        go(tiny_run)


@pytest.mark.parametrize("variables", [
    {"SLURM_NTASKS": "4"}, {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "17", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
    {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"},
], ids=str)  # fmt: skip
def test_one_device_trains_in_any_allocation(tiny_run, go, monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert go(tiny_run)[-1]["step"] == tiny_run.steps


@pytest.mark.parametrize("name", [b"caf\xe9.png", "naïve photo.png".encode(), b"img[1]{a}$b.png", b"new\nline.png"])
def test_names_of_any_bytes_train(tiny_run, go, image_sets, name):
    """Names are data: a Latin-1 name ended in a traceback after the last step."""
    folder = os.fsencode(image_sets / "train" / "tiny")
    os.rename(os.path.join(folder, b"1.png"), os.path.join(folder, name))
    assert go(tiny_run)[-1]["step"] == tiny_run.steps
    assert len(go(tiny_run)) == 3


LEASE = """
import fcntl, os, sys
from pathlib import Path
from igconv.training.leases import leased_gpu
os.setuid(int(sys.argv[1]))
with leased_gpu(2) as gpu:
    print(gpu, flush=True)
    sys.stdin.readline()
"""


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="needs two users")
@pytest.mark.parametrize("made_by", ["igconv", "an older igconv"])
def test_two_users_lease(tmp_path, made_by):
    """Whoever comes first; in turn they may take each other's lock files."""
    tmp_path.chmod(0o1777)
    for parent in tmp_path.parents[:-2]:
        parent.chmod(parent.stat().st_mode | 0o055)
    if made_by == "an older igconv":
        (tmp_path / "igconv-gpus").mkdir()
    environment = os.environ | {"TMPDIR": str(tmp_path), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    for user in ("1001", "1002", "1001"):
        done = subprocess.run([sys.executable, "-c", LEASE, user], env=environment, input="\n", text=True,
                              capture_output=True)  # fmt: skip
        assert done.stdout == "0\n", done.stderr
