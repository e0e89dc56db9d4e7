"""Tables of a study as HTML for people: what says nothing is left out, and differences have their interval and colour.

A difference is "up" or "down" where its interval excludes zero, "even" where it holds it, and only "plus" or "minus"
where there is none. The sign is in the text as well, so that no colour is needed to read it.
"""

import re
from collections.abc import Callable
from html import escape

import pandas as pd

from igconv.reporting.tables import over_sets
from igconv.reporting.verdicts import BAD, GOOD

UNREAD = ("error_db", "degrees", "low_ssim", "high_ssim", "over_images_db")  # what tests of claims need; in the CSV
WITH_INTERVAL = re.compile(r"([+-]\d+\.\d+) ± (\d+\.\d+)( \w+)?")  # as `claims.per_scale` writes it
IN_HEADERS = {"db": "(dB)", "ms": "(ms)", "mib": "(MiB)", "mb": "(MB)", "px": "(px)", "psnr": "PSNR", "ssim": "SSIM",
              "y": "Y", "lr": "LR"}  # fmt: skip


def table_html(table: pd.DataFrame) -> str:
    """A table in HTML, its columns with one value in a line above it; "" for one without rows.

    Of a table per test set, the rows over all sets.
    """
    if "difference_db" in table and "images" in table:
        table = over_sets(table[table.images > 0])
    if table.empty:
        return ""
    table = table.drop(columns=[name for name in UNREAD if name in table])
    same = {} if len(table) == 1 else {name: table[name].iloc[0] for name in table if _is_same(table[name])}
    columns = [name for name in table if name not in same and name not in ("low_db", "high_db")]
    heads = "".join(f'<th scope="col">{heading(name)}</th>' for name in columns)
    body = [
        "<tr>" + "".join(_cell(name, row, place) for place, name in enumerate(columns)) + "</tr>"
        for row in table.to_dict("records")
    ]
    above = ", ".join(f"{heading(name)} {_text(value)}" for name, value in same.items() if _text(value))
    note = f'<p class="note">In every row: {above}.</p>' if above else ""
    return f'{note}<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def main_html(table: pd.DataFrame) -> str:
    """``tables/main``: a head per test set above its scales, SSIM below PSNR; "" for a table without rows.

    Models of which nothing was run are only counted.
    """
    if table.empty:
        return ""
    names = [name for name in table if re.fullmatch(r".+ x\d+", name)]
    absent = table[names].isin(["not run", "-"]).all(axis=1)
    sets = list(dict.fromkeys(name.rsplit(" ", 1)[0] for name in names))
    first = '<th rowspan="2" scope="col">model</th>' + "".join(
        f'<th colspan="{sum(n.startswith(name + " x") for n in names)}" scope="colgroup">{escape(name)}</th>'
        for name in sets
    )
    second = "".join(f'<th scope="col">{escape(name.rsplit(" ", 1)[1])}</th>' for name in names)
    body = []
    for row in table[~absent].to_dict("records"):
        about = ", ".join(filter(None, (_text(row.get(name)) for name in ("encoder", "networks"))))
        cells = [_tagged(0, f'{_text(row["model"])}<br><span class="note">{about}</span>')]
        for name in names:
            psnr, _, ssim = str(row[name]).partition(" / ")
            cells.append(_tagged(1, f'{escape(psnr)}<br><span class="note">{escape(ssim)}</span>'))
        body.append(f"<tr>{''.join(cells)}</tr>")
    head = f"<thead><tr>{first}</tr><tr>{second}</tr></thead>"
    note = f'<p class="note">Not run: {absent.sum()} more of {len(table)} models.</p>' if absent.any() else ""
    return f'<div class="wide"><table class="main">{head}<tbody>{"".join(body)}</tbody></table></div>{note}'


