"""Encoders: published sizes, shapes, start values."""

import pytest
import torch

from igconv import build_model
from igconv.encoders import ENCODERS
from igconv.encoders.edsr import EDSR
from igconv.encoders.smfanet import SMFANet

PUBLISHED = {  # parameters of the encoder alone, in millions (FACTS section 5 where it lists the encoder)
    "edsr": 38.362,
    "smfanet_plus": 0.475,
    "edsr_baseline": 1.220,
}


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name):
    """Parameters of the presets, to the three digits that are published."""
    constructor, options = ENCODERS[name]
    with torch.device("meta"):
        assert round(count(constructor(**options)) / 1e6, 3) == PUBLISHED[name]


@pytest.mark.parametrize(("encoder", "upsampler", "scale", "expected"), [
    ("edsr_baseline", "spconv+", 2, 1_369_859),
    ("smfanet", "spconv", 2, 185_628),
    ("smfanet", "spconv", 4, 197_328),
    ("smfanet_plus", "spconv", 2, 480_300),
    ("smfanet_plus", "spconv", 3, 486_795),
])  # fmt: skip
def test_published_models(encoder, upsampler, scale, expected):
    """Whole models as the literature and the published weights count them."""
    assert count(build_model(encoder, upsampler, scales=(scale,))) == expected


@pytest.mark.parametrize("name", [n for n in ENCODERS if n != "edsr"])
@pytest.mark.parametrize("size", [(8, 8), (17, 10)])
def test_features_keep_the_image_size(name, size):
    """(B, 3, H, W) -> (B, out_channels, H, W), at sides that are multiples of nothing."""
    constructor, options = ENCODERS[name]
    encoder = constructor(**{**options, "blocks": 1})
    assert encoder(torch.rand(2, 3, *size)).shape == (2, encoder.out_channels, *size)


@pytest.mark.parametrize("encoder", [EDSR(8, 3), SMFANet(8, 3)], ids=["edsr", "smfanet"])
def test_stages_are_modules_that_run_in_order(encoder):
    """The analyses hook `stages()`: each runs once per forward, in the order listed, with encoder-wide outputs."""
    stages, ran = encoder.stages(), []
    for name, module in stages.items():
        module.register_forward_hook(lambda _, __, out, name=name: ran.append((name, tuple(out.shape))))
    encoder(torch.rand(1, 3, 9, 8))
    assert ran == [(name, (1, 8, 9, 8)) for name in stages]
    assert len(stages) >= 4


def test_edsr_scales_its_residuals():
    """res_scale multiplies every residual branch: with 0 the blocks are the identity."""
    encoder, x = EDSR(8, 2, res_scale=0.0), torch.rand(1, 3, 6, 6)
    first = encoder.conv_first(x)
    assert torch.equal(encoder(x), encoder.conv_after_body(first) + first)


def test_edsr_starts_as_basicsr():
    """Kaiming weights times 0.1 and zero biases in the blocks."""
    block = EDSR(64, 1).body[0]
    for conv in (block.conv1, block.conv2):
        assert conv.weight.detach().std() == pytest.approx(0.1 * (2 / 576) ** 0.5, rel=0.05)
        assert not conv.bias.any()


def test_edsr_normalisation_is_undone():
    """img_range and mean go in before the encoder and come out after the upsampler, for any values."""
    options = dict(channels=4, blocks=1, img_range=255.0, mean=(0.1, 0.2, 0.3))
    model, x = build_model("edsr", "spconv", scales=(1,), **options), torch.rand(1, 3, 5, 5)
    mean = torch.tensor(options["mean"]).view(1, 3, 1, 1)
    torch.testing.assert_close(model.pre(x), (x - mean) * 255, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(model.post(model.pre(x)), x, atol=1e-6, rtol=0)
    assert not any("shift" in key for key in model.state_dict())


@pytest.mark.parametrize("size", [(1, 2), (3, 20), (7, 7)])
def test_smfanet_takes_images_below_its_pooling(size):
    """The authors' pooling is empty below 8 pixels; ours stays finite."""
    sr = SMFANet(8, 1)(torch.rand(1, 3, *size))
    assert sr.shape == (1, 8, *size)
    assert sr.isfinite().all()


def test_smfanet_partial_convolution_reads_a_quarter():
    """PCFN's 3x3 convolution works on the first quarter of the hidden channels."""
    assert SMFANet(48, 1, ffn_scale=2).feats[0].pcfn.conv_1.in_channels == 24


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(("scale", "expected"), [(2, 38.177), (4, 32.433)])
def test_published_smfanet_weights_reach_their_value(data_root, scale, expected):
    """SMFANet+ (DIV2K) on Set5 within 0.005 dB: encoder, data, degradation and metric at once."""
    from igconv.checkpoints import read_weights
    from igconv.evaluation import measure

    state = read_weights(data_root / "weights" / f"smfanet_plus_div2k_x{scale}.safetensors")
    model = build_model("smfanet_plus", "spconv", scales=(scale,)).eval()
    head = f"upsampler.heads.{scale}.0."
    model.load_state_dict({k.replace("to_img.0.", head) if k.startswith("to_img.0.") else f"encoder.{k}": v
                           for k, v in state.items()})  # fmt: skip
    rows = list(measure(model, ["Set5"], [scale]))
    assert len(rows) == 5
    assert sum(row["psnr_y_db"] for row in rows) / 5 == pytest.approx(expected, abs=0.005)
