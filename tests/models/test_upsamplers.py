"""SPConv, SPConv+, IGConv, IGSample: parameter counts, instantiation, sampling, symmetry."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from igconv import IGConv, IGSample, InputError, SPConv, SPConvPlus
from igconv.models.upsamplers import prime_stages, sample_lr


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.fixture
def igconv(enliven):
    """``igconv(**options)``: a small IGConv of 5 channels with lively kernels."""
    return lambda **options: enliven(IGConv(5, **(dict(hidden_dim=8, num_layers=2) | options)))


@pytest.fixture
def igsample(enliven):
    """``igsample(**options)``: the same for IGSample."""
    return lambda **options: enliven(IGSample(5, **(dict(hidden_dim=8, num_layers=1) | options)))


# ---- fixed heads


@pytest.mark.parametrize(("channels", "scale"), [(64, 2), (6, 1), (5, 5)])
def test_spconv_parameters(channels, scale):
    """27 C r^2 weights and 3 r^2 biases: 6 912 + 12 for C = 64, r = 2."""
    assert count(SPConv(channels, (scale,))) == 27 * channels * scale**2 + 3 * scale**2


@pytest.mark.parametrize(("scale", "expected"), [
    (1, 1_731),
    (2, 147_712 + 1_731),
    (3, 9 * 64 * 576 + 576 + 1_731),
    (4, 2 * 147_712 + 1_731),
    (6, 147_712 + 9 * 64 * 576 + 576 + 1_731),
])  # fmt: skip
def test_spconv_plus_parameters(scale, expected):
    """FACTS 1.1: 149 443 for C = 64, r = 2; x4 is two x2 stages."""
    assert count(SPConvPlus(64, (scale,))) == expected


def test_spconv_plus_with_entry_convolution():
    """The SwinIR family's head: conv C -> 64 and LeakyReLU, then the stages at that width."""
    assert count(SPConvPlus(180, (2,), width=64)) == 180 * 64 * 9 + 64 + 149_443


@pytest.mark.parametrize(("scale", "stages"), [(1, []), (2, [2]), (4, [2, 2]), (5, [5]), (6, [2, 3]), (8, [2, 2, 2])])
def test_prime_stages(scale, stages):
    """The product of the stages is the scale."""
    assert prime_stages(scale) == stages


@pytest.mark.parametrize("head", [SPConv, SPConvPlus])
@pytest.mark.parametrize("scale", [1, 2, 3, 4, 6])
def test_fixed_heads_upscale(head, scale):
    """Shape, and `instantiate` is an equal copy that shares no weights."""
    module, features = head(5, (1, 2, 3, 4, 6)), torch.randn(2, 5, 7, 4)
    sr = module(features, scale)
    fixed = module.instantiate(scale)
    assert sr.shape == (2, 3, 7 * scale, 4 * scale)
    assert torch.equal(fixed(features), sr)
    torch.nn.init.zeros_(next(fixed.parameters()))
    assert torch.equal(module(features, scale), sr)


@pytest.mark.parametrize("head", [SPConv, SPConvPlus])
def test_fixed_heads_name_their_scales(head):
    """An untrained scale is refused with those there are."""
    with pytest.raises(InputError, match=r"x5.*x2, x3"):
        head(5, (2, 3))(torch.randn(1, 5, 4, 4), 5)


@pytest.mark.parametrize("scales", [(), (2, 2), (0,), (2.5,), (True,), ("2",), (None,)], ids=repr)
@pytest.mark.parametrize("head", [SPConv, SPConvPlus])
def test_fixed_heads_refuse_bad_scales(head, scales):
    """Empty, repeated or not positive integers."""
    with pytest.raises(InputError, match="scale"):
        head(5, scales)


# ---- IGConv


@pytest.mark.parametrize("channels", [48, 60, 64, 180, 210, 256])
def test_hypernetwork_parameters(channels):
    """FACTS 1.3 and 1.5: 4608 C + 264 195 and 4608 C + 67 840."""
    assert count(IGConv(channels)) == 4608 * channels + 264_195
    assert count(IGSample(channels)) == 4608 * channels + 67_840


