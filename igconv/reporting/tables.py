"""Evaluation rows -> the study's tables. Pure functions on data frames; nothing here is typed in.

A row is one image at one scale (`igconv.evaluation.benchmark.ROW`). Differences are paired by image and seed; their
intervals are over images and trainings, with the run-to-run noise that was measured (`igconv.evaluation.noise`). The
noise of SSIM was not; its intervals are a bootstrap (`igconv.evaluation.statistics.crossed_interval`).
"""

from collections.abc import Iterable, Sequence
from itertools import product

import numpy as np
import pandas as pd

from igconv.evaluation import noise
from igconv.evaluation.statistics import paired_summary, pairs_of
from igconv.files import write as write_file
from igconv.study import results
from igconv.study.comparisons import ablations, one_ingredient_apart
from igconv.study.labels import BASELINE_OF, NAMES, PAPER_ENCODERS, run_label
from igconv.study.run import Run

EQUAL_STEPS, EQUAL_TOTAL = "equal steps per model", "equal total steps"  # the former is the paper's comparison
# how a multi-scale model is compared with fixed-scale ones -> whether a pair of runs is compared so
BUDGETS = {
    EQUAL_STEPS: lambda multi, fixed: multi.is_main and fixed.is_main,
    EQUAL_TOTAL: lambda multi, fixed: (
        multi.is_main and fixed.is_plain and not fixed.change and fixed.steps == multi.steps // len(multi.scales)
    ),
    "equal steps and frequency loss": lambda multi, fixed: (
        multi.is_plain and fixed.is_plain and fixed.frequency_weight > 0
        and (multi.steps, multi.frequency_weight) == (fixed.steps, fixed.frequency_weight)
    ),
}  # fmt: skip
PAPER_TABLES = ("table2_div2k", "table3_df2k", "table4_pretrain")


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over images per run, dataset and scale, with the gain over bicubic in dB."""
    keys = ["run", "upsampler", "dataset", "scale"]
    means = rows.groupby(keys, sort=False).agg(
        images=("image", "count"), psnr_y_db=("psnr_y_db", "mean"), ssim_y=("ssim_y", "mean")
    )
    means = means.reset_index()
    bicubic = means[means.run == "bicubic"].set_index(["dataset", "scale"]).psnr_y_db
    means["gain_db"] = means.psnr_y_db - bicubic.reindex(pd.MultiIndex.from_frame(means[["dataset", "scale"]])).values
    return means


def wide(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Models x (dataset, scale): the mean of one column over the images.

    A line per encoder, kind of run and seed; fixed-scale networks, one per scale, share it. Cells of scales that a
    model was not trained for are empty.
    """
    trained = rows.train_scales.fillna("").astype(str)  # "2-3-4", "2", "" of bicubic; of one scale alone "2.0" as read
    networks = np.where(trained.str.contains("-"), "one for all", "one per scale")
    lines = dict(
        encoder=rows.encoder.fillna(""),
        model=[run_label(*kind) for kind in zip(rows.upsampler, rows.variant.fillna(""), strict=True)],
        networks=np.where(trained == "", "", networks),
        seed=rows.seed.map(lambda seed: "" if pd.isna(seed) else f"{seed:.0f}"),
    )
    table = rows.assign(**lines).groupby([*lines, "dataset", "scale"], sort=False)[column].mean()
    return table.unstack(["dataset", "scale"], sort=False).sort_index(axis=1)


def gain(rows: pd.DataFrame, run: str, scale: int) -> pd.Series:
    """PSNR-Y of a run minus bicubic's in dB, per image at one scale."""
    at = rows[rows.scale == scale].set_index("image")
    return (at[at.run == run].psnr_y_db - at[at.run == "bicubic"].psnr_y_db).rename("gain over bicubic in dB")


def against_bicubic(summarised: pd.DataFrame) -> pd.DataFrame:
    """Gain over bicubic per run and scale, mean over the sets."""
    models = summarised[summarised.run != "bicubic"]
    return models.groupby(["run", "scale"], sort=False).gain_db.mean().reset_index()


