"""One training: its settings, its name, and what follows from the settings. The table of them all is `runs`."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields

from igconv.errors import InputError, positive_integers
from igconv.study.labels import CHANGES, INGREDIENTS, NAMES, Change, Ingredient, run_label

# A published head's biases carry the brightness of an image where its encoder subtracts no mean, and IGConv has none.
WITH_CONSTANT = "+constant"
# The published network converted to the run's scales and upsampler, in closed form.
CONVERTED = "+converted"


@dataclass(frozen=True)
class Run:
    """One training. Field order: identity, model, budget and optimiser, data, bookkeeping."""

    profile: str
    encoder: str
    upsampler: str
    scales: tuple[int, ...] = (2, 3, 4)
    variant: str = ""  # what distinguishes it from others of its encoder and upsampler, for its name alone
    seed: int = 0

    dihedral: bool = False
    igsample: bool = False
    hidden_dim: int = 256
    num_layers: int = 4
    max_scale: int = 4
    initialisation: str = "authors"  # of IGConv's hyper-network; "spconv": kernels that start like stored ones
    width: int = 0  # of the convolution that SPConv+ starts with; 0: none

    steps: int = 300_000  # optimiser steps
    micro_batches: int = 4  # gradients averaged per step, each with a scale of its own
    micro_batch_size: int = 4
    lr_patch: int = 48  # side of the LR patch in pixels, the same at every scale
    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    milestones: tuple[int, ...] = ()  # steps after which the rate is halved; none means cosine
    gamma: float = 0.5
    final_rate: float = 0.0  # where the cosine ends
    warmup: int = -1
    ema: float = 0.999  # 0 turns the moving average off
    frequency_weight: float = 0.0  # of the frequency loss beside L1
    clip_norm: float = 0.0  # largest norm of the gradient; 0: not clipped
    precision: str = "32-true"  # of Lightning Fabric; also "bf16-mixed" and "16-mixed"
    # Weights to start from: another run of the profile (the whole model), or published weights: the encoder alone, or,
    # with WITH_CONSTANT behind their name, with the constant that their head adds to each colour, or, with CONVERTED,
    # the network converted to this run's upsampler and scales.
    start_from: str = ""
    freeze_encoder: bool = False  # train the upsampler only

    train_sets: tuple[str, ...] = ()
    test_sets: tuple[str, ...] = ()
    degradation: str = "pil"

    record_every: int = 100
    validate_every: int = 5_000  # 0: never
    checkpoint_every: int = 5_000
    threads: int = 0  # CPU threads, part of what makes a run repeatable; 0: all

    def __post_init__(self):
        """The name has to say what is trained. Raises InputError, a line that names the run and what is wrong."""
        has = ", ".join(ingredient.label for ingredient in self.ingredients) or "none"
        three = ", ".join(ingredient.label for ingredient in INGREDIENTS)
        change, igconv = CHANGES.get(self.variant), self.upsampler in ("igconv", "igconv+")
        wrong = ""
        scales = positive_integers(self.scales, f"scales of run {self.encoder}-{self.upsampler}-s{self.seed}")
        if list(scales) != sorted(scales):
            wrong = f"scales must ascend, got {self.scales}"
        elif not self.frequency_weight >= 0:
            wrong = f"frequency_weight must be >= 0, got {self.frequency_weight}"
        elif self.upsampler == "igconv+" and len(self.ingredients) < 2:
            wrong = f"igconv+ has two or three of {three}, this run has {has}"
        elif self.upsampler == "igconv" and len(self.ingredients) > 1:
            wrong = f"igconv has at most one of {three}, this run has {has}; with more it is igconv+"
        elif not igconv and (self.igsample or self.dihedral or self.initialisation != "authors"):
            wrong = f"igsample, dihedral and initialisation are for igconv and igconv+, not for {self.upsampler}"
        elif self.width and self.upsampler != "spconv+":
            wrong = f"width is for spconv+, not for {self.upsampler}"
        elif change and self.change != change:
            wrong = f"variant {self.variant} says {NAMES.get(self.upsampler)} {change.label}, this run has {has}"
        if wrong:
            raise InputError(f"run {self.name}: {wrong}")

    @property
    def name(self) -> str:
        """``<encoder>-<upsampler>[-<variant>][-x<scales>]-s<seed>``; the scales are left out for 2, 3, 4."""
        scales = "" if self.scales == (2, 3, 4) else "x" + "".join(map(str, self.scales))
        return "-".join(part for part in (self.encoder, self.upsampler, self.variant, scales, f"s{self.seed}") if part)

    @property
    def label(self) -> str:
        """Name for people; the same for all seeds, scales and encoders."""
        return run_label(self.upsampler, self.variant)

    @property
    def published_start(self) -> str:
        """Name of the published weights that ``start_from`` means where it is no run's, without what is behind it."""
        return self.start_from.removesuffix(WITH_CONSTANT).removesuffix(CONVERTED)

    @property
    def batch(self) -> int:
        return self.micro_batches * self.micro_batch_size

    @property
    def ingredients(self) -> tuple[Ingredient, ...]:
        """Which of the three of IGConv+ it has."""
        return tuple(ingredient for ingredient in INGREDIENTS if getattr(self, ingredient.field))

    @property
    def change(self) -> Change | None:
        """The ingredient it has more or less than its upsampler by definition: IGConv+ has three, the others none."""
        defined = INGREDIENTS if self.upsampler == "igconv+" else ()
        changed = [i for i in INGREDIENTS if (i in self.ingredients) != (i in defined)]
        return Change(changed[0], changed[0] in self.ingredients) if changed else None

    @property
    def family(self) -> str:
        """Its upsampler without ingredients: IGConv+ is an IGConv."""
        return "igconv" if self.upsampler == "igconv+" else self.upsampler

    @property
    def train_scales(self) -> str:
        """Its scales in a cell of a table: "2-3-4"."""
        return "-".join(map(str, self.scales))

    @property
    def is_fixed_scale(self) -> bool:
        return len(self.scales) == 1

    @property
    def is_main(self) -> bool:
        """Whether it has the full budget, so that it stands for its model in comparisons."""
        return self.variant in ("", "finetune")

    @property
    def is_plain(self) -> bool:
        """Whether it was trained from scratch, with kernels that start like the authors'."""
        return self.initialisation == "authors" and not self.start_from

    def all_else(self) -> tuple:
        """Every setting but name, seed and ingredients. Fixed scales are one, so that three networks go together."""
        apart = {"upsampler", "scales", "variant", "seed", *(ingredient.field for ingredient in INGREDIENTS)}
        scales = () if self.is_fixed_scale else self.scales
        return self.family, scales, *(getattr(self, f.name) for f in fields(self) if f.name not in apart)

    def model_options(self) -> dict:
        """Arguments of `igconv.build_model` after encoder and upsampler."""
        options = dict(scales=self.scales)
        if self.upsampler == "spconv+" and self.width:
            options |= dict(width=self.width)
        if self.upsampler == "liif":
            options |= dict(hidden_dim=self.hidden_dim, num_layers=self.num_layers)
        if self.upsampler.startswith("igconv"):
            options |= dict(
                hidden_dim=self.hidden_dim,
                num_layers=self.num_layers,
                max_scale=self.max_scale,
                dihedral=self.dihedral,
                igsample=self.igsample,
                initialisation=self.initialisation,
            )
        return options

    def config(self) -> dict:
        return asdict(self)

    def config_hash(self) -> str:
        """12 hex digits over every field; two runs with the same hash are the same training."""
        return hashlib.sha256(json.dumps(self.config(), sort_keys=True).encode()).hexdigest()[:12]
