"""The authors' release files (github.com/dslisleedh/IGConv, release v1.0.0) and the ``network_g`` of each.

Options as in the authors' test files (``options/test``); what they leave out is left out here. ``HiT_SRF`` files are
called DF2K but were trained on DIV2K.
"""

_EDSR = dict(num_in_ch=3, num_out_ch=3, num_feat=256, num_block=32, res_scale=0.1, img_range=1.0)
_SMFANET = dict(dim=48, n_blocks=12, ffn_scale=2)
_SIX = dict(depths=(6,) * 6, embed_dim=180, num_heads=(6,) * 6, mlp_ratio=2, img_range=1.0, resi_connection="1conv")
_SRFORMER = dict(type="SRFormer", img_size=64, window_size=22, **_SIX)
_HIT = dict(type="HiT_SRF", img_size=64, base_win_size=(8, 8), img_range=1.0, depths=(6,) * 4, embed_dim=60,
            num_heads=(6,) * 4, resi_connection="1conv", hier_win_ratios=(0.5, 1, 2, 4, 6, 8))  # fmt: skip
_MAMBAIR = dict(type="MambaIR", img_size=64, img_range=1.0, d_state=16, depths=(6,) * 6, embed_dim=180, mlp_ratio=2,
                resi_connection="1conv")  # fmt: skip
_LIGHT = _MAMBAIR | dict(depths=(6,) * 4, embed_dim=60, mlp_ratio=1.5)
_PLAIN = dict(upsampler="igconv", geo_ensemble=False)
_PLUS = dict(upsampler="igconv+igsample", geo_ensemble=True)

RELEASE_FILES: dict[str, dict] = {
    "EDSR_IGConv_DIV2K.pth": dict(type="EDSRIG", **_EDSR),
    "EDSR_IGConvPlus_DIV2K.pth": dict(type="EDSRIGPlus", **_EDSR),
    "RCAN_IGConvPlus_DIV2K_S8.pth": dict(type="RCANIGPlus", max_s=8),
    "RDN_IGConvPlus_DIV2K.pth": dict(type="RDNIGPlus", geo_ensemble=True),
    "SMFANet_IGConv_DF2K.pth": dict(type="SMFANetIG", **_SMFANET),
    "SMFANet_IGConvPlus_DF2K.pth": dict(type="SMFANetIGPlus", **_SMFANET),
    "PLKSR_IGConvPlus_DF2K.pth": dict(type="PLKSRIGPlus", dim=64, n_blocks=28, kernel_size=17, split_ratio=0.25,
                                      ccm_type="DCCM", lk_type="PLK", use_ea=True),
    "SwinIR_IGConvPlus_DIV2K.pth": dict(type="SwinIRMS", img_size=48, window_size=8, **_SIX, **_PLUS),
    "SRFormer_IGConv_DF2K.pth": _SRFORMER | _PLAIN,
    "SRFormer_IGConvPlus_DF2K.pth": _SRFORMER | _PLUS,
    "HiT_SRF_IGConv_DF2K.pth": _HIT | _PLAIN,
    "HiT_SRF_IGConvPlus_DF2K.pth": _HIT | _PLUS,
    "MambaIR_IGConv_DF2K.pth": _MAMBAIR | _PLAIN,
    "MambaIR_IGConvPlus_DF2K.pth": _MAMBAIR | _PLUS,
    "MambaIR_IGConvPlus_DFL_S8.pth": _MAMBAIR | _PLUS | dict(max_s=8),
    "MambaIR_Light_IGConv_DIV2K.pth": _LIGHT | _PLAIN,
    "MambaIR_Light_IGConvPlus_DIV2K.pth": _LIGHT | _PLUS,
    "HAT_IGPlus_DF2K_Finetuning.pth": dict(type="HAT", img_size=64, window_size=16, compress_ratio=3, squeeze_factor=30,
                                           conv_scale=0.01, overlap_ratio=0.5, **_SIX, **_PLUS),
    "ATD_IGPlus_DF2K_LargePatch_Finetuning.pth": dict(
        type="ATD", img_size=96, window_size=16, category_size=256, num_tokens=128, reducted_dim=20,
        convffn_kernel_size=5, **(_SIX | dict(embed_dim=210)), **_PLUS),
}  # fmt: skip
