"""One scale of a model in other programs' formats: onnxruntime, plain PyTorch and spandrel give the model's images."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open

from igconv import InputError, build_model, cli, save
from igconv.models import exports, spandrel_states
from igconv.models.encoders import from_spandrel
from igconv.models.encoders.smfanet import SMFA, SMFANet

SIZES = [(2, 2), (5, 7), (8, 9), (15, 16), (23, 100), (87, 41)]  # smaller than the example, odd, larger


@pytest.fixture(scope="module")
def lively():
    """``lively(upsampler)``: a small SMFANet whose gates depend on maxima and variance, with kernels of order one."""

    def make(upsampler: str, **options):
        torch.manual_seed(0)
        options = dict(hidden_dim=8, num_layers=1) | options
        model = build_model("smfanet", upsampler, scales=(2, 3), channels=8, blocks=1, **options).eval()
        for part in model.encoder.modules():
            if isinstance(part, SMFA):
                part.belt.data.normal_()
                part.alpha.data.normal_()
        return model

    return make


@pytest.fixture(scope="module")
def onnx_file(lively):
    """(model, content of its .onnx, difference), IGConv+ at x3."""
    pytest.importorskip("onnxruntime", reason="optional extra export")
    model = lively("igconv+")
    return model, *exports.to_onnx(model, 3, {"licence": "MIT"})


def test_onnxruntime_agrees_at_every_size(onnx_file):
    """Down to one pixel; also with an encoder whose pooling and variance depend on the size."""
    import onnxruntime

    model, content, difference = onnx_file
    session = onnxruntime.InferenceSession(content)
    assert difference < 1e-4
    for size in [(1, 1), (1, 9), *SIZES]:
        lr = torch.rand(1, 3, *size)
        with torch.no_grad():
            expected = model(lr, 3)
        made = session.run(["sr"], {"lr": lr.numpy()})[0]
        assert made.shape == (1, 3, 3 * size[0], 3 * size[1])
        assert np.abs(made - expected.numpy()).max() < 1e-4, size


def test_the_graph_says_what_it_is_and_has_no_hypernetwork(onnx_file):
    """Metadata and free sides; the kernels of x3 are stored, and nothing computes sines."""
    import onnx

    graph = onnx.load_from_string(onnx_file[1])
    facts = {entry.key: entry.value for entry in graph.metadata_props}
    assert (facts["scale"], facts["colour_order"], facts["licence"]) == ("3", "RGB", "MIT")
    assert facts["range"].startswith("0 to 1")
    sides = [side.dim_param for side in graph.graph.input[0].type.tensor_type.shape.dim[2:]]
    assert sides == ["height", "width"]
    assert not {node.op_type for node in graph.graph.node} & {"Sin", "Cos"}
    shapes = [tuple(stored.dims) for stored in graph.graph.initializer]
    assert (27, 8, 3, 3) in shapes, "IGConv's kernels"
    assert (108, 8, 3, 3) in shapes, "IGSample's"


def test_a_pt2_needs_plain_torch_alone(lively, tmp_path):
    """Loaded where igconv cannot be imported, at sizes of all kinds."""
    model = lively("igconv+")
    content, _ = exports.to_torch(model, 2, {"licence": "MIT"})
    (tmp_path / "m.pt2").write_bytes(content)
    images = [torch.rand(1, 3, *size) for size in SIZES]
    torch.save(images, tmp_path / "in.pt")
    code = """
import json, sys, torch
sys.modules["igconv"] = None
facts = {"facts.json": ""}
program = torch.export.load("m.pt2", extra_files=facts).module()
facts = json.loads(facts["facts.json"])
assert (facts["scale"], facts["colour_order"], facts["licence"]) == ("2", "RGB", "MIT"), facts
torch.save([program(lr) for lr in torch.load("in.pt")], "out.pt")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-800:]
    with torch.no_grad():
        for lr, sr in zip(images, torch.load(tmp_path / "out.pt"), strict=True):
            torch.testing.assert_close(sr, model(lr, 2), atol=1e-4, rtol=0)


