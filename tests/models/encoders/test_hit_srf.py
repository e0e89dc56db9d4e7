"""HiT-SRF's correlations against their definition, element by element."""

import pytest
import torch

from igconv.models.encoders.hit_srf import SpatialChannelCorrelation, mirrored


def test_mirrored():
    """Reflection without repeating the edge, as torch pads, and as often as the length asks for."""
    assert mirrored(3, 9).tolist() == [0, 1, 2, 1, 0, 1, 2, 1, 0]
    assert mirrored(1, 4).tolist() == [0, 0, 0, 0]
    assert mirrored(5, 5).tolist() == [0, 1, 2, 3, 4]
    x = torch.rand(1, 6)
    assert torch.equal(x[:, mirrored(6, 11)], torch.nn.functional.pad(x, (0, 5), mode="reflect"))


def defined(module: SpatialChannelCorrelation, x: torch.Tensor) -> torch.Tensor:
    """The paper's equations with every map written out, one window and head at a time; x already padded."""
    (wh, ww), (ch, cw) = module.window, module.cell
    _, h, w, c = x.shape
    qv = module.qv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    half, d = c // 2, c // 2 // module.heads
    pixels = [(i, j) for i in range(wh) for j in range(ww)]
    cells = [(a, b) for a in range(wh // ch) for b in range(ww // cw)]
    net = lambda offset: module.pos.pos3(module.pos.pos2(module.pos.pos1(module.pos.pos_proj(offset))))  # noqa: E731
    bias = torch.zeros(module.heads, len(pixels), len(cells), dtype=x.dtype)
    for m, (a, b) in enumerate(cells):
        members = torch.tensor([(a * ch + y, b * cw + z) for y in range(ch) for z in range(cw)])
        for n, pixel in enumerate(pixels):
            bias[:, n, m] = net((torch.tensor(pixel) - members).to(x.dtype)).mean(0)
    out = torch.zeros_like(x)
    for image, top, left in [(i, t, s) for i in range(len(x)) for t in range(0, h, wh) for s in range(0, w, ww)]:
        window = qv[image, top : top + wh, left : left + ww]
        q, v = window[..., :half].flatten(0, 1), window[..., half:].flatten(0, 1)
        channel = v @ ((q.T @ v) / len(q)).T
        summary = torch.stack([
            (window[a * ch : (a + 1) * ch, b * cw : (b + 1) * cw, half:].flatten(0, 1)
             * module.spatial_linear.weight[0][:, None]).sum(0) + module.spatial_linear.bias
            for a, b in cells
        ])  # fmt: skip
        heads = zip(q.split(d, dim=1), summary.split(d, dim=1), bias, strict=True)
        spatial = torch.cat([(queries @ values.T / d + b) @ values for queries, values, b in heads], dim=1)
        fused = module.proj(torch.cat([spatial, channel], dim=1))
        out[image, top : top + wh, left : left + ww] = fused.view(wh, ww, c)
    return out


@pytest.mark.parametrize(("window", "base", "size"), [
    ((2, 2), (4, 4), (4, 6)),  # smaller than the base window: a cell per pixel
    ((4, 4), (4, 4), (8, 4)),
    ((8, 4), (2, 4), (8, 8)),  # cells of 4 x 1
    ((6, 12), (3, 2), (5, 7)),  # cells of 2 x 6; the image is extended, in one axis by less than itself
    ((8, 8), (2, 2), (3, 1)),  # extended by more than itself
])  # fmt: skip
def test_correlations_equal_their_definition(window, base, size):
    """Reordered sums, box-filtered bias and padding by reflection: the same numbers in float64."""
    module = SpatialChannelCorrelation(48, 3, window, base).double()
    for p in module.parameters():
        torch.nn.init.normal_(p, std=0.5)
    x = torch.randn(2, *size, 48, dtype=torch.float64)
    h, w = (-(-side // step) * step for side, step in zip(size, window, strict=True))
    with torch.no_grad():
        expected = defined(module, x[:, mirrored(size[0], h)][:, :, mirrored(size[1], w)])[:, : size[0], : size[1]]
        torch.testing.assert_close(module(x), expected, atol=1e-9, rtol=1e-9)
