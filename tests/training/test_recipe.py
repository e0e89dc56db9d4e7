"""The recipe of docs/training.md for an encoder of one's own, executed as it stands there."""

import re
from dataclasses import replace

import torch
from PIL import Image
from spandrel.architectures.Compact import Compact

from igconv.study import runs
from igconv.study.results import PROJECT


def recipe() -> str:
    text = (PROJECT / "docs" / "training.md").read_text().split("## An encoder of your own")[1]
    return re.search(r"```python\n(.*?)```", text, re.S)[1]


def test_an_encoder_of_ones_own_is_trained(tmp_path, monkeypatch, capsys):
    """With fewer steps of fewer patches; the model comes back from its file, with the encoder's weights tuned."""
    from skimage import data

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IGCONV_RESULTS", "results")
    monkeypatch.setenv("IGCONV_CACHE", str(tmp_path / "cache"))
    network = Compact(num_feat=8, num_conv=1, upscale=2)
    torch.save(network.state_dict(), "my_network_x2.pth")
    (tmp_path / "path" / "to" / "photographs").mkdir(parents=True)
    Image.fromarray(data.astronaut()).save("path/to/photographs/one.png")
    whole, short = runs.get_run, dict(steps=2, micro_batches=1, micro_batch_size=1, record_every=1, validate_every=2)
    monkeypatch.setattr(runs, "get_run", lambda *names: replace(whole(*names), **short))

    namespace: dict = {}
    exec(recipe(), namespace)
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [int(step) for step, _ in printed if step.isdigit()] == [1, 2]
    model = namespace["model"]
    before = network.state_dict()["body.0.weight"]
    after = model.encoder.state_dict()
    [key] = [key for key, value in after.items() if value.shape == before.shape and key.endswith("body.0.weight")]
    assert not torch.equal(after[key], before)
    assert torch.allclose(after[key], before, atol=0.05)
    with torch.no_grad():
        assert model.eval()(torch.rand(1, 3, 9, 8), 3).shape == (1, 3, 27, 24)