@pytest.mark.parametrize("dihedral", [False, True])
@pytest.mark.parametrize("scale", [1, 2, 3, 5, 7])
def test_igconv_instantiates(igconv, scale, dihedral):
    """A stored bias-free convolution with 27 C r^2 parameters gives the same image."""
    module, features = igconv(dihedral=dihedral), torch.randn(2, 5, 6, 9)
    fixed = module.instantiate(scale)
    assert count(fixed) == 27 * 5 * scale**2
    torch.testing.assert_close(fixed(features), module(features, scale), atol=1e-5, rtol=0)


@pytest.mark.parametrize("scale", [1, 2, 5])
def test_igsample_instantiates(igsample, scale):
    """108 C r^2 parameters, the same image."""
    module, lr, features = igsample(), torch.rand(2, 3, 6, 9), torch.randn(2, 5, 6, 9)
    fixed = module.instantiate(scale)
    assert count(fixed) == 108 * 5 * scale**2
    torch.testing.assert_close(fixed(lr, features), module(lr, features, scale), atol=1e-5, rtol=0)


@pytest.mark.parametrize("module", ["igconv", "igsample"])
def test_instantiated_module_is_trainable_and_its_own(module, request):
    """New weights that take gradients; changing them leaves the hyper-network alone."""
    module = request.getfixturevalue(module)()
    bank = module.kernel_bank(2).detach().clone()
    fixed = module.instantiate(2)
    weight = next(fixed.parameters())
    assert weight.requires_grad
    assert weight.is_leaf
    weight.data.zero_()
    assert torch.equal(module.kernel_bank(2), bank)


def test_instantiate_from_eval_does_not_alias_the_kept_bank(igconv):
    """Fine-tuning a fixed-scale module must not write into the bank that the model reuses."""
    module = igconv().eval()
    with torch.no_grad():
        bank = module.kernel_bank(2).clone()
        next(module.instantiate(2).parameters()).data.zero_()
        assert torch.equal(module.kernel_bank(2), bank)


def test_igconv_is_convolution_and_shuffle(igconv):
    """depth_to_space(conv(F, K)), zero padding, no bias."""
    module, features = igconv(), torch.randn(2, 5, 4, 6)
    expected = F.pixel_shuffle(F.conv2d(features, module.kernel_bank(2), padding=1), 2)
    torch.testing.assert_close(module(features, 2), expected)


def test_subpixel_channels_commute_with_flips(igconv):
    """With dihedral averaging each sub-pixel channel flips with the features; without it, it does not."""
    features = torch.randn(1, 5, 6, 8)
    for dims in ((-1,), (-2,), (-1, -2)):
        for dihedral in (True, False):
            module = igconv(dihedral=dihedral)
            flipped = F.pixel_unshuffle(module(features.flip(dims), 3), 3)
            expected = F.pixel_unshuffle(module(features, 3), 3).flip(dims)
            assert torch.allclose(flipped, expected, atol=1e-4) == dihedral


def test_image_is_not_flip_equivariant(igconv):
    """FACTS 1.4: sub-pixel positions are not permuted, so averaging is no self-ensemble of images."""
    module, features = igconv(dihedral=True), torch.randn(1, 5, 6, 8)
    assert (module(features.flip(-1), 2).flip(-1) - module(features, 2)).abs().max() > 0.01


@pytest.mark.parametrize("scale", [0, -1, 2.5, True, "2", None], ids=repr)
@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_igconv_refuses_bad_scales(igconv, scale, mode):
    """In both modes and in `instantiate`."""
    module = igconv().train(mode)
    with torch.no_grad():
        with pytest.raises(InputError, match="scale"):
            module(torch.randn(1, 5, 4, 4), scale)
        with pytest.raises(InputError, match="scale"):
            module.instantiate(scale)


