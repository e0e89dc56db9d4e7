"""The paper's claims, each with our measure, its interval and a verdict by rule. Pure functions on data frames.

One function per claim, table -> list of lines (`igconv.reporting.verdicts.COLUMNS`); an empty table gives a line
"not run". Here are those on accuracy and cost; those on encoders and kernels are in `findings`, on spectra in
`frequencies`, on converted networks in `conversions`, the rules in `verdicts`, all beside this module.
"""

from collections.abc import Callable

import pandas as pd

from igconv.reporting import conversions, findings, frequencies
from igconv.reporting.tables import EQUAL_STEPS, ablation, final_forms, of_main, over_sets, published
from igconv.reporting.verdicts import (
    COLUMNS,
    FIGURE_TOLERANCE,
    FULL,
    NONE,
    OURS,
    PAPER,
    PUBLISHED,
    TOLERANCE,
    at_most,
    decided,
    line,
    measured,
    seed_count,
    together,
    worded,
)
from igconv.study import results
from igconv.study.labels import INGREDIENTS, run_label
from igconv.study.run import Run


def psnr(difference: pd.DataFrame) -> list[dict]:
    """One model for all scales against the fixed-scale model of each: `igconv.reporting.tables.fixed_vs_multi`.

    Against every baseline: the paper's of an EDSR is SPConv+, of others SPConv.
    """
    statements = {
        "IGConv": "PSNR equal to the fixed-scale model's",
        "IGConv+": "PSNR better than the fixed-scale model's",
    }
    if len(difference):
        difference = over_sets(difference)
        difference = difference[difference.model.isin(statements)]
    if difference.empty:
        return [line(f"{model}: {claim}", "", "dB", "needs own runs") for model, claim in statements.items()]
    lines = []
    for row in difference.itertuples():
        of_paper = " (the paper's baseline)" * (row.encoder.startswith("edsr") and row.baseline == "SPConv+")
        empty = line(
            f"{row.model}: {statements[row.model]}",
            f"{row.encoder} over {row.baseline}{of_paper}, {row.budget}",
            "dB",
            f"PSNR-Y minus that of {row.baseline}, {_means(row)}",
            f"x{row.scale}",
            source=PAPER if row.budget == EQUAL_STEPS else OURS,
        )
        lines.append(measured(empty, row.difference_db, row.error_db, row.degrees))
    return _collapsed(decided(lines))


def _means(row) -> str:
    return f"mean over sets (over images {row.over_images_db:+.3f} dB); {row.images} images, {seed_count(row.seeds)}"


def ingredients(effects: pd.DataFrame) -> list[dict]:
    """Each ingredient of IGConv+ helps, there and elsewhere: `igconv.reporting.tables.effects`."""
    if effects.empty:
        return [line(f"{ingredient.label} helps", "", "dB", "needs own runs") for ingredient in INGREDIENTS]
    lines = []
    for row in over_sets(ablation(effects)).itertuples():
        empty = line(
            f"{row.ingredient} helps",
            f"{row.encoder}, {row.within} with it minus without",
            "dB",
            f"PSNR-Y gained by it, {_means(row)}",
            f"x{row.scale}",
            source=OURS if row.within.startswith("SPConv") else PAPER,
        )
        lines.append(measured(empty, row.difference_db, row.error_db, row.degrees))
    return _collapsed(decided(lines))


def _collapsed(lines: list[dict]) -> list[dict]:
    """Lines of one claim and model of which none was run become one."""
    found: dict[tuple, list[dict]] = {}
    for one in lines:
        found.setdefault((one["claim"], one["about"]), []).append(one)
    kept = []
    for group in found.values():
        if any(one["verdict"] != "not run" for one in group):
            kept += group
        else:
            scales = ", ".join(one["scale"] for one in group)
            kept.append(line(group[0]["claim"], group[0]["about"], group[0]["unit"], "needs own runs", scales))
    return kept


