"""Was the knowledge removed, or only hidden? All results on one page, and the numbers that answer
it in one table.

    uv run experiment/report.py --base M --filtered M --unlearned M --root outputs
    uv run experiment/report.py --base M --unlearned M --root outputs

Reads what the steps of steps.csv wrote (CSVs, figures, records) and nothing else. Writes
<root>/report.html, which needs no other file, and <root>/summary.csv. What has not been measured is
said to be so. The words of the first screen follow from the numbers by the rules of
brittle/report/verdict.py, and without --filtered by those of brittle/report/no_twin.py. Studies
that are no step of steps.csv add sections of their own (EXTRA).
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from brittle.base import code, command, layout, options
from brittle.base.record import Run, older_code, say
from brittle.base.tables import number, read_rows
from brittle.models.twin import check_twin
from brittle.pipeline import steps
from brittle.report import attacks, change, filter, levels, no_twin, page, quality, sequential
from brittle.report.condense import condense, question, records, update_size
from brittle.report.verdict import RULES, SAYS, WORDS, headline, verdict

# Columns of recovery.csv that are filled where there is no Filtered.
OF_CHANCE = ("chance", "chance_of", "gained", "gained_low", "gained_high", "never_seen_gained")
OVER_FILTERED, FROM_CHANCE = "recovery_over_filtered", "recovery_from_chance"
COLUMNS = [
    "model",
    "role",
    "forget_accuracy",
    "retain_accuracy",
    "general_accuracy",
    "forget_difference_low",
    "forget_difference_high",
    "retain_difference_low",
    "retain_difference_high",
    "general_difference_low",
    "general_difference_high",
    "neutral_texts",
    "neutral_nll",
    "neutral_nll_change",
    "neutral_nll_change_low",
    "neutral_nll_change_high",
    "neutral_kl",
    "neutral_kl_low",
    "neutral_kl_high",
    "recovery_over_filtered",
    "recovery_over_filtered_low",
    "recovery_over_filtered_high",
    "recovery_from_chance",
    "recovery_from_chance_low",
    "recovery_from_chance_high",
    *OF_CHANCE,
    "update_relative_norm",
    "update_stable_rank",
]
# The steps that the first screen reads, and the file beside the step's output that it wants.
SOURCES = {"harness": None, "recovery": None, "1": "per_matrix.csv", "neutral": None}
SPLITS = ("forget", "retain", "general")
LEAD = "recovery"  # the step whose figure stands right after the first screen
# Studies that are no step. Each has sections(root) -> [(anchor, heading, HTML)], none where its
# CSVs are absent, and sources(root) -> the files it reads. A file that does not exist yet makes the
# report run again once it does.
EXTRA = (sequential, filter, attacks, quality)
REPO = Path(__file__).resolve().parents[1]
MOST = 60  # lines of a section's table
UNFOLDED = 8  # lines that stand open on the page
PRESENT = "the present code"
CONTROLS = (
    "Controls: {names}. They are fine-tunes of Base with a ΔW as long as that of the unlearned "
    "model, and they unlearned nothing. What is said of them as well is no mark of unlearning."
)
MEANING = (
    "Accuracies are of the models as made. NLL on neutral text: nats a token on texts of neither "
    "set, or on retain texts where the data have no others. Moved on neutral text: KL from Base's "
    "predictions, in nats a token; in brackets its 95 % interval. Size of ΔW: |ΔW|/|W| (Frobenius) "
    "over all matrices; stable rank: mean weighted by |ΔW|². "
)
WITH_FILTERED = (
    "Recovery over Filtered: fine-tune on half A of the forget facts, then ask for half B; 0 is "
    "Filtered as made, which never saw them, and 1 is Base as made, by definition; in brackets its "
    "95 % interval. Filtered is another training run: beside it any fine-tune looks small and of "
    "low rank."
)


def named(roles, role):
    """The first name with a role, None where there is none. roles: {name of a model: role}."""
    return next((name for name in roles if roles[name] == role), None)


def source(root, step, base, model):
    """The file of SOURCES that holds the numbers of `model`."""
    pair = root / f"{base}__to__{model}"
    homes = {"harness": root / model, "recovery": root, "1": pair, "neutral": pair}
    return layout.step(step).path(homes[step], SOURCES[step])


def samples_of(root, model):
    """The file of a model's answers, one row an item."""
    return source(root, "harness", model, model).with_name("samples.csv")


