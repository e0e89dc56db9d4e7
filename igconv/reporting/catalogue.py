"""THE catalogue of tables and figures: what there is, from what it is made, and what its caption says.

Notebook 10 makes the tables, notebook 11 the figures, the report shows both in the order of this page; none of them
names one that is not here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import figure as matplotlib_figure

from igconv.analysis import budget, convergence, encoders, spectra, unseen
from igconv.analysis.pictures import Titled
from igconv.errors import InputError, choose
from igconv.evaluation import benchmark
from igconv.reporting import claims, crops, figures, gaps, tables
from igconv.study import results
from igconv.study.comparisons import ablations
from igconv.study.run import Run
from igconv.study.runs import PUBLISHED, runs_of


@dataclass(frozen=True)
class Study:
    """What a profile has left: its runs and the tables below results/<profile>/."""

    profile: str

    @cached_property
    def runs(self) -> dict[str, Run]:
        return runs_of(self.profile)

    @cached_property
    def rows(self) -> pd.DataFrame:
        """Evaluation rows of bicubic and of all runs."""
        return benchmark.read_rows(self.profile, ["bicubic", *self.runs])

    @cached_property
    def fixed_vs_multi(self) -> pd.DataFrame:
        return tables.fixed_vs_multi(self.rows, self.runs)

    @cached_property
    def claims(self) -> pd.DataFrame:
        """Judged on the tables that are there when it is asked for first."""
        return claims.claims(claims.read(self.profile), self.runs)

    @property
    def own(self) -> dict[str, Run]:
        """The runs of the profile's first encoder, which the figures are about."""
        encoder = next(iter(self.runs.values())).encoder
        return {name: run for name, run in self.runs.items() if run.encoder == encoder}

    @property
    def changed(self) -> set[str]:
        """Names of own runs with an ingredient of IGConv+ more or less."""
        return ablations(self.own.values())

    @property
    def references(self) -> list[str]:
        """Names of own IGConv and IGConv+ runs that those are compared with."""
        plain = {name for name, run in self.own.items() if run.family == "igconv" and run.is_plain}
        return sorted(plain - self.changed)

    def file(self, name: str) -> Path:
        return results.root(self.profile) / f"{name}.csv"

    def table(self, name: str) -> pd.DataFrame:
        """A table by its name below results/<profile>/, "analysis/similarity/cka"; "rows" are the evaluation rows of
        bicubic and of own runs, "records" their training records. Raises InputError for one without rows."""
        if name == "rows":
            table = benchmark.read_rows(self.profile, ["bicubic", *self.own])
        elif name == "records":
            table = budget.training_records(list(self.own.values()))
        elif self.file(name).is_file() and self.file(name).read_bytes() == b"\n":  # without rows, without columns
            table = pd.DataFrame()
        else:
            table = results.read_table(self.file(name))
        if table.empty:
            raise InputError(f"{results.shown(self.file(name))} has no rows" if "/" in name else f"there are no {name}")
        return table


def _everything(table: pd.DataFrame, study: Study) -> pd.DataFrame:
    return table


def _unchanged(table: pd.DataFrame, study: Study) -> pd.DataFrame:
    return table[~table.run.isin(study.changed)]


def _references(table: pd.DataFrame, study: Study) -> pd.DataFrame:
    return table[table.run.isin(study.references)]


def _own(table: pd.DataFrame, study: Study) -> pd.DataFrame:
    return table[table.encoder.isin({run.encoder for run in study.own.values()})]


def _own_ablation(effects: pd.DataFrame, study: Study) -> pd.DataFrame:
    return tables.ablation(_own(effects, study))


def _own_main(table: pd.DataFrame, study: Study) -> pd.DataFrame:
    return tables.of_main(table, study.own.values())


def _scales_and_untrained(cka: pd.DataFrame, study: Study) -> pd.DataFrame:
    return cka[(cka.setting == encoders.SAME) & cka.comparison.isin([encoders.ACROSS, encoders.BOTH_UNTRAINED])]


def _crops(rows: pd.DataFrame, study: Study) -> tuple[Titled, int]:
    return crops.side_by_side(rows, study.own)


