"""Networks of one scale become networks of several: the same at their own, better than bicubic elsewhere, on file."""

import pytest
import torch
from small_networks import Plain, trained
from torch import nn

import igconv
from igconv import InputError, build_model
from igconv.cli import main
from igconv.conversion import convert as conversion_module
from igconv.conversion.convert import conversion, network_image
from igconv.conversion.hyperfit import cholesky_solve
from igconv.conversion.sources import opened
from igconv.models.hypernetwork import HyperNetwork

QUICK = dict(crops=32, side=16, hidden_dim=128, num_layers=2)


@pytest.fixture
def photographs(photograph):
    """Uint8 (8, 3, 168, 168): smooth enough that bicubic can be beaten."""
    images = torch.stack([photograph(168, 168, seed) for seed in range(8)]).float()
    return nn.functional.avg_pool2d(images, 3, 1, 1, count_include_pad=False).round().byte()


@pytest.fixture
def folder(tmp_path, photographs, write_png):
    """A folder of photographs, as users have them."""
    for index, image in enumerate(photographs):
        write_png(image, tmp_path / "mine" / f"{index}.png")
    return str(tmp_path / "mine")


@pytest.fixture
def plain(photographs):
    """``plain(scale, **options)``: a trained network that no code here has seen."""
    return lambda scale, **options: trained(Plain(scale, **options), photographs)


def difference(a, b) -> float:
    return float((a - b).detach().abs().max())


@torch.no_grad()
def images_of(model, scale: int) -> torch.Tensor:
    return model(torch.rand(1, 3, 13, 18, generator=torch.Generator().manual_seed(3)), scale)


@pytest.mark.parametrize("image_skip", [False, True])
def test_an_unknown_network_converts(plain, folder, tmp_path, image_skip):
    """Plain convolutions and an SPConv, with or without the enlarged image: its own scale to 1e-3, borders included;
    every scale near its closed form; a file that fits into the network again."""
    net = plain(3, image_skip=image_skip)
    source = opened(net)
    assert (source.scale, source.head is not None, source.encoder.image_skip) == (3, True, image_skip)
    done = conversion(source, (2, 3), images=[folder], **QUICK)
    assert done.fitted
    assert done.errors[-1] < 1e-3
    lr = torch.rand(1, 3, 13, 18)
    with torch.no_grad():
        assert difference(done.model(lr, 3), net(lr)) < 1e-3
        assert difference(done.model.instantiate(3)(lr), net(lr)) < 1e-3
    table = done.table.set_index("scale")
    assert table.network_db[3] == pytest.approx(table.converted_db[3], abs=0.02)
    assert (table.converted_db - table.closed_form_db).abs().max() < 0.02
    assert table.converted_db[2] > table.bicubic_db[2] + 0.5  # a scale that nobody trained it for

    file = tmp_path / "multi.safetensors"
    igconv.save(done.model, file)
    with pytest.raises(InputError, match=r"igconv.load\(path, network\), a Plain"):
        igconv.load(file)
    fresh = Plain(3, image_skip=image_skip)
    assert difference(images_of(igconv.load(file, fresh), 2), images_of(done.model, 2)) < 1e-6


def test_a_planted_function_is_recovered(folder):
    """An IGConv's own kernels as the head of a network, from features that need whitening: the fit finds them again at
    their scale, and the constants of single sub-pixels."""
    torch.manual_seed(3)
    model = build_model("smfanet", "igconv", scales=(2,), channels=8, blocks=1, hidden_dim=32, num_layers=2,
                        initialisation="spconv", bias="subpixel")  # fmt: skip
    fixed = build_model("smfanet", "spconv", scales=(2,), channels=8, blocks=1)
    fixed.encoder.load_state_dict(model.encoder.state_dict())
    with torch.no_grad():
        fixed.upsampler.heads["2"][0].weight.copy_(model.upsampler.kernel_bank(2))
        fixed.upsampler.heads["2"][0].bias.copy_(model.upsampler.constants(2) + torch.linspace(0, 1, 12))
    done = conversion(opened(fixed), (2,), images=[folder], **QUICK)
    kernels, truth = done.model.upsampler.kernel_bank(2), model.upsampler.kernel_bank(2)
    assert difference(kernels, truth) < 1e-3 * float(truth.abs().max())
    assert difference(done.model.upsampler.constants(2), fixed.upsampler.heads["2"][0].bias) < 1e-4
    assert done.model.config["encoder"] == "smfanet"


