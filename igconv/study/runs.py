"""THE table of runs: what is trained, for how long and on what, per profile.

A run is one frozen record (`igconv.study.run.Run`); an ablation is written as its difference from the run it is taken
from. The driver, the notebooks and the command line read this table and nothing else decides settings. What a variant
is called is written here; whatever compares runs asks for their settings.
"""

import math
from dataclasses import replace

from igconv.errors import choose
from igconv.study.labels import FREQUENCY_LOSS, IGSAMPLE, INGREDIENTS, SPCONV_START, Change
from igconv.study.run import CONVERTED, WITH_CONSTANT, Run

PLUS = dict(dihedral=True, igsample=True, frequency_weight=0.05)


def fixed(base: Run, upsampler: str, scales) -> list[Run]:
    """One fixed-scale run per scale."""
    return [replace(base, upsampler=upsampler, scales=(s,)) for s in scales]


def igconv(base: Run) -> Run:
    return replace(base, upsampler="igconv")


def igconv_plus(base: Run) -> Run:
    return replace(base, upsampler="igconv+", **PLUS)


def started_like_spconv(runs: list[Run]) -> list[Run]:
    """The same runs with a hyper-network whose kernels start like those of an SPConv."""
    return [
        replace(run, variant=f"{run.variant}_{SPCONV_START}".strip("_"), initialisation="spconv") for run in runs
    ]  # fmt: skip


def left_out(plus: Run) -> list[Run]:
    """IGConv+ without each of its three ingredients."""
    return [replace(plus, variant=Change(i, False).variant, **{i.field: type(PLUS[i.field])()}) for i in INGREDIENTS]


def added(plain: Run) -> list[Run]:
    """IGConv with each of the three ingredients of IGConv+ alone."""
    return [replace(plain, variant=Change(i, True).variant, **{i.field: PLUS[i.field]}) for i in INGREDIENTS]


def _sample() -> list[Run]:
    base = Run(
        "sample", "edsr_tiny", "igconv", hidden_dim=64, num_layers=2,
        steps=800, micro_batches=4, micro_batch_size=2, lr_patch=24, learning_rate=4e-3, ema=0.99,
        train_sets=("sample_train",), test_sets=("sample_test",),
        record_every=20, validate_every=160, checkpoint_every=160, threads=1,
    )  # fmt: skip
    return [
        *fixed(base, "spconv", (2, 3, 4)),
        # Runs of one seed start from the same encoder; one of another seed shows what that does to similarities.
        *fixed(replace(base, seed=1), "spconv", (3,)),
        *fixed(base, "spconv+", (2,)),
        igconv(base),
        igconv_plus(base),
        *left_out(igconv_plus(base)),
        *started_like_spconv([igconv(base), igconv_plus(base)]),
    ]


def _smoke() -> list[Run]:
    """The sample study, shrunk: same notebooks, a few steps, one run of each kind. For the tests."""
    small = dict(profile="smoke", steps=6, lr_patch=16, record_every=2, validate_every=6, checkpoint_every=2)
    left_out = ("no_igsample", "no_dihedral")
    return [replace(run, **small) for run in _sample() if run.seed == 0 and run.variant not in left_out
            and (run.upsampler, run.initialisation) != ("igconv+", "spconv")]  # fmt: skip


def _benchmark() -> list[Run]:
    """Blocks A to D, what says most first: an interrupted study has lost its end only.

    All runs share batch, patch, data and schedule; the budget is 100,000 steps in block A (and a third of it, where
    it says so) and 30,000 in the others. They train in bf16, whose effect was measured (`benchmarks/precision.py`).
    """
    edsr = Run(
        "benchmark", "edsr_baseline", "igconv", steps=100_000, learning_rate=2e-4, final_rate=1e-6,
        train_sets=("T91", "BSD200", "SunHays80"), test_sets=("Set5", "Set14", "B100", "Urban100"),
        precision="bf16-mixed", record_every=500,
    )  # fmt: skip
    smfanet = replace(edsr, encoder="smfanet_plus")
    return [
        *main_claim(edsr), *ablation(edsr),
        *from_published(smfanet),
        *(run for seed in (1, 2) for block in (main_claim, ablation) for run in block(replace(edsr, seed=seed))),
        *alternatives(edsr),
        *(run for seed in (0, 1, 2) for run in main_claim(replace(smfanet, seed=seed))),
    ]  # fmt: skip


