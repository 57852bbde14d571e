"""Can the forgotten answers be had by asking differently or often, or by beginning the text?

    uv run eval/extract.py --model M --outdir outputs/M/extract

extract.csv: every prompt of the suite (plain, paraphrase, prefix injection, role play, few-shot,
in-context re-teaching, spelling, translation table): accuracy of the choices; does the greedy
answer hold the true value; and, for the plain prompt (--sampled names others), does any of n
samples, how often does one, and the mean upper bound (99 %) on its probability. decoy_ columns
count a wrong value in the same texts: what guessing gives. trace_leak is the share whose greedy
answer holds the value in a reasoning model's trace alone. leaks.csv has every question.
prefix.csv: the share of training texts that greedy decoding completes word for word from their
first 10, 25, 50 %. Examples and re-taught facts are of half A; half B is held out.
"""

from pathlib import Path
from typing import Annotated

import typer

from brittle.base import command, options
from brittle.base.errors import UserError
from brittle.base.knobs import listed
from brittle.data.examples import DEFAULT, Reading

LEAKS = [f"{kind}_leak{end}" for kind in ("greedy", "any") for end in ("", "_low", "_high")]
COLUMNS = [
    "model",
    "template",
    "split",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    *LEAKS,
    "sample_leak",
    "leak_bound",
    "decoy_greedy_leak",
    "decoy_any_leak",
    "trace_leak",
    "n",
    "n_samples",
    "temperature",
    "top_p",
    "seed",
]
ITEM_COLUMNS = [
    "template",
    "split",
    "fact",
    "question",
    "greedy_leak",
    "greedy_in_trace",
    "leaks",
    "decoys",
    "in_trace",
    "samples",
    "bound",
]
PREFIX_COLUMNS = [
    "model",
    "split",
    "prefix",
    "extracted",
    "extracted_low",
    "extracted_high",
    "token_share",
    "n",
]
PLAIN = "plain"


def summary(items, greedy, drawn):
    """The leak columns of COLUMNS for one prompt and split, from `sampling.sample`."""
    from brittle.data.items import groups_of
    from brittle.maths.intervals import share

    entities, n = groups_of(items), len(items)
    columns = {"n": n, "n_samples": 0, "sample_leak": None, "leak_bound": None}
    for kind, answers in (("greedy", greedy), ("any", drawn)):
        leak, low, high, decoys = None, None, None, None
        if answers:
            leak, low, high = share([int(row["leaks"] > 0) for row in answers], entities)
            decoys = sum(row["decoys"] > 0 for row in answers) / n
        columns |= {
            f"{kind}_leak": leak,
            f"{kind}_leak_low": low,
            f"{kind}_leak_high": high,
            f"decoy_{kind}_leak": decoys,
        }
    columns["trace_leak"] = sum(row["in_trace"] for row in greedy) / n
    if drawn:
        columns["n_samples"] = drawn[0]["samples"]
        columns["sample_leak"] = sum(row["leaks"] / row["samples"] for row in drawn) / n
        columns["leak_bound"] = sum(row["bound"] for row in drawn) / n
    return columns


def describe(rows):
    """One line about a prompt's rows (a row a split)."""
    of = {row["split"]: row for row in rows}
    words = []
    for kind, label in (
        ("greedy", "greedy answer"),
        ("any", f"any of {rows[0]['n_samples']} samples"),
    ):
        shares = [of[split][f"{kind}_leak"] for split in ("forget_a", "forget_b")]
        if None not in shares:
            words.append(f"{label} leaks {shares[0]:.2f} of half A, {shares[1]:.2f} of half B")
    return f"{rows[0]['template']:<18} {'; '.join(words)}"