def test_more_scales_than_kernels_can_follow(plain, folder):
    """With 87 targets and 64 latents per entry the images decide: near the closed form at every scale, the network's
    own kept to 1e-3."""
    net = plain(3)
    done = conversion(opened(net), (2, 3, 4), images=[folder], ridge=1e-3, **QUICK | dict(hidden_dim=32))
    assert done.errors[-1] > 1e-3
    lr = torch.rand(1, 3, 13, 18)
    with torch.no_grad():
        assert difference(done.model(lr, 3), net(lr)) < 1e-3
    assert (done.table.closed_form_db - done.table.converted_db).max() < 0.1


def test_same_seed_same_model_and_the_callers_generator_stays(plain, folder):
    torch.manual_seed(5)
    net = plain(2)
    before = torch.get_rng_state()
    models = [conversion(opened(net), (2, 3), images=[folder], seed=seed, **QUICK).model for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    one, same, other = (images_of(model, 3) for model in models)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_a_spandrel_network_comes_back_from_its_file(folder, tmp_path, capsys):
    """Compact from a .pth: image skip kept; the file alone holds what rebuilds it, for load and instantiate."""
    from spandrel.architectures.Compact import Compact

    torch.manual_seed(0)
    net = Compact(num_feat=8, num_conv=1, upscale=2, act_type="prelu").eval()
    with torch.no_grad():
        net.body[-1].weight *= 0.1
        net.body[-1].bias *= 0.1
    torch.save({"params": net.state_dict()}, tmp_path / "x2.pth")
    file = tmp_path / "multi.safetensors"
    options = ["--scales", "2", "3", "--images", folder, "--crops", "32"]
    words = ["convert", str(tmp_path / "x2.pth"), "-o", str(file), *options]
    assert main(words) == 0
    assert "bicubic_db" in capsys.readouterr().out
    model, lr = igconv.load(file), torch.rand(1, 3, 11, 14)
    with torch.no_grad():
        assert difference(model(lr, 2), net(lr)) < 1e-3
        assert difference(model.instantiate(3)(lr), model(lr, 3)) < 1e-5
    assert main(words) == 2
    assert "exists" in capsys.readouterr().err


def test_a_head_of_several_layers_is_fitted(folder):
    """SPConv+ cannot be one convolution: fitted to the network's own images, which need no HR."""
    fixed = build_model("edsr", "spconv+", scales=(2,), channels=8, blocks=1)
    source = opened(fixed)
    assert source.head is None
    done = conversion(source, (2, 3), images=[folder], target="network", **QUICK)
    assert done.fitted
    with torch.no_grad():
        lr = torch.rand(2, 3, 16, 16)
        off = (done.model(lr, 2) - fixed(lr, 2)).square().mean() / fixed(lr, 2).var()
        assert network_image(source, lr, 3).shape == (2, 3, 48, 48)
    assert off < 0.2


def test_a_fit_that_fails_keeps_the_closed_form(plain, folder, monkeypatch, capsys):
    monkeypatch.setattr(conversion_module.hyperfit, "fit", lambda upsampler, *rest: [float("nan")])
    done = conversion(opened(plain(2)), (2, 3), images=[folder], **QUICK)
    assert not done.fitted
    assert "did not converge" in capsys.readouterr().out
    assert (done.table.converted_db == done.table.closed_form_db).all()
    assert images_of(done.model, 3).shape == (1, 3, 39, 54)


def test_tuning_goes_on(plain, folder, results_root):
    model = igconv.convert(plain(2), (2, 3), images=[folder], crops=32, tune=2)
    assert images_of(model, 3).isfinite().all()
    assert list((results_root / "conversion" / "runs").iterdir())


class Twice(nn.Module):
    """Enlarges by interpolation: no head."""

    def forward(self, x):
        return nn.functional.interpolate(x, scale_factor=2)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (dict(scales=(1, 2)), "2 to 32, got 1"),
        (dict(scales=(2, 33)), "2 to 32, got 33"),
        (dict(scales=()), "at least one"),
        (dict(crops=0), "crops"),
        (dict(crops=1, side=4), "1 crops are too few for 8 channels; give at least 19"),
        (dict(target="lr"), "target"),
        (dict(images="folder"), "must be a list"),
        (dict(images=["nowhere"]), "nowhere"),
        (dict(side=96), "no training image fits"),
    ],
)
def test_bad_arguments(plain, folder, change, named):
    with pytest.raises(InputError, match=named) as error:
        conversion(opened(plain(2)), **dict(scales=(2, 3), images=[folder]) | QUICK | change)
    assert "\n" not in str(error.value)


