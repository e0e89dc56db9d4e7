"""The authors' modules, networks and learning rates: reference vectors, and the loader's edges."""

import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from igconv import IGConv, IGSample, InputError, load_official
from igconv.models.official import CLASSES, RELEASE_FILES, build_official
from igconv.study.runs import Run, learning_rate


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
    """Kernels, images, stored weights, and the gradients of every parameter and the features. The third argument of
    theirs, which none of their configurations gives, is a sum after the shuffle."""
    entry, tensors = reference("igconv_plain")
    module = IGConv.from_official(state_of(tensors), **entry["kwargs"])
    x = tensors["in.x"].requires_grad_()
    close(module.kernel_bank(scale), tensors[f"out.kernel.x{scale}"], entry)
    sr = module(x, scale)
    close(sr, tensors[f"out.x{scale}"], entry)
    close(next(module.instantiate(scale).parameters()), tensors[f"out.inst_weight.x{scale}"], entry)
    if scale == 2:
        close(sr + F.pixel_shuffle(tensors["in.add_val.x2"], 2), tensors["out.add_val.x2"], entry)
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


CASES = ("edsr_ig_plus", "rcan_ig_plus", "rdn_ig", "smfanet_ig", "plksr_ig_plus", "swinir_ig", "srformer_ig",
         "hit_srf_ig", "hat_ig_plus", "atd_ig_plus", "mambair_ig")  # fmt: skip


def needs(case: str) -> None:
    """Skip what an optional extra is missing for."""
    if case.startswith("srformer"):
        pytest.importorskip("spandrel_extra_arches", reason='extra "srformer"')
    if case.startswith("mambair"):
        pytest.importorskip("mambapy", reason='extra "mamba"')


@pytest.mark.reference
def test_every_network_has_its_test(reference):
    """A new case in the folder is not forgotten."""
    assert {case for case, entry in reference()["cases"].items() if "network_g" in entry} == set(CASES)


@pytest.mark.reference
@pytest.mark.parametrize("case", CASES)
def test_networks(reference, case):
    """Whole networks through `load_official`, with and without recorded gradients (attention is fused without)."""
    needs(case)
    entry, tensors = reference(case)
    model = load_official(state_of(tensors), entry["network_g"])
    assert not model.training
    assert sum(p.numel() for p in model.parameters()) == entry["params"]
    for scale in entry["scales"]:
        close(model(tensors["in.x"], scale), tensors[f"out.x{scale}"], entry)
        with torch.no_grad():
            close(model(tensors["in.x"], scale), tensors[f"out.x{scale}"], entry)
            close(model.instantiate(scale)(tensors["in.x"]), tensors[f"out.x{scale}"], entry)


@pytest.mark.reference
@pytest.mark.parametrize("case", CASES)
def test_every_key_counts(reference, case):
    """Without a key, with one more, with one of another shape: one line that names it. Also index tables and masks."""
    needs(case)
    entry, tensors = reference(case)
    state = state_of(tensors)
    tables = [key for key in state if key.endswith(("mask", "index", "_SA", "_OCA"))]
    for key in [min(state), max(state), *tables[:1]]:
        for wrong in ({k: v for k, v in state.items() if k != key}, state | {key + "_more": state[key]},
                      state | {key: state[key].repeat_interleave(2, 0)}):  # fmt: skip
            with pytest.raises(InputError, match=re.escape(key.split(".")[-1])) as error:
                load_official(wrong, entry["network_g"])
            assert "\n" not in str(error.value)


@pytest.mark.reference
@pytest.mark.parametrize("case", ["edsr_ig_plus", "smfanet_ig"])
@pytest.mark.parametrize("wrapped", ["bare", "params", "params_ema", "file"])
def test_wrapped_weights(reference, case, wrapped, tmp_path):
    """However the weights are wrapped."""
    entry, tensors = reference(case)
    state = state_of(tensors)
    noise = {k: torch.randn_like(v) for k, v in state.items()}
    checkpoint = {"bare": state, "params": {"params": state}, "params_ema": {"params": noise, "params_ema": state},
                  "file": tmp_path / "net.pth"}[wrapped]  # fmt: skip
    if wrapped == "file":
        torch.save({"params": noise, "params_ema": state}, checkpoint)
    model = load_official(checkpoint, entry["network_g"])
    with torch.no_grad():
        close(model(tensors["in.x"], 2), tensors["out.x2"], entry)


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