def _kinds(differences: pd.DataFrame, study: Study) -> tuple[pd.DataFrame, str, list[list[str]] | None]:
    """With the label of what was subtracted, and those of the lines of each row."""
    runs = spectra.runs_of_equal_steps(list(study.own.values()))
    there = set(zip(differences.upsampler, differences.variant, strict=True))
    names = {run.name for run in runs if (run.upsampler, run.variant) in there} | set(study.references)
    family = spectra.family(runs, names)
    if not family.plain:
        raise InputError("nothing to draw: the profile has no IGConv")
    return differences, family.plain[0].label, family.lines


@dataclass(frozen=True)
class Figure:
    """One picture: ``drawing`` takes the ``inputs`` (see `Study.table`), of the first one what ``select`` makes of it,
    one by one where that is a tuple.

    The report shows figures of one topic together, under its name; those without one stand above them.
    """

    name: str
    topic: str
    inputs: tuple[str, ...]
    drawing: Callable[..., matplotlib_figure.Figure]
    caption: str
    select: Callable[[pd.DataFrame, Study], Any] = _everything

    def draw(self, study: Study) -> matplotlib_figure.Figure:
        """Raises InputError where a table is missing or there is nothing to draw."""
        first, *others = (study.table(name) for name in self.inputs)
        shown = self.select(first, study)
        return self.drawing(*(shown if isinstance(shown, tuple) else (shown,)), *others)


@dataclass(frozen=True)
class Table:
    """One table: ``make`` takes the study. Those that are made of other tables come after them."""

    name: str
    make: Callable[[Study], pd.DataFrame]
    caption: str


def _claims_figure(table: pd.DataFrame) -> matplotlib_figure.Figure:
    texts = ["claim", "about", "scale", "measure", "unit", "verdict"]
    return figures.claims(table.assign(**{column: table[column].fillna("") for column in texts}))


def _over_chained(summary: pd.DataFrame) -> matplotlib_figure.Figure:
    return figures.unseen_scales(summary, unseen.CHAINED)


def _beside_the_paper(upsamplers: pd.DataFrame) -> matplotlib_figure.Figure:
    return figures.efficiency_bars(upsamplers, claims.paper_figure())


TRAINING, ENCODERS, KERNELS, SPECTRA, OTHERS, COSTS = (
    "Training and ingredients", "Encoders of different scales", "Kernels", "Frequencies",
    "Other scales, and the start", "Costs",
)  # fmt: skip

