"""The scan of MambaIR against the recurrence it stands for, and the order in which an image is scanned."""

import sys
import types

import pytest
import torch
import torch.nn.functional as F

from igconv import InputError
from igconv.models.encoders import selective_scan
from igconv.models.encoders.mambair import SelectiveScan2D

pytest.importorskip("mambapy")


def arguments(length, batch=2, k=4, d=3, n=5, dtype=torch.float64):
    """u, step, bias, A, B, C, D of `selective_scan`, random."""
    draw = lambda *shape: torch.randn(*shape, dtype=dtype)  # noqa: E731
    return (draw(batch, k, length, d), draw(batch, k, length, d), draw(k, d), -draw(k, d, n).exp(),
            draw(batch, k, length, n), draw(batch, k, length, n), draw(k, d))  # fmt: skip


def recurrence(u, step, bias, A, B, C, D):
    """h_t = exp(delta A) h_{t-1} + delta B u, y = C . h + D u, one position after the other."""
    delta = F.softplus(step + bias[:, None])
    h, y = 0, []
    for t in range(u.shape[2]):
        h = torch.exp(delta[:, :, t, :, None] * A) * h + (delta * u)[:, :, t, :, None] * B[:, :, t, None]
        y.append((h * C[:, :, t, None]).sum(-1) + D * u[:, :, t])
    return torch.stack(y, dim=2)


@pytest.mark.parametrize(("length", "chunk"), [(1, None), (7, None), (7, 1), (40, 16), (64, 64), (33, 32), (300, None)])
def test_scan_equals_the_recurrence(length, chunk):
    """Values and the gradient of every argument, whole and in chunks, for lengths that are no power of two."""
    inputs = [x.requires_grad_() for x in arguments(length)]
    expected = recurrence(*inputs)
    cotangent = torch.randn_like(expected)
    gradients = torch.autograd.grad((expected * cotangent).sum(), inputs)
    y = selective_scan._scan_by_chunks(*inputs, chunk=chunk) if chunk else selective_scan.selective_scan(*inputs)
    torch.testing.assert_close(y, expected, atol=1e-10, rtol=1e-10)
    found = torch.autograd.grad((y * cotangent).sum(), inputs)
    torch.testing.assert_close(found, gradients, atol=1e-8, rtol=1e-8)
    with torch.no_grad():
        torch.testing.assert_close(selective_scan.selective_scan(*inputs), expected, atol=1e-10, rtol=1e-10)


def test_scan_of_half_precision_is_made_in_float32():
    """bfloat16 inputs, as autocast hands over: the states are float32, and so is the result."""
    inputs = [x.bfloat16() for x in arguments(50)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = selective_scan.selective_scan(*inputs)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, recurrence(*(x.float() for x in inputs)), atol=1e-4, rtol=1e-4)


def test_kernel_gets_what_it_expects(monkeypatch):
    """The call of mamba_ssm: sequences (batch, K d, L), B and C in groups (batch, K, n, L), softplus inside."""

    def selective_scan_fn(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False):
        assert all(x.is_contiguous() for x in (u, delta, A, B, C))
        assert (delta_softplus, z) == (True, None)
        groups = B.shape[1]
        split = lambda x: x.unflatten(1, (groups, -1)).transpose(2, 3)  # noqa: E731
        per_group = lambda x: x.unflatten(0, (groups, -1))  # noqa: E731
        y = recurrence(split(u), split(delta), per_group(delta_bias), per_group(A), B.transpose(2, 3),
                       C.transpose(2, 3), per_group(D))  # fmt: skip
        return y.transpose(2, 3).flatten(1, 2)

    fake = types.ModuleType("mamba_ssm.ops.selective_scan_interface")
    fake.selective_scan_fn = selective_scan_fn
    monkeypatch.setitem(sys.modules, "mamba_ssm", types.ModuleType("mamba_ssm"))
    monkeypatch.setitem(sys.modules, "mamba_ssm.ops", types.ModuleType("mamba_ssm.ops"))
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    inputs = arguments(11)
    torch.testing.assert_close(selective_scan._scan_by_kernel(*inputs), recurrence(*inputs))


def test_a_missing_package_is_named(monkeypatch):
    """Neither package: one line with the extra. mamba_ssm alone does not help on a CPU."""
    monkeypatch.setattr(selective_scan, "_installed", lambda name: name == "mamba_ssm")
    selective_scan.require_backend()
    with pytest.raises(InputError, match=r"igconv\[mamba\]"):
        selective_scan.selective_scan(*arguments(4))


def test_directions():
    """Rows, columns, and both backwards, each with its own weights: the sum of four recurrences over the image."""
    module, (h, w) = SelectiveScan2D(16, state_dim=3, inner=6).double(), (4, 5)
    x = torch.randn(1, h, w, 6, dtype=torch.float64)
    places = torch.arange(h * w)
    by_columns = places.view(h, w).T.flatten()
    expected = torch.zeros(1, h * w, 6, dtype=torch.float64)
    for k, order in enumerate([places, by_columns, places.flip(0), by_columns.flip(0)]):
        u = x.flatten(1, 2)[:, order]
        low_rank, B, C = (u @ module.x_proj_weight[k].T).split([1, 3, 3], dim=-1)
        one = [low_rank @ module.dt_projs_weight[k].T, module.dt_projs_bias[k], -module.A_logs.view(4, 6, 3)[k].exp()]
        step, bias, A = one[0][:, None], one[1][None], one[2][None]
        y = recurrence(u[:, None], step, bias, A, B[:, None], C[:, None], module.Ds.view(4, 6)[k][None])[:, 0]
        expected[:, order] += y
    torch.testing.assert_close(module.scan(x), expected.view(1, h, w, 6))


def test_start_values():
    """Step sizes between 0.001 and 0.1, A = -1 ... -n, D = 1."""
    module = SelectiveScan2D(32, state_dim=4, inner=64)
    steps = F.softplus(module.dt_projs_bias.detach())
    assert 1e-3 * 0.999 < steps.min() < 2e-3
    assert 0.05 < steps.max() < 0.1001
    torch.testing.assert_close(module.A_logs.exp(), torch.arange(1.0, 5).expand(256, 4))
    assert (module.Ds == 1).all()
