"""Models as folders: saved and loaded without a network, and from the Hub by way of its package."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch

import igconv
from igconv import InputError


def test_a_folder_gives_the_model_back(tiny_model, tmp_path):
    """Weights that rebuild the model, and its configuration for people; nothing else is needed."""
    model, lr = tiny_model("igconv+"), torch.rand(1, 3, 5, 6)
    igconv.save_pretrained(model, tmp_path / "mine", licence="MIT")
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["config.json", "model.safetensors"]
    facts = json.loads((tmp_path / "mine" / "config.json").read_text())
    assert (facts["library_name"], facts["upsampler"], facts["licence"]) == ("igconv", "igconv+", "MIT")
    loaded = igconv.from_pretrained(tmp_path / "mine")
    assert not loaded.training
    with torch.no_grad():
        torch.testing.assert_close(loaded(lr, 3), model(lr, 3), atol=1e-6, rtol=0)


def test_a_name_on_the_hub_goes_through_its_package(tiny_model, tmp_path, monkeypatch):
    """With the repository, file and revision asked for; what it raises becomes one line."""
    igconv.save_pretrained(tiny_model("igconv"), tmp_path / "there")
    asked = []

    def hf_hub_download(repo_id, filename, revision):
        asked.append((repo_id, filename, revision))
        if repo_id != "me/there":
            raise OSError("404\nnot found")
        return str(tmp_path / "there" / filename)

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(hf_hub_download=hf_hub_download))
    assert igconv.from_pretrained("me/there", revision="v1").config["upsampler"] == "igconv"
    assert asked == [("me/there", "model.safetensors", "v1")]
    with pytest.raises(InputError, match=r"no folder me/nowhere, and no such model on the Hub \(404 not found\)"):
        igconv.from_pretrained("me/nowhere")


def test_bad_places_are_one_line(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"no folder me/there.*pip install 'igconv\[hub\]'"):
        igconv.from_pretrained("me/there")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no checkpoint at"):
        igconv.from_pretrained(tmp_path / "empty")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"not a folder; igconv\.load"):
        igconv.from_pretrained(tmp_path / "file")
    with pytest.raises(InputError, match="it is not a folder"):
        igconv.save_pretrained(tiny_model("igconv"), tmp_path / "file")
    own = igconv.build_model(torch.nn.Conv2d(3, 4, 3, padding=1), "spconv", scales=(2,))
    with pytest.raises(InputError, match="rebuilt"):
        igconv.save_pretrained(own, tmp_path / "own")
    assert not (tmp_path / "own").exists()
    igconv.save_pretrained(tiny_model("igconv"), tmp_path / "cut")
    whole = (tmp_path / "cut" / "model.safetensors").read_bytes()
    (tmp_path / "cut" / "model.safetensors").write_bytes(whole[:-50])
    with pytest.raises(InputError):
        igconv.from_pretrained(tmp_path / "cut")
