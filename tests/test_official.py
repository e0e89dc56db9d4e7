"""The authors' modules, networks and learning rates: reference vectors, and the loader's edges."""

import re
from dataclasses import replace

import pytest
import torch

from igconv import IGConv, IGSample, InputError, load_official
from igconv.study import Run, learning_rate


def close(ours, theirs, entry):
    torch.testing.assert_close(ours, theirs, **entry["tol"])


def state_of(tensors: dict) -> dict:
    return {k.removeprefix("state."): v for k, v in tensors.items() if k.startswith("state.")}


def check_gradients(module, tensors: dict, scale: int, prefix: str, entry) -> None:
    """Every parameter has its reference gradient, within the tolerance relative to the gradient's size."""
    names = [n for n, _ in module.hyper.named_parameters()]
    assert len(names) == sum(k.startswith(f"grad.x{scale}.{prefix}") for k in tensors) - (prefix == "")
    for name, p in module.hyper.named_parameters():
        expected = tensors[f"grad.x{scale}.{prefix}{name}"].reshape(p.shape)
        tolerance = entry["tol"]["atol"] * max(1, expected.abs().max().item())
        torch.testing.assert_close(p.grad, expected, atol=tolerance, rtol=entry["tol"]["rtol"], msg=name)


@pytest.mark.reference
@pytest.mark.parametrize("scale", [2, 3, 4, 5, 8])
def test_igconv_plain(reference, scale):
    """Kernels, images, stored weights, the third argument, and the gradients of every parameter and the features."""
    entry, tensors = reference("igconv_plain")
    module = IGConv.from_official(state_of(tensors), **entry["kwargs"])
    x = tensors["in.x"].requires_grad_()
    close(module.kernel_bank(scale), tensors[f"out.kernel.x{scale}"], entry)
    sr = module(x, scale)
    close(sr, tensors[f"out.x{scale}"], entry)
    close(next(module.instantiate(scale).parameters()), tensors[f"out.inst_weight.x{scale}"], entry)
    if scale == 2:
        close(module(x, 2, tensors["in.add_val.x2"]), tensors["out.add_val.x2"], entry)
    if scale in (2, 3):
        (sr * tensors[f"in.cotangent.x{scale}"]).sum().backward()
        close(x.grad, tensors[f"grad.x{scale}.x"], entry)
        check_gradients(module, tensors, scale, "", entry)


@pytest.mark.reference
@pytest.mark.parametrize("scale", [2, 3, 4, 5, 8])
def test_igsample_geo(reference, scale):
    """Kernels before averaging, fields after it, images, gradients."""
    entry, tensors = reference("igsample_geo")
    module = IGSample.from_official(state_of(tensors), **entry["kwargs"])
    lr, features = tensors["in.x"], tensors["in.feat"].requires_grad_()
    module.hyper.dihedral = False
    close(module.kernel_bank(scale), tensors[f"out.kernel.x{scale}"], entry)
    module.hyper.dihedral = True
    if scale <= 4:
        fields = torch.nn.functional.conv2d(features, module.kernel_bank(scale), padding=1)
        for ours, name in zip(fields.chunk(2, dim=1), ("offset", "scope"), strict=True):
            close(ours, tensors[f"out.{name}.x{scale}"], entry)
    sr = module(lr, features, scale)
    close(sr, tensors[f"out.x{scale}"], entry)
    close(module.instantiate(scale)(lr, features), tensors[f"out.x{scale}"], entry)
    if scale in (2, 3):
        (sr * tensors[f"in.cotangent.x{scale}"]).sum().backward()
        close(features.grad, tensors[f"grad.x{scale}.feat"], entry)
        check_gradients(module, tensors, scale, "convs.", entry)


@pytest.mark.reference
@pytest.mark.parametrize("case", ["edsr_ig_plus", "smfanet_ig"])
@pytest.mark.parametrize("wrapped", ["bare", "params", "params_ema", "file"])
def test_networks(reference, case, wrapped, tmp_path):
    """Whole networks through `load_official`, however the weights are wrapped; and their instantiated forms."""
    entry, tensors = reference(case)
    state = state_of(tensors)
    noise = {k: torch.randn_like(v) for k, v in state.items()}
    checkpoint = {"bare": state, "params": {"params": state}, "params_ema": {"params": noise, "params_ema": state},
                  "file": tmp_path / "net.pth"}[wrapped]  # fmt: skip
    if wrapped == "file":
        torch.save({"params": noise, "params_ema": state}, checkpoint)
    model = load_official(checkpoint, entry["network_g"])
    assert not model.training
    assert sum(p.numel() for p in model.parameters()) == entry["params"]
    with torch.no_grad():
        for scale in entry["scales"]:
            close(model(tensors["in.x"], scale), tensors[f"out.x{scale}"], entry)
            close(model.instantiate(scale)(tensors["in.x"]), tensors[f"out.x{scale}"], entry)
        if "out_train.x2" in tensors:
            close(model.train()(tensors["in.x"], 2), tensors["out_train.x2"], entry)


