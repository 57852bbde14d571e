"""What is each choice of the filter worth, and what does a published filter give away?

    uv run hooks/ablate_filter.py components --model outputs/models/mini-base
    uv run hooks/ablate_filter.py sites --model outputs/models/mini-base
    uv run hooks/ablate_filter.py attacks --model outputs/models/mini-base
    uv run hooks/ablate_filter.py overlap --model outputs/models/mini-base
    uv run hooks/ablate_filter.py anonymisers --model outputs/models/mini-base
    uv run hooks/ablate_filter.py costs --model outputs/models/mini-base

components: every basis at 1, 2, 4 ... directions, each at the largest strength within the retain
limit (bases compare at equal budget, never at equal k) -> pareto.csv, pareto.png.

sites: per site the largest energy ratio, how well texts, and tokens by the gate, can be told apart,
and what the answer's logit lens reads behind a filter there -> sites.csv.

attacks: are the names whose facts were removed to be read off the basis, or off W' - W; does a
network of hooks/blind.py tell whose texts it was trained on; tokens that each direction promotes
and demotes -> attacks.csv, tokens.csv.

overlap: the whole search, strength chosen anew, where forget and retain share 0 to 100 % of their
entities -> overlap.csv, overlap.png, nominal and measured overlap beside. The sets are mixed of
--data's own facts (brittle/filters/ablation/overlap.py), or are those of --level
PERCENT=MODEL:DATA (made by create_datasets.py --overlap X and create_models.py --data; several of
one level are seeds).

anonymisers: the network trained with one anonymiser, the texts sent by another
-> anonymisers.csv, .png.

costs: seconds, and memory beside weights and activations, of the filter and of the methods in
--methods -> costs.csv.
"""

from pathlib import Path
from typing import Annotated

import typer

from brittle.base import command, options
from brittle.base.errors import UserError
from brittle.filters.basis import BASES

PARTS = ("components", "sites", "attacks", "overlap", "anonymisers", "costs")
PUBLIC = ("qa_real_authors", "qa_world_facts")  # tables of public originals
SPLITS = ("forget", "retain", "general")
# every basis but the published one, whose errors are no choice; one behind a gate too
COMPARED = [(name, False) for name in BASES if name != "nspu_released"] + [("pca", True)]
# the sites of a part where --site does not say; None: every candidate site
SITES_OF_PART = {
    "components": ["post_norm"],
    "anonymisers": ["pre_norm"],
    "attacks": ["post_norm"],
    "sites": None,
}
INPUTS = ("*.txt", "mcq_*.jsonl", "qa_*.jsonl", "private.jsonl")
COSTS = [
    "method",
    "seconds",
    "steps",
    "state_mb",
    "forget_accuracy",
    "retain_accuracy",
    "general_accuracy",
]


def read_level(text):
    """(percent, model, data folder) of PERCENT=MODEL:DATA."""
    percent, _, rest = text.partition("=")
    model, _, data = rest.rpartition(":")
    try:
        return float(percent), model, Path(data)
    except ValueError:
        raise UserError(
            f"--level {text}: PERCENT=MODEL:DATA, such as "
            "50=outputs/overlap50/mini-base:data/mini-overlap50."
        ) from None


def data_files(data):
    """The files of a data folder that a part may read."""
    files = [path for pattern in INPUTS for path in sorted(data.glob(pattern))]
    return [path for path in files if "pretrain" not in path.name]


def public_files(data):
    return [data / f"{name}.jsonl" for name in PUBLIC]


def overlap_of_models(levels, limits, setup):
    """Rows of overlap.csv of [(percent, model, data folder)]."""
    from brittle.filters.ablation.bench import make_bench
    from brittle.filters.ablation.overlap import overlap_rows
    from brittle.models.find import model_folder

    for percent, model, data in levels:
        bench = make_bench(model_folder(model), data, None, setup)
        yield from overlap_rows(bench, limits, percent, seed=setup.seed, model=model)