def training(budget: pd.DataFrame, runs: dict[str, Run]) -> list[dict]:
    """Facts about one multi-scale model over three SPConv models of equal steps, no verdicts: images are a third by
    construction, parameters are those of a tiny encoder, times of a step from `benchmarks/step.py`.

    ``budget``: `igconv.analysis.budget.budget_summary`.
    """
    what = dict(images="training images", stored_parameters="stored parameters, own runs")
    lines, columns = [], ["encoder", "upsampler", *what]
    main = of_main(budget, runs.values()) if len(budget) else pd.DataFrame(columns=columns)
    for encoder, group in main.groupby("encoder", sort=False):
        means = group.groupby("upsampler")[list(what)].mean()
        for model in ("igconv", "igconv+"):
            if {"spconv", model} <= set(means.index):
                ratios = {text: means.loc[model, column] / means.loc["spconv", column] for column, text in what.items()}
                lines += [
                    line(f"{run_label(model)}: {text}", encoder, "ratio", "one model over three SPConv models, equal "
                         "steps per model", "x2, x3, x4", ratio, verdict="fact", source=OURS)
                    for text, ratio in ratios.items()
                ]  # fmt: skip
    if not lines:
        return [line(text, "", "ratio", "needs own runs", source=OURS) for text in (*what.values(), "time of training")]
    return lines + step_times()


def step_times() -> list[dict]:
    """Time of a training over that of three SPConv models of equal steps, by the time of a step: a fact."""
    steps = pd.read_csv(results.PROJECT / "benchmarks" / "results" / "step-amd-epyc.csv")
    mixed = steps[steps.scales == "2-3-4"].set_index("case")
    return [
        line(f"{model}: time of training", f"a step of {mixed.encoder[model]}, {mixed.device[model]}", "ratio",
             "one model over three SPConv models, equal steps per model; quartiles", "x2, x3, x4",
             *(mixed.loc[model, column] / 3 for column in ("ratio", "ratio_q25", "ratio_q75")), verdict="fact",
             source=OURS)
        for model in ("IGConv", "IGConv+")
    ]  # fmt: skip


def stored(parameters: pd.DataFrame) -> list[dict]:
    """A third of the stored parameters, by construction: `igconv.analysis.budget.stored_parameters` of encoders."""
    own = parameters[parameters.paper_encoder.fillna("") != ""] if len(parameters) else parameters
    lines = []
    for model, part in own.groupby("model", sort=False) if len(own) else ():
        verdict = together(at_most(ratio, 1 / 3) for ratio in part.ratio)
        beyond = part[part.ratio > (1 + TOLERANCE) / 3]
        but = ", beyond a third: " + ", ".join(f"{r.paper_encoder} {r.ratio:.2f}" for r in beyond.itertuples())
        count = f"{len(part)} encoder{'s' * (len(part) > 1)} of the paper's tables"
        lines.append(
            line(
                f"{model}: a third of the stored parameters",
                count,
                "ratio",
                "one model as trained over the paper's three fixed-scale models, from the architectures; median "
                "and range" + (but if len(beyond) else ""),
                "x2, x3, x4",
                part.ratio.median(),
                part.ratio.min(),
                part.ratio.max(),
                1 / 3,
                verdict,
            )
        )
    return lines or [line("a third of the stored parameters", "encoders of the paper's tables", "ratio", "")]


