"""Names for people: of ingredients, upsamplers, encoders and variants of runs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Ingredient:
    """One of the three things that IGConv+ adds to IGConv."""

    name: str  # in names of runs
    field: str  # of `igconv.study.runs.Run`; true where the run has it
    label: str


FREQUENCY_LOSS = Ingredient("fft", "frequency_weight", "frequency loss")
IGSAMPLE = Ingredient("igsample", "igsample", "IGSample")
DIHEDRAL = Ingredient("dihedral", "dihedral", "dihedral averaging")
INGREDIENTS = (FREQUENCY_LOSS, IGSAMPLE, DIHEDRAL)


@dataclass(frozen=True)
class Change:
    """An ingredient more or less than an upsampler has by definition."""

    ingredient: Ingredient
    added: bool

    @property
    def variant(self) -> str:
        """In names of runs: "fft", "no_fft"."""
        return self.ingredient.name if self.added else f"no_{self.ingredient.name}"

    @property
    def label(self) -> str:
        return f"{'+' if self.added else '−'} {self.ingredient.label}"


CHANGES = {change.variant: change for added in (False, True) for change in (Change(i, added) for i in INGREDIENTS)}
SPCONV_START = "spconv_init"  # variant of a run whose kernels start like those of an SPConv
VARIANTS = {  # further variants that have a text of their own
    "heads": "one encoder, three heads", "heads_30k": "one encoder, three heads, 30k",
    "from_x2_frozen": "encoder from x2, frozen", "from_x2_constant": "encoder and constant from x2",
    "from_x2_constant_frozen": "encoder and constant from x2, frozen",
    f"from_x2_frozen_{SPCONV_START}": "encoder from x2, frozen, SPConv's start",
    "from_x2_tuned": "encoder from x2, frozen at first", SPCONV_START: "SPConv's start",
    "third": "a third of the steps",
}  # fmt: skip
NAMES = {"spconv": "SPConv", "spconv+": "SPConv+", "igconv": "IGConv", "igconv+": "IGConv+", "liif": "LIIF"}
# our encoder -> the paper's name of it, for those in its tables
PAPER_ENCODERS = {"edsr": "EDSR", "smfanet_plus": "SMFANet+", "hit_srf": "HiT-SRF", "mambair_light": "MambaIR-light",
                  "srformer": "SRFormer", "mambair": "MambaIR", "atd": "ATD", "hat": "HAT"}  # fmt: skip
# an encoder that only fixed-scale models have -> the encoder of the multi-scale models they are compared with
BASELINE_OF = {"mambair_light_baseline": "mambair_light"}


def run_label(upsampler: str, variant: str = "") -> str:
    """Name of a kind of run for people, in the paper's spelling: "IGConv+ − frequency loss"."""
    name = NAMES.get(upsampler, upsampler)
    if variant in CHANGES:
        return f"{name} {CHANGES[variant].label}"
    return f"{name} ({VARIANTS.get(variant, variant)})" if variant else name