def items_of(root, model):
    """{split: rows of samples.csv} of one model, for the tasks that stand for a split."""
    accuracy = read_rows(source(root, "harness", model, model))
    tasks = {r["split"]: r["task"] for r in reversed(accuracy) if r["metric"] == "acc"}
    samples = read_rows(samples_of(root, model))
    return {split: [r for r in samples if r["task"] == task] for split, task in tasks.items()}


def accuracy_difference(rows, other):
    """(low, high), 95 %, of the accuracy in `rows` less that in `other`, means over entities.

    Both are rows of samples.csv, of two models. (None, None) where the two were not asked about
    the same entities, or about one entity alone.
    """
    from brittle.data.items import per_entity
    from brittle.maths.entities import difference

    means = [{e: s / n for e, (s, n) in per_entity(side).items()} for side in (rows, other)]
    if not means[0] or set(means[0]) != set(means[1]):
        return None, None
    one, two = ([[of_model[entity] for entity in means[0]]] for of_model in means)
    return difference(one, two)


def differences(items, others):
    """{column: end of an interval} of one model.

    items: its answers {split: rows}; others: those of the model that it is held against.
    """
    columns = {}
    for split in SPLITS:
        low, high = accuracy_difference(items.get(split, []), others.get(split, []))
        columns |= {f"{split}_difference_low": low, f"{split}_difference_high": high}
    return columns


def neutral_columns(root, base, others, model):
    """{column: number} of what the step `neutral` measured; None for what is not known.

    Base stands in the comparison with each of `others`, as model A: of it only the NLL is known.
    """
    paths = [source(root, "neutral", base, other) for other in others]
    if model != base:
        paths = [source(root, "neutral", base, model)]
    tables = [rows for path in paths if (rows := read_rows(path))]
    measured = tables[0][0] if tables else {}
    names = {
        "neutral_nll": "nll_b",
        "neutral_nll_change": "nll_change",
        "neutral_nll_change_low": "nll_change_low",
        "neutral_nll_change_high": "nll_change_high",
        "neutral_kl": "kl",
        "neutral_kl_low": "kl_low",
        "neutral_kl_high": "kl_high",
    }
    columns = {"neutral_texts": measured.get("texts")}
    if model == base:
        return columns | dict.fromkeys(names) | {"neutral_nll": number(measured.get("nll_a"))}
    return columns | {new: number(measured.get(old)) for new, old in names.items()}


def summary(root, roles):
    """A row of COLUMNS a model, None for what is not known.

    It also holds `split_a_accuracy`, which the verdict reads, and `attack_step`: 0 where the attack
    left the model as made.
    """
    base, filtered = (named(roles, role) for role in ("base", "filtered"))
    attacks = {row["model"]: row for row in read_rows(source(root, "recovery", base, base))}
    recovery = OVER_FILTERED if filtered else FROM_CHANCE
    renamed = {
        OVER_FILTERED: OVER_FILTERED,
        FROM_CHANCE: FROM_CHANCE,
        "ci_low": f"{recovery}_low",
        "ci_high": f"{recovery}_high",
        "split_a_accuracy": "split_a_accuracy",
        **{column: column for column in OF_CHANCE if column != "chance_of"},
    }
    items = {model: items_of(root, model) for model in roles}
    # What a model is held against: on the forget questions Filtered, where there is one, else Base.
    others = items[base]
    if filtered:
        others = others | {"forget": items[filtered].get("forget", [])}
    for model, role in roles.items():
        row = dict.fromkeys(COLUMNS) | {"model": model, "role": role}
        right = [r for r in read_rows(source(root, "harness", base, model)) if r["metric"] == "acc"]
        for split in SPLITS:
            row[f"{split}_accuracy"] = next(
                (number(r["value"]) for r in right if r["split"] == split), None
            )
        row |= differences(items[model], others)
        row |= neutral_columns(root, base, list(roles)[1:], model)
        row |= {new: number(attacks.get(model, {}).get(old)) for old, new in renamed.items()}
        row["attack_step"] = number(attacks.get(model, {}).get("step"))
        row["chance_of"] = attacks.get(model, {}).get("chance_of")
        norm, rank = update_size(
            [] if role == "base" else read_rows(source(root, "1", base, model))
        )
        yield row | {"update_relative_norm": norm, "update_stable_rank": rank}