def main(rows: pd.DataFrame, runs: dict[str, Run]) -> pd.DataFrame:
    """One line per encoder, upsampler and variant: "PSNR / SSIM" per dataset and scale, mean over images and seeds.

    Three fixed-scale networks share a line. Cells are "not run" where a run is planned and has no rows, "-" where
    none is planned.
    """
    datasets = list(dict.fromkeys(name for run in runs.values() for name in run.test_sets))
    scales = sorted({scale for run in runs.values() for scale in run.scales})
    families: dict[tuple, list[Run]] = {}
    for run in runs.values():
        kind = "one per scale" if run.is_fixed_scale else "one for all"
        families.setdefault((run.encoder, run.label, kind), []).append(run)
    lines = []
    if (rows.run == "bicubic").any():
        families = {("", "bicubic", ""): [], **families}
    for (encoder, model, networks), members in families.items():
        line = {"encoder": encoder, "model": model, "networks": networks}
        own = rows[rows.run.isin([run.name for run in members] or ["bicubic"])]
        for dataset in datasets:
            for scale in scales:
                cell = own[(own.dataset == dataset) & (own.scale == scale)]
                planned = model == "bicubic" or any(scale in run.scales for run in members)
                line[f"{dataset} x{scale}"] = (
                    f"{cell.psnr_y_db.mean():.2f} / {cell.ssim_y.mean():.4f}"
                    if len(cell)
                    else "not run"
                    if planned
                    else "-"
                )
        lines.append(line)
    return pd.DataFrame(lines)


def _differences(rows: pd.DataFrame, model, baseline, scale: int, measured: pd.DataFrame) -> list[dict]:
    """A line with all images as one set, and where there are several sets one with every set counting the same, as in
    the paper, and one for each."""
    pairs = pairs_of(rows, model, baseline, scale).assign(difference=lambda p: p.psnr_y_db_model - p.psnr_y_db_baseline)
    sets = list(dict.fromkeys(rows.dataset))
    parts = {"all": pairs}
    if len(sets) > 1:
        parts |= {noise.MEAN_OF_SETS: pairs} | {name: pairs[pairs.dataset == name] for name in sets}
    lines = []
    for dataset, part in parts.items():
        found = paired_summary(part) | dict(error_db=float("nan"), degrees=float("nan"))
        if len(part):
            found |= noise.difference(part, noise.at(measured, scale), by_set=dataset == noise.MEAN_OF_SETS)
        if dataset == noise.MEAN_OF_SETS:
            ssim = part.assign(difference=part.ssim_y_model - part.ssim_y_baseline)
            found |= dict(difference_ssim=ssim.groupby("dataset").difference.mean().mean())
            found |= dict(low_ssim=float("nan"), high_ssim=float("nan"))
        lines.append(dict(scale=scale, dataset=dataset, **found))
    return lines


def over_all_sets(difference: pd.DataFrame) -> pd.DataFrame:
    """The rows of `fixed_vs_multi` or `effects` over all images, without those of single sets."""
    return difference[difference.dataset == "all"] if "dataset" in difference else difference


def over_sets(difference: pd.DataFrame) -> pd.DataFrame:
    """The rows in which every set counts the same, as in the paper; those over all images where there is one set.
    Column ``over_images_db``: the mean over images beside."""
    if "dataset" not in difference:
        return difference
    images = difference[difference.dataset == "all"]
    sets = difference[difference.dataset == noise.MEAN_OF_SETS]
    chosen = sets if len(sets) else images
    return chosen.assign(over_images_db=images.difference_db.to_numpy())


def of_main(table: pd.DataFrame, runs: Iterable[Run]) -> pd.DataFrame:
    """The rows, with encoder, upsampler and variant, of runs from scratch that stand for their model."""
    kinds = {(run.encoder, run.upsampler, run.variant) for run in runs if run.is_main and not run.start_from}
    return table[[kind in kinds for kind in zip(table.encoder, table.upsampler, table.variant, strict=True)]]


