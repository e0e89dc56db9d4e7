"""RDN, HiT-SRF and MambaIR, written from their papers: the authors' function, sizes, training, what they refuse."""

import pytest
import torch

from igconv import InputError, build_model
from igconv.models.encoders import selective_scan
from igconv.models.encoders.hit_srf import HiTSRF
from igconv.models.encoders.mambair import MambaIR
from igconv.models.encoders.rdn import RDN
from igconv.models.strict import load_strict
from igconv.training.losses import frequency_l1, l1

SMALL = {
    "rdn": lambda: RDN(16, 3, 3, 8),
    "hit_srf": lambda: HiTSRF(48, (3, 2), (2, 4), (4, 4), (0.5, 1, 2)),
    "mambair": lambda: MambaIR(32, (1, 2), state_dim=4, expand=1.5, squeeze=4, drop_path=0.0),
}
pytestmark = pytest.mark.filterwarnings("error")
small = pytest.mark.parametrize("name", SMALL)


@pytest.fixture(autouse=True)
def _scan_is_installed(request):
    if "mambair" in str(getattr(request.node, "callspec", "")) or "mambair" in request.node.name:
        pytest.importorskip("mambapy")


def count(module) -> int:
    return sum(p.numel() for p in module.parameters())


REFERENCE = {
    "rdn_ig": (lambda: RDN(16, 3, 3, 8), "UPNet."),
    "hit_srf_ig": (lambda: HiTSRF(48, (4,), (2,), (8, 8), (0.5, 1, 2, 4)), "upsample."),
    "mambair_ig": (lambda: MambaIR(32, (1, 1), state_dim=4, expand=1.5), "upsample."),
}


@pytest.mark.reference
@pytest.mark.parametrize("case", REFERENCE)
def test_reference_networks(reference, case):
    """The authors' weights give the authors' images, in eval mode and instantiated."""
    entry, tensors = reference(case)
    make, prefix = REFERENCE[case]
    model = build_model(make(), "igconv", scales=entry["scales"], hidden_dim=32, num_layers=2).eval()
    state = {k.removeprefix("state."): v for k, v in tensors.items() if k.startswith("state.")}
    load_strict(model, {f"upsampler.hyper.{k.removeprefix(prefix)}" if k.startswith(prefix) else f"encoder.{k}": v
                        for k, v in state.items()}, case)  # fmt: skip
    assert count(model) == entry["params"]
    with torch.no_grad():
        for scale in entry["scales"]:
            torch.testing.assert_close(model(tensors["in.x"], scale), tensors[f"out.x{scale}"], **entry["tol"])
        fixed = model.instantiate(2)
        torch.testing.assert_close(fixed(tensors["in.x"]), tensors["out.x2"], **entry["tol"])


LIGHT = dict(channels=60, depths=(6,) * 4, expand=1.5)


@pytest.mark.parametrize(("make", "millions"), [
    (RDN, 21.974),
    (HiTSRF, 0.840),
    (MambaIR, 20.169),
    (lambda: MambaIR(**LIGHT), 1.616),
    (lambda: MambaIR(**LIGHT, compression=6), 1.357),
], ids=["rdn", "hit_srf", "mambair", "mambair_light", "mambair_light_baseline"])  # fmt: skip
def test_published_sizes(make, millions):
    """Parameters of the encoder alone in millions, to the three digits of FACTS section 5."""
    with torch.device("meta"):
        assert round(count(make()) / 1e6, 3) == millions


@small
@pytest.mark.parametrize("size", [(1, 1), (3, 17), (9, 8), (16, 16)])
def test_every_image_size(name, size):
    """(B, 3, H, W) -> (B, out_channels, H, W) at sides that are multiples of nothing, below and above a window."""
    encoder = SMALL[name]()
    features = encoder(torch.rand(2, 3, *size))
    assert features.shape == (2, encoder.out_channels, *size)
    assert features.isfinite().all()


@small
def test_images_of_a_batch_do_not_mix(name):
    """Each image of a batch gets the features it gets alone."""
    encoder, x = SMALL[name]().eval(), torch.rand(3, 3, 10, 7)
    with torch.no_grad():
        torch.testing.assert_close(encoder(x)[1:2], encoder(x[1:2]), atol=1e-5, rtol=1e-5)


@small
def test_stages_run_in_order(name):
    """The analyses hook `stages()`: each runs once per forward, in the order listed, with images as outputs."""
    encoder, ran = SMALL[name](), []
    stages = encoder.stages()
    for stage, module in stages.items():
        module.register_forward_hook(lambda _, __, out, stage=stage: ran.append((stage, tuple(out.shape))))
    encoder(torch.rand(1, 3, 9, 8))
    assert ran == [(stage, (1, encoder.out_channels, 9, 8)) for stage in stages]
    assert len(stages) >= 4