def verdicts_of(rows):
    """{name of an unlearned model: its `Verdict`}, from the rows of the summary."""
    filtered = next((row for row in rows if row["role"] == "filtered"), None)
    return {
        row["model"]: verdict(row, rows[0], filtered) if filtered else no_twin.verdict(row, rows[0])
        for row in rows
        if row["role"] == "unlearned"
    }


def by_definition(row, recovery=OVER_FILTERED):
    """Whether a row's recovery is an end of its scale: that of Base or Filtered as made."""
    if row["role"] == "unlearned" or row[recovery] is None:
        return False
    low, high = (row[f"{recovery}_{end}"] for end in ("low", "high"))
    return row["attack_step"] == 0 and low == high


def follow(verdicts):
    """What follows for each model, as HTML; the title says the first half of one model's."""
    esc = page.esc
    if len(verdicts) == 1:
        reason = next(iter(verdicts.values()))[1]
        return f"<p>{esc(reason[0].upper() + reason[1:])}.</p>"
    items = [
        esc(f"{SAYS[word].format(model)}: {reason}.") for model, (word, reason) in verdicts.items()
    ]
    return f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>"


def was_asked(rows, root):
    """Whether anything is known of what the models know, or nothing else of them either.

    Where the weights alone were compared, these are what the first screen speaks of.
    """
    base = rows[0]["model"]
    known = (*(f"{split}_accuracy" for split in SPLITS), OVER_FILTERED, FROM_CHANCE)
    compared = any(source(root, "1", base, row["model"]).is_file() for row in rows[1:])
    return not compared or any(row[column] is not None for row in rows for column in known)


def planned(study, listed, *, weights_alone):
    """The tasks that the page shows, whether or not they were run.

    Those that read data are left out where the weights alone were compared and none of them was
    run.
    """
    tasks = steps.tasks(study, listed)
    bare = steps.tasks(replace(study, data=""), listed)
    names = {task.name for task in bare}
    read_data = [task for task in tasks if task.name not in names]
    if weights_alone and not any(task.output.is_file() for task in read_data):
        return bare
    return tasks


def opening(rows, root, names, by_path):
    """(title, first screen as HTML) of the page. names, by_path: see `first_screen` and `main`."""
    base, others = rows[0]["model"], [row["model"] for row in rows[1:]]
    if not was_asked(rows, root):
        return change.headline(root, base, others), change.weights_alone(root, base, others)
    verdicts = verdicts_of(rows)
    parts = [first_screen(rows, verdicts, root, names)]
    if assumed := no_twin.assumed(by_path):
        parts.insert(0, f'<p class="chance">{page.esc(assumed)}</p>')
    if not any(row["role"] == "filtered" for row in rows):
        parts.append(f"<h3>What was done to the weights</h3>{change.boxes(root, base, others)}")
    return headline(verdicts), "".join(parts)


def caution(row):
    """What cannot be concluded without Filtered, as HTML. row: Base's, of the summary."""
    return f'<p class="chance">{page.esc(no_twin.cannot_conclude(row))}</p>'


def meaning(*, has_twin):
    """What the numbers mean, and the rules behind the words, folded."""
    rules = "".join(f"<li>{page.esc(r)}</li>" for r in (RULES if has_twin else no_twin.RULES))
    text = MEANING + (WITH_FILTERED if has_twin else no_twin.MEANING)
    return (
        "<details><summary>What the numbers mean, and the rules behind the words</summary>"
        f"<p>{text}</p><ul>{rules}</ul></details>"
    )