def test_what_cannot_be_converted(tiny_model, tmp_path, plain, write_png, photograph):
    (tmp_path / "bad.pth").write_bytes(b"PK no weights")
    for given, named in [
        (tiny_model("igconv"), "already is multi-scale"),
        (build_model("edsr_tiny", "spconv", scales=(2, 3)), "already is multi-scale"),
        (Twice(), "head of Twice"),
        (tmp_path / "none.pth", "no file"),
        ("no_such_weights", "smfanet_plus_df2k_x4"),
        (tmp_path / "bad.pth", "bad.pth"),
        (3, "takes a file"),
    ]:
        with pytest.raises(InputError, match=named) as error:
            igconv.convert(given)
        assert "\n" not in str(error.value)
    write_png(photograph(96, 96), tmp_path / "one" / "a.png")
    with pytest.raises(InputError, match="1 image is too few"):
        conversion(opened(plain(2)), (2,), images=[str(tmp_path / "one")], **QUICK)


def test_constant_features(folder):
    net = Plain(2).eval()
    with torch.no_grad():
        for conv in (net.fea_conv, net.body[1]):
            conv.weight.zero_()
    with pytest.raises(InputError, match="constant features"):
        conversion(opened(net), (2,), images=[folder], **QUICK)


def test_fitted_hyper_networks_are_the_papers(plain, folder):
    """No table of kernels behind it: the weights are those of IGConv of its width, a basis, and one entry more."""
    model = conversion(opened(plain(2)), (2,), images=[folder], **QUICK).model
    expected = HyperNetwork(8, 3, hidden_dim=128, num_layers=2).state_dict().keys()
    names = {name.removeprefix("upsampler.") for name in model.state_dict() if name.startswith("upsampler.")}
    extra = {"basis", "bias", "bias_freq", "bias_amplitude"}
    assert names == {f"hyper.{name}" for name in expected} | extra


def test_symmetric_kernels_beside_the_bilinear_image(plain, folder):
    """IGConv+ by conversion: kernels are their own flips and rotations, the sampler starts as bilinear interpolation,
    and both together are near their closed form, well above bicubic."""
    done = conversion(opened(plain(2)), (2, 3), images=[folder], dihedral=True, igsample=True, **QUICK)
    for bank in (done.model.upsampler.kernel_bank(2), closed_kernels(done, 3)):
        assert torch.allclose(bank, bank.transpose(-1, -2), atol=1e-5)
        assert torch.allclose(bank, bank.flip(-1), atol=1e-5)
    lr = torch.rand(1, 3, 13, 18)
    with torch.no_grad():
        sampled = done.model.sampler(lr, done.model.encode(lr)[1], 3)
    assert difference(sampled, nn.functional.interpolate(lr, scale_factor=3, mode="bilinear")) < 1e-5
    assert (done.table.converted_db - done.table.closed_form_db).abs().max() < 0.02
    assert (done.table.converted_db > done.table.bicubic_db).all()


def closed_kernels(done, scale: int) -> torch.Tensor:
    return done.closed[scale][:-1].T.unflatten(1, (-1, 3, 3))


