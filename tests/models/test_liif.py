"""LIIF against the formula of its paper, pixel by pixel; continuity, gradients, memory, what a GPU would wait for."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from igconv import InputError, build_model
from igconv.models import liif
from igconv.models.liif import LIIF, border_weight, query_offsets

SCALES = (1, 2, 3, 4, 5, 8)


@pytest.fixture
def make():
    """``make(channels, hidden_dim, num_layers)``: a LIIF in float64 whose answers depend on where they are asked."""

    def build(channels=3, hidden_dim=12, num_layers=3) -> LIIF:
        model = LIIF(channels, hidden_dim, num_layers).double()
        for p in model.parameters():
            p.data.mul_(2)
        return model

    return build


def formula(model: LIIF, features: torch.Tensor, scale: int) -> torch.Tensor:
    """Section 3 of the paper for one image (C, H, W): query by query, coordinates in [-1, 1], nearest cells, areas."""
    _, h, w = features.shape
    weight = torch.cat([model.of_features.weight.flatten(1), model.of_query.weight], dim=1)  # one linear layer
    unfolded = F.unfold(features[None], 3, padding=1)[0].view(-1, h, w)
    centre = lambda i, n: -1 + (2 * i + 1) / n  # noqa: E731
    image = features.new_zeros(3, scale * h, scale * w)
    for row, column in itertools.product(range(scale * h), range(scale * w)):
        y, x = centre(row, scale * h), centre(column, scale * w)
        answers, areas = [], []
        for vy, vx in itertools.product((-1, 1), (-1, 1)):
            # Half a cell away lies in the neighbour; the shift of 1e-6 decides for a query at a cell's centre.
            i = min(max(int((y + vy / h + 1e-6 + 1) * h // 2), 0), h - 1)
            j = min(max(int((x + vx / w + 1e-6 + 1) * w // 2), 0), w - 1)
            dy, dx = (y - centre(i, h)) * h, (x - centre(j, w)) * w
            z = torch.cat([unfolded[:, i, j], features.new_tensor([dy, dx, 2 / scale, 2 / scale])])
            answers.append(model.mlp((weight @ z + model.of_features.bias)[None])[0])
            # A query in line with a cell at the border has no area at all; the limit is what was meant.
            areas.append(max(abs(dy), 1e-12) * max(abs(dx), 1e-12))
        image[:, row, column] = sum(a * s for a, s in zip(answers, reversed(areas), strict=True)) / sum(areas)
    return image


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("size", [(4, 3), (1, 1), (1, 5), (2, 1)], ids=str)
def test_image_is_the_published_formula(make, scale, size):
    """Unfolding, cell decoding, local ensemble and borders, also of images of one pixel."""
    model, features = make(), torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        image = model(features, scale)
        expected = torch.stack([formula(model, f, scale) for f in features])
    assert image.shape == (2, 3, scale * size[0], scale * size[1])
    torch.testing.assert_close(image, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("scale", SCALES)
def test_weights_of_a_pixel_sum_to_one(scale):
    """The tents of the cells, added up, are one inside and `border_weight` at the borders."""
    d, cells = query_offsets(scale, dtype=torch.float64), 4
    assert d.abs().max() < 2
    sums = torch.zeros(scale * cells + 2 * scale, dtype=torch.float64)
    for cell in range(cells):
        first = scale + cell * scale - scale // 2
        sums[first : first + len(d)] += 1 - d.abs() / 2
    torch.testing.assert_close(sums[scale:-scale], border_weight(scale, cells, dtype=torch.float64))
    inside = border_weight(scale, cells, dtype=torch.float64)[scale:-scale]
    torch.testing.assert_close(inside, torch.ones_like(inside))


def test_image_is_continuous(make):
    """Neighbouring pixels of a finer grid come closer everywhere, also across the borders between cells."""
    model, features = make(), torch.randn(1, 3, 3, 3, dtype=torch.float64)
    with torch.no_grad():
        steps = [model(features, r).diff(dim=axis).abs().max() for axis in (-1, -2) for r in (16, 64)]
    assert steps[1] < 0.3 * steps[0]
    assert steps[3] < 0.3 * steps[2]


def test_constant_features_give_one_colour_per_offset(make):
    """Away from the zeros around the image, the answers repeat from cell to cell."""
    image = make()(torch.ones(1, 3, 6, 6, dtype=torch.float64), 3)[..., 6:-6, 6:-6]
    torch.testing.assert_close(image[..., :3, :3], image[..., 3:, 3:])


@pytest.mark.parametrize("scale", [2, 3])
def test_gradients_are_those_of_the_formula(make, scale):
    """Of the features and of every parameter."""
    model, features = make(), torch.randn(3, 3, 2, dtype=torch.float64, requires_grad=True)
    inputs, probe = [features, *model.parameters()], torch.randn(3, 3 * scale, 2 * scale, dtype=torch.float64)
    found = torch.autograd.grad((model(features[None], scale)[0] * probe).sum(), inputs)
    expected = torch.autograd.grad((formula(model, features, scale) * probe).sum(), inputs)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("chunk", [1, 60, 1000])
def test_chunks_change_nothing_and_bound_the_rows(make, monkeypatch, chunk):
    """Values and gradients of one piece; no layer sees more rows than a chunk has, or one cell's queries."""
    model, features = make(), torch.randn(2, 3, 4, 5, dtype=torch.float64)

    def results():
        image = model(features, 3)
        with torch.no_grad():
            assert torch.equal(model(features, 3), image)
        return [image, *torch.autograd.grad(image.square().sum(), list(model.parameters()))]

    whole, rows = results(), []
    monkeypatch.setattr(liif, "ROWS_PER_CHUNK", chunk)
    model.mlp[1].register_forward_hook(lambda module, inputs, output: rows.append(output[..., 0].numel()))
    for found, expected in zip(results(), whole, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)
    assert max(rows) <= max(chunk, 25)
    assert sum(rows) == (3 if chunk < 1000 else 2) * 2 * 4 * 5 * 25  # forward, backward, without gradients