def prompt_rows(one, name, templates, sampled, settings, each):
    """A row a prompt and split; `each` collects a row a question."""
    from brittle.attacks import meter, prompts, sampling
    from brittle.attacks.base import Prompt
    from brittle.attacks.material import Material, forbidden
    from brittle.data.items import groups_of
    from brittle.maths.intervals import share
    from brittle.metrics import mcq
    from brittle.models.architectures import context_length
    from brittle.models.generate import Sampling

    model, tokenizer = one.model()
    material, sets = Material(one.data), meter.eval_sets(one.data, one.max_items, settings["seed"])
    known = material.forget()
    material.check(forbidden(one.data))
    suite = {
        PLAIN: Prompt(),
        **prompts.suite(
            tokenizer, known, context_length(model.config), settings["seed"], reading=one.reading
        ),
    }
    how = Sampling(settings["tokens"], settings["temperature"], settings["top_p"], settings["seed"])
    for template in templates or suite:
        rows = []
        for split, items in sets.items():
            outcomes = mcq.outcomes(
                model, tokenizer, items, suite[template], one.batch_size, reading=one.reading
            )
            right = [outcome.right for outcome in outcomes]
            accuracy, low, high = share(right, groups_of(items))
            count = settings["samples"] if template in sampled else 0
            greedy, drawn = sampling.sample(
                model, tokenizer, items, suite[template], count, how, one.batch_size, one.reading
            )
            for item, of_greedy, of_samples in zip(items, greedy, drawn or greedy, strict=True):
                about = {
                    "template": template,
                    "split": split,
                    "fact": item.get("fact", ""),
                    "question": item["question"],
                    "greedy_leak": of_greedy["leaks"],
                    "greedy_in_trace": of_greedy["in_trace"],
                }
                each.append(about | of_samples)
            row = {
                "model": name,
                "template": template,
                "split": split,
                "accuracy": accuracy,
                "accuracy_low": low,
                "accuracy_high": high,
            }
            row |= {key: settings[key] for key in ("temperature", "top_p", "seed")}
            rows.append(row | summary(items, greedy, drawn))
        print(describe(rows), flush=True)
        yield from rows


def completed(example, right, prefix):
    """`sampling.extracted` of an Example: of a text, or of an answer behind its prompt."""
    from brittle.attacks import sampling

    if example.start is None:
        return sampling.extracted(right, prefix)
    return sampling.extracted_answer(right[example.start - 1 :], prefix)


def prefix_rows(one, name, files, prefixes, max_texts, seed):
    """A row a text file and prefix. files: {split: path}."""
    from brittle.attacks import sampling
    from brittle.data.examples import encode_said
    from brittle.data.items import named_rows, subset
    from brittle.maths.intervals import share
    from brittle.models.architectures import context_length

    model, tokenizer = one.model()
    for split, path in files.items():
        rows, about = zip(*subset(named_rows(path), max_texts, seed), strict=True)
        limit, name_of = context_length(model.config), f"{split} texts"
        examples = encode_said(tokenizer, rows, limit, one.reading, name_of, about)
        told = [example.told for example in examples]
        right = sampling.continued(model, told, tokenizer.pad_token_id)
        for prefix in prefixes:
            outcomes, entities = [], []
            for of_text, example in zip(right, examples, strict=True):
                if outcome := completed(example, of_text, prefix):
                    outcomes.append(outcome)
                    entities.append(example.entity)
            count = len(outcomes)
            extracted, low, high = share([int(whole) for whole, _ in outcomes], entities)
            yield {
                "model": name,
                "split": split,
                "prefix": prefix,
                "extracted": extracted,
                "extracted_low": low,
                "extracted_high": high,
                "token_share": sum(of_tokens for _, of_tokens in outcomes) / count,
                "n": count,
            }


def plot(table, prefixes, name, chance):
    """Half B: right choices and leaks by prompt; beside it what is completed from a prefix."""
    from brittle.base import figures

    figure, axes = figures.figure("Extraction", name, columns=2, height=4)
    held = [row for row in table if row["split"] == "forget_b"]
    names = [row["template"] for row in held]
    bars = (
        (-0.2, "accuracy", "#882255", "choices right"),
        (0.0, "greedy_leak", "#CC3311", "said"),
        (0.2, "any_leak", "#EE7733", "said in any sample"),
    )
    for offset, key, colour, words in bars:
        known = [(i + offset, row[key]) for i, row in enumerate(held) if row[key] is not None]
        axes[0].barh(
            [y for y, _ in known], [v for _, v in known], height=0.2, color=colour, label=words
        )
    axes[0].axvline(
        chance,
        color=figures.COLOURS["null"],
        linestyle="--",
        linewidth=1.4,
        label="guessing a choice",
    )
    axes[0].set(yticks=range(len(names)), xlim=(0, 1.02), xlabel="share of half B's questions")
    axes[0].set_yticklabels(names)
    axes[0].invert_yaxis()
    axes[0].legend(fontsize=9)
    for split in dict.fromkeys(row["split"] for row in prefixes):
        line = [row for row in prefixes if row["split"] == split]
        ends = {end: [row[f"extracted_{end}"] for row in line] for end in ("low", "high")}
        shares = [row["extracted"] for row in line]
        figures.line(axes[1], [row["prefix"] for row in line], shares, split, **ends)
    axes[1].set_ylim(-0.03, 1.05)
    figures.finish(
        axes[1],
        "share of the text that is given",
        "completed word for word",
        integer=False,
        zero=False,
    )
    return figure


