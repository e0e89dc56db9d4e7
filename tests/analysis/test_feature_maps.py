"""What features explain beyond the image, on encoders that share a planted part."""

import pandas as pd
import pytest
import torch
from torch import nn

from igconv.analysis import feature_maps
from igconv.models.super_resolver import SuperResolver
from igconv.models.upsamplers import SPConv


class Shared(nn.Module):
    """A linear filter of the image, and beside it sines that encoders of one ``seed`` share, mixed by ``mixture``."""

    out_channels = 6

    def __init__(self, seed: int, mixture: int):
        super().__init__()
        torch.manual_seed(seed)
        self.linear, self.other = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        torch.manual_seed(mixture)
        self.mix = nn.Conv2d(6, 6, 1)

    def forward(self, x):
        return self.mix(torch.cat([self.linear(x), 0.1 * torch.sin(20 * self.other(x))], dim=1))


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    nets = [SuperResolver(Shared(seed, mixture), SPConv(6, (3,))) for seed, mixture in ((0, 1), (0, 2), (7, 3))]
    generator = torch.Generator().manual_seed(0)
    scenes = torch.randint(0, 256, (24, 3, 36, 36), generator=generator, dtype=torch.uint8)
    a, b, untrained = nets
    return feature_maps.maps("f", ("A", a, 2), ("B", b, 3), untrained, scenes, 12)


def test_only_the_encoder_that_shares_more_than_the_image_explains_what_pixels_leave(table):
    of = table.set_index("predictor")
    assert tuple(table.columns) == feature_maps.COLUMNS
    assert of.explained["the other encoder"] == pytest.approx(1, abs=0.01)
    for beyond in ("beyond_3x3", "beyond_7x7"):
        assert of[beyond]["the other encoder"] > 0.95
        assert of[beyond]["untrained encoder"] < 0.2
        assert of[beyond][list(feature_maps.PIXELS)].isna().all()
    assert 0.2 < of.explained["3 x 3 pixels"] < 0.95
    assert of.explained["7 x 7 pixels"] == pytest.approx(of.explained["3 x 3 pixels"], abs=0.05)


def test_in_words(table):
    text = feature_maps.conclusion(table)
    assert text.startswith("f, features of x2 from those of x3: 100% of the variance explained; an untrained encoder's")
    assert "not run" in feature_maps.conclusion(table.head(0))
