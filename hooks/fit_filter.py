"""Which directions of a model's states hold what is to be forgotten and not what is to be kept?

    uv run hooks/fit_filter.py --model outputs/models/mini-base
    uv run hooks/fit_filter.py --model M --forget F --retain R --site post_norm --basis gep --k 8

Fits activation filters. The states that predict answer tokens are read at every candidate site of
one forward pass, into float64 moments; a basis is a closed form of those. --site auto, --basis
auto, --k auto and no gate flag leave the choice to hooks/tune_strength.py, which the candidates are
written for. A single --site is refused where no linear filter at that site can be selective
(largest ratio of forget to retain energy below 2); the message names the site that could.

Writes DIR/filter.safetensors and filter.json (strength 0 until it is tuned),
candidates.safetensors, and spectrum.csv: a row a site and direction.
"""

from pathlib import Path
from typing import Annotated

import typer

from brittle.base import command, groups, options
from brittle.base.errors import UserError
from brittle.data.examples import DEFAULT, Reading
from brittle.filters.basis import BASES

COLUMNS = [
    "site",
    "gated",
    "basis",
    "direction",
    "eigenvalue",
    "ratio",
    "energy_forget",
    "energy_retain",
    "overlap",
    "k",
    "n_forget",
    "n_retain",
]
FACTS = ("ratio", "energy_forget", "energy_retain", "overlap", "n_forget", "n_retain")


def rows(candidates):
    """A row a direction of every candidate {(site, gated): Filter}."""
    for (site, gated), chosen in candidates.items():
        about = chosen.about
        for i, value in enumerate(about["spectrum"] or [None]):
            yield {
                "site": site,
                "gated": int(gated),
                "basis": about["basis"],
                "direction": i,
                "eigenvalue": value,
                "k": chosen.k,
                **{key: about[key] for key in FACTS},
            }


def number(k):
    """--k: None for auto."""
    if k == "auto":
        return None
    if not k.isdigit() or int(k) < 1:
        raise UserError(f"--k {k}: a number of components, or auto.")
    return int(k)


def show(candidates):
    """Print a line a candidate."""
    for (site, gated), chosen in candidates.items():
        about, kind = chosen.about, "gated" if gated else "     "
        print(
            f"{site:<10} {kind} {about['basis']:<10} {chosen.k:>4} directions, "
            f"largest ratio {about['ratio']:.1f}, energy forget {about['energy_forget']:.2f} "
            f"retain {about['energy_retain']:.2f}, overlap {about['overlap']:.2f}"
        )


@options.spread
def main(
    model: options.Model,
    forget: options.ForgetText = Path("data/mini/forget.txt"),
    retain: options.RetainText = Path("data/mini/retain.txt"),
    general: Annotated[
        Path | None,
        typer.Option(help="Plain text to leave alone (neutral.txt beside --retain)."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the filter (outputs/<model>__filter/filter).")
    ] = None,
    site: Annotated[str, typer.Option(help="auto, post_norm, pre_norm or block:L.")] = "auto",
    basis: Annotated[str, typer.Option(help=f"auto, {', '.join(BASES)}.")] = "auto",
    k: Annotated[str, typer.Option(help="Components: a number, or auto.")] = "auto",
    gate: Annotated[
        bool | None,
        typer.Option(
            "--gate/--no-gate", help="Act on detected tokens alone, or on every one (auto)."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write a filter that cannot be selective.")
    ] = False,
    max_samples: options.MaxSamples = 1200,
    max_length: options.TextLength = None,
    reading: Reading = DEFAULT,
    batch_size: options.BatchSize = 64,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
):
    """Fit activation filters to a model, a forget set and a retain set."""
    from brittle.base.layout import model_files
    from brittle.base.record import Run, relative
    from brittle.data.items import text_files
    from brittle.filters import fit
    from brittle.filters.basis import check_basis
    from brittle.filters.data import FilterData
    from brittle.filters.folder import UNTUNED, folder_of, save_candidates
    from brittle.models.filter import block_of
    from brittle.models.find import model_folder

    count, folder = number(k), model_folder(model)
    any_site = site == "auto"
    if not any_site:
        block_of(site)
    check_basis(basis, others=("auto",))
    if general is None and retain.with_name("neutral.txt").is_file():
        general = retain.with_name("neutral.txt")
    paths = {"forget": forget, "retain": retain}
    if general:
        paths["general"] = general
    out = out or folder_of("outputs", model)
    with Run(out, text_files(*paths.values()), {"model": folder}, seed, quiet=True) as run:
        texts = FilterData.read(folder, paths, max_samples, max_length, device, dtype, reading)
        sites = texts.sites() if any_site else [site]
        if not any_site:
            block_of(site, texts.model)
            fit.check_site(basis, site)
        moments = fit.moments_of(texts.model, texts.fit, texts.pad_id, sites, batch_size)
        if basis == "loss":
            moments.gradients = fit.gradients(texts.model, texts.fit, texts.pad_id, batch_size)
        if gate is None and not any_site:
            gate = False
        weights = [path for path in model_files(folder) if path.suffix == ".safetensors"]
        about = {
            "seed": seed,
            "data": {name: run.read[str(path)]["sha256"] for name, path in paths.items()},
            "status": UNTUNED,
            "model": {path.name: run.read[str(path)]["sha256"] for path in weights},
            "paths": {name: str(relative(path)) for name, path in paths.items()},
            "max_samples": max_samples,
        }
        candidates = fit.fit_candidates(
            texts.model, moments, sites, basis=basis, k=count, gate=gate, about=about
        )

        def ratios_of_sites():
            if any_site:
                return moments.ratios()
            everywhere = fit.moments_of(
                texts.model, texts.fit, texts.pad_id, texts.sites(), batch_size
            )
            return everywhere.ratios()

        if not force:
            candidates = fit.selective(candidates, ratios_of_sites, several=any_site)
        save_candidates(run, candidates)
        run.csv("spectrum.csv", COLUMNS, rows(candidates))
    show(candidates)
    print(
        f"{out}: {len(candidates)} candidates. "
        f"Next: uv run hooks/tune_strength.py --model {model} --filter {out}"
    )


HELP_GROUPS = {
    groups.DATA: ("forget", "retain", "general"),
    "The filter": ("site", "basis", "k", "gate"),
}


if __name__ == "__main__":
    command.run(main, HELP_GROUPS)