def per_scale_html(table: pd.DataFrame) -> str:
    """``tables/claims_per_scale``: a row per claim, which a narrow page shows as a card; "" without rows."""
    if table.empty:
        return ""
    scales = [name for name in table if re.fullmatch(r"x\d+", name)]
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("claim", "about", *scales, "verdict"))
    body = []
    for row in table.fillna("").to_dict("records"):
        cells = [f'<th scope="row">{escape(row["claim"])}</th><td>{escape(row["about"])}</td>']
        cells += [f'<td data-of="{name}" class="{_of_interval(row[name])}">{escape(row[name])}</td>' for name in scales]
        cells.append(f"<td>{verdict_html(row['verdict'])}</td>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    return f'<table class="cards"><thead><tr>{heads}</tr></thead><tbody>{"".join(body)}</tbody></table>'


def claims_html(table: pd.DataFrame) -> str:
    """``tables/claims``: a block per claim, its lines with value, interval, target and how they were measured."""
    blocks = []
    for claim, lines in table.groupby("claim", sort=False) if len(table) else ():
        rows = []
        for row in lines.astype(object).where(lines.notna(), "").to_dict("records"):
            what = " · ".join(filter(None, (row["about"], row["scale"])))
            rows.append(
                f'<tr><th scope="row">{escape(what) or "all"}</th><td>{verdict_html(row["verdict"])}</td>'
                f'<td data-of="value">{_value(row)}</td><td data-of="target">{_text(row["target"])}</td>'
                f'<td class="note">{escape(". ".join(filter(None, (row["measure"], row["budget"]))))}</td></tr>'
            )
        heads = "".join(f'<th scope="col">{name}</th>' for name in ("about", "verdict", "value", "target", "measured"))
        source = escape(", ".join(dict.fromkeys(lines.source.dropna())))
        blocks.append(
            f'<h3>{escape(str(claim))} <span class="note">({source})</span></h3><table class="cards"><thead><tr>{heads}'
            f"</tr></thead><tbody>{''.join(rows)}</tbody></table>"
        )
    return "".join(blocks)


def verdict_html(words: str) -> str:
    """A verdict, or several with their scales, "undecided (x2), ahead (x4)", each in its colour."""
    parts = re.split(r"(?<=\)), ", words)
    return ", ".join(f'<b class="{_of_verdict(part.split(" (")[0])}">{escape(part)}</b>' for part in parts)


def heading(column: str) -> str:
    """A column's name for people: "difference_db" is "difference (dB)"."""
    return escape(" ".join(IN_HEADERS.get(word, word) for word in column.replace("_", " ").split()))


def _is_same(values: pd.Series) -> bool:
    return values.astype(str).nunique() <= 1


def _tagged(place: int, text: str, colour: str = "") -> str:
    """A cell, the first of a row as its head."""
    of_class = f' class="{colour}"' if colour else ""
    return f"<td{of_class}>{text}</td>" if place else f'<th scope="row"{of_class}>{text}</th>'


def _cell(name: str, row: dict, place: int) -> str:
    value = row[name]
    text, colour = _text(value), ""
    if "difference" in name or name.startswith("gap"):
        low, high = (row.get(end, float("nan")) for end in ("low_db", "high_db"))
        interval = name == "difference_db" and pd.notna(low) and pd.notna(high)
        if pd.notna(value) and isinstance(value, float):
            text = (f"{value:+.4f}" if name.endswith("ssim") else _signed(value)) + (
                f" ({_signed(low)} to {_signed(high)})" if interval else ""
            )
            colour = _colour(low, high) if interval else "plus" if value > 0 else "minus"
    elif name.endswith("sha256"):
        text = text[:12]
    return _tagged(place, text, colour)


def _colour(low: float, high: float) -> str:
    return "up" if low > 0 else "down" if high < 0 else "even"


def _of_interval(text: str) -> str:
    found = WITH_INTERVAL.fullmatch(text)
    if not found:
        return ""
    value, half = float(found[1]), float(found[2])
    return _colour(value - half, value + half)


def _of_verdict(word: str) -> str:
    return "up" if word in GOOD else "down" if word in BAD else "even"


def _value(row: dict) -> str:
    if row["value"] == "":
        return ""
    write: Callable[[float], str] = _signed if row["unit"] == "dB" else _text
    interval = f" ({write(row['low'])} to {write(row['high'])})" if row["low"] != "" and row["high"] != "" else ""
    return f"{write(row['value'])}{interval} {escape(row['unit'])}"


def _signed(value: float) -> str:
    """With two digits; the sign stays where they are zero, because it decides the colour."""
    return f"{value:+.2f}"


def _text(value: object) -> str:
    """A cell as text for HTML; numbers with three digits, where they are not whole."""
    if isinstance(value, float):
        if pd.isna(value):
            return ""
        text = f"{value:,.0f}" if value.is_integer() else f"{value:,.3f}"
        return "0.000" if text == "-0.000" else text
    return "" if value is None else f"{value:,}" if isinstance(value, int) else escape(str(value))