@pytest.mark.parametrize("sides", [(1, 1), (1, 30), (7, 8), (15, 16), (17, 23), (64, 41), (99, 127)])
def test_pooling_as_it_is_exported_has_the_same_maxima(monkeypatch, sides):
    """Bit for bit, between its zeros; the variance to rounding, and each pixel in the same cell."""
    from igconv.models.encoders import smfanet

    x = torch.randn(2, 3, *sides)
    maxima, variance = smfanet.cell_maxima(x), smfanet.variance(x)
    cells = torch.arange(maxima[0, 0].numel(), dtype=torch.float32).view(1, 1, *maxima.shape[2:])
    spread = smfanet.spread(cells, x)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    ringed = smfanet.cell_maxima(x)
    assert torch.equal(ringed[..., 1:-1, 1:-1], maxima)
    assert not ringed[..., [0, -1], :].any()
    assert not ringed[..., [0, -1]].any()
    torch.testing.assert_close(smfanet.variance(x), variance)
    assert torch.equal(smfanet.spread(torch.nn.functional.pad(cells, (1, 1, 1, 1)), x), spread)


@pytest.mark.parametrize(("dtype", "off"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("sides", [(1, 1), (1, 2), (7, 9), (64, 41)])
def test_the_variance_is_the_unbiased_one(dtype, off, sides):
    """Of each channel, also beside a mean that is much larger; of one pixel zero."""
    from igconv.models.encoders.smfanet import variance

    x = (torch.randn(2, 3, *sides) + 20).to(dtype).contiguous(memory_format=torch.channels_last)
    expected = x.double().var((-2, -1), correction=min(1, sides[0] * sides[1] - 1), keepdim=True)
    torch.testing.assert_close(variance(x).double(), expected, rtol=off, atol=0)


def test_the_encoder_is_the_same_as_it_is_exported(monkeypatch):
    """Features of an SMFANet in either form."""
    torch.manual_seed(0)
    encoder = SMFANet(8, 2).eval()
    for block in encoder.feats:
        block.smfa.belt.data.normal_()
    x = torch.rand(1, 3, 29, 42)
    with torch.no_grad():
        expected = encoder(x)
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        torch.testing.assert_close(encoder(x), expected, atol=1e-5, rtol=1e-5)


def test_what_cannot_be_exported_is_one_line(monkeypatch):
    """An encoder that looks at values; a result that is another."""

    class Looks(torch.nn.Module):
        out_channels = 3

        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(InputError, match="Looks cannot be exported for images of any size") as error:
        exports.to_torch(build_model(Looks(), "spconv", scales=(2,)).eval(), 2, {})
    assert "\n" not in str(error.value)
    monkeypatch.setattr(exports, "TOLERANCE", -1.0)
    model = build_model(torch.nn.Conv2d(3, 4, 3, padding=1), "spconv", scales=(2,)).eval()
    with pytest.raises(InputError, match="differs from the model"):
        exports.to_torch(model, 2, {})


# ---- spandrel


def swinir(upsampler="pixelshuffledirect", scale=2):
    from spandrel.architectures.SwinIR import SwinIR

    torch.manual_seed(0)
    return SwinIR(img_size=16, embed_dim=12, depths=(2, 2), num_heads=(2, 2), window_size=8, mlp_ratio=2,
                  upscale=scale, upsampler=upsampler, img_range=1.0).eval()  # fmt: skip


def span():
    from spandrel.architectures.SPAN import SPAN

    torch.manual_seed(0)
    return SPAN(num_in_ch=3, num_out_ch=3, feature_channels=8, upscale=2).eval()


def compact():
    from spandrel.architectures.Compact import Compact

    return Compact(num_in_ch=3, num_out_ch=3, num_feat=8, num_conv=2, upscale=2).eval()


NETWORKS = {
    "SwinIR": swinir,
    "SwinIR with its classical head": lambda: swinir("pixelshuffle"),
    "SPAN": span,
}


def multi_scale(network, upsampler="igconv", **options):
    torch.manual_seed(1)
    options = dict(hidden_dim=8, num_layers=1) | options if upsampler.startswith("igconv") else options
    return build_model(from_spandrel(network), upsampler, scales=(2, 3), **options).eval()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("name", NETWORKS)
def test_spandrel_loads_what_was_exported(tmp_path, name, suffix):
    """A network of x2 became one of more scales; x3 of it is loaded from a file by spandrel, as other programs do."""
    from spandrel import ModelLoader

    model = multi_scale(NETWORKS[name](), bias="subpixel")
    state, _ = spandrel_states.to_spandrel(model, 3)
    path = tmp_path / f"x3{suffix}"
    path.write_bytes(spandrel_states.encoded(state, path, exports.conventions(3)))
    loaded = ModelLoader().load_from_file(path)
    assert (loaded.scale, loaded.input_channels, loaded.output_channels) == (3, 3, 3)
    assert loaded.architecture.name in name
    lr = torch.rand(1, 3, 40, 24)
    with torch.no_grad():
        made, expected = loaded.model.eval()(lr.clone()), model(lr, 3)
    assert made.shape == (1, 3, 120, 72)
    torch.testing.assert_close(made, expected, atol=1e-4, rtol=0)
    if suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            assert file.metadata()["scale"] == "3"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: multi_scale(swinir(), "igconv+"), "IGSample has no place"),
        (lambda: multi_scale(swinir(), "spconv+"), "SPConvPlus is not one convolution"),
        (lambda: multi_scale(swinir(), kernel_size=5), "more than one convolution of this size"),
        (lambda: multi_scale(compact()), "Compact cannot be this model"),
        (lambda: build_model("smfanet", "igconv", scales=(2,), channels=8, blocks=1), "encoder SMFANet"),
        (lambda: build_model(torch.nn.Conv2d(3, 4, 3, padding=1), "igconv", scales=(2,)), "encoder Conv2d"),
    ],
)
def test_what_spandrel_does_not_know_goes_out_as_onnx(make, message):
    with pytest.raises(InputError, match=message) as error:
        spandrel_states.to_spandrel(make().eval(), 2)
    assert "--format onnx" in str(error.value)
    assert "\n" not in str(error.value)


