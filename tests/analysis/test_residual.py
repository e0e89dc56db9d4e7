"""Similarity beyond a linear filter of the image, on encoders whose linear and other parts are planted."""

import pytest
import torch
from torch import nn

from igconv import InputError
from igconv.analysis import residual, similarity
from igconv.models.super_resolver import SuperResolver
from igconv.models.upsamplers import SPConv

CHANNELS = 6


class Planted(nn.Module):
    """Channels = a random linear filter of the image + ``share`` of sin(a filter of it), each part of its own seed."""

    out_channels = CHANNELS

    def __init__(self, linear: int, other: int, share: float = 0.3):
        super().__init__()
        self.share = share
        self.linear, self.other = (self._filter(seed, side) for seed, side in ((linear, 7), (other, 3)))

    @staticmethod
    def _filter(seed: int, side: int) -> nn.Conv2d:
        torch.manual_seed(seed)
        return nn.Conv2d(3, CHANNELS, side, padding=side // 2)

    def forward(self, x):
        return self.linear(x) + self.share * torch.sin(20 * self.other(x))

    def stages(self):
        return {"first conv": self.linear}


def model(*seeds: int, share: float = 0.3) -> SuperResolver:
    return SuperResolver(Planted(*seeds, share), SPConv(CHANNELS, (2,)))


@pytest.fixture(scope="module")
def images():
    return torch.randint(0, 256, (48, 3, 14, 14), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def alike(a: SuperResolver, b: SuperResolver, images) -> tuple[float, float]:
    """CKA of the outputs as they are, and without their linear parts."""
    as_they_are = [similarity.stage_grams(one, images, 24) for one in (a, b)]
    without = [residual.residual_grams(one, images, 24) for one in (a, b)]
    assert without[0].stages == ("output",), "nothing is left of a convolution"
    return float(similarity.cka(*as_they_are)[-1, -1]), float(similarity.cka(*without)[-1, -1])


def test_what_two_encoders_take_over_from_the_image_does_not_count(images):
    """The same filter and other things: alike as they are, unlike beyond it. Another filter and the same thing: the
    other way round."""
    same_filter, beyond = alike(model(1, 2, share=0.1), model(1, 3, share=0.1), images)
    assert same_filter > 0.7
    assert beyond < 0.3
    other_filter, same_thing = alike(model(1, 2, share=0.1), model(4, 2, share=0.1), images)
    assert other_filter < 0.7
    assert same_thing > 0.9


def test_the_share_that_a_filter_explains_is_known(images):
    """With sin(20 z) of a wide z, which no filter predicts, the other part is what its variance says."""
    one = model(1, 2)
    found = residual.residual_grams(one, images, 24)
    lr = images.float() / 255
    with torch.no_grad():
        linear, whole = one.encoder.linear(lr), one.encoder(lr)
    variance = [float(residual.inside(z, lr).double().var((0, 2, 3)).sum()) for z in (linear, whole)]
    assert found.explained[0] == pytest.approx(variance[0] / variance[1], abs=0.05)
    assert 0.2 < found.explained[0] < 0.8


def test_borders_and_padding_are_left_out(images):
    lr = images.float() / 255
    padded = torch.zeros(48, 2, 16, 16)
    assert residual.inside(padded, lr).shape == (48, 2, 8, 8)
    assert residual.windows(lr).shape == (48 * 64, 147)
    with pytest.raises(InputError, match="smaller than the filter of 7 px"):
        residual.windows(lr[..., :6, :6])


def test_a_linear_encoder_has_nothing_left(images):
    with pytest.raises(InputError, match="nothing is left to compare"):
        residual.residual_grams(model(1, 2, share=0.0), images, 24)