def test_parameters():
    """(9 C + 4) 256 + 256 for the first layer, three of 256 x 256 and the one to RGB; 0.35 M at 64 channels."""
    count = sum(p.numel() for p in LIIF(64).parameters())
    assert count == (9 * 64 + 4) * 256 + 256 + 3 * (256 * 256 + 256) + 256 * 3 + 3 == 346_883
    assert sum(p.numel() for p in LIIF(64).instantiate(3).parameters()) == count


def test_first_layer_starts_as_one():
    """Both of its parts are uniform within the bound of their common number of inputs."""
    model = LIIF(64)
    for parameter in (model.of_features.weight, model.of_features.bias, model.of_query.weight):
        assert 0.9 * 580**-0.5 < parameter.abs().max() <= 580**-0.5


def test_multiply_adds_are_what_the_grid_needs():
    """Per cell the convolution once, and the MLP for the n x n offsets that have a weight; nothing is gathered."""
    from igconv.analysis.efficiency import flops

    model, features = LIIF(8, hidden_dim=16, num_layers=3), torch.randn(1, 8, 6, 5)
    for scale, n in ((1, 1), (2, 4), (3, 5), (4, 8), (5, 9)):
        assert len(query_offsets(scale)) == n
        expected = 30 * (9 * 8 * 16 + n**2 * (2 * 16 * 16 + 16 * 3)) + n**2 * 4 * 16
        assert flops(lambda scale=scale: model(features, scale)) == 2 * expected


def test_fixed_scale_shares_nothing(make):
    """`instantiate` gives the same image from a copy."""
    model, features = make(), torch.randn(1, 3, 5, 4, dtype=torch.float64)
    with torch.no_grad():
        before, fixed = model(features, 3), model.instantiate(3)
        assert torch.equal(fixed(features), before)
        for p in fixed.parameters():
            p.zero_()
        assert torch.equal(model(features, 3), before)


class _Operations(TorchDispatchMode):
    """Names of what is computed."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


def test_a_step_reads_nothing_back_and_sends_nothing(monkeypatch):
    """No value is looked at and no constant comes from the host, chunked or not: a CUDA graph can record the step."""
    model = build_model("edsr", "liif", scales=(2, 3), channels=4, blocks=1, hidden_dim=8)
    for chunk in (65_536, 64):
        monkeypatch.setattr(liif, "ROWS_PER_CHUNK", chunk)
        with _Operations() as seen:
            images = model.multi_scale(torch.rand(2, 3, 5, 6), (2, 3))
            sum(image.abs().mean() for image in images).backward()
        assert {"convolution", "col2im"} <= seen.names
        assert not seen.names & {"_local_scalar_dense", "nonzero", "lift_fresh", "is_nonzero", "equal", "item"}


def test_memory_layout_and_batch_do_not_matter(make):
    """Channels-last features, as the trainer has them, and images one by one."""
    model, features = make(), torch.randn(3, 3, 4, 5, dtype=torch.float64)
    with torch.no_grad():
        image = model(features, 2)
        torch.testing.assert_close(model(features.contiguous(memory_format=torch.channels_last), 2), image)
        torch.testing.assert_close(torch.cat([model(f[None], 2) for f in features]), image)


@pytest.mark.parametrize("scale", [0, -1, 2.5, True, "2", None], ids=repr)
def test_bad_scales_are_refused(make, scale):
    """Not a positive integer."""
    for act in (lambda: make()(torch.rand(1, 3, 4, 4).double(), scale), lambda: make().instantiate(scale)):
        with pytest.raises(InputError, match="scale"):
            act()
