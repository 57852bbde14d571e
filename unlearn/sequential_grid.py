"""Which of the sequential experiment log's findings hold on another model?

    uv run unlearn/sequential_grid.py --model outputs/models/mini-base
    uv run unlearn/sequential_grid.py --model M --only Same-sign --max-seeds 1
    uv run unlearn/sequential_grid.py --markdown            the tables of docs/sequential.md

Runs every row of unlearn/sequential_log.csv here and writes results.csv. The rows are those of the
log (GPT-NeoX 6.9B, WMDP-bio robust, MMLU) with their settings and numbers, and controls of our own:
pairs that differ in one thing. A row is scaled to the model: blocks by relative depth, steps and
learning rates by --steps-scale and --lora-lr-scale / --full-lr-scale. The model is trained,
measured on forget, retain, general and held-out questions, and attacked by fine-tuning on a part of
half A of the forget facts. Half B is measured after 0, 10 and 100 steps, as in the log, and after
the step at which the answer NLL on the rest of half A is lowest (`attack_step`), as in all other
attacks. The log's definition of recovery is
    recovery_over_start(t) = (heldout(t) - heldout(0)) / (heldout of the base - heldout(0))
and `recovery_over_start` without a number is that at `attack_step`.
findings.csv compares the controls over seeds, paired by seed, with 95 % intervals by Student's t.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from brittle.base import command, groups, options
from brittle.base.errors import UserError
from brittle.data.examples import TRAINING, TrainingReading

CONFIG = [
    "group",
    "run",
    "role",
    "seed",
    "adapter",
    "layers",
    "steps",
    "forget_loss",
    "probe_start",
    "retain_loss",
    "retain_blocks",
    "remove_coef",
    "retain_coef",
    "lr",
    "retain_ramp",
    "gradients",
    "l2sp_coef",
    "chat_share",
]
MEASURED = [
    "forget_accuracy",
    "forget_low",
    "forget_high",
    "retain_accuracy",
    "retain_low",
    "retain_high",
    "general_accuracy",
    "general_low",
    "general_high",
    "heldout_accuracy",
    "heldout_low",
    "heldout_high",
    "heldout_accuracy_10",
    "heldout_low_10",
    "heldout_high_10",
    "heldout_accuracy_100",
    "heldout_low_100",
    "heldout_high_100",
    "recovery_over_start_10",
    "recovery_over_start_100",
    "attack_step",
    "heldout_accuracy_attacked",
    "heldout_low_attacked",
    "heldout_high_attacked",
    "recovery_over_start",
    "forget_loss_end",
    "retain_loss_end",
]
LOG = [
    "log_wmdp",
    "log_mmlu",
    "log_retain_loss",
    "log_forget_loss",
    "log_tamper_10",
    "log_tamper_100",
]
COLUMNS = [*CONFIG, *MEASURED, "n", *LOG, "filled", "note"]
# printed while the rows run: what was measured, without the ends of intervals
SHOWN = [
    column
    for column in MEASURED
    if column.endswith(("accuracy", "_10", "_100", "over_start"))
    and "low" not in column
    and "high" not in column
]
# recovery in the columns of MEASURED, and the column of half B's accuracy that each is made from
RECOVERIES = {
    "recovery_over_start_10": "heldout_accuracy_10",
    "recovery_over_start_100": "heldout_accuracy_100",
    "recovery_over_start": "heldout_accuracy_attacked",
}
FINDINGS = ["finding", "measure", "mean", "low", "high", "n", "seeds"]
LOG_FILE = Path(__file__).with_name("sequential_log.csv")


def read_log(path, only):
    """The rows of the log (dicts of text), of groups and runs whose `group/run` holds `only`."""
    from brittle.base.tables import read_cells

    named = [
        row for row in read_cells(path) if only.lower() in f"{row['group']}/{row['run']}".lower()
    ]
    if not named:
        raise UserError(f"--only {only!r}: no row of {path.name} is called so.")
    return named


def earlier(outdir, folder, settings):
    """Rows of an earlier run, numbers as numbers; none where there is none.

    Raises UserError where that was a run of another model or with other settings.
    """
    from brittle.base.record import within_project
    from brittle.base.tables import read_rows

    record = outdir / "results.run.json"
    if not record.is_file():
        return []
    before = json.loads(record.read_text(encoding="utf-8"))
    changed = [
        key for key, value in settings.items() if before["settings"].get(key, value) != value
    ]
    if changed or within_project(before["models"]["model"]) != within_project(folder):
        raise UserError(
            f"{outdir}/results.csv is of another model or other settings: --only would mix them. "
            "Choose another --outdir."
        )
    as_in_the_log = {*CONFIG, *LOG, "filled", "note"} - {"seed"}
    return read_rows(outdir / "results.csv", text=as_in_the_log, needs=MEASURED)


def rows(lab, log, seeds, first_seed, steps, lr):
    """A row a run and seed. `lr`: {adapter: factor on the log's learning rate}."""
    base = lab.measure(lab.base, ("heldout",))
    for row in log:
        for seed in range(first_seed, first_seed + (min(int(row["seeds"]), seeds))):
            knobs, settings, measures = lab.run(row, seed, steps, lr.get(row["adapter"], 1.0))
            start = measures.get("heldout_accuracy")
            recoveries = recoveries_of(measures, base)
            said = row["note"], measures.pop("note", ""), broken_base(row, measures)
            note = "; ".join(text for text in said if text)
            blank = row["role"] == "log" and not row["log_wmdp"] and start is not None
            own = {
                "role": row["role"],
                "seed": seed,
                "n": len(lab.items["forget"]),
                "filled": "mini" if blank else "",
                "note": note,
            }
            whole = {column: row[column] or None for column in (*CONFIG, *LOG) if column in row}
            whole |= knobs | settings | measures | recoveries | own
            whole["retain_loss"] = row["retain_loss"] or None  # with its reduction
            yield {column: whole.get(column) for column in COLUMNS}


def recoveries_of(measures, base):
    """{column of RECOVERIES: recovery_over_start}; None where the model forgot nothing clearly.

    measures, base: what `Lab.measure` found of the unlearned model as made, with what its attack
    left, and of Base.
    """
    from brittle.metrics.recovery import START_GAP, differs, recovery_over_start

    start, level = measures.get("heldout_accuracy"), base["heldout_accuracy"]
    if start is None:
        return dict.fromkeys(RECOVERIES)
    levels = {"filtered": start, "base": level}
    if not differs(measures["heldout_facts"], base["heldout_facts"], levels, START_GAP):
        return dict.fromkeys(RECOVERIES)
    return {
        column: recovery_over_start(measures.get(attacked), start, level)
        for column, attacked in RECOVERIES.items()
    }


def broken_base(row, measures):
    """A note where the attack breaks the untouched Base, which is the row without an adapter."""
    from brittle.metrics.recovery import breaks_base

    start = measures.get("heldout_accuracy")
    for column in () if row["adapter"] or start is None else RECOVERIES.values():
        attacked = measures.get(column)
        if attacked is not None and breaks_base(start, attacked):
            return f"the attack breaks Base: half B falls from {start:.2f} to {attacked:.2f}"
    return ""


def selectivity(row):
    """Forgetting without damage: the lower of retain and general accuracy, less forget accuracy."""
    return min(row["retain_accuracy"], row["general_accuracy"]) - row["forget_accuracy"]


def findings(table):
    """The log's findings on the controls, with intervals.

    They are differences paired by seed, and recovery under the attack.
    """
    from brittle.maths.intervals import mean_interval

    runs = {}
    for row in table:
        if row["role"] == "control" and row["forget_accuracy"] is not None:
            runs.setdefault(row["run"], {})[row["seed"]] = row

    def best(prefix, seed):
        """The most selective of the retain weights tried: each term gets the weight it needs."""
        return max((r[seed] for r in of(prefix) if seed in r), key=selectivity)

    def of(prefix):
        return [r for name, r in runs.items() if name.startswith(prefix)]

    pairs = {
        "L2 retain rather than KL (best weight of two each)": ("l2-", "kl-"),
        "max entropy rather than random targets (best weight of two each)": ("l2-", "ce-"),
        "same-sign filter rather than the sum": ("same_sign", "sum"),
        "asymmetric filter rather than the sum": ("asymmetric", "sum"),
    }
    measures = {"selectivity": selectivity} | {
        f"{s}_accuracy": (lambda r, s=s: r[f"{s}_accuracy"])
        for s in ("forget", "retain", "general")
    }
    for name, (one, other) in pairs.items():
        seeds = sorted(set().union(*of(one)) & set().union(*of(other)))
        if len(seeds) < 2:
            continue
        for measure, value in measures.items():
            mean, low, high = mean_interval(
                [value(best(one, s)) - value(best(other, s)) for s in seeds]
            )
            yield dict(
                zip(
                    FINDINGS,
                    (name, measure, mean, low, high, len(seeds), " ".join(map(str, seeds))),
                    strict=True,
                )
            )
    for run, by_seed in runs.items():
        for column in RECOVERIES:
            back = {s: r[column] for s, r in by_seed.items() if r.get(column) is not None}
            if len(back) > 1 and all(r["forget_accuracy"] <= 0.6 for r in by_seed.values()):
                values = (
                    f"recovery of {run}",
                    column,
                    *mean_interval(list(back.values())),
                    len(back),
                    " ".join(map(str, back)),
                )
                yield dict(zip(FINDINGS, values, strict=True))


def plot(table, name):
    """Forget against the lower of retain and general accuracy, and half B under attack."""
    from brittle.base import figures

    figure, axes = figures.figure(
        "The sequential log's rows on another model", name, columns=2, height=4.6
    )
    groups = list(dict.fromkeys(row["group"] for row in table))
    for k, group in enumerate(groups):
        done = [
            row for row in table if row["group"] == group and row["forget_accuracy"] is not None
        ]
        look = {
            "color": figures.CYCLE[k % len(figures.CYCLE)],
            "marker": "osD^vPX*"[k // len(figures.CYCLE) % 8],
            "linestyle": "",
        }
        forget = [row["forget_accuracy"] for row in done]
        kept = [min(row["retain_accuracy"], row["general_accuracy"]) for row in done]
        axes[0].plot(forget, kept, label=group, markersize=7, **look)
        for r in done:
            curve = [r["heldout_accuracy"], r["heldout_accuracy_10"], r["heldout_accuracy_100"]]
            axes[1].plot(range(3), curve, color=look["color"], alpha=0.5, linewidth=1.2)
    axes[1].set_xticks(range(3), ["0", "10", "100"])
    for axis in axes:
        axis.set_ylim(0, 1.05)
    axes[0].axvline(0.25, color="0.6", linestyle=":", linewidth=1)
    figures.null(axes[1], None, 0.25, "chance")
    figures.finish(
        axes[0],
        "forget accuracy (dotted: chance)",
        "lower of retain and general accuracy",
        integer=False,
        legend=False,
    )
    figures.finish(
        axes[1], "attack step", "held-out forget accuracy (half B)", integer=False, legend=False
    )
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9
    )
    return figure


class LabSettings(NamedTuple):
    """What every row is trained on, measured on and attacked with."""

    data: Path
    chat: Path
    max_items: int
    max_length: int
    batch_size: int
    attack_lr: float
    seed: int
    reading: TrainingReading


def make_lab(folder, study, device):
    """(brittle.unlearning.grid.Lab, the files that it reads)"""
    import torch

    from brittle.attacks import meter
    from brittle.attacks.base import right_pairs
    from brittle.attacks.material import split_half_a
    from brittle.attacks.relearn import FineTuning, encode_attack, fine_tune
    from brittle.data.items import SPLITS, read_splits, read_text_rows, subset, text_files
    from brittle.data.subjects import with_halves
    from brittle.metrics import mcq
    from brittle.models.architectures import context_length
    from brittle.models.load import load_model, load_tokenizer
    from brittle.training.loop import make_accelerator
    from brittle.unlearning.grid import STEPS, Lab
    from brittle.unlearning.sets import encode_set

    model, tokenizer = load_model(folder, device, "float32"), load_tokenizer(folder)
    data, batch_size = study.data, study.batch_size
    length = min(study.max_length, context_length(model.config))

    def encoded(rows, name):
        return encode_set(tokenizer, rows, length, study.reading, name)

    items = read_splits(data)
    asked = with_halves(items["forget"])
    halves = {half: [item for item in asked if item.get("half") == half] for half in "AB"}
    if not all(halves.values()):
        raise UserError(
            f"{data}/mcq_forget.jsonl lacks the halves A and B of the forget facts, "
            "which the attack needs."
        )
    measured = {
        split: subset(rows, study.max_items, study.seed)
        for split, rows in (items | {"heldout": halves["B"]}).items()
    }
    texts = {
        split: encoded(read_text_rows(data / f"{split}.txt"), split)
        for split in ("forget", "retain")
    }

    def relearn(attacked, run_seed, measure):
        train, judging = split_half_a(halves["A"], run_seed)

        def measure_step(step):
            outcomes = mcq.outcomes(attacked, tokenizer, judging, reading=study.reading)
            measure(step, meter.merit(meter.measure_split(meter.JUDGE, judging, outcomes)))

        tuning = FineTuning(study.attack_lr, max(STEPS), STEPS, batch_size, run_seed)
        examples = encode_attack(attacked, tokenizer, right_pairs(train), study.reading)
        fine_tune(attacked, tokenizer.pad_token_id, examples, tuning, measure_step)

    lab = Lab(
        base=model,
        tokenizer=tokenizer,
        sets=texts,
        items=measured,
        relearn=relearn,
        reading=study.reading,
        chats=encoded(read_text_rows(study.chat), "chats"),
        accelerator=make_accelerator(torch.device(device)),
        batch_size=batch_size,
    )
    files = [data / f"mcq_{s}.jsonl" for s in SPLITS] + [
        *text_files(data / "forget.txt", data / "retain.txt"),
        study.chat,
        LOG_FILE,
    ]
    return lab, files


@options.spread
def main(
    model: options.Model = "outputs/models/mini-base",
    outdir: options.Outdir = Path("outputs/sequential"),
    data: options.Data = Path("data/mini"),
    chat: Annotated[
        Path | None, typer.Option(help="Chats for the rows that mix them in (data: neutral.txt).")
    ] = None,
    only: Annotated[
        str, typer.Option(help="Only rows whose `group/run` holds this; others stay as measured.")
    ] = "",
    seeds: Annotated[
        int,
        typer.Option(
            "--max-seeds",
            min=1,
            help="At most so many seeds a row (the log's rows have 1, controls 3).",
        ),
    ] = 3,
    steps_scale: Annotated[
        float, typer.Option(min=1e-4, help="Optimizer steps, as a factor on the log's.")
    ] = 0.3,
    lora_lr_scale: Annotated[
        float, typer.Option(min=0, help="Learning rate of adapter rows, as a factor on the log's.")
    ] = 10.0,
    full_lr_scale: Annotated[
        float, typer.Option(min=0, help="Learning rate of full rows, as a factor on the log's.")
    ] = 32.0,
    batch_size: options.BatchSize = 8,
    max_items: Annotated[int, typer.Option(min=5, help="Questions a split to measure on.")] = 50,
    max_length: options.MaxLength = 128,
    attack_lr: Annotated[float, typer.Option(min=0, help="Rate of the attack.")] = 1e-3,
    markdown: Annotated[
        bool,
        typer.Option("--markdown", help="Print the tables of an earlier run; write nothing."),
    ] = False,
    reading: TrainingReading = TRAINING,
    seed: options.Seed = 0,
    device: options.Device = "auto",
):
    """Run the sequential experiment log on another model."""
    from brittle.base.layout import model_name
    from brittle.base.record import Run
    from brittle.models.find import model_folder
    from brittle.models.load import pick_device
    from brittle.report import sequential

    if markdown:
        print(sequential.markdown(outdir))
        return
    log, folder, picked = read_log(LOG_FILE, only), model_folder(model), pick_device(device)
    chat = chat or data / "neutral.txt"
    study = LabSettings(data, chat, max_items, max_length, batch_size, attack_lr, seed, reading)
    lab, files = make_lab(folder, study, picked)
    settings = {
        "steps_scale": steps_scale,
        "lora_lr_scale": lora_lr_scale,
        "full_lr_scale": full_lr_scale,
        "attack_lr": attack_lr,
        "batch_size": batch_size,
        "max_items": max_items,
    }
    if reading != TRAINING:
        settings["reading"] = asdict(reading)
    before = earlier(outdir, folder, settings) if only else []
    with Run(outdir, files, {"model": str(folder)}, seed, settings) as run:
        table = []
        lr_scales = {"lora": lora_lr_scale, "full": full_lr_scale}
        for row in rows(lab, log, seeds, seed, steps_scale, lr_scales):
            shown = " ".join("-" if row[c] is None else f"{row[c]:.2f}" for c in SHOWN)
            print(f"{row['group']} / {row['run']} seed {row['seed']}: {shown}", flush=True)
            table.append(row)
        done = {(row["group"], row["run"], row["seed"]) for row in table}
        names = [(row["group"], row["run"]) for row in read_log(LOG_FILE, "")]
        table += [row for row in before if (row["group"], row["run"], row["seed"]) not in done]
        table.sort(key=lambda row: (names.index((row["group"], row["run"])), row["seed"]))
        run.figure(plot(table, model_name(model)), "sequential.png")
        run.csv("findings.csv", FINDINGS, findings(table))
        run.csv("results.csv", COLUMNS, table)


HELP_GROUPS = {
    groups.DATA: ("data", "chat", "max_items"),
    "Which rows, at which scale": (
        "only",
        "seeds",
        "steps_scale",
        "lora_lr_scale",
        "full_lr_scale",
        "attack_lr",
    ),
}


if __name__ == "__main__":
    command.run(main, HELP_GROUPS)