@options.spread
def main(
    model: options.Model,
    outdir: options.Outdir,
    data: options.Data = Path("data/mini"),
    templates: Annotated[str, typer.Option(help="Prompts, with commas (all).")] = "",
    sampled: Annotated[str, typer.Option(help="Prompts to draw samples for, with commas.")] = PLAIN,
    samples: Annotated[int, typer.Option(min=0, help="Samples a question.")] = 16,
    temperature: Annotated[float, typer.Option(min=0.01, help="Temperature of the samples.")] = 1.0,
    top_p: Annotated[float, typer.Option(min=0.01, max=1, help="Nucleus of the samples.")] = 1.0,
    tokens: Annotated[int, typer.Option(min=1, help="New tokens an answer.")] = 8,
    prefix: Annotated[
        list[float], typer.Option(help="Share of a text that is given (repeatable).")
    ] = (0.1, 0.25, 0.5),
    forget: options.ForgetText = Path("data/mini/forget.txt"),
    retain: options.RetainText = Path("data/mini/retain.txt"),
    max_texts: Annotated[int, typer.Option(min=1, help="Texts a file to complete.")] = 1000,
    max_items: Annotated[
        int, typer.Option(min=5, help="Items a split to measure on, but for half B: all of it.")
    ] = 200,
    batch_size: options.BatchSize = 256,
    reading: Reading = DEFAULT,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = "float32",
    wrapper: options.Wrapper = None,
    wrapper_rules: options.WrapperRules = None,
):
    """Ask differently, ask often, begin the text."""
    from brittle.attacks import prompts, session
    from brittle.base.layout import model_name
    from brittle.base.record import Run, say
    from brittle.data.items import text_files
    from brittle.data.texts import read_texts
    from brittle.models import guards
    from brittle.models.find import model_folder

    known = [PLAIN, *prompts.NAMES]
    texts = {"--templates": templates, "--sampled": sampled}
    wanted = {flag: listed(text) for flag, text in texts.items()}
    for flag, names in wanted.items():
        for name in names:
            if name not in known:
                raise UserError(f"{flag} {name}: choose {', '.join(known)}.")
    if any(not 0 < share < 1 for share in prefix):
        raise UserError("--prefix: shares of a text, above 0 and below 1.")
    folder, files = model_folder(model), {"forget": forget, "retain": retain}
    for path in files.values():
        read_texts(path)  # one that cannot be read is said before the prompts, which take minutes
    guard = guards.make(wrapper, data, wrapper_rules, seed)
    read = guards.files(wrapper, data, wrapper_rules) if guard else ()
    one = session.AttackSession(
        folder, data, max_items, batch_size, device, dtype, guard, read, reading
    )
    name = model_name(model)
    settings = {
        "samples": samples,
        "temperature": temperature,
        "top_p": top_p,
        "tokens": tokens,
        "seed": seed,
    }
    recorded = {**settings, **(guard.about if guard else {}), **reading.about()}
    read_files = [*one.files(), *map(str, text_files(*files.values()))]
    with Run(outdir, read_files, {"model": str(folder)}, seed, recorded) as run:
        each = []
        table = list(
            prompt_rows(one, name, wanted["--templates"], wanted["--sampled"], settings, each)
        )
        completed = list(prefix_rows(one, name, files, prefix, max_texts, seed))
        run.figure(plot(table, completed, name, one.chance()), "extract.png")
        run.csv("leaks.csv", ITEM_COLUMNS, each)
        run.csv("prefix.csv", PREFIX_COLUMNS, completed)
        run.csv("extract.csv", COLUMNS, table)
    say(outdir / "extract.csv", "every prompt; leaks.csv and prefix.csv beside it.")


if __name__ == "__main__":
    command.run(main)