def costs(upsamplers: pd.DataFrame, paper: pd.DataFrame) -> list[dict]:
    """Figure 1(a): `igconv.analysis.efficiency.upsampler_costs` beside the paper's bars.

    Latency: ratio of medians with the range that the quartiles allow, against 1. Parameters and memory: ours over the
    paper's, the upsampler that is farthest off; only at the paper's size.
    """
    statements = [("IGConv", "SPConv", "no slower"), ("IGConv+", "SPConv+", "faster")]
    figure = {"parameters": ("params_k", 1e3), "peak_memory_mib": ("memory_mb", 1)}
    what = {"parameters": "parameters", "peak_memory_mib": "memory"}
    if upsamplers.empty:
        names = [f"{a}: {word} than {b} once instantiated" for a, b, word in statements]
        return [line(name, "upsampler alone", "ratio", "") for name in (*names, *what.values())]
    final, paper = final_forms(upsamplers), paper.set_index("upsampler")
    size = f"{final.channels.iloc[0]} channels, LR {final.lr_width_px.iloc[0]}x{final.lr_height_px.iloc[0]}"
    scale, lines = f"x{final.scale.iloc[0]}", []
    for model, baseline, word in statements:
        a, b = final.loc[model], final.loc[baseline]
        ratio = a.latency_ms / b.latency_ms
        low, high = a.latency_q25_ms / b.latency_q75_ms, a.latency_q75_ms / b.latency_q25_ms
        limit = 1 + TOLERANCE if word == "no slower" else 1
        verdict = "reproduced" if high <= limit else "differs" if low > limit else "undecided"
        theirs = paper.latency_ms[model] / paper.latency_ms[baseline]
        claim = f"{model}: {word} than {baseline} once instantiated"
        measure = f"latency, {size}, {a.device}, quartiles; {theirs:.2f} in the paper's Figure 1(a)"
        lines.append(line(claim, "upsampler alone", "ratio", measure, scale, ratio, low, high, 1.0, verdict))
    at_size = (final[["lr_height_px", "lr_width_px", "channels", "scale"]] == (360, 640, 64, 2)).all(axis=None)
    for column, (theirs, unit) in figure.items():
        claim = f"Figure 1(a): {what[column]} of the four upsamplers"
        ratios = (final[column] / (paper[theirs] * unit)).reindex(paper.index)
        ratio = ratios[(ratios - 1).abs().idxmax()]
        verdict = "reproduced" if abs(ratio - 1) <= FIGURE_TOLERANCE else "differs"
        measure = "ours over the paper's, farthest of four: " + ", ".join(f"{n} {r:.3f}" for n, r in ratios.items())
        lines.append(
            line(
                claim,
                "upsampler alone",
                "ratio",
                measure if at_size else "needs the paper's size",
                scale,
                **dict(value=ratio, low=ratios.min(), high=ratios.max(), target=1.0, verdict=verdict)
                if at_size
                else {},
            )
        )
    return lines


def per_scale(found: pd.DataFrame) -> pd.DataFrame:
    """What the paper claims at several scales one by one, a line for all scales: claim, about, budget, a text "value
    +- half-width unit" per scale and the verdict, with its scales where they differ. ``found``: `claims`; empty when
    none was run."""
    single = found[found.scale.str.fullmatch(r"x\d+") & (found.verdict != "not run") & (found.source == PAPER)]
    lines = []
    for (claim, about), part in single.groupby(["claim", "about"], sort=False):
        if part.scale.nunique() > 1:
            by_verdict = part.groupby("verdict", sort=False).scale.agg(", ".join)
            words = [verdict + f" ({scales})" * (len(by_verdict) > 1) for verdict, scales in by_verdict.items()]
            values = {
                row.scale: f"{round(row.value, 2) + 0.0:+.2f} ± {(row.high - row.low) / 2:.2f} {row.unit}"
                for row in part.itertuples()
            }
            budget = part.budget.iloc[0]
            lines.append(dict(claim=claim, about=about, budget=budget, **values, verdict=", ".join(words)))
    texts = ["claim", "about", "budget", "verdict"]
    if not lines:
        return pd.DataFrame(columns=texts)
    table = pd.DataFrame(lines).fillna("")
    scales = sorted(set(table) - set(texts), key=lambda name: int(name[1:]))
    return table[[*texts[:3], *scales, "verdict"]]