def first_screen(table, verdicts, root, names):
    """The table of models and what follows from it, as HTML.

    names: {folder: what its step is called in the list that is reported}.
    """
    esc, base = page.esc, table[0]["model"]
    has_twin = any(row["role"] == "filtered" for row in table)
    recovery = OVER_FILTERED if has_twin else FROM_CHANCE

    def cell(row, column, step, form="{:.2f}"):
        if row[column] is not None:
            return form.format(row[column]).replace("-", "−")
        # What has no value though it was measured is undefined.
        known = {"recovery": row["split_a_accuracy"] is not None}
        there = source(root, step, base, row["model"]).is_file()
        name = names.get(layout.step(step).folder, step)
        if step == "harness" and there:
            return '<span class="missing">not asked</span>'
        text = "undefined" if known.get(step, there) else f"not measured: run step {name}"
        return f'<span class="missing">{esc(text)}</span>'

    def with_interval(row, column, step):
        value = cell(row, column, step)
        if None in (row[f"{column}_low"], row[f"{column}_high"]):
            return value
        low, high = (cell(row, f"{column}_{end}", step) for end in ("low", "high"))
        return f"{value} <small>[{low}, {high}]</small>"

    def cells(row):
        role = row["role"]
        if role == "unlearned":
            word = verdicts[row["model"]][0]
            role += f': <span class="{word}">{WORDS[word]}</span>'
        recovered = with_interval(row, recovery, "recovery")
        if by_definition(row, recovery):
            shown = cell(row, recovery, "recovery")
            recovered = f"{shown} <small>by definition</small>"
        kind = "twin" if has_twin else "chance"
        recovered = f'<span class="{kind}">{recovered}</span>'
        yield from (("model", esc(row["model"])), ("role", role))
        yield from (
            (f"{split} accuracy", cell(row, f"{split}_accuracy", "harness")) for split in SPLITS
        )
        nll = cell(row, "neutral_nll", "neutral")
        if row["neutral_texts"] not in (None, "neutral"):
            nll += f" <small>({esc(row['neutral_texts'])} text)</small>"
        yield "NLL on neutral text", nll
        moved = size = rank = "–"
        if row["role"] != "base":
            moved = with_interval(row, "neutral_kl", "neutral")
            size = cell(row, "update_relative_norm", "1", "{:.3f}")
            rank = cell(row, "update_stable_rank", "1", "{:.1f}")
        yield "moved on neutral text", moved
        yield recovery.replace("_", " ").replace("filtered", "Filtered"), recovered
        yield from (("size of ΔW", size), ("stable rank of ΔW", rank))

    shown = [dict(cells(row)) for row in table]
    warned = "" if has_twin else caution(table[0])
    summed = page.summary_table(list(shown[0]), shown)
    return f"{follow(verdicts)}{warned}{summed}{meaning(has_twin=has_twin)}"


def condensed_table(table, output):
    """The HTML of a `Condensed` CSV, folded where it is long."""
    says = [f"{output}: {table.count} rows"] if table.note else [output]
    says += [table.note] if table.note else []
    if len(table.rows) > MOST:
        says.append(f"the first {MOST} of {len(table.rows)} lines")
    shown = page.table(table.columns, table.rows[:MOST], "; ".join(says))
    if len(table.rows) <= UNFOLDED:
        return shown
    return f"<details><summary>Table: {page.esc(output)}</summary>{shown}</details>"


def section(row, units, lead=False):
    """(anchor, heading, HTML) of one step. units: {label: folder}; their figures side by side, then
    the CSV condensed.
    """
    esc, title, step = page.esc, row["title"], row["step"]
    done = {label: folder for label, folder in units.items() if (folder / row["output"]).is_file()}
    parts = [f'<p class="soft">{esc(question(REPO / row["script"]))}</p>']
    for label in [label for label in units if label not in done]:
        parts.append(
            f'<p class="missing">{esc(label or title)}: not measured: run step {esc(step)}</p>'
        )
    for label, folder in done.items():
        if older := older_code(folder / row["output"]):
            parts.append(f'<p class="missing">{esc(label or title)}: {esc(older)}</p>')
    for name in sorted({png.name for folder in done.values() for png in folder.glob("*.png")}):
        drawn = [
            (folder / name, label or "all models", f"{title}: {name[:-4]}, {label}")
            for label, folder in done.items()
            if (folder / name).is_file()
        ]
        parts.append(page.figures(drawn))
    if row["output"].endswith(".csv"):
        table = condense(done, row["output"])
        if table.rows:
            parts.append(condensed_table(table, row["output"]))
    heading = f"{step} · {title}" if step.isdigit() and not lead else title
    return f"step-{step}", heading, "".join(parts)