SCHEDULES = {
    "cosine_restart periods=[1000] eta_min=1e-6 lr=1e-3": dict(steps=1000, final_rate=1e-6),
    "multistep [200,300] gamma .5 lr=1e-3": dict(steps=400, milestones=(200, 300)),
    "multistep [200] gamma .5 warmup 50 lr=1e-3": dict(steps=400, milestones=(200,), warmup=50),
}


@pytest.mark.reference
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules(reference, name):
    """Learning rates of the authors' framework at the listed iterations, to 1e-12 relative."""
    values = reference()["schedulers"]["values"]
    assert set(values) == set(SCHEDULES)
    run = replace(Run("paper", "edsr", "igconv", learning_rate=1e-3), **SCHEDULES[name])
    for iteration, expected in values[name].items():
        assert learning_rate(run, int(iteration) - 1) == pytest.approx(expected, rel=1e-12, abs=0), iteration


# ---- the loader's edges, without reference vectors

EDSR_G = dict(type="EDSRIGPlus", num_in_ch=3, num_out_ch=3, num_feat=8, num_block=1, implicit_dim=8, latent_layers=2)


@pytest.fixture
def official_state():
    """A state dict under the authors' names: our own weights, renamed and reshaped back to 1x1 convolutions."""
    from igconv import build_model

    model = build_model("edsr", "igconv+", scales=(2,), channels=8, blocks=1, hidden_dim=8, num_layers=2)
    prefixes = {"encoder.": "", "upsampler.hyper.": "upsample.", "sampler.hyper.": "skip.convs."}
    state = {}
    for key, value in model.state_dict().items():
        ours = next(p for p in prefixes if key.startswith(p))
        state[prefixes[ours] + key.removeprefix(ours)] = value[..., None, None] if value.ndim == 2 else value
    return state


def test_defaults_are_the_authors(official_state):
    """Options left out have the authors' class defaults: img_range 255 for EDSR, dihedral averaging on for Plus."""
    model = load_official(official_state, EDSR_G)
    assert model.pre.factor == 255.0
    assert model.upsampler.hyper.dihedral
    assert model.sampler.hyper.dihedral
    plain = {k: v for k, v in official_state.items() if not k.startswith("skip.")}
    model = load_official(plain, EDSR_G | {"type": "EDSRIG"})
    assert not model.upsampler.hyper.dihedral
    assert model.sampler is None


@pytest.mark.parametrize(("network_g", "named"), [
    (EDSR_G | {"type": "EDSR"}, "EDSRIGPlus"),
    ({k: v for k, v in EDSR_G.items() if k != "type"}, "EDSRIGPlus"),
    (EDSR_G | {"num_feats": 8}, "num_feat"),
    ({k: v for k, v in EDSR_G.items() if k != "num_in_ch"}, "num_in_ch"),
    (EDSR_G | {"num_in_ch": 1}, "num_in_ch"),
    (EDSR_G | {"num_feat": 9}, "shape"),
    (EDSR_G | {"num_block": 2}, "missing"),
    (EDSR_G | {"type": "EDSRIG"}, "additional"),
    (None, "network_g"),
], ids=lambda value: value if isinstance(value, str) else "")  # fmt: skip
def test_what_does_not_fit_is_refused(official_state, network_g, named):
    """Unknown type or option, missing option, weights of another model: one line with the culprit."""
    with pytest.raises(InputError, match=re.escape(named)) as error:
        load_official(official_state, network_g)
    assert "\n" not in str(error.value)


def test_module_prefix_is_removed(official_state):
    """Weights saved from a data-parallel wrapper."""
    load_official({f"module.{k}": v for k, v in official_state.items()}, EDSR_G)


def test_release_files_are_known_by_name(tmp_path):
    """A release file needs no network_g; its name finds it and the error is about the weights."""
    path = tmp_path / "EDSR_IGConvPlus_DIV2K.pth"
    torch.save({"params_ema": {"conv_first.weight": torch.zeros(1)}}, path)
    with pytest.raises(InputError, match="missing"):
        load_official(path)
    with pytest.raises(InputError, match=r"other\.pth"):
        load_official(tmp_path / "other.pth")


@pytest.mark.parametrize(("cls", "kwargs"), [(IGConv, dict(dim=8)), (IGSample, {}), (IGConv, dict(dims=8))])
def test_bare_modules_check_their_options(cls, kwargs):
    """Required and unknown options of the authors' constructors."""
    with pytest.raises(InputError):
        cls.from_official({}, **kwargs)
