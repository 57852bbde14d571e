"""Which directions of a model's states hold what is to be forgotten and not what is to be kept? Fits activation filters.

    uv run hooks/fit_filter.py --model outputs/models/mini-base
    uv run hooks/fit_filter.py --model M --forget F --retain R --site post_norm --basis gep --k 8

Reads the states that predict answer tokens, at every candidate site of one forward pass, into float64 moments; a basis is a
closed form of those. --site auto, --basis auto, --k auto and no gate flag leave the choice to hooks/tune_strength.py, which
the candidates are written for. A single --site is refused where no linear filter at that site can be selective (largest ratio of
forget to retain energy below 2); the message names the site that could. Writes DIR/filter.safetensors and filter.json
(strength 0 until it is tuned), candidates.safetensors, and spectrum.csv: a row a site and direction.
"""

from pathlib import Path
from typing import Annotated

import typer

from brittle.base import command, options
from brittle.base.errors import UserError

COLUMNS = ["site", "gated", "basis", "direction", "eigenvalue", "ratio", "energy_forget", "energy_retain", "overlap", "k",
           "n_forget", "n_retain"]  # fmt: skip


def rows(candidates):
    """A row a direction of every candidate {(site, gated): Filter}."""
    for (site, gated), made in candidates.items():
        about = made.about
        keys = ("ratio", "energy_forget", "energy_retain", "overlap", "n_forget", "n_retain")
        for i, value in enumerate(about["spectrum"] or [None]):
            yield {"site": site, "gated": int(gated), "basis": about["basis"], "direction": i, "eigenvalue": value,
                   "k": made.k, **{key: about[key] for key in keys}}  # fmt: skip


def number(k):
    """--k: None for auto."""
    if k == "auto":
        return None
    if not k.isdigit() or int(k) < 1:
        raise UserError(f"--k {k}: a number of components, or auto.")
    return int(k)


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
    basis: Annotated[
        str,
        typer.Option(
            help="auto, gep, pca, cpca, nullspace, leace, loss, mean_diff, nspu_released."
        ),
    ] = "auto",
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
    batch_size: options.BatchSize = 64,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
):
    """Fit activation filters to a model, a forget set and a retain set."""
    from brittle.base.layout import model_files
    from brittle.base.record import Run, relative
    from brittle.filters.folder import Data, folder_of, save_candidates
    from brittle.models.filter import block_of
    from brittle.models.find import model_folder

    count, folder = number(k), model_folder(model)
    if site != "auto":
        block_of(site)
    if general is None and (retain.with_name("neutral.txt")).is_file():
        general = retain.with_name("neutral.txt")
    paths = {"forget": forget, "retain": retain, **({"general": general} if general else {})}
    out = out or folder_of("outputs", model)
    with Run(out, [*paths.values()], {"model": folder}, seed) as run:
        from brittle.filters import fit
        from brittle.filters.basis import BASES

        if basis != "auto" and basis not in BASES:
            raise UserError(f"--basis {basis}: choose auto, {', '.join(BASES)}.")
        data = Data.read(folder, paths, max_samples, max_length, device, dtype)
        sites = data.sites() if site == "auto" else [site]
        for one in sites:
            block_of(one, data.model)
            if site != "auto":
                fit.check(basis, one)
        found = fit.moments_of(data.model, data.fit, data.pad_id, sites, batch_size)
        if basis == "loss":
            found.loss_forget, found.loss_retain = (
                fit.gradients(data.model, data.fit[n], data.pad_id, batch_size)
                for n in ("forget", "retain")
            )
        chosen = gate if gate is not None or site == "auto" else False
        weights = [f for f in model_files(folder) if f.suffix == ".safetensors"]
        about = {"seed": seed, "data": {n: run.read[str(p)]["sha256"] for n, p in paths.items()}, "status": "untuned",
                 "model": {f.name: run.read[str(f)]["sha256"] for f in weights},
                 "paths": {n: str(relative(p)) for n, p in paths.items()}, "max_samples": max_samples}  # fmt: skip
        made = fit.candidates(data.model, found, sites, basis, count, chosen, about)
        if not force:
            others = (
                (lambda: fit.ratios(found)) if site == "auto" else (lambda: data.ratios(batch_size))
            )
            made = fit.selective(made, others, site == "auto")
        save_candidates(run, made)
        run.csv("spectrum.csv", COLUMNS, rows(made))
    for (where, gated), one in made.items():
        a, kind = one.about, "gated" if gated else "     "
        print(f"{where:<10} {kind} {a['basis']:<10} {one.k:>4} directions, largest ratio {a['ratio']:.1f}, "
              f"energy forget {a['energy_forget']:.2f} retain {a['energy_retain']:.2f}, overlap {a['overlap']:.2f}")  # fmt: skip
    print(
        f"{out}: {len(made)} candidates. Next: uv run hooks/tune_strength.py --model {model} --filter {out}"
    )


if __name__ == "__main__":
    command.run(main)