# ---- the command


@pytest.fixture
def tiny_file(tmp_path):
    """An EDSR of a convolution or two, at x2 and x3 only."""
    path = tmp_path / "tiny.safetensors"
    save(build_model("edsr_tiny", "spconv", scales=(2, 3), channels=4, blocks=1), path, licence="MIT")
    return path


def test_the_command_writes_a_file(tiny_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["export", str(tiny_file), "--format", "torch", "--scale", "3"]) == 0
    assert capsys.readouterr().out.startswith("tiny_x3.pt2: x3, ")
    facts = {exports.FACTS: ""}
    torch.export.load(io.BytesIO((tmp_path / "tiny_x3.pt2").read_bytes()), extra_files=facts)
    facts = json.loads(facts[exports.FACTS])
    assert (facts["encoder"], facts["made_from"], facts["licence"]) == ("edsr_tiny", "tiny.safetensors", "MIT")
    assert len(facts["made_from_sha256"]) == 64


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--scale", "4"], "made for scale 2, 3, not 4"),
        (["--scale", "0"], "scale must be an integer >= 1, got 0"),
        ([], "say which scale"),
        (["--scale", "2", "-o", "old.pt2"], "old.pt2 exists; --overwrite replaces it"),
        (["--scale", "2", "-o", "x.onnx"], "choose a name that ends in .pt2"),
        (["--scale", "2", "-o", "old.pt2/x.pt2"], "cannot write"),
        (["--scale", "2", "--format", "spandrel"], "spandrel knows no network with the encoder EDSR"),
        (["--scale", "2", "--format", "weights"], "weights hold all scales"),
        (["other.safetensors", "--scale", "2"], "name one model for --format torch; got 2"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tiny_file, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.pt2").write_bytes(b"old")
    before = sorted(tmp_path.iterdir())
    chosen = [] if "--format" in words else ["--format", "torch"]
    assert cli.main(["export", str(tiny_file), *words, *chosen]) == 2
    line = capsys.readouterr().err
    assert message in line
    assert len(line.splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "old.pt2").read_bytes() == b"old"


def test_damaged_files_are_not_exported(tiny_file, tmp_path, monkeypatch, capsys):
    """Cut short, text, nothing, and weights that are no model."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cut.safetensors").write_bytes(tiny_file.read_bytes()[:-100])
    (tmp_path / "text.safetensors").write_text("no weights")
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(3)}, tmp_path / "other.safetensors")
    for name in ("cut.safetensors", "text.safetensors", "none.safetensors", "other.safetensors"):
        assert cli.main(["export", name, "--format", "torch", "--scale", "2"]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert not list(tmp_path.glob("*.pt2"))


def test_without_onnx_the_extra_is_named(tiny_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert cli.main(["export", str(tiny_file), "--format", "onnx", "--scale", "2"]) == 2
    assert "pip install 'igconv[export]'" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.onnx"))
