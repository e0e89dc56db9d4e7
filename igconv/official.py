"""The authors' class names, options and checkpoint keys -> our models.

Source: github.com/dslisleedh/IGConv. Their files are BasicSR dictionaries with ``params`` and ``params_ema``;
a ``network_g`` block names the class and its options. Linear maps are 1x1 convolutions there, so (out, in, 1, 1)
becomes (out, in) here. An option that is left out has the default of the authors' constructor.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from igconv.checkpoints import read_weights
from igconv.errors import InputError, choose
from igconv.model import SuperResolver, build_model
from igconv.strict import REQUIRED, load_strict, with_defaults

# option -> default. Options that change nothing at inference are accepted and not used: `return_skip` makes the
# training forward return a second image for a loss no configuration uses.
EDSR_IG = dict(num_in_ch=REQUIRED, num_out_ch=REQUIRED, upscale=None, num_feat=64, num_block=16, res_scale=1.0,
               img_range=255.0, rgb_mean=(0.4488, 0.4371, 0.4040), sk_kernel_size=3, implicit_dim=256,
               latent_layers=4, geo_ensemble=False)  # fmt: skip
SMFANET_IG = dict(dim=36, n_blocks=8, ffn_scale=2, upscale=None, upscaling_factor=None, sk_kernel_size=3,
                  implicit_dim=256, latent_layers=4, geo_ensemble=False)  # fmt: skip
PLUS = dict(geo_ensemble=True, return_skip=True)


def _hyper_options(o: dict, plus: bool) -> dict:
    options = dict(kernel_size=o["sk_kernel_size"], hidden_dim=o["implicit_dim"], num_layers=o["latent_layers"],
                   dihedral=o["geo_ensemble"], igsample=plus)  # fmt: skip
    if plus:
        options |= dict(sample_hidden_dim=o["implicit_dim"] // 2, sample_num_layers=o["latent_layers"] // 2)
    return options


def _edsr(o: dict, plus: bool) -> SuperResolver:
    if (o["num_in_ch"], o["num_out_ch"]) != (3, 3):
        raise InputError(f"num_in_ch and num_out_ch must be 3, got {o['num_in_ch']} and {o['num_out_ch']}")
    encoder = dict(channels=o["num_feat"], blocks=o["num_block"], res_scale=o["res_scale"],
                   img_range=o["img_range"], mean=tuple(o["rgb_mean"]))  # fmt: skip
    return build_model("edsr", "igconv", scales=(2, 3, 4), **encoder, **_hyper_options(o, plus))


def _smfanet(o: dict, plus: bool) -> SuperResolver:
    encoder = dict(channels=o["dim"], blocks=o["n_blocks"], ffn_scale=o["ffn_scale"])
    return build_model("smfanet", "igconv", scales=(2, 3, 4), **encoder, **_hyper_options(o, plus))


# class -> (options and defaults, constructor, key prefix of the upsampler); IGSample is `skip.convs` everywhere.
CLASSES: dict[str, tuple[dict, Callable[[dict], SuperResolver], str]] = {
    "EDSRIG": (EDSR_IG, lambda o: _edsr(o, plus=False), "upsample."),
    "EDSRIGPlus": (EDSR_IG | PLUS, lambda o: _edsr(o, plus=True), "upsample."),
    "SMFANetIG": (SMFANET_IG, lambda o: _smfanet(o, plus=False), "to_img."),
    "SMFANetIGPlus": (SMFANET_IG | PLUS, lambda o: _smfanet(o, plus=True), "to_img."),
}

# The authors' release files whose options their test files give: file name -> network_g.
_EDSR_G = dict(num_in_ch=3, num_out_ch=3, num_feat=256, num_block=32, res_scale=0.1, img_range=1.0)
RELEASE_FILES = {
    "EDSR_IGConv_DIV2K.pth": dict(type="EDSRIG", **_EDSR_G),
    "EDSR_IGConvPlus_DIV2K.pth": dict(type="EDSRIGPlus", **_EDSR_G),
    "SMFANet_IGConv_DF2K.pth": dict(type="SMFANetIG", dim=48, n_blocks=12),
    "SMFANet_IGConvPlus_DF2K.pth": dict(type="SMFANetIGPlus", dim=48, n_blocks=12),
}


def load_official(checkpoint: str | Path | Mapping, network_g: Mapping | None = None) -> SuperResolver:
    """The authors' model from their checkpoint, in eval mode.

    Args:
        checkpoint: a file (.pth, .safetensors) or a dictionary; ``params_ema`` is preferred, then ``params``,
            then the dictionary itself.
        network_g: the block of that name in the authors' option file (``type`` and its options). It may be left
            out for the release files in `RELEASE_FILES`.

    Raises:
        InputError: unknown class or option, missing, additional or misshapen weights, an unreadable file.
    """
    if network_g is None:
        name = Path(checkpoint).name if isinstance(checkpoint, str | Path) else "a dictionary"
        if name not in RELEASE_FILES:
            raise InputError(f"network_g is needed for {name}; it is known only for {', '.join(RELEASE_FILES)}")
        network_g = RELEASE_FILES[name]
    kind = choose(network_g.get("type", ""), CLASSES, "network_g type")
    defaults, construct, upsampler_prefix = CLASSES[kind]
    options = with_defaults({k: v for k, v in network_g.items() if k != "type"}, defaults, kind)
    model = construct(options)
    state = read_weights(checkpoint)
    prefixes = {upsampler_prefix: "upsampler.hyper.", "skip.convs.": "sampler.hyper."}
    load_strict(model, {_renamed(k, prefixes, "encoder."): v for k, v in state.items()}, kind)
    return model.eval()


def _renamed(key: str, prefixes: dict[str, str], otherwise: str) -> str:
    for theirs, ours in prefixes.items():
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    return otherwise + key