# In the order of the report.
FIGURES = (
    Figure("psnr_gain", "", ("rows",), figures.psnr_gain,
           "Gain over bicubic in PSNR-Y per scale and model. Bars are means, dots single images. Ingredients left out "
           "or added: see below.", _unchanged),
    Figure("crops", "", ("rows",), figures.image_grid,
           "One crop of a test image at every scale, with its PSNR-Y. Image and crop are those on which the models "
           "differ most at the largest scale; which of them is ahead plays no part in the choice.", _crops),
    Figure("claims", "", ("tables/claims",), _claims_figure,
           "Every claim of the paper: our value with its interval against the target."),
    Figure("training_curves", TRAINING, ("records",), figures.training_curves,
           "Training: loss of the patches (left) and PSNR of the averaged weights on validation crops (right). Above "
           "fixed-scale runs at their own scale, below multi-scale runs, mean over their scales.",
           _unchanged),
    Figure("ablation", TRAINING, ("tables/effects",), figures.ablation,
           "What each ingredient brings IGConv+, as the last of three, and what it brings another model alone: PSNR-Y "
           "with it minus without it, paired by image, mean over images (the claims: over sets), with 95 % intervals "
           "over images and trainings; small dots are single test sets.",
           _own_ablation),
    Figure("gap_by_budget", TRAINING, ("tables/gap_by_budget",), figures.gap_by_budget,
           "PSNR-Y of one model for all scales minus SPConv networks of equal steps, against the steps, with 95 % "
           "intervals over images and trainings. A gap that closes is one of convergence.", _own),
    Figure("cka_maps", ENCODERS, ("analysis/similarity/cka",), figures.cka_maps,
           "Similarity (unbiased linear CKA) of the encoders of models trained for different scales.",
           _scales_and_untrained),
    Figure("cka_depth", ENCODERS, ("analysis/similarity/cka",), figures.cka_depth,
           "The same along the depth, with randomly initialised encoders as control."),
    Figure("transfer_loss", ENCODERS, ("analysis/similarity/functional",), figures.transfer_loss,
           "Frozen encoders with an SPConv fitted in closed form, minus the native encoder treated alike: what an "
           "encoder of another scale costs."),
    Figure("kernel_patterns", KERNELS, ("analysis/correlation/patterns",), figures.kernel_patterns,
           "What single channels paint into an output cell: SPConv per scale, and one IGConv and one IGConv+ at "
           "several."),
    Figure("correlation_bars", KERNELS, ("analysis/correlation/correlation",), figures.correlation_bars,
           "Correlation of kernel patterns across scales, with the 95 % quantile under shuffling."),
    Figure("alignment_bars", KERNELS, ("analysis/correlation/alignment", "analysis/correlation/alignment_psnr"),
           figures.alignment_bars,
           "SPConvs of two scales after the linear map between their encoders' features: similarity (black bars: "
           "chance), and what the predicted SPConv costs."),
    Figure("pattern_continuity", KERNELS, ("analysis/correlation/continuity",), figures.pattern_continuity,
           "How continuous the generated kernels are: correlation with the pattern at x32 averaged down, and the total "
           "variation beside that of the same numbers in random places; medians and 5-95 % of the channels."),
    Figure("conversion_losses", KERNELS, ("analysis/conversion/quality",), figures.conversion_losses,
           "Nothing is trained here: what a frozen encoder of another scale costs with SPConvs in closed form, and "
           "what one IGConv costs instead of these SPConvs. A dot per network and set."),
    Figure("conversion_heads", KERNELS, ("analysis/conversion/quality",), figures.conversion_heads,
           "All heads on one frozen encoder, minus SPConvs in closed form; scales beyond those of the fit were left "
           "out of it."),
    Figure("conversion_fit", KERNELS, ("analysis/conversion/iterations", "analysis/conversion/eigenvalues"),
           figures.conversion_fit,
           "How a hyper-network is fitted to SPConvs: the features' covariance before and after whitening, the error "
           "of the kernels by iteration, and what it costs in dB on the crops of the fit."),
    Figure("band_errors", SPECTRA, ("analysis/spectrum/bands",), figures.band_errors,
           "Error energy relative to the image's energy per radial frequency band. The dashed line is the Nyquist "
           "frequency of the LR image.", _unchanged),
    Figure("band_differences", SPECTRA, ("analysis/spectrum/differences",), figures.band_differences,
           "The same minus that of IGConv, paired by image, with 95 % intervals: above zero is worse. Where there are "
           "two rows, what is added to IGConv is above, what is left out of IGConv+ below.", _kinds),
    Figure("band_learning", SPECTRA, ("analysis/spectrum/learning",), figures.band_learning,
           "Error per frequency band over the training, of the raw weights on the validation crops.", _references),
    Figure("band_times", SPECTRA, ("analysis/spectrum/time_to_threshold",), figures.band_times,
           "The step at which a band has done most of its way, in energy and in dB, against its frequency: where lines "
           "rise, low frequencies come first. Crosses at the upper edge are bands that were not learned.", _references),
    Figure("unseen_scales", OTHERS, ("analysis/unseen/summary",), _over_chained,
           "At scales nobody trained on: the model itself minus its x4 image enlarged by bicubic."),
    Figure("initialisation", OTHERS, ("analysis/initialisation/start",), figures.starts,
           "Before the first step: kernels of SPConv and IGConv, and how many directions the gradient that reaches the "
           "encoder has."),
    Figure("stored_parameters", COSTS, ("analysis/efficiency/stored",), figures.stored_parameters,
           "Parameters of one multi-scale model over those of three fixed-scale ones, per encoder."),
    Figure("efficiency_bars", COSTS, ("analysis/efficiency/upsamplers",), _beside_the_paper,
           "Cost of the upsampler alone on this machine, and the paper's figures for another machine; latencies in "
           "SPConv's of the same machine."),
    Figure("cost_sweep", COSTS, ("analysis/efficiency/sweep",), figures.cost_sweep,
           "Latency and memory of the upsamplers against the size of the image and against the scale."),
    Figure("model_sweep", COSTS, ("analysis/efficiency/models",), figures.model_sweep,
           "Latency and memory of whole models at x2 against the size of the image: what of the upsampler's cost is "
           "left beside an encoder."),
    Figure("encoder_costs", COSTS, ("analysis/efficiency/encoders",), figures.encoder_costs,
           "Parameters, FLOPs and activation memory of whole models, instantiated, x2."),
    Figure("generation_time", COSTS, ("analysis/efficiency/generation",), figures.generation_time,
           "Time to generate a kernel bank against the scale."),
    Figure("training_budget", COSTS, ("analysis/efficiency/budget_summary",), figures.training_budget,
           "Training time and stored parameters: three fixed-scale models against one multi-scale model.", _own_main),
)  # fmt: skip