def test_every_class_has_a_release_file_or_is_its_plain_form():
    """The table of files names classes and options that exist."""
    assert {g["type"] for g in RELEASE_FILES.values()} == set(CLASSES) - {"RDNIG"}


RELEASED = {  # parameters in millions: FACTS section 5; plain IGConv: encoder and IGConv
    "EDSR_IGConv_DIV2K": 39.806, "EDSR_IGConvPlus_DIV2K": 41.054, "RCAN_IGConvPlus_DIV2K_S8": 16.217,
    "RDN_IGConvPlus_DIV2K": 22.896, "SMFANet_IGConv_DF2K": 0.960, "SMFANet_IGConvPlus_DF2K": 1.250,
    "PLKSR_IGConvPlus_DF2K": 8.280, "SwinIR_IGConvPlus_DIV2K": 13.490, "SRFormer_IGConv_DF2K": 11.217,
    "SRFormer_IGConvPlus_DF2K": 12.115, "HiT_SRF_IGConv_DF2K": 1.381, "HiT_SRF_IGConvPlus_DF2K": 1.725,
    "MambaIR_IGConv_DF2K": 21.262, "MambaIR_IGConvPlus_DF2K": 22.160, "MambaIR_IGConvPlus_DFL_S8": 22.160,
    "MambaIR_Light_IGConv_DIV2K": 2.157, "MambaIR_Light_IGConvPlus_DIV2K": 2.501,
    "HAT_IGPlus_DF2K_Finetuning": 22.363, "ATD_IGPlus_DF2K_LargePatch_Finetuning": 22.110,
}  # fmt: skip


@pytest.fixture
def without_random(monkeypatch):
    """Full-size networks without drawing their weights: only sizes matter, and it is faster."""
    for name in ("trunc_normal_", "kaiming_uniform_", "kaiming_normal_", "uniform_"):
        monkeypatch.setattr(nn.init, name, lambda tensor, *_, **__: tensor)


@pytest.mark.parametrize("name", RELEASE_FILES)
def test_release_files_are_the_published_models(name, without_random):
    """Size, dihedral averaging and IGSample with "Plus" in the name, phase clamp 8 with "S8"."""
    needs(name.lower())
    model = build_official(RELEASE_FILES[name])
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 3) == RELEASED[name.removesuffix(".pth")]
    assert model.upsampler.hyper.dihedral == (model.sampler is not None) == ("Plus" in name)
    assert model.upsampler.hyper.max_scale == (8 if "S8" in name else 4)
    assert set(RELEASED) == {file.removesuffix(".pth") for file in RELEASE_FILES}


GROUPS = dict(embed_dim=24, depths=[1], num_heads=[2], implicit_dim=8, latent_layers=2)
WINDOWS = GROUPS | dict(window_size=4, img_size=8)