def test_numpy_integers_are_scales(igconv, igsample):
    """np.int64(3) from a table works in forward and in `instantiate`."""
    features, lr, scale = torch.randn(1, 5, 4, 4), torch.rand(1, 3, 4, 4), np.int64(3)
    assert torch.equal(igconv()(features, scale), igconv()(features, 3))
    assert igconv().instantiate(scale)(features).shape == (1, 3, 12, 12)
    assert torch.equal(igsample()(lr, features, scale), igsample()(lr, features, 3))
    assert igsample().instantiate(scale)(lr, features).shape == (1, 3, 12, 12)


# ---- IGSample


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_zero_offsets_are_bilinear(scale):
    """Fields of zeros: PyTorch's bilinear interpolation (align_corners=False), at any image shape."""
    lr = torch.rand(2, 3, 5, 9)
    sr = sample_lr(lr, torch.zeros(2, 12 * scale**2, 5, 9), scale)
    torch.testing.assert_close(sr, F.interpolate(lr, scale_factor=scale, mode="bilinear"), atol=1e-6, rtol=0)


def test_fresh_igsample_is_nearly_bilinear():
    """FACTS 1.5: within about 0.015 of bilinear interpolation on noise at the start."""
    lr, features = torch.rand(1, 3, 12, 12), torch.randn(1, 64, 12, 12)
    difference = IGSample(64)(lr, features, 2) - F.interpolate(lr, scale_factor=2, mode="bilinear")
    assert 0 < difference.abs().max() < 0.03


@pytest.mark.parametrize(("axis", "dims"), [(0, -1), (1, -2)], ids=["x", "y"])
@pytest.mark.parametrize("colour", [0, 1, 2])
def test_offset_moves_one_colour_along_one_axis(axis, dims, colour):
    """Offset 2 with scope +inf shifts by exactly one LR pixel: x first, then y, colour by colour."""
    lr, scale = torch.rand(1, 3, 6, 7), 2
    fields = torch.zeros(1, 2, 2, 3, scale**2, 6, 7)  # (branch, axis, colour, sub-pixel)
    fields[:, 0, axis, colour] = 2.0
    fields[:, 1] = 50.0
    sr = sample_lr(lr, fields.flatten(1, 4), scale)
    plain = F.interpolate(lr, scale_factor=scale, mode="bilinear")
    shifted = plain.roll(-scale, dims)
    inner = (..., slice(2, -4), slice(2, -4))
    for c in range(3):
        expected = shifted if c == colour else plain
        torch.testing.assert_close(sr[:, c][inner], expected[:, c][inner], atol=1e-5, rtol=0)


def test_positions_beyond_the_border_read_the_border():
    """Border padding: huge offsets give the edge pixel, not zero."""
    lr = torch.rand(1, 3, 4, 4)
    fields = torch.full((1, 48, 4, 4), 1e3)
    assert torch.equal(sample_lr(lr, fields, 2), lr[..., -1:, -1:].expand(1, 3, 8, 8))


def test_igsample_start_equals_the_authors():
    """Scope rows zero, offset rows (o0, o1) repeated over the six (axis, colour) outputs."""
    last = IGSample(8).hyper.query_kernel[-1].weight.detach()
    assert not last[6:].any()
    assert torch.equal(last[:6], last[:2].repeat(3, 1))
    assert last[0].std() == pytest.approx(0.01, rel=0.3)
    assert not torch.equal(last[0], last[1])


def test_sampling_positions_stay_in_float32():
    """Under bfloat16 autocast the LR image is still read at exact positions and returned as float32."""
    lr, fields = torch.rand(1, 3, 4, 300), torch.zeros(1, 48, 4, 300)
    sr = sample_lr(lr.bfloat16().float(), fields.bfloat16(), 2)
    assert sr.dtype == torch.float32
    expected = F.interpolate(lr.bfloat16().float(), scale_factor=2, mode="bilinear")
    torch.testing.assert_close(sr, expected, atol=1e-4, rtol=0)