class Compared(NamedTuple):
    """The `comparisons` of the models that are studied, and of controls."""

    studied: dict
    controls: dict


def comparisons(root, base, others):
    """{label: (root, base, other)} of each of the `others`."""
    return {f"{base} → {other}": (root, base, other) for other in others}


def level_section(level, listed, units, compared, *, has_twin):
    """(anchor, heading, HTML) of a level: a sentence a comparison, side by side, then its steps."""
    asked, names_of_steps = levels.LEVELS[level]
    if not levels.compares(level):
        compared = compared._replace(controls={})
    steps_of_it = [row for row in listed if row["step"] in names_of_steps]
    named = [row["step"] for row in steps_of_it]
    pairs = {**compared.studied, **compared.controls}
    said = [(label, levels.sentence(level, *names, named)) for label, names in pairs.items()]
    parts = [
        f"<p>{page.esc(asked)}</p>",
        page.side_by_side(said, levels.rules(level, named)),
    ]
    if compared.controls:
        names = ", ".join(other for _, _, other in compared.controls.values())
        parts.append(f'<p class="soft">{page.esc(CONTROLS.format(names=names))}</p>')
    if level in levels.CAUTIONS and has_twin:
        parts.append(f'<p class="soft">{page.esc(levels.CAUTIONS[level])}</p>')
    for row in steps_of_it:
        anchor, heading, body = section(row, units[row["step"]])
        opening = f'<section id="{page.esc(anchor)}"><h3>{page.esc(heading)}</h3>'
        parts.append(f"{opening}{body}</section>")
    return f"level-{level}", level.capitalize(), "".join(parts)


def level_sections(listed, units, lead, compared, *, has_twin):
    """All sections of steps: those before the first step that belongs to a level, the levels, those
    after. `lead` opens.
    """
    level_of = {
        step: level for level, (_, steps_of_it) in levels.LEVELS.items() for step in steps_of_it
    }
    shown = [row for row in listed if row["step"] in units]
    leading = [row for row in shown if row["folder"] == layout.step(lead).folder]
    first = next((i for i, row in enumerate(shown) if row["step"] in level_of), len(shown))
    alone = [row for row in shown if row["step"] not in level_of and row not in leading]
    before = [row for row in alone if row in shown[:first]]
    there = {level_of[row["step"]] for row in shown if row["step"] in level_of}
    sections = [section(row, units[row["step"]], lead=True) for row in leading]
    sections += [section(row, units[row["step"]]) for row in before]
    sections += [
        level_section(level, shown, units, compared, has_twin=has_twin)
        for level in levels.LEVELS
        if level in there
    ]
    return sections + [section(row, units[row["step"]]) for row in alone if row not in before]


class Made(NamedTuple):
    """One run, as the last section lists it."""

    started: str
    command: str
    seconds: float
    commit: str
    code: str  # PRESENT, or why it is older


def how_made(by_path):
    """Commands, commits, versions and durations, from the records {path: record}."""
    runs, versions = [], {}
    for record in sorted(by_path.values(), key=lambda r: r["started"]):
        commit = record["git_commit"] or ""
        started, command = record["started"][:16].replace("T", " "), " ".join(record["command"])
        short = f"{commit[:10]}-dirty" if commit.endswith("-dirty") else commit[:10]
        older = code.why_older(record.get("code")) or PRESENT
        runs.append(Made(started, command, record["seconds"], short, older))
        for name, version in record["versions"].items():
            versions.setdefault(name, []).append(version)
    listed = ", ".join(f"{name} {' and '.join(dict.fromkeys(v))}" for name, v in versions.items())
    commits = " and ".join(dict.fromkeys(run.commit for run in runs if run.commit)) or "not known"
    minutes = math.fsum(run.seconds for run in runs) / 60
    older = ""
    if count := sum(run.code != PRESENT for run in runs):
        says = f"{count} of them were made by older code than the present."
        older = f'<p class="missing">{says}</p>'
    commands = page.table(list(Made._fields), runs)
    return (
        f"<p>{len(runs)} runs, {minutes:.1f} minutes of work in all, at commit "
        f"{page.esc(commits)}. Versions: {page.esc(listed)}.</p>{older}"
        f"<details><summary>Commands</summary>{commands}</details>"
    )