# Claim functions and the tables they take, below results/<profile>/, in the order of the table of claims. Those of
# `OF_RUNS` take the runs of the profile as well, because the rows of their tables do not have what was trained.
CLAIMS: dict[str, tuple[Callable[..., list[dict]], str]] = {
    "psnr": (psnr, "tables/fixed_vs_multi"),
    "ingredients": (ingredients, "tables/effects"),
    "training": (training, "tables/budget"),
    "stored": (stored, "analysis/efficiency/stored"),
    "costs": (lambda table: costs(table, paper_figure()), "analysis/efficiency/upsamplers"),
    "similarity": (findings.similarity, "analysis/similarity/cka"),
    "deeper": (findings.deeper, "analysis/similarity/cka"),
    "functional": (findings.functional, "analysis/similarity/functional"),
    "correlation": (findings.correlation, "analysis/correlation/correlation"),
    "aligned": (findings.aligned, "analysis/correlation/alignment"),
    "explained": (findings.explained, "analysis/correlation/maps"),
    "predicted": (findings.predicted, "analysis/correlation/alignment_psnr"),
    "one_encoder": (
        lambda table: conversions.one_encoder(table, published(["table3_df2k"])),
        "analysis/conversion/quality",
    ),
    "one_function": (conversions.one_function, "analysis/conversion/quality"),
    "low_first": (frequencies.low_first, "analysis/spectrum/order"),
    "biased": (frequencies.biased, "analysis/spectrum/equal_error"),
    "frequency_loss": (frequencies.frequency_loss, "analysis/spectrum/bands"),
    "unseen": (findings.unseen, "analysis/unseen/summary"),
}
OF_RUNS = (training, frequencies.frequency_loss)
OF_WEIGHTS = (
    "similarity",
    "deeper",
    "functional",
    "correlation",
    "aligned",
    "explained",
    "predicted",
)  # own or published


def paper_figure() -> pd.DataFrame:
    """The bars of the paper's Figure 1(a): upsampler, scale, out_h, out_w, latency_ms, params_k, memory_mb."""
    return pd.read_csv(results.PROJECT / "data" / "paper" / "fig1_efficiency.csv")


def read(profile: str) -> dict[str, pd.DataFrame]:
    """The tables of `CLAIMS` that a profile has; those it has not are empty. Raises InputError for a damaged one."""
    found = {}
    for name, (_, file) in CLAIMS.items():
        path = results.root(profile) / f"{file}.csv"
        # A table without rows can be without columns, and then is an empty line.
        known = path.is_file() and path.read_bytes() != b"\n"
        found[name] = results.read_table(path) if known else pd.DataFrame()
    return found


def claims(tables: dict[str, pd.DataFrame], runs: dict[str, Run]) -> pd.DataFrame:
    """`COLUMNS`: every claim judged on the table of its name in `CLAIMS`; missing tables count as empty.

    ``runs``: of the profile that the tables are of.
    """
    lines = []
    for name, (judge, _) in CLAIMS.items():
        found = judge(tables.get(name, pd.DataFrame()), *((runs,) if judge in OF_RUNS else ()))
        lines += [worded(one | dict(budget=budget_of(name, one["about"], runs))) for one in found]
    return pd.DataFrame(lines, columns=list(COLUMNS))


def budget_of(claim: str, about: str, runs: dict[str, Run]) -> str:
    """On what budget a line of the claim of `CLAIMS` rests: the profile's, given in steps where it is not the paper's,
    or that of others where it is about published weights."""
    if claim in ("stored", "costs", "one_encoder", "one_function"):
        return NONE
    own = [run for run in runs.values() if about.startswith(run.encoder)] or list(runs.values())
    if not own:
        return ""
    # Lines on correlation name no encoder; where the study's own runs are, they are about these.
    named = any(about.startswith(run.encoder) for run in own) or (
        claim == "correlation" and own[0].profile != "benchmark"
    )
    if claim in OF_WEIGHTS and about and not named:
        return PUBLISHED
    if own[0].profile == "paper":
        return FULL
    steps = [run.steps for run in own if run.is_main] or [run.steps for run in own]
    return f"reduced, {max(steps):,} steps"