def fixed_vs_multi(rows: pd.DataFrame, runs: dict[str, Run]) -> pd.DataFrame:
    """IGConv and IGConv+ against the fixed-scale model of each scale: `igconv.evaluation.noise.difference` over all
    images (dataset "all") and, where there are several test sets, as a mean of sets and for each of them.

    Column ``budget`` is a key of `BUDGETS`: at equal steps per model the fixed-scale models of three scales have had
    three times the steps of the multi-scale model together, at equal total steps as many. IGConv+ alone has the
    frequency loss, unless the fixed-scale models were given it, too: with these every model with the loss is compared,
    those with an ingredient added or left out among them.
    """
    lines, changed, measured = [], ablations(runs.values()), noise.measured(rows)
    labels = {name: run.label if name in changed else run_label(run.upsampler) for name, run in runs.items()}
    for encoder in dict.fromkeys(run.encoder for run in runs.values() if run.encoder not in BASELINE_OF):
        own = [run for run in runs.values() if BASELINE_OF.get(run.encoder, run.encoder) == encoder]
        multis: dict[str, list[Run]] = {}
        for run in sorted(own, key=lambda run: run.upsampler):
            if run.family == "igconv":
                multis.setdefault(labels[run.name], []).append(run)
        for model, (budget, comparable), baseline in product(multis, BUDGETS.items(), ("spconv", "spconv+")):
            pairs = [
                (multi, fixed)
                for multi in multis[model]
                for fixed in own
                if fixed.upsampler == baseline and fixed.is_fixed_scale and comparable(multi, fixed)
            ]
            for scale in sorted({s for _, fixed in pairs for s in fixed.scales}):
                multi, fixed = ({pair[i].name for pair in pairs if scale in pair[1].scales} for i in (0, 1))
                kind = dict(encoder=encoder, model=model, baseline=run_label(baseline), budget=budget)
                lines += [kind | one for one in _differences(rows, multi, fixed, scale, measured)]
    return pd.DataFrame(lines)


def effects(rows: pd.DataFrame, runs: dict[str, Run]) -> pd.DataFrame:
    """What each ingredient of IGConv+ changes beside which others: runs that have it minus runs that lack it alone.

    Returns: encoder, model (what has the ingredients: SPConv, IGConv), ingredient, beside (the others that both have),
        within (the model that the ingredient is added to alone, or completes; empty where both are in between), scale,
        dataset and differences as in `fixed_vs_multi`: above zero the ingredient helps.
    """
    lines, measured = [], noise.measured(rows)
    for one in one_ingredient_apart(runs.values()):
        for scale in one.scales:
            having, without = ([run.name for run in side if scale in run.scales] for side in (one.having, one.without))
            kind = dict(
                encoder=one.having[0].encoder,
                model=run_label(one.having[0].family),
                ingredient=one.ingredient.label,
                beside=", ".join(other.label for other in one.beside) or "nothing",
                within=one.within,
            )
            lines += [kind | line for line in _differences(rows, having, without, scale, measured)]
    return pd.DataFrame(lines)


def ablation(difference: pd.DataFrame) -> pd.DataFrame:
    """The rows of `effects` that the paper's ablation shows: IGConv+ without one ingredient, another model with one."""
    return difference[difference.within != ""] if len(difference) else difference


def is_alternative(run: Run) -> bool:
    """Whether a run is what a user might pick instead of IGConv: one encoder with a head per scale, or LIIF."""
    return run.upsampler == "liif" or (run.upsampler in ("spconv", "spconv+") and not run.is_fixed_scale)


def alternatives(rows: pd.DataFrame, runs: dict[str, Run], costs: pd.DataFrame) -> pd.DataFrame:
    """What a user would pick instead of IGConv, beside IGConv, IGConv+ and three SPConv networks of equal steps.

    Args:
        costs: `igconv.analysis.efficiency.model_costs` of one encoder; the largest LR size counts, and the
            instantiated form where there is one.

    Returns:
        encoder, model, networks, steps, PSNR-Y in dB per scale (means over the images of all sets), and of one network
        at one scale latency_ms, parameters and peak_memory_mib. Empty for a study without such runs.
    """
    others, changed = [run for run in runs.values() if is_alternative(run)], ablations(runs.values())
    lines: dict[tuple, dict] = {}
    for run in runs.values():
        beside = next((o for o in others if (o.encoder, o.steps, o.seed) == (run.encoder, run.steps, run.seed)), None)
        if beside is None or not run.is_plain or run.name in changed or run.upsampler == "spconv+":
            continue
        label, networks = run.label, "one per scale" if run.is_fixed_scale else "one for all"
        key = (run.encoder, label, networks)
        line = lines.setdefault(key, dict(zip(("encoder", "model", "networks"), key, strict=True), steps=run.steps))
        own = rows[rows.run == run.name]
        line |= {f"x{scale} psnr_y_db": own[own.scale == scale].psnr_y_db.mean() for scale in run.scales}
        if len(costs):
            line |= _cost_of(costs, label, NAMES[run.upsampler])
    return pd.DataFrame(lines.values())