def test_a_system_that_float32_cannot_factorise_is_no_step():
    """A singular system among others: they are solved, it gives 0 instead of an error."""
    good, bad = torch.eye(3) * 2, -torch.eye(3)
    found = cholesky_solve(torch.stack([good, bad]), torch.ones(2, 3))
    assert torch.equal(found, torch.stack([torch.full((3,), 0.5), torch.zeros(3)]))


def test_a_range_of_255_changes_nothing(folder):
    """The same network with features and output 255 times as large: crops weigh what their images say."""
    nets = []
    for factor in (1.0, 255.0):
        torch.manual_seed(0)
        net = build_model("edsr", "spconv", scales=(2,), channels=8, blocks=1, img_range=factor).eval()
        with torch.no_grad():
            net.encoder.conv_first.weight.div_(factor)
        nets.append(net)
    tables = [conversion(opened(net), (3,), images=[folder], **QUICK).table for net in nets]
    assert (tables[0].closed_form_db - tables[1].closed_form_db).abs().max() < 1e-3


def test_the_networks_own_images_as_target_and_more_kernels_than_latents():
    """The own scale's kernels have no error then, which must not outweigh all others."""
    torch.manual_seed(0)
    source = opened(build_model("edsr", "spconv", scales=(3,), channels=8, blocks=1))
    assert conversion(source, (3, 4, 6), target="network", **QUICK | dict(crops=64, hidden_dim=64)).fitted


def test_what_cannot_be_is_said_before_the_work(plain, folder, monkeypatch, tmp_path, photographs, write_png):
    """A held-out image too small, a network that enlarges nothing, what is no list, a seed no generator takes."""
    monkeypatch.setattr(conversion_module, "gathered", lambda *_: pytest.fail("work was begun"))
    write_png(photographs[0, :, :30, :30], tmp_path / "mine" / "7.png")
    with pytest.raises(InputError, match=r"no held-out image fits a patch of 32 px \(x2 of 16\)"):
        conversion(opened(plain(3)), (2, 3), images=[folder], **QUICK)
    same = build_model("edsr", "spconv", scales=(1,), channels=4, blocks=1)
    with pytest.raises(InputError, match="is a network of x1"):
        conversion(opened(same), (2,), images=[folder], target="network", **QUICK)
    with pytest.raises(InputError, match="images must be a list"):
        igconv.convert(plain(3), (2,), images=5)
    with pytest.raises(InputError, match="seed must be an integer of 0 to"):
        igconv.convert(plain(3), (2,), seed=10**30)


@pytest.mark.parametrize("igsample", [False, True])
def test_a_fit_that_is_no_number_keeps_the_closed_form_or_says_so(plain, folder, monkeypatch, igsample):
    def broken(upsampler, *_):
        with torch.no_grad():
            upsampler.hyper.freq.fill_(torch.nan)
        return [1.0]

    monkeypatch.setattr(conversion_module.hyperfit, "fit", broken)
    options = dict(images=[folder], dihedral=igsample, igsample=igsample, **QUICK)
    if igsample:
        with pytest.raises(InputError, match="did not converge"):
            conversion(opened(plain(3)), (2,), **options)
    else:
        done = conversion(opened(plain(3)), (2,), **options)
        assert not done.fitted
        assert images_of(done.model, 2).isfinite().all()


def test_names_that_are_no_numbers_are_not_counted(tmp_path):
    """A file with more than SMFANet's weights is refused, not tripped over."""
    model = build_model("smfanet", "spconv", scales=(2,), channels=8, blocks=1)
    state = {name.removeprefix("encoder."): value for name, value in model.state_dict().items()}
    state = {name.replace("upsampler.heads.2.0.", "to_img.0."): value for name, value in state.items()}
    assert opened(_file(state, tmp_path)).scale == 2
    with pytest.raises(InputError):
        opened(_file(state | {"feats.norm.weight": torch.ones(8)}, tmp_path))


def _file(state: dict, folder) -> str:
    torch.save(state, folder / "net.pth")
    return str(folder / "net.pth")