@pytest.mark.parametrize(("network_g", "expected"), [
    (dict(type="RDNIGPlus", RDNconfig=[1, 1, 4], G0=4), dict(dihedral=False, sample_hidden=128, max_scale=4)),
    (dict(type="RDNIGPlus", RDNconfig=[1, 1, 4], G0=4, max_s=8, geo_ensemble=True), dict(dihedral=True, max_scale=8)),
    (dict(type="RCANIGPlus", n_resgroups=1, n_resblocks=1, n_feats=4, reduction=2, implicit_dim=16, n_layers=3,
          dysample_kernel_size=5, max_s=8, upscale=2),
     dict(sample_hidden=128, sample_layers=2, sample_kernel=5, kernel=3, hidden=16, max_scale=8)),
    (EDSR_G | dict(sk_kernel_size=5), dict(kernel=5, sample_kernel=3)),
    (dict(type="PLKSRIGPlus", dim=8, n_blocks=1, ccm_type="CCM", kernel_size=7, split_ratio=0.5, sk_kernel_size=5,
          geo_ensemble=False), dict(kernel=5, sample_kernel=5, dihedral=False)),
    (dict(type="SwinIRMS", **WINDOWS), dict(dihedral=True, sampler=False, max_scale=4)),
    (dict(type="SwinIRMS", **WINDOWS, upsampler="igconv+igsample", geo_ensemble=False, return_skip=False),
     dict(dihedral=False, sampler=True)),
    (dict(type="HAT", **WINDOWS, squeeze_factor=6, upsampler="igconv", upscale=3), dict(dihedral=True, sampler=False)),
    (dict(type="ATD", **WINDOWS, upsampler="igconv", max_s=8), dict(max_scale=4)),
    (dict(type="ATD", **WINDOWS, upsampler="igconv+igsample", max_s=8, use_checkpoint=True), dict(max_scale=8)),
    (dict(type="HiT_SRF", **GROUPS, upsampler="igconv", geo_ensemble=True, expansion_factor=2), dict(dihedral=False)),
    (dict(type="HiT_SRF", **GROUPS, upsampler="igconv+igsample", geo_ensemble=False), dict(dihedral=True)),
], ids=lambda value: value.get("type", "") if isinstance(value, dict) else "")  # fmt: skip
def test_options_and_quirks(network_g, expected):
    """What the authors' classes make of their options (FACTS sections 4 and 5b)."""
    model = build_official(network_g)
    hyper, sampler = model.upsampler.hyper, model.sampler
    found = dict(dihedral=hyper.dihedral, max_scale=hyper.max_scale, kernel=hyper.kernel_size,
                 hidden=hyper.freq.shape[1], sampler=sampler is not None)  # fmt: skip
    if sampler:
        found |= dict(sample_hidden=sampler.hyper.freq.shape[1] // 2, sample_kernel=sampler.hyper.kernel_size,
                      sample_layers=(len(sampler.hyper.query_kernel) - 1) // 2)  # fmt: skip
        assert (sampler.hyper.dihedral, sampler.hyper.max_scale) == (hyper.dihedral, hyper.max_scale)
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize(("network_g", "named"), [
    (dict(type="SwinIRMS", **WINDOWS, upsampler="pixelshuffle"), "igconv+igsample"),
    (dict(type="HAT", **WINDOWS), "igconv+igsample"),  # its default is no upsampler
    (dict(type="SwinIRMS", **WINDOWS, max_s=8), "max_s"),
    (dict(type="SwinIRMS", **WINDOWS, in_chans=1), "in_chans"),
    (dict(type="SwinIRMS", **WINDOWS, patch_size=2), "patch_size"),
    (dict(type="SwinIRMS", **(WINDOWS | dict(depths=[1, 1]))), "depths"),
    (dict(type="SwinIRMS", **WINDOWS, resi_connection="2conv"), "3conv"),
    (dict(type="HiT_SRF", **GROUPS), "pixelshuffledirect"),
    (dict(type="MambaIR", embed_dim=24, depths=[1], qkv_bias=True), "qkv_bias"),
    (dict(type="RDNIG", RDNconfig="C"), "A, B"),
    (dict(type="RDNIG", RDNconfig=[3, 3]), "RDNconfig"),
    (dict(type="PLKSRIGPlus", dim=8), "n_blocks"),
    (dict(type="PLKSRIGPlus", dim=8, n_blocks=1, ccm_type="XCM", kernel_size=7, split_ratio=0.5), "DCCM"),
    (dict(type="SMFANetIG", max_s=8), "max_s"),
    (dict(type="SwinIR"), "SwinIRMS"),
], ids=lambda value: value if isinstance(value, str) else "")  # fmt: skip
def test_impossible_options_are_one_line(network_g, named):
    """The option and what is allowed, although the authors' transformers would swallow it."""
    with pytest.raises(InputError, match=re.escape(named)) as error:
        build_official(network_g)
    assert "\n" not in str(error.value)


def test_pickles_with_code_are_refused(tmp_path):
    """Nothing in a checkpoint is run."""
    torch.save({"params": {"weight": torch.zeros(1)}, "hook": Run}, tmp_path / "EDSR_IGConv_DIV2K.pth")
    with pytest.raises(InputError, match="code"):
        load_official(tmp_path / "EDSR_IGConv_DIV2K.pth")


@pytest.mark.parametrize(("cls", "kwargs"), [(IGConv, dict(dim=8)), (IGSample, {}), (IGConv, dict(dims=8))])
def test_bare_modules_check_their_options(cls, kwargs):
    """Required and unknown options of the authors' constructors."""
    with pytest.raises(InputError):
        cls.from_official({}, **kwargs)
