"""What do people find in the answers, and do they agree? Sheets to fill in, read back and compared.

    uv run eval/annotate.py export --responses A=a.csv --responses B=b.csv --rubric target_leak \\
        --outdir sheets
    uv run eval/annotate.py import --outdir sheets

export writes a sheet a rater (sheet_1.csv ...), guidelines.md from the rubrics, and key.json, which
alone knows whose answers they are: keep it away from the raters. Every rater gets the shared items
(--overlap) and an own part of the others, each in an own order; fill in the empty columns. import
checks labels and hashes and writes annotations.csv (an empty cell is a missing rating),
agreement.csv (Krippendorff's alpha with its interval, and for each pair of raters Cohen's kappa and
Gwet's AC1) and disagreements.csv. Alpha from .67 on may be reported, from .8 on claimed; below,
mend the rubric and raise its version.
"""

import json
import random
from itertools import combinations
from typing import Annotated

import typer

from brittle.base import command, options
from brittle.base.errors import UserError
from brittle.base.knobs import listed
from brittle.base.tables import read_cells

ANNOTATIONS = ["id", "source", "item", "rater", "rubric", "label", "notes"]
AGREEMENT = ["rubric", "statistic", "raters", "value", "ci_low", "ci_high", "n", "verdict"]
DISAGREEMENTS = ["id", "source", "item", "rubric", "labels", "question", "response"]
REPORT, CLAIM = 0.67, 0.8


def assign(count, raters, overlap, seed):
    """[raters] lists of item numbers: the first `overlap` share for all, the others dealt out; each
    list in its own order.
    """
    shared = round(overlap * count)
    lists = [[*range(shared), *range(shared + r, count, raters)] for r in range(raters)]
    return [random.Random(f"sheet {seed} {r}").sample(own, len(own)) for r, own in enumerate(lists)]


def fields(rubrics):
    """The columns that any of the rubrics shows."""
    return list(dict.fromkeys(field for rubric in rubrics for field in rubric.fields))


def sheet(rubrics, items, numbers):
    """Rows of one rater's sheet: the item's id and fields, an empty column a rubric, notes."""
    from brittle.metrics.rubrics import shown

    for number in numbers:
        texts = {k: v for rubric in rubrics for k, v in shown(rubric, items[number])}
        yield {"id": f"{number:04d}", **texts, **{rubric.id: "" for rubric in rubrics}, "notes": ""}


def guidelines(rubrics):
    from brittle.metrics.rubrics import instructions

    head = (
        "# How to rate\n\nOne row an answer. Write exactly one label into each column, or leave it "
        "empty if you cannot tell.\n"
    )
    return head + "".join(f"\n## Column {r.id}\n\n{instructions(r)}\n" for r in rubrics)


def read_sheet(path, known, labels):
    """{(id, rubric): (label or None, notes)} of a filled sheet. Raises UserError for unknown items
    and labels.
    """
    if not path.is_file():
        raise UserError(
            f"{path} not found. All sheets that were exported are wanted; leave cells empty that "
            "nobody rated."
        )
    labelled = {}
    for number, row in enumerate(read_cells(path), 2):
        if row.get("id", "").zfill(4) not in known:
            raise UserError(
                f"{path} line {number}: {row.get('id')!r} is no item of this export. "
                "Keep the column id as it was."
            )
        for rubric, allowed in labels.items():
            label = (row.get(rubric) or "").strip()
            if label and label.casefold() not in allowed:
                raise UserError(
                    f"{path} line {number}: {label!r} is no label of {rubric}: "
                    f"{', '.join(allowed.values())}."
                )
            key = row["id"].zfill(4), rubric
            labelled[key] = allowed.get(label.casefold()), row.get("notes") or ""
    return labelled


def what_alpha_allows(alpha):
    """What may be done with ratings that agree by `alpha` (Krippendorff's limits)."""
    if alpha is None:
        return "undefined"
    if alpha >= CLAIM:
        return "claim"
    return "report" if alpha >= REPORT else "mend the rubric"


def agreement(ratings, rubrics, raters, seed=0):
    """Rows of agreement.csv; ratings {rubric: {id: {rater: label}}}."""
    from brittle.maths.agreement import alpha_interval, cohen_kappa, gwet_ac1, krippendorff_alpha

    for name, (labels, scale) in rubrics.items():
        units = [[by.get(r) for r in raters] for by in ratings[name].values()]
        rated = [u for u in units if sum(x is not None for x in u) > 1]
        alpha = krippendorff_alpha(rated, labels, scale) if rated else None
        low, high = None, None
        if alpha is not None:
            low, high = alpha_interval(rated, labels, scale, seed=seed)
        yield {
            "rubric": name,
            "statistic": f"krippendorff_alpha ({scale})",
            "raters": "all",
            "value": alpha,
            "ci_low": low,
            "ci_high": high,
            "n": len(rated),
            "verdict": what_alpha_allows(alpha),
        }
        for one, two in combinations(range(len(raters)), 2):
            pairs = [(u[one], u[two]) for u in units if None not in (u[one], u[two])]
            for statistic, measure in (("cohen_kappa", cohen_kappa), ("gwet_ac1", gwet_ac1)):
                yield {
                    "rubric": name,
                    "statistic": statistic,
                    "raters": f"{raters[one]} and {raters[two]}",
                    "value": measure(*zip(*pairs, strict=True)) if pairs else None,
                    "ci_low": None,
                    "ci_high": None,
                    "n": len(pairs),
                    "verdict": "",
                }


