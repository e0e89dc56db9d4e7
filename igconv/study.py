"""THE table of runs: what is trained, for how long and on what, per profile.

A run is one frozen record; an ablation is written as its difference from the run it is taken from. The driver,
the notebooks and the command line read this table and nothing else decides settings.
"""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, replace

from igconv.errors import choose


@dataclass(frozen=True)
class Run:
    """One training. Field order: identity, model, budget and optimiser, data, bookkeeping."""

    profile: str
    encoder: str
    upsampler: str
    scales: tuple[int, ...] = (2, 3, 4)
    variant: str = ""  # what distinguishes an ablation, e.g. "no_fft"
    seed: int = 0

    dihedral: bool = False
    igsample: bool = False
    hidden_dim: int = 256
    num_layers: int = 4
    max_scale: int = 4

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
    precision: str = "32-true"

    train_sets: tuple[str, ...] = ()
    test_sets: tuple[str, ...] = ()
    degradation: str = "pil"

    record_every: int = 100
    validate_every: int = 5_000  # 0: never
    checkpoint_every: int = 5_000
    threads: int = 0  # CPU threads, part of what makes a run repeatable; 0: all

    @property
    def name(self) -> str:
        """``<encoder>-<upsampler>[-<variant>][-x<scales>]-s<seed>``; the scales are left out for 2, 3, 4."""
        scales = "" if self.scales == (2, 3, 4) else "x" + "".join(map(str, self.scales))
        return "-".join(part for part in (self.encoder, self.upsampler, self.variant, scales, f"s{self.seed}") if part)

    @property
    def batch(self) -> int:
        return self.micro_batches * self.micro_batch_size

    def model_options(self) -> dict:
        """Arguments of `igconv.build_model` after encoder and upsampler."""
        options = dict(scales=self.scales)
        if self.upsampler.startswith("igconv"):
            options |= dict(hidden_dim=self.hidden_dim, num_layers=self.num_layers, max_scale=self.max_scale,
                            dihedral=self.dihedral, igsample=self.igsample)  # fmt: skip
        return options

    def config(self) -> dict:
        return asdict(self)

    def config_hash(self) -> str:
        """12 hex digits over every field; two runs with the same hash are the same training."""
        return hashlib.sha256(json.dumps(self.config(), sort_keys=True).encode()).hexdigest()[:12]


PLUS = dict(dihedral=True, igsample=True, frequency_weight=0.05)


def fixed(base: Run, upsampler: str, scales) -> list[Run]:
    """One fixed-scale run per scale."""
    return [replace(base, upsampler=upsampler, scales=(s,)) for s in scales]


def igconv(base: Run) -> Run:
    return replace(base, upsampler="igconv")


def igconv_plus(base: Run) -> Run:
    return replace(base, upsampler="igconv+", **PLUS)


def left_out(plus: Run) -> list[Run]:
    """IGConv+ without each of its three ingredients."""
    return [
        replace(plus, variant="no_fft", frequency_weight=0.0),
        replace(plus, variant="no_igsample", igsample=False),
        replace(plus, variant="no_dihedral", dihedral=False),
    ]


def added(plain: Run) -> list[Run]:
    """IGConv with each of the three ingredients of IGConv+ alone."""
    return [
        replace(plain, variant="fft", frequency_weight=PLUS["frequency_weight"]),
        replace(plain, variant="igsample", igsample=True),
        replace(plain, variant="dihedral", dihedral=True),
    ]


def _sample() -> list[Run]:
    base = Run(
        "sample", "edsr_tiny", "igconv", hidden_dim=64, num_layers=2,
        steps=1_500, micro_batches=4, micro_batch_size=2, lr_patch=24, learning_rate=2e-3, ema=0.99,
        train_sets=("sample_train",), test_sets=("sample_test",),
        record_every=50, validate_every=300, checkpoint_every=300, threads=1,
    )  # fmt: skip
    return [
        *fixed(base, "spconv", (2, 3, 4)),
        # Runs of one seed start from the same encoder; one of another seed shows what that does to similarities.
        *fixed(replace(base, seed=1), "spconv", (3,)),
        *fixed(base, "spconv+", (2,)),
        igconv(base),
        igconv_plus(base),
        *left_out(igconv_plus(base)),
    ]