def overlap_of_facts(model, folder, data, limits, setup):
    """Rows of overlap.csv of --data's facts, mixed at every level for one model."""
    from tempfile import TemporaryDirectory

    from brittle.filters.ablation.bench import make_bench
    from brittle.filters.ablation.overlap import LEVELS, overlap_rows, write_mixed

    for percent in LEVELS:
        with TemporaryDirectory() as mixed:
            words = write_mixed(data, mixed, percent, setup.seed)["words"]
            bench = make_bench(folder, Path(mixed), None, setup)
        yield from overlap_rows(bench, limits, percent, seed=setup.seed, model=model, words=words)


def costs(model, folder, methods, root="outputs"):
    """Rows of costs.csv.

    state_mb is what is held beside weights and activations: for training the float32 gradient and
    AdamW's two moments of every weight, for the filter three float64 moment matrices a site.
    """
    from contextlib import ExitStack

    from brittle.base.tables import read_rows
    from brittle.filters.folder import table_row
    from brittle.filters.states import site_count
    from brittle.models.architectures import size
    from brittle.models.find import read_config
    from brittle.models.weights import Checkpoint, Parameters

    with ExitStack() as stack:
        source = Parameters(Checkpoint(folder, stack))
        weights = sum(source.tensor(name).numel() for name in source)
    config = read_config(folder)
    width, sites = size(config, "hidden_size"), site_count(size(config, "num_hidden_layers"))
    own = table_row(root, model)
    if own:
        state = 3 * sites * width**2 * 8 / 1e6
        yield {**dict.fromkeys(COSTS), **own, "state_mb": state}
    for row in read_rows(methods):
        if row.get("method") != "filter":
            cells = {column: row.get(column) for column in COSTS}
            yield {**cells, "state_mb": 3 * weights * 4 / 1e6}


def write_components(run, bench, limits, name):
    from brittle.filters.ablation import components, figures

    table = list(components.pareto_rows(bench, COMPARED, limits))
    run.figure(figures.plot_pareto(table, name), "pareto.png")
    run.csv("pareto.csv", components.PARETO, table)


def write_sites(run, bench, limits):
    from brittle.filters.ablation import components

    run.csv("sites.csv", components.SITES, components.site_rows(bench, limits))


def write_anonymisers(run, bench, data, limits, seed, name):
    from brittle.data.texts import read_texts
    from brittle.filters.ablation import anonymisers, figures
    from brittle.filters.blind.fit import BlindSetup

    setup = BlindSetup(site=bench.sites[0], limit=limits.retain, gate=True, seed=seed)
    tables = [data / "qa_forget.jsonl", data / "private.jsonl"]
    texts = read_texts(data / "forget.txt")
    forget = anonymisers.ForgetSet(texts, tables, bench.items)
    rows = anonymisers.mismatch_rows(
        bench.model, bench.tokenizer, forget, public_files(data), data / "retain.txt", setup
    )
    table = list(rows)
    run.figure(figures.plot_anonymisers(table, name), "anonymisers.png")
    run.csv("anonymisers.csv", anonymisers.COLUMNS, table)


def write_attacks(run, bench, chosen, data, limits, seed):
    """Attacks on the filter `chosen`, and on one that can be folded into the unembedding.

    The latter is the ungated filter of the contrastive basis behind the last norm, at the limit.
    """
    from brittle.data.items import read_items
    from brittle.filters.ablation import published
    from brittle.filters.ablation.components import at_budget
    from brittle.filters.blind.anonymise import HOW
    from brittle.filters.fit import make_filter

    model, tokenizer = bench.model, bench.tokenizer
    chosen.check(model.config).to(model.device)
    foldable = make_filter(model, bench.moments, "post_norm", basis="gep").to(model.device)
    filters = {"chosen": chosen, "post_norm gep": at_budget(bench.tuner, foldable, limits)}
    names = {
        split: published.entity_names(read_items(data / f"mcq_{split}.jsonl")) for split in SPLITS
    }
    attacks, tokens = [], []
    for name, target in filters.items():
        attacks += published.read_names(model, tokenizer, target, names)
        tokens += [{**row, "filter": name} for row in published.promoted(model, tokenizer, target)]
    for how in HOW:
        public = public_files(data)
        attacks += published.members(model, tokenizer, public, how, chosen.site, seed=seed)
    run.csv("tokens.csv", published.TOKENS, tokens)
    run.csv("attacks.csv", published.ATTACKS, attacks)