def _published(study: Study) -> pd.DataFrame:
    names = ["bicubic", *study.runs, *PUBLISHED.get(study.profile, ())]
    return tables.models_beside_paper(benchmark.read_rows(study.profile, names))


def _alternatives(study: Study) -> pd.DataFrame:
    files = [study.file(f"analysis/efficiency/{name}") for name in ("models", "alternatives")]
    costs = [results.read_table(file) for file in files if file.is_file()]
    return tables.alternatives(study.rows, study.runs, pd.concat(costs) if costs else pd.DataFrame())


def _budget(study: Study) -> pd.DataFrame:
    return budget.budget_summary(budget.training_budget(study.runs.values()))


TABLES = (
    Table("main", lambda study: tables.main(study.rows, study.runs),
          "PSNR-Y in dB / SSIM, means over the test images and seeds."),
    Table("fixed_vs_multi", lambda study: study.fixed_vs_multi,
          "One model for all scales minus the fixed-scale model of the same scale, paired by image: at equal steps per "
          "model, at equal total steps, and at equal steps with the frequency loss in both. Means of sets; single sets "
          "are in the CSV file."),
    Table("equal_steps", lambda study: convergence.equal_steps(study.own.values(), study.rows),
          "After how many steps SPConv was as good as a multi-scale model at its end; empty where never or always."),
    Table("gap_by_budget", lambda study: gaps.by_budget(study.rows, study.runs),
          "PSNR-Y of one model for all scales minus SPConv networks of equal steps, by steps; empty where there is one "
          "budget alone."),
    Table("effects", lambda study: tables.effects(study.rows, study.runs),
          "What each ingredient of IGConv+ changes beside which others: with it minus without it, paired by image. "
          "Means of sets; single sets are in the CSV file."),
    Table("alternatives", _alternatives, "What a user would pick instead, beside IGConv and SPConv of equal steps."),
    Table("published", _published,
          "Models beside the paper's values. Published ones should have them; our runs have another budget and other "
          "data."),
    Table("budget", _budget, "Training budget and stored parameters."),
    Table("paper", lambda study: tables.beside_paper(study.fixed_vs_multi),
          "Gains over the fixed-scale model, beside the paper's (other budget, encoders and images: compare signs)."),
    Table("runs", lambda study: budget.run_costs(study.runs.values()),
          "Every run: where it was trained, for how long, how fast, with how much memory, by which code."),
    Table("claims", lambda study: study.claims,
          "The claims at the budget of this profile. Verdicts follow from rules (igconv/reporting/verdicts.py)."),
    Table("claims_per_scale", lambda study: claims.per_scale(study.claims),
          "Those about single scales in short."),
)  # fmt: skip


def write(name: str, study: Study) -> pd.DataFrame:
    """Make a table of the catalogue, write it as ``tables/<name>.{csv,md}`` and return it. Raises InputError for a
    name that is not here."""
    by_name = {table.name: table for table in TABLES}
    made = by_name[choose(name, by_name, "table")].make(study)
    tables.write(study.profile, name, made)
    return made