def export(responses, rubric, outdir, n, raters, overlap, stratify, seed):
    from brittle.base.record import Run
    from brittle.metrics.responses import NEEDED, blind, files, read_responses
    from brittle.metrics.rubrics import read_rubric

    asked = [read_rubric(name) for name in rubric]
    items = blind(read_responses(responses), seed, n, tuple(listed(stratify)))
    about = {
        x.id: {"path": str(x.path), "sha256": x.sha256, "labels": x.labels, "scale": x.scale}
        for x in asked
    }
    hidden = ("source", "item", *NEEDED)
    whose = {f"{i:04d}": {k: str(item.get(k, "")) for k in hidden} for i, item in enumerate(items)}
    key = {"rubrics": about, "items": whose, "raters": raters}
    if any((outdir / f"sheet_{k}.csv").is_file() for k in range(1, raters + 1)):
        raise UserError(f"{outdir} has sheets already, perhaps filled in. Choose another --outdir.")
    with Run(
        outdir,
        [*files(responses), *(x.path for x in asked)],
        seed=seed,
        settings={"n": len(items)},
        quiet=True,
    ) as run:
        run.path("key.json").write_text(json.dumps(key, indent=1) + "\n", encoding="utf-8")
        run.path("guidelines.md").write_text(guidelines(asked), encoding="utf-8")
        columns = ["id", *fields(asked), *(x.id for x in asked), "notes"]
        for number, own in enumerate(assign(len(items), raters, overlap, seed), 1):
            run.csv(f"sheet_{number}.csv", columns, sheet(asked, items, own))
    print(
        f"{outdir}: {raters} sheets of {len(items)} items; give them out with guidelines.md and "
        "without key.json."
    )


def gather(outdir, seed):
    from pathlib import Path

    from brittle.base.files import sha256
    from brittle.base.record import Run

    try:
        key = json.loads((outdir / "key.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(
            f"{outdir}/key.json is missing or damaged: import reads the folder that export wrote."
        ) from None
    for name, about in key["rubrics"].items():
        if Path(about["path"]).is_file() and sha256(about["path"]) != about["sha256"]:
            raise UserError(
                f"{about['path']} has changed since {name} was given out: its labels may mean "
                "something else now."
            )
    raters = [f"rater {k}" for k in range(1, key["raters"] + 1)]
    paths = [outdir / f"sheet_{k}.csv" for k in range(1, key["raters"] + 1)]
    labels = {
        name: {label.casefold(): label for label in about["labels"]}
        for name, about in key["rubrics"].items()
    }
    ratings, table = {name: {} for name in labels}, []
    for rater, path in zip(raters, paths, strict=True):
        for (item, rubric), (label, notes) in read_sheet(path, key["items"], labels).items():
            ratings[rubric].setdefault(item, {})[rater] = label
            about = key["items"][item]
            row = (item, about["source"], about["item"], rater, rubric, label, notes)
            table.append(dict(zip(ANNOTATIONS, row, strict=True)))
    if not any(row["label"] for row in table):
        raise UserError(
            f"no label is filled in, in none of the {len(paths)} sheets of {outdir}. "
            "Nothing was written."
        )
    scales = {name: (about["labels"], about["scale"]) for name, about in key["rubrics"].items()}
    measured = list(agreement(ratings, scales, raters, seed))
    differ = []
    for rubric, items in ratings.items():
        for item, by in sorted(items.items()):
            if len({label for label in by.values() if label}) > 1:
                given = "; ".join(f"{rater}: {label}" for rater, label in by.items() if label)
                differ.append({**key["items"][item], "id": item, "rubric": rubric, "labels": given})
    with Run(outdir, [outdir / "key.json", *paths], seed=seed) as run:
        run.csv("annotations.csv", ANNOTATIONS, table)
        run.csv("disagreements.csv", DISAGREEMENTS, differ)
        run.csv("agreement.csv", AGREEMENT, measured)
    for row in measured:
        value = "undefined" if row["value"] is None else f"{row['value']:.2f}"
        print(
            f"{row['rubric']:<22} {row['statistic']:<28} {row['raters']:<20} {value:>9} "
            f"(n {row['n']}) {row['verdict']}"
        )


def main(
    action: Annotated[str, typer.Argument(help="export or import.")],
    outdir: options.Outdir,
    responses: Annotated[
        list[str] | None,
        typer.Option("--responses", help="export: NAME=FILE or FOLDER, repeatable."),
    ] = None,
    rubric: Annotated[
        list[str] | None,
        typer.Option("--rubric", help="export: rubric name or .toml file, repeatable."),
    ] = None,
    n: Annotated[
        int, typer.Option("--n", min=1, help="export: items, about as many of each stratum.")
    ] = 120,
    raters: Annotated[int, typer.Option(min=1, help="export: people.")] = 3,
    overlap: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="export: share of items that everybody rates.")
    ] = 0.3,
    stratify: Annotated[str, typer.Option(help="export: columns that make strata.")] = "source",
    seed: options.Seed = 0,
):
    """Export rating sheets, or import filled ones and measure agreement."""
    if action == "export":
        if not responses:
            raise UserError("export needs --responses NAME=FILE.")
        export(
            responses,
            rubric or ["target_leak", "answer_type"],
            outdir,
            n,
            raters,
            overlap,
            stratify,
            seed,
        )
    elif action == "import":
        gather(outdir, seed)
    else:
        raise UserError(f"{action}: choose export or import.")


if __name__ == "__main__":
    command.run(main)