def main(
    base: options.Base,
    unlearned: options.UnlearnedModels,
    filtered: options.Filtered = None,
    control: Annotated[
        list[str] | None,
        typer.Option(help="Fine-tune(s) of Base to compare with: pipeline.sh --controls."),
    ] = None,
    root: options.Root = Path("outputs"),
    table: Annotated[
        Path,
        typer.Option("--steps", help="The list of steps.", show_default="experiment/steps.csv"),
    ] = REPO / "experiment" / "steps.csv",
):
    """One page with all results (report.html), and summary.csv."""
    roles = layout.roles_of(base, filtered, unlearned)
    check_twin(base, filtered, unlearned)
    listed = [
        row for row in steps.read_steps(table) if Path(row["script"]).name != Path(__file__).name
    ]
    models = list(dict.fromkeys(unlearned))
    rows = list(summary(root, roles))
    controls = control or []
    study = steps.Study(
        *("report", base, filtered or "", models, "", ".", str(root)), controls=controls
    )
    tasks = planned(study, listed, weights_alone=not was_asked(rows, root))
    units, comparing = {}, {row["step"] for row in listed if row["scope"] == "comparison"}
    for task in tasks:
        label = task.name.removeprefix(task.step).strip()
        label = f"{next(iter(roles))} → {label}" if task.step in comparing else label
        units.setdefault(task.step, {})[label] = task.output.parent
    name, *others = roles
    compared = Compared(
        comparisons(root, name, others),
        comparisons(root, name, map(layout.model_name, controls)),
    )
    done = [task.output for task in tasks if task.output.is_file()]
    by_path = records(tasks, [base, *study.others(), *controls])
    drawn = [png for output in done for png in output.parent.glob("*.png")]
    files = {table, *done, *by_path, *drawn}
    files |= {
        path
        for step in SOURCES
        for m in roles
        if (path := source(root, step, next(iter(roles)), m)).is_file()
    }
    files |= {path for m in roles if (path := samples_of(root, m)).is_file()}
    # The page says which results are of older code: it is made anew where such a file is mended.
    named = {path for record in by_path.values() for path in record.get("code") or {}}
    files |= {file for path in named if (file := code.ROOT / path).is_file()}
    more = [Path(path) for module in EXTRA for path in module.sources(root)]
    pairs = [*compared.studied.values(), *compared.controls.values()]
    more += [path for names in pairs for path in levels.sources(*names)]
    files |= {path for path in more if path.is_file()}
    absent = [str(task.output) for task in tasks if not task.output.is_file()]
    unread = absent + sorted(str(path) for path in more if not path.is_file())
    names = {row["folder"]: row["step"] for row in reversed(listed) if row["folder"]}
    with Run(root, sorted(map(str, files)), settings={"roles": roles, "absent": unread}) as run:
        sections = level_sections(listed, units, LEAD, compared, has_twin=bool(filtered))
        for study in EXTRA:
            sections += study.sections(root)
        sections.append(("how", "How this was made", how_made(by_path)))
        title, first = opening(rows, root, names, by_path)
        foot = "All numbers come from the CSV files beside this page."
        text = page.page(title, first, sections, foot)
        run.path("report.html").write_text(text, encoding="utf-8")
        run.csv("summary.csv", COLUMNS, ({c: row[c] for c in COLUMNS} for row in rows))
    say(root / "report.html", title)
    if absent:
        print(f"not measured yet: {len(absent)} of {len(tasks)} outputs, such as {absent[0]}")


if __name__ == "__main__":
    command.run(main)