def main_claim(base: Run) -> list[Run]:
    """Block A: one multi-scale model against fixed-scale ones, at equal steps per model and at equal total steps."""
    third = replace(base, steps=base.steps // 3, variant="third")
    spconv, spconv_plus = ([*fixed(base, u, (2, 3, 4)), *fixed(third, u, (2, 3, 4))] for u in ("spconv", "spconv+"))
    return [*spconv, *spconv_plus, igconv(base), igconv_plus(base)]


def ablation(base: Run) -> list[Run]:
    """Block B: `ingredients` with references of the same steps."""
    short = replace(base, steps=30_000)
    reference = replace(short, variant="30k")
    return [igconv(reference), igconv_plus(reference), *fixed(reference, "spconv", (2, 3, 4)), *ingredients(short)]


def ingredients(base: Run) -> list[Run]:
    """What IGConv+ is made of, and what a part of it does elsewhere: the fixed-scale models with its frequency loss,
    and the other start of the kernels."""
    spconv = replace(base, variant="fft", frequency_weight=PLUS["frequency_weight"])
    return [
        *added(igconv(base)), *left_out(igconv_plus(base)), *fixed(spconv, "spconv", (2, 3, 4)),
        *started_like_spconv([igconv(base), igconv_plus(base)]),
    ]  # fmt: skip


def alternatives(base: Run) -> list[Run]:
    """Block C: what a user would pick instead, one encoder with three SPConv heads (MDSR's way), or LIIF."""
    short = replace(base, steps=30_000)
    return [three_heads(replace(short, variant="30k")), replace(short, upsampler="liif", variant="30k")]


def from_published(base: Run, steps: int = 30_000) -> list[Run]:
    """Block D: a published x2 encoder made multi-scale, trained on or as it is, with the constant of its head.

    Like the weights and the paper's rows of SMFANet+, all of them have the frequency loss. The rate stays that of
    ``base``, 2e-4 in the benchmark study: the upsampler is new and needs it, and to the encoder it is fine-tuning,
    because its own 1e-3 for batches of 64 would be 2.5e-4 for the 16 here. With a frozen encoder it is the same, so
    that only that differs.
    """
    start = replace(base, steps=steps, start_from="smfanet_plus_df2k_x2" + WITH_CONSTANT,
                    frequency_weight=PLUS["frequency_weight"])  # fmt: skip
    whole = replace(start, variant="from_x2_constant")
    frozen = replace(start, variant="from_x2_constant_frozen", freeze_encoder=True)
    return [igconv(whole), igconv_plus(whole), igconv(frozen), igconv_plus(frozen)]


def near_convergence(base: Run, steps: int) -> list[Run]:
    """Block E: every kind of model from its own best closed form on one published x4 encoder, and what training adds.

    The paper's differences of 0.02 to 0.2 dB are those of converged models, which short trainings from scratch are far
    from. The first half of the runs are the starts: one step at rate zero. All have the frequency loss and MATLAB's
    bicubic, like the weights.
    """
    base = replace(base, encoder="smfanet_plus", frequency_weight=PLUS["frequency_weight"], degradation="matlab",
                   lr_patch=48, micro_batch_size=2, record_every=50, checkpoint_every=50)  # fmt: skip
    start = replace(base, variant="converted", start_from="smfanet_plus_df2k_x4" + CONVERTED, steps=1,
                    learning_rate=0.0, final_rate=0.0, ema=0.0, validate_every=0)  # fmt: skip
    starts = [igconv(start), igconv_plus(start), three_heads(start), *fixed(start, "spconv", (2, 3, 4))]
    further = dict(steps=steps, learning_rate=1e-4, final_rate=1e-6, warmup=50, ema=0.995, validate_every=500)
    return starts + [replace(run, variant=f"{run.variant}_tuned", start_from=run.name, **further) for run in starts]


def three_heads(base: Run) -> Run:
    """One encoder with an SPConv per scale."""
    return replace(base, upsampler="spconv", variant=f"heads_{base.variant}".rstrip("_"))


def other_budgets(base: Run) -> list[Run]:
    """How the gap to fixed-scale models goes with the budget: multi-scale models at a third of the steps (block A has
    the fixed-scale ones), and eight times the steps, at x3 alone for SPConv, two seeds."""
    third = replace(base, steps=base.steps // 3, variant="third")
    longer = replace(base, steps=8 * base.steps, variant="eightfold")
    shorter = [igconv(third), igconv_plus(third), three_heads(third)]
    return shorter + [
        run for seed in (0, 1) for own in [replace(longer, seed=seed)]
        for run in (*fixed(own, "spconv", (3,)), igconv(own), igconv_plus(own), three_heads(own))
    ]  # fmt: skip


def more_seeds(base: Run) -> list[Run]:
    """What is undecided for the noise of single trainings: four more seeds of what is compared."""
    changes = Change(FREQUENCY_LOSS, True), Change(IGSAMPLE, False)
    return [
        run for seed in (1, 2, 3, 4) for own in [replace(base, seed=seed)]
        for run in (*fixed(own, "spconv", (2, 3, 4)), igconv(own), igconv_plus(own), three_heads(own),
                    *(run for run in ingredients(own) if run.change in changes))
    ]  # fmt: skip


def _cpu() -> list[Run]:
    """Blocks A, B, D and E and one run of C at a budget that two CPU cores hold: a small encoder, few steps, one seed;
    then other budgets and more seeds.

    Published encoders are kept at first, so that a rate for new weights does them no harm, and then trained along.
    Those that left the constant of the published head behind show what it costs.
    """
    base = Run(
        "cpu", "edsr_tiny", "igconv", steps=2_000, lr_patch=32, learning_rate=1e-3, final_rate=1e-6, ema=0.99,
        train_sets=("T91", "BSD200", "SunHays80"), test_sets=("Set5", "Set14", "B100", "Urban100"),
        record_every=100, validate_every=500, checkpoint_every=100, threads=1,
    )  # fmt: skip
    main = [run for run in main_claim(base) if (run.upsampler, run.variant) != ("spconv+", "third")]
    kept = [run for run in from_published(replace(base, encoder="smfanet_plus"), 1_200) if run.freeze_encoder]
    without = dict(variant="from_x2_frozen", start_from=kept[0].start_from.removesuffix(WITH_CONSTANT))
    frozen = [replace(run, **without) for run in kept]
    last = replace(frozen[-1], variant="from_x2_tuned", start_from=frozen[-1].name, freeze_encoder=False, steps=700,
                   learning_rate=2e-4)  # fmt: skip
    return [  # of block C three heads alone: LIIF takes too long here
        *main, *ingredients(base), *frozen, last, *started_like_spconv(frozen[:1]), three_heads(base), *kept,
        *near_convergence(base, 2_000), *more_seeds(base), *other_budgets(base),
    ]  # fmt: skip


def _paper() -> list[Run]:
    """The authors' recipes, one per training file of theirs, and the fixed-scale baselines the paper compares with.

    Batches: micro-batches are the authors' GPUs. Baselines get the budget of IGConv for each scale (the paper does
    not say theirs). The SwinIR family's SPConv+ starts with a convolution to 64 channels. Fine-tuning starts from the
    run it names. AdamW with weight decay 0, which ATD uses, is Adam.
    """
    sets = dict(test_sets=("Set5", "Set14", "B100", "Urban100", "Manga109"))
    half_million = dict(steps=500_000, milestones=(250_000, 400_000, 450_000, 475_000), ema=0.0, lr_patch=64)
    million = dict(steps=1_000_000, milestones=(200_000, 400_000, 600_000, 800_000), ema=0.0)
    div2k, df2k = dict(train_sets=("DIV2K",), **sets), dict(train_sets=("DF2K",), **sets)

    # fmt: off
    edsr     = Run("paper", "edsr",          "igconv", **div2k, steps=300_000, micro_batch_size=4,
                   milestones=(200_000,))
    rcan     = Run("paper", "rcan",          "igconv", **div2k, **million, micro_batch_size=4, betas=(0.9, 0.999))
    rdn      = Run("paper", "rdn",           "igconv", **div2k, **million, micro_batch_size=8)
    hit_srf  = Run("paper", "hit_srf",       "igconv", **div2k, **half_million, micro_batch_size=16, learning_rate=5e-4,
                   seed=1226)
    light    = Run("paper", "mambair_light", "igconv", **div2k, **half_million, micro_batch_size=8, learning_rate=2e-4)
    srformer = Run("paper", "srformer",      "igconv", **df2k,  **half_million, micro_batch_size=8, learning_rate=2e-4)
    mambair  = Run("paper", "mambair",       "igconv", **df2k,  **half_million, micro_batch_size=8, learning_rate=2e-4)
    smfanet  = Run("paper", "smfanet_plus",  "igconv", **df2k, steps=1_000_000, final_rate=1e-6, micro_batch_size=16,
                   lr_patch=64, learning_rate=1e-3, frequency_weight=0.05)
    plksr    = Run("paper", "plksr",         "igconv", **df2k, steps=600_000, micro_batch_size=16, lr_patch=96,
                   learning_rate=2e-4, milestones=(100_000, 200_000, 300_000, 400_000, 425_000))
    hat      = Run("paper", "hat",           "igconv", **sets, train_sets=("ImageNet",), steps=800_000, lr_patch=64,
                   micro_batch_size=8, learning_rate=2e-4, milestones=(300_000, 500_000, 650_000, 700_000, 750_000))
    atd      = Run("paper", "atd",           "igconv", **df2k, steps=300_000, lr_patch=64, micro_batch_size=8,
                   learning_rate=2e-4, betas=(0.9, 0.9), milestones=(250_000,), warmup=10_000)
    # fmt: on
    late = (150_000, 200_000, 225_000, 240_000)
    hat_tuning = dict(train_sets=("DF2K",), steps=250_000, learning_rate=1e-5, milestones=(125_000, *late[1:]))
    atd_tuning = dict(steps=250_000, lr_patch=96, milestones=late)

    def width_64(runs: list[Run]) -> list[Run]:
        return [replace(run, width=64) for run in runs]

    return [
        *fixed(edsr, "spconv+", (2, 3, 4)), igconv(edsr), igconv_plus(edsr),
        igconv_plus(replace(rcan, scales=(2, 3, 4, 8), max_scale=8)),
        igconv_plus(rdn),
        *fixed(hit_srf, "spconv", (2, 3, 4)), igconv(hit_srf), igconv_plus(hit_srf),
        *fixed(replace(light, encoder="mambair_light_baseline"), "spconv", (2, 3, 4)),
        igconv(light), igconv_plus(light),
        *fixed(smfanet, "spconv", (2, 3, 4)), igconv(smfanet), igconv_plus(smfanet),
        replace(igconv_plus(plksr), frequency_weight=0.02),
        *width_64(fixed(srformer, "spconv+", (2, 3, 4))), igconv(srformer), igconv_plus(srformer),
        *width_64(fixed(mambair, "spconv+", (2, 3, 4))), igconv(mambair), igconv_plus(mambair),
        replace(igconv_plus(mambair), scales=(2, 3, 4, 5, 6, 7, 8), max_scale=8, micro_batches=16, train_sets=("DFL",)),
        *tuned([*width_64(fixed(hat, "spconv+", (2, 3, 4))), igconv_plus(hat)], **hat_tuning),
        *tuned(width_64(fixed(atd, "spconv+", (2, 3, 4))), **atd_tuning),
        *tuned([igconv_plus(atd)], **atd_tuning, frequency_weight=0.02),
    ]  # fmt: skip


def tuned(runs: list[Run], **changes) -> list[Run]:
    """Each run as a pre-training, followed by a fine-tuning that starts from it."""
    first = [replace(run, variant="pretrain") for run in runs]
    return first + [replace(run, variant="finetune", start_from=run.name, **changes) for run in first]


# Published models that a profile evaluates beside its own, where their weights are.
PUBLISHED = {
    "benchmark": ("smfanet_plus_df2k_x2", "smfanet_plus_df2k_x3", "smfanet_plus_df2k_x4"),
    "paper": (
        "smfanet_plus_df2k_x2", "smfanet_plus_df2k_x3", "smfanet_plus_df2k_x4",
        "EDSR_IGConv_DIV2K", "EDSR_IGConvPlus_DIV2K", "HiT_SRF_IGConv_DF2K", "HiT_SRF_IGConvPlus_DF2K",
        "MambaIR_Light_IGConv_DIV2K", "MambaIR_Light_IGConvPlus_DIV2K", "SMFANet_IGConv_DF2K",
        "SMFANet_IGConvPlus_DF2K", "SRFormer_IGConv_DF2K", "SRFormer_IGConvPlus_DF2K", "MambaIR_IGConv_DF2K",
        "MambaIR_IGConvPlus_DF2K", "ATD_IGPlus_DF2K_LargePatch_Finetuning", "HAT_IGPlus_DF2K_Finetuning",
    ),
}  # fmt: skip

PROFILES = {"sample": _sample, "cpu": _cpu, "benchmark": _benchmark, "paper": _paper, "smoke": _smoke}


def runs_of(profile: str) -> dict[str, Run]:
    """The runs of a profile by name, in the order of the table."""
    table = PROFILES[choose(profile, PROFILES, "profile")]()
    by_name = {run.name: run for run in table}
    assert len(by_name) == len(table), "two runs of a profile share a name"
    return by_name


def get_run(profile: str, name: str) -> Run:
    """One run. Raises InputError that lists the names for an unknown one."""
    table = runs_of(profile)
    return table[choose(name, table, f"run of profile {profile}")]


def first_run(profile: str, upsampler: str) -> Run:
    """The first run of a profile with an upsampler. Raises InputError when it has none."""
    table = runs_of(profile).values()
    choose(upsampler, {run.upsampler for run in table}, f"upsampler of profile {profile}")
    return next(run for run in table if run.upsampler == upsampler)


def encoder_of(profile: str, encoder: str = "") -> str:
    """The encoder that a notebook looks at: the one asked for, or that of the first run of the profile.

    Raises InputError for one that no run of the profile has.
    """
    known = list(dict.fromkeys(run.encoder for run in runs_of(profile).values()))
    return choose(encoder or known[0], known, f"encoder of profile {profile}")


def learning_rate(run: Run, step: int) -> float:
    """Rate of optimiser step ``step`` (0-based), a pure function of it.

    Multi-step: halved after each milestone. Cosine: from the base to ``final_rate`` over the run. Warm-up: linear,
    and the rate stays at (warmup - 1) / warmup of the base afterwards, because the authors' framework multiplies
    the current rate at each milestone (the reference vectors have its schedules).
    """
    base = run.learning_rate
    if run.warmup > 1:
        base *= min(step + 1, run.warmup - 1) / run.warmup
    if run.milestones:
        return base * run.gamma ** sum(step >= m for m in run.milestones)
    progress = min(step / run.steps, 1.0)
    return run.final_rate + (base - run.final_rate) * (1 + math.cos(math.pi * progress)) / 2
