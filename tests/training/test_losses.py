"""Losses: the authors' values and gradients, the definition, half precision."""

import pytest
import torch

from igconv.training.losses import frequency_l1, l1


@pytest.mark.reference
def test_reference_vectors(reference):
    """L1, the un-normalised frequency loss, and its gradient at the paper's weight."""
    entry, tensors = reference("losses")
    prediction, target = tensors["in.pred"].requires_grad_(), tensors["in.target"]
    rtol = entry["tol"]["rtol"]
    assert l1(prediction, target).item() == pytest.approx(entry["values"]["l1"], rel=rtol)
    frequency = frequency_l1(prediction, target)
    assert frequency.item() == pytest.approx(entry["values"]["fft_w1"], rel=rtol)
    assert 0.05 * frequency.item() == pytest.approx(entry["values"]["fft_w0_05"], rel=rtol)
    (0.05 * frequency).backward()
    torch.testing.assert_close(prediction.grad, tensors["grad.fft_0.05.pred"], rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("size", [(5, 6), (6, 5), (1, 1)])
def test_frequency_loss_is_its_definition(size):
    """mean of |Re| and |Im| of the difference of the half spectra, over H and W only."""
    a, b = torch.rand(2, 3, *size, dtype=torch.float64), torch.rand(2, 3, *size, dtype=torch.float64)
    h, w = size
    ky, kx = torch.meshgrid(torch.arange(h), torch.arange(w // 2 + 1), indexing="ij")
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    angle = -2 * torch.pi * (ky[..., None, None] * y / h + kx[..., None, None] * x / w)
    spectrum = ((a - b)[:, :, None, None] * torch.exp(1j * angle.double())).sum((-1, -2))
    expected = (spectrum.real.abs().mean() + spectrum.imag.abs().mean()) / 2
    assert frequency_l1(a, b).item() == pytest.approx(expected.item(), rel=1e-5)


def test_frequency_loss_dominates_on_white_noise():
    """FACTS 1.6: about 66 times the pixel L1 at 96 x 96, growing with the side."""
    noise = torch.randn(4, 3, 96, 96)
    assert frequency_l1(noise, 0 * noise) / l1(noise, 0 * noise) == pytest.approx(66, rel=0.05)


@pytest.mark.parametrize("loss", [l1, frequency_l1])
def test_zero_for_equal_images(loss):
    """And a scalar."""
    image = torch.rand(2, 3, 8, 8)
    assert loss(image, image).shape == ()
    assert loss(image, image) == 0


def test_frequency_loss_under_autocast():
    """bfloat16 has no FFT; the loss is computed in float32."""
    a, b = torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert frequency_l1(a.bfloat16(), b).dtype == torch.float32
        assert torch.equal(frequency_l1(a, b), frequency_l1(a, b))
