"""The authors' class names, options and checkpoint keys -> our models.

Source: github.com/dslisleedh/IGConv. Their files are BasicSR dictionaries with ``params`` and ``params_ema``;
a ``network_g`` block names the class and its options. Linear maps are 1x1 convolutions there, so (out, in, 1, 1)
becomes (out, in) here. An option that is left out has the default of the authors' constructor.
Their transformer classes swallow unknown options; here an unknown option is an error.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from igconv.errors import InputError, choose
from igconv.models.encoders.attention import CONSTANTS
from igconv.models.official_files import RELEASE_FILES
from igconv.models.state_files import read_weights
from igconv.models.strict import REQUIRED, load_strict, with_defaults
from igconv.models.super_resolver import SuperResolver, build_model


class To(NamedTuple):
    """An option of the authors: our name of it (``None``: it changes nothing at inference) and their default."""

    name: str | None
    default: object


class Only(NamedTuple):
    """An option of the authors of which one value works here."""

    value: object
    default: object


# upscale: the scale is an argument of the forward. return_skip: the training forward returns a second image, for a
# loss that no configuration uses. use_checkpoint: recomputes activations in training.
UNUSED = dict(upscale=To(None, None), return_skip=To(None, False), use_checkpoint=To(None, False))
IGCONV = dict(
    sk_kernel_size=To("kernel_size", 3), implicit_dim=To("hidden_dim", 256), latent_layers=To("num_layers", 4),
    geo_ensemble=To("dihedral", True), **UNUSED,
)  # fmt: skip
PLAIN = dict(geo_ensemble=To("dihedral", False))
MAX_S = dict(max_s=To("max_scale", 4))

EDSR = IGCONV | dict(
    num_in_ch=Only(3, REQUIRED), num_out_ch=Only(3, REQUIRED), num_feat=To("channels", 64), num_block=To("blocks", 16),
    res_scale=To("res_scale", 1.0), img_range=To("img_range", 255.0), rgb_mean=To("mean", (0.4488, 0.4371, 0.4040)),
)  # fmt: skip
# The first four are constants in the authors' class; they are options here for other sizes of the same network.
RCAN = dict(
    n_resgroups=To("groups", 10), n_resblocks=To("blocks", 20), n_feats=To("channels", 64),
    reduction=To("reduction", 16),
    sk_kernel_size=To("kernel_size", 3), implicit_dim=To("hidden_dim", 256), n_layers=To("num_layers", 4),
    geo_ensemble=To("dihedral", True), dysample_kernel_size=To("sample_kernel_size", 3), **MAX_S, **UNUSED,
)  # fmt: skip
RDN = IGCONV | PLAIN | dict(
    G0=To("channels", 64), RDNkSize=To("outer_kernel_size", 3), RDNconfig=To("config", "B"), n_colors=Only(3, 3),
)  # fmt: skip
SMFANET = IGCONV | dict(
    dim=To("channels", 36), n_blocks=To("blocks", 8), ffn_scale=To("ffn_scale", 2), upscaling_factor=To(None, None),
)  # fmt: skip
PLKSR = IGCONV | dict(
    dim=To("channels", REQUIRED), n_blocks=To("blocks", REQUIRED), ccm_type=To("mixer", REQUIRED),
    kernel_size=To("large_kernel_size", REQUIRED), split_ratio=To("split_ratio", REQUIRED), lk_type=To("kind", "PLK"),
    use_max_kernel=To("use_max_kernel", False), sparse_kernels=To("sparse_kernels", (5, 5, 5, 5)),
    sparse_dilations=To("sparse_dilations", (1, 2, 3, 4)), with_idt=To("with_identity", False),
    use_ea=To("attention", True), upscaling_factor=To(None, None),
)  # fmt: skip

GROUPS = IGCONV | dict(
    img_size=To(None, 64), patch_size=Only(1, 1), in_chans=Only(3, 3), embed_dim=To("channels", 96),
    depths=To("depths", (6, 6, 6, 6)), drop_rate=To(None, 0.0), drop_path_rate=To("drop_path", 0.1),
    patch_norm=Only(True, True), img_range=To("img_range", 1.0), resi_connection=To("connection", "1conv"),
    upsampler=To("upsampler", "igconv"),
)  # fmt: skip
MAMBAIR = GROUPS | MAX_S | dict(d_state=To("state_dim", 16), mlp_ratio=To("expand", 2.0))
HIT_SRF = GROUPS | dict(
    embed_dim=To("channels", 60), num_heads=To("heads", (6, 6, 6, 6)), base_win_size=To("base_window", (8, 8)),
    hier_win_ratios=To("window_ratios", (0.5, 1, 2, 4, 6, 8)), mlp_ratio=To("mlp_ratio", 2.0), ape=Only(False, False),
    drop_path_rate=To("drop_path", 0.0), value_drop_rate=To(None, 0.0), upsampler=To("upsampler", "pixelshuffledirect"),
    expansion_factor=To(None, None),  # in the authors' option files, not known to their class
)  # fmt: skip
WINDOWS = GROUPS | dict(
    img_size=To("img_size", 64), num_heads=To("heads", (6, 6, 6, 6)), window_size=To("window", 7),
    mlp_ratio=To("mlp_ratio", 4.0), qkv_bias=To("qkv_bias", True), ape=To("ape", False),
    patch_norm=To("patch_norm", True),
)  # fmt: skip
SWINIR = WINDOWS | dict(
    qk_scale=To("qk_scale", None), drop_rate=To("drop", 0.0), attn_drop_rate=To("attention_drop", 0.0),
)  # fmt: skip
HAT = SWINIR | dict(
    compress_ratio=To("compress", 3), squeeze_factor=To("squeeze", 30), conv_scale=To("conv_scale", 0.01),
    overlap_ratio=To("overlap", 0.5), upsampler=To("upsampler", ""),
)  # fmt: skip
ATD = {k: v for k, v in WINDOWS.items() if k not in ("drop_rate", "drop_path_rate")} | MAX_S | dict(
    embed_dim=To("channels", 90), window_size=To("window", 8), mlp_ratio=To("mlp_ratio", 2.0),
    category_size=To("category_size", 128), num_tokens=To("tokens", 64), reducted_dim=To("token_channels", 4),
    convffn_kernel_size=To("ffn_kernel_size", 5), upsampler=To("upsampler", ""),
)  # fmt: skip


class Class(NamedTuple):
    """A class of the authors: our encoder, the key prefix of its IGConv, its options, and whether it has IGSample.

    ``igsample`` None means that the option ``upsampler`` says it.
    """

    encoder: str
    upsampler_prefix: str
    options: Mapping[str, To | Only]
    igsample: bool | None = None


CLASSES = {
    "EDSRIG": Class("edsr", "upsample.", EDSR | PLAIN, igsample=False),
    "EDSRIGPlus": Class("edsr", "upsample.", EDSR, igsample=True),
    "RCANIGPlus": Class("rcan", "tail.", RCAN, igsample=True),
    "RDNIG": Class("rdn", "UPNet.", RDN, igsample=False),
    "RDNIGPlus": Class("rdn", "UPNet.", RDN | MAX_S, igsample=True),  # without dihedral averaging by default
    "SMFANetIG": Class("smfanet", "to_img.", SMFANET | PLAIN, igsample=False),
    "SMFANetIGPlus": Class("smfanet", "to_img.", SMFANET, igsample=True),
    "PLKSRIGPlus": Class("plksr", "to_rgb.", PLKSR, igsample=True),
    "SwinIRMS": Class("swinir", "upsample.", SWINIR),
    "SRFormer": Class("srformer", "upsample.", SWINIR),
    "HiT_SRF": Class("hit_srf", "upsample.", HIT_SRF),
    "MambaIR": Class("mambair", "upsample.", MAMBAIR),
    "HAT": Class("hat", "upsample.", HAT),
    "ATD": Class("atd", "upsample.", ATD),
}
UPSAMPLERS = {"igconv": False, "igconv+igsample": True}  # option ``upsampler`` -> whether there is an IGSample
RDN_CONFIGS = {"A": (20, 6, 32), "B": (16, 8, 64)}  # blocks D, layers C, growth G


def load_official(checkpoint: str | Path | Mapping, network_g: Mapping | None = None) -> SuperResolver:
    """The authors' model from their checkpoint, in eval mode.

    Args:
        checkpoint: a file (.pth, .safetensors) or a dictionary; ``params_ema`` is preferred, then ``params``,
            then the dictionary itself.
        network_g: the block of that name in the authors' option file (``type`` and its options). It may be left
            out for the release files in `RELEASE_FILES`.

    Raises:
        InputError: unknown class or option, missing, additional or misshapen weights, an unreadable file. The index
            tables and masks that some classes store must be those that the options give.
    """
    is_file = isinstance(checkpoint, str | Path)
    source = checkpoint if is_file else "the checkpoint"
    if network_g is None:
        name = Path(checkpoint).name if is_file else "a dictionary"
        if name not in RELEASE_FILES:
            raise InputError(f"network_g is needed for {name}; it is known only for {', '.join(RELEASE_FILES)}")
        network_g = RELEASE_FILES[name]
    kind = choose(network_g.get("type", ""), CLASSES, "network_g type")
    model = build_official(network_g)
    prefixes = {
        CLASSES[kind].upsampler_prefix: "upsampler.hyper.",
        "skip.convs.": "sampler.hyper.",
        "sub_mean.": "pre.",
        "add_mean.": "post.",
    }
    state = {_renamed(key, prefixes, "encoder."): value for key, value in read_weights(checkpoint).items()}
    stored = model.state_dict()
    tables = {
        key: value for key, value in model.named_buffers() if key not in stored and key.rpartition(".")[2] in CONSTANTS
    }
    load_strict(model, {key: value for key, value in state.items() if key not in tables}, kind, source)
    for key, table in tables.items():
        if key not in state or not torch.equal(state[key].to(table), table):
            reason = "missing" if key not in state else "not what the options give (img_size, window_size)"
            raise InputError(f"{source} does not fit {kind}: {key.removeprefix('encoder.')} is {reason}")
    return model.eval()


def build_official(network_g: Mapping) -> SuperResolver:
    """The model of a ``network_g`` block with fresh weights. Raises InputError as `load_official`."""
    kind = choose(network_g.get("type", ""), CLASSES, "network_g type")
    encoder, _, known, igsample = CLASSES[kind]
    defaults = {name: option.default for name, option in known.items()}
    theirs = with_defaults({k: v for k, v in network_g.items() if k != "type"}, defaults, kind)
    for name, option in known.items():
        if isinstance(option, Only) and theirs[name] != option.value:
            raise InputError(f"{name} of {kind} must be {option.value}, got {theirs[name]!r}")
    ours = {to.name: theirs[name] for name, to in known.items() if isinstance(to, To) and to.name}
    if igsample is None:
        igsample = UPSAMPLERS[choose(ours.pop("upsampler"), UPSAMPLERS, f"upsampler of {kind}")]

    if kind == "RCANIGPlus":
        ours |= dict(sample_hidden_dim=128, sample_num_layers=2)  # whatever IGConv's are
    if kind == "EDSRIGPlus":
        ours["sample_kernel_size"] = 3  # whatever IGConv's is
    if kind == "HiT_SRF":
        ours["dihedral"] = igsample  # whatever geo_ensemble says
    if kind in ("MambaIR", "ATD") and not igsample:
        ours["max_scale"] = 4  # only their IGConv+ gets max_s
    if encoder == "rdn":
        config = ours.pop("config")
        sizes = RDN_CONFIGS[choose(config, RDN_CONFIGS, "RDNconfig")] if isinstance(config, str) else tuple(config)
        if len(sizes) != 3:
            raise InputError(f"RDNconfig is A, B or three numbers (blocks, layers, growth), got {config!r}")
        ours |= dict(zip(("blocks", "layers", "growth"), sizes, strict=True))
    if not igsample:
        ours.pop("sample_kernel_size", None)
    return build_model(encoder, "igconv", scales=(2, 3, 4), igsample=igsample, **ours)


def _renamed(key: str, prefixes: dict[str, str], otherwise: str) -> str:
    for theirs, ours in prefixes.items():
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    return otherwise + key