def _smoke() -> list[Run]:
    """The sample study, shrunk: same notebooks, a few steps, one ablation. For the tests."""
    small = dict(profile="smoke", steps=6, lr_patch=16, record_every=2, validate_every=6, checkpoint_every=2)
    return [replace(run, **small) for run in _sample() if run.variant in ("", "no_fft") and run.seed == 0]


def _benchmark() -> list[Run]:
    base = Run(
        "benchmark", "edsr_baseline", "igconv", steps=100_000, learning_rate=2e-4, final_rate=1e-6,
        train_sets=("T91", "BSD200", "SunHays80"), test_sets=("Set5", "Set14", "B100", "Urban100"),
        record_every=500,
    )  # fmt: skip
    runs = []
    for seed in (0, 1, 2):
        for encoder in ("edsr_baseline", "smfanet_plus"):
            a = replace(base, encoder=encoder, seed=seed)
            third = replace(a, steps=a.steps // 3, variant="third")  # fixed scales at equal total steps
            for upsampler in ("spconv", "spconv+"):
                runs += fixed(a, upsampler, (2, 3, 4)) + fixed(third, upsampler, (2, 3, 4))
            runs += [igconv(a), igconv_plus(a)]
        b = replace(base, seed=seed, steps=30_000)
        runs += added(igconv(b)) + left_out(igconv_plus(b))
        runs += [replace(igconv(b), variant="30k"), replace(igconv_plus(b), variant="30k")]
        runs += [replace(run, variant="30k") for run in fixed(b, "spconv", (2, 3, 4))]
    return runs


def _paper() -> list[Run]:
    """The paper's protocol for the encoders that exist here (its other encoders follow)."""
    tests = ("Set5", "Set14", "B100", "Urban100", "Manga109")
    edsr = Run("paper", "edsr", "igconv", steps=300_000, milestones=(200_000,), train_sets=("DIV2K",), test_sets=tests)
    smfanet = Run("paper", "smfanet_plus", "igconv", steps=1_000_000, micro_batch_size=16, lr_patch=64,
                  learning_rate=1e-3, final_rate=1e-6, frequency_weight=0.05,
                  train_sets=("DF2K",), test_sets=tests)  # fmt: skip
    return [
        *fixed(edsr, "spconv+", (2, 3, 4)), igconv(edsr), igconv_plus(edsr),
        *fixed(smfanet, "spconv", (2, 3, 4)), igconv(smfanet), igconv_plus(smfanet),
    ]  # fmt: skip


PROFILES = {"sample": _sample, "benchmark": _benchmark, "paper": _paper, "smoke": _smoke}


def runs(profile: str) -> dict[str, Run]:
    """The runs of a profile by name, in the order of the table."""
    table = PROFILES[choose(profile, PROFILES, "profile")]()
    by_name = {run.name: run for run in table}
    assert len(by_name) == len(table), "two runs of a profile share a name"
    return by_name


def get(profile: str, name: str) -> Run:
    """One run. Raises InputError that lists the names for an unknown one."""
    table = runs(profile)
    return table[choose(name, table, f"run of profile {profile}")]


def learning_rate(run: Run, step: int) -> float:
    """Rate of optimiser step ``step`` (0-based), a pure function of it.

    Multi-step: halved after each milestone. Cosine: from the base to ``final_rate`` over the run. Warm-up: linear,
    and the rate stays at (warmup - 1) / warmup of the base afterwards, because the authors' framework multiplies
    the current rate at each milestone (FACTS on schedules; reference vectors).
    """
    base = run.learning_rate
    if run.warmup > 1:
        base *= min(step + 1, run.warmup - 1) / run.warmup
    if run.milestones:
        return base * run.gamma ** sum(step >= m for m in run.milestones)
    progress = min(step / run.steps, 1.0)
    return run.final_rate + (base - run.final_rate) * (1 + math.cos(math.pi * progress)) / 2