def write_overlap(run, rows, name):
    from brittle.filters.ablation import figures, overlap

    table = list(rows)
    run.figure(figures.plot_overlap(table, name), "overlap.png")
    run.csv("overlap.csv", overlap.COLUMNS, table)


def main(
    what: Annotated[str, typer.Argument(help=f"{', '.join(PARTS)}.")],
    model: Annotated[
        str, typer.Option("--model", help="Model folder or Hugging Face id.")
    ] = "outputs/models/mini-base",
    data: options.Data = Path("data/mini"),
    outdir: Annotated[
        Path | None, typer.Option(help="Folder for the results (outputs/<model>__filter/ablation).")
    ] = None,
    filter_dir: Annotated[
        Path | None,
        typer.Option("--filter", help="attacks: the filter (outputs/<model>__filter/filter)."),
    ] = None,
    site: Annotated[
        list[str] | None,
        typer.Option(
            "--site",
            help="components: sites (post_norm; a block costs minutes); "
            "anonymisers: one (pre_norm).",
        ),
    ] = None,
    level: Annotated[
        list[str] | None, typer.Option("--level", help="overlap: PERCENT=MODEL:DATA, repeatable.")
    ] = None,
    methods: Annotated[Path, typer.Option(help="costs: table of the other methods.")] = Path(
        "outputs/methods.csv"
    ),
    retain_limit: Annotated[
        float, typer.Option(min=1e-6, help="KL on retain text, nats a token.")
    ] = 0.05,
    general_limit: Annotated[
        float, typer.Option(min=1e-6, help="KL on general text, nats a token.")
    ] = 0.02,
    items: Annotated[int, typer.Option(min=4, help="Questions a split.")] = 60,
    max_samples: options.MaxSamples = 1200,
    seed: options.Seed = 0,
    device: options.Device = "auto",
):
    """Ablations of the filter, and attacks on what is published."""
    from brittle.base.layout import model_name
    from brittle.base.record import Run
    from brittle.filters.folder import folder_of
    from brittle.models.find import model_folder

    if what not in PARTS:
        raise UserError(f"{what}: choose {', '.join(PARTS)}.")
    levels = [read_level(text) for text in level or []]
    outdir = outdir or folder_of("outputs", model).with_name("ablation")
    if levels:
        folders = {f"level {i}": model_folder(name) for i, (_, name, _) in enumerate(levels)}
        inputs = [path for _, _, home in levels for path in data_files(home)]
    else:
        folders = {"model": model_folder(model)}
        inputs = data_files(data)
    if what == "costs":
        inputs = [methods]
    with Run(outdir, inputs, folders, seed, {"what": what, "items": items}) as run:
        if what == "costs":
            run.csv("costs.csv", COSTS, costs(model, folders["model"], methods))
            return
        from brittle.filters.ablation.bench import BenchSetup, make_bench
        from brittle.filters.target import Limits
        from brittle.models.filter import load

        setup = BenchSetup(max_samples, items, seed, device)
        limits, name = Limits(retain_limit, general_limit), model_name(model)
        if what == "overlap" and levels:
            write_overlap(run, overlap_of_models(levels, limits, setup), f"{len(levels)} models")
        elif what == "overlap":
            rows = overlap_of_facts(model, folders["model"], data, limits, setup)
            write_overlap(run, rows, name)
        else:
            chosen = load(filter_dir or folder_of("outputs", model)) if what == "attacks" else None
            sites = SITES_OF_PART[what]
            if site and what in ("components", "anonymisers"):
                sites = site
            bench = make_bench(folders["model"], data, sites, setup)
            if what == "components":
                write_components(run, bench, limits, name)
            elif what == "sites":
                write_sites(run, bench, limits)
            elif what == "anonymisers":
                write_anonymisers(run, bench, data, limits, seed, name)
            else:
                write_attacks(run, bench, chosen, data, limits, seed)


if __name__ == "__main__":
    command.run(main)