def _cost_of(costs: pd.DataFrame, *labels: str) -> dict:
    """Latency, parameters and memory of the first of the labels that was measured, at the largest size."""
    columns = ["latency_ms", "parameters", "peak_memory_mib", "lr_width_px", "lr_height_px"]
    own = next((part for label in labels if len(part := costs[costs.model == label])), None)
    if own is None:
        return {}
    own = own[own.lr_width_px == own.lr_width_px.max()]
    form = "instantiated" if (own.form == "instantiated").any() else own.form.iloc[0]
    return own[own.form == form].iloc[0][columns].to_dict()


def final_forms(costs: pd.DataFrame) -> pd.DataFrame:
    """The rows of `igconv.analysis.efficiency.upsampler_costs` that the paper shows, by upsampler: SPConv and SPConv+
    as they are, IGConv and IGConv+ instantiated."""
    shown = costs[(costs.form == "instantiated") | costs.upsampler.isin(["SPConv", "SPConv+"])]
    return shown.set_index("upsampler")


def published(names: Sequence[str] = PAPER_TABLES) -> pd.DataFrame:
    """The paper's tables 2 to 4, or those with these names: encoder, upsampler, scale, dataset, psnr, ssim."""
    return pd.concat([pd.read_csv(results.PROJECT / "data" / "paper" / f"{name}.csv") for name in names])


def bicubic_beside_literature(rows: pd.DataFrame) -> pd.DataFrame:
    """PSNR-Y of bicubic per set and scale: ours, the usual published value, the difference in dB."""
    literature = pd.read_csv(results.PROJECT / "data" / "paper" / "bicubic.csv")
    ours = summary(rows[rows.run == "bicubic"])[["dataset", "scale", "images", "psnr_y_db", "ssim_y"]]
    table = ours.merge(literature.rename(columns={"psnr": "literature_db"}), on=["dataset", "scale"])
    return table.assign(difference_db=table.psnr_y_db - table.literature_db)


def models_beside_paper(rows: pd.DataFrame) -> pd.DataFrame:
    """Means of published models and of own runs per set and scale, beside those of the paper's tables 2 to 4 where it
    has one for the encoder and the upsampler, whatever the budget of the own run was."""
    keys = ["encoder", "upsampler", "scale", "dataset"]
    ours = rows.groupby(["run", "variant", *keys], sort=False)[["psnr_y_db", "ssim_y"]].mean().reset_index()
    ours = ours.assign(encoder=ours.encoder.map(PAPER_ENCODERS), upsampler=ours.upsampler.map(NAMES))
    paper = published().rename(columns={"psnr": "paper_psnr_db", "ssim": "paper_ssim"})
    table = ours.merge(paper, on=keys)
    return table.assign(
        difference_db=table.psnr_y_db - table.paper_psnr_db, difference_ssim=table.ssim_y - table.paper_ssim
    )


def beside_paper(difference: pd.DataFrame) -> pd.DataFrame:
    """PSNR gains of IGConv and IGConv+ over the fixed-scale model of equal steps: this study's and the paper's, a line
    per encoder."""
    lines = []
    equal_steps = difference[difference.budget == next(iter(BUDGETS))] if len(difference) else difference
    for row in over_sets(equal_steps).itertuples():
        lines.append(
            dict(
                source="this study",
                encoder=row.encoder,
                baseline=row.baseline,
                model=row.model,
                scale=row.scale,
                difference_db=row.difference_db,
            )
        )
    means = published().groupby(["encoder", "scale", "upsampler"], sort=False).psnr.mean().unstack()
    for (encoder, scale), values in means.iterrows():
        baseline = "SPConv+" if pd.notna(values.get("SPConv+")) else "SPConv"
        for model in ("IGConv", "IGConv+"):
            if pd.notna(values.get(model)):
                lines.append(
                    dict(
                        source="paper",
                        encoder=encoder,
                        baseline=baseline,
                        model=model,
                        scale=scale,
                        difference_db=values[model] - values[baseline],
                    )
                )
    table = pd.DataFrame(lines).pivot(
        index=["source", "encoder", "baseline", "model"], columns="scale", values="difference_db"
    )
    table.columns = [f"x{scale} difference_db" for scale in table.columns]
    return table.reset_index().sort_values(["model", "source"], ascending=[True, False], ignore_index=True)


def write(profile: str, name: str, table: pd.DataFrame) -> None:
    """``tables/<name>.csv`` with provenance and ``tables/<name>.md`` for people."""
    path = results.root(profile) / "tables" / f"{name}.csv"
    results.write_table(table, path, profile=profile)
    write_file(path.with_suffix(".md"), table.to_markdown(index=False, floatfmt=".3f", missingval="") + "\n")