@small
def test_trains(name, photograph):
    """Two steps with IGConv+: every parameter of the encoder gets a gradient, the loss of the repeated batch falls."""
    model = build_model(SMALL[name](), "igconv+", scales=(2, 3), hidden_dim=16, num_layers=2)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-4)
    hr = photograph(32, 40).float().div(255)[None]
    lr = torch.nn.functional.avg_pool2d(hr, 2)
    losses = []
    for _ in range(3):
        sr = model(lr, 2)
        loss = l1(sr, hr) + 0.05 * frequency_l1(sr, hr)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] > losses[1] > losses[2]
    for key, p in model.named_parameters():
        assert p.grad is not None, key
        assert p.grad.isfinite().all(), key
        assert p.grad.any(), f"{key} has no influence"


@small
def test_autocast(name):
    """Under bfloat16 the features are those of float32 but for rounding."""
    encoder, x = SMALL[name]().eval(), torch.rand(1, 3, 12, 12)
    with torch.no_grad():
        exact = encoder(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = encoder(x).float()
    assert (rounded - exact).norm() < 0.03 * exact.norm()


@pytest.mark.parametrize("connection", ["1conv", "3conv"])
@pytest.mark.parametrize("name", ["hit_srf", "mambair"])
def test_connections(name, connection):
    """Groups and body end in one convolution, or in a bottleneck of three."""
    classes = {"hit_srf": lambda **o: HiTSRF(32, (1,), (2,), **o), "mambair": lambda **o: MambaIR(32, (1,), **o)}
    encoder = classes[name](connection=connection)
    for module in (encoder.layers[0].conv, encoder.conv_after_body):
        convs = [m for m in module.modules() if isinstance(m, torch.nn.Conv2d)]
        assert [c.kernel_size[0] for c in convs] == ([3] if connection == "1conv" else [3, 1, 3])
    assert encoder(torch.rand(1, 3, 8, 8)).shape == (1, 32, 8, 8)


def test_mambair_drops_blocks_in_training_only():
    """Rates grow linearly over all blocks; in eval mode nothing is dropped."""
    encoder = MambaIR(32, (2, 3), state_dim=2, expand=1, drop_path=0.8)
    blocks = [block for group in encoder.layers for block in group.residual_group.blocks]
    assert [getattr(block.drop_path, "p", 0.0) for block in blocks] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    x = torch.rand(1, 3, 6, 6)
    assert not torch.equal(encoder(x), encoder(x))
    encoder.eval()
    assert torch.equal(encoder(x), encoder(x))


def test_rdn_reach():
    """A pixel further away than `reach` has no influence, one at that distance has."""
    encoder = RDN(4, 2, 2, 4, outer_kernel_size=5).double()
    x = torch.rand(1, 3, 31, 31, dtype=torch.float64, requires_grad=True)
    encoder(x)[..., 15, 15].sum().backward()
    seen = x.grad.abs().sum((0, 1, 2)).nonzero().flatten() - 15
    assert seen.max() == encoder.reach == 10


@pytest.mark.parametrize(("make", "named"), [
    (lambda: RDN(blocks=0), "blocks"),
    (lambda: RDN(growth=2.5), "growth"),
    (lambda: RDN(outer_kernel_size=2), "odd"),
    (lambda: HiTSRF(channels=60, heads=(7, 6, 6, 6)), "heads"),
    (lambda: HiTSRF(channels=12, depths=(1,), heads=(2,)), "16"),
    (lambda: HiTSRF(depths=(6, 6)), "depths"),
    (lambda: HiTSRF(depths=6), "depths"),
    (lambda: HiTSRF(depths=(7, 6, 6, 6)), "window_ratios"),
    (lambda: HiTSRF(window_ratios=(0.5, 1, 1.5, 2, 4, 6)), "multiple"),
    (lambda: HiTSRF(base_window=(1, 1)), "window_ratios"),
    (lambda: HiTSRF(base_window=(8,)), "base_window"),
    (lambda: HiTSRF(connection="2conv"), "1conv"),
    (lambda: MambaIR(state_dim=0), "state_dim"),
    (lambda: MambaIR(depths=()), "depths"),
    (lambda: MambaIR(expand=0), "expand"),
    (lambda: MambaIR(drop_path=1.0), "drop_path"),
    (lambda: MambaIR(channels=4, compression=5), "compression"),
])  # fmt: skip
def test_bad_options_are_refused(make, named):
    """One line that names the option."""
    with pytest.raises(InputError, match=named) as error, torch.device("meta"):
        make()
    assert "\n" not in str(error.value)


def test_missing_scan_names_the_extra(monkeypatch):
    """Without a package for the scan, building the encoder says what to install."""
    monkeypatch.setattr(selective_scan, "_installed", lambda name: False)
    with pytest.raises(InputError, match=r"igconv\[mamba\]"):
        MambaIR(32, (1,))
