"""Names for people: of upsamplers, encoders, variants and ingredients; and which kinds of runs stand for a model."""

INGREDIENTS = {"no_fft": "frequency loss", "no_igsample": "IGSample", "no_dihedral": "dihedral averaging",
               "fft": "frequency loss", "igsample": "IGSample", "dihedral": "dihedral averaging"}  # fmt: skip
VARIANTS = {"heads": "one encoder, three heads", "heads_30k": "one encoder, three heads, 30k",
            "from_x2": "encoder from x2", "from_x2_frozen": "encoder from x2, frozen",
            "from_x2_frozen_spconv_init": "encoder from x2, frozen, SPConv's start",
            "from_x2_tuned": "encoder from x2, frozen at first", "spconv_init": "SPConv's start",
            "from_x2_frozen_constant": "encoder and constant from x2, frozen",
            "from_x2_frozen_spconv_init_constant": "encoder and constant from x2, frozen, SPConv's start",
            "from_x2_tuned_constant": "encoder and constant from x2, frozen at first",
            "third": "a third of the steps"}  # fmt: skip
NAMES = {"spconv": "SPConv", "spconv+": "SPConv+", "igconv": "IGConv", "igconv+": "IGConv+", "liif": "LIIF"}
# our encoder -> the paper's name of it, for those in its tables
PAPER_ENCODERS = {"edsr": "EDSR", "smfanet_plus": "SMFANet+", "hit_srf": "HiT-SRF", "mambair_light": "MambaIR-light",
                  "srformer": "SRFormer", "mambair": "MambaIR", "atd": "ATD", "hat": "HAT"}  # fmt: skip
# an encoder that only fixed-scale models have -> the encoder of the multi-scale models they are compared with
BASELINE_OF = {"mambair_light_baseline": "mambair_light"}
MAIN_VARIANTS = ("", "finetune")  # what stands for a model in comparisons
REFERENCES = ("", "30k")  # what stands for it beside runs with an ingredient more or less


def run_label(upsampler: str, variant: str = "") -> str:
    """Name of a kind of run for people, in the paper's spelling: "IGConv+ − frequency loss"."""
    name = NAMES.get(upsampler, upsampler)
    if variant in INGREDIENTS:
        return f"{name} {'−' if variant.startswith('no_') else '+'} {INGREDIENTS[variant]}"
    return f"{name} ({VARIANTS.get(variant, variant)})" if variant else name
