"""How large is the intervention, and where is it concentrated? Norms and ranks of every dW = W_b -
W_a, exactly.

    uv run experiment/collect_param_stats.py --model-a A --model-b B \
        --outdir outputs/A__to__B/param_stats

per_matrix.csv has a row a matrix (an expert of a stack is one), per_layer.csv one a block and
group. `spectra.safetensors` keeps all singular values of each dW, W_a and W_b (`dW/<name>` ...), so
that no later question decomposes them again. The weights are streamed: two matrices are in memory,
never a model.
"""

import sys
from itertools import groupby
from typing import Annotated

import typer

from brittle.base import command, options
from brittle.base.errors import UserError

COLUMNS = [
    "name",
    "layer",
    "group",
    "shape0",
    "shape1",
    "dW_fro",
    "W_fro",
    "dW_fro_rel",
    "dW_spectral",
    "W_spectral",
    "dW_spectral_rel",
    "dW_stable_rank",
    "W_stable_rank",
]
RANKS = ["dW_empirical_rank", "W_empirical_rank"]
LAYER_RANK = "mean_dW_empirical_rank"
LAYER_COLUMNS = [
    "layer",
    "group",
    "dW_fro_layer",
    "W_fro_layer",
    "dW_fro_layer_rel",
    "max_dW_spectral",
    "max_W_spectral",
    "max_dW_spectral_rel",
    "mean_dW_stable_rank",
    "count_mats",
]


def spectra_of(w_a, w_b):
    """{dW, W_a, W_b: all singular values}; where nothing changed, one decomposition is enough. None
    for NaN or Inf.
    """
    import torch

    from brittle.maths.linalg import change_spectrum, finite, spectrum

    if not finite(w_a, w_b):
        return None
    s_a = spectrum(w_a)
    if torch.equal(w_a, w_b):
        return {"dW": torch.zeros_like(s_a), "W_a": s_a, "W_b": s_a.clone()}
    return {"dW": change_spectrum(w_a, w_b), "W_a": s_a, "W_b": spectrum(w_b)}


def measure(spectra):
    """The columns from dW_fro on, and the empirical ranks, of one matrix pair."""
    from brittle.base.tables import ratio
    from brittle.maths.linalg import empirical_rank, frobenius, stable_rank

    if spectra is None:
        return dict.fromkeys([*COLUMNS[5:], *RANKS])
    columns = {}
    for key, s in (("dW", spectra["dW"]), ("W", spectra["W_a"])):
        columns |= {
            f"{key}_fro": frobenius(s),
            f"{key}_spectral": float(s[0]),
            f"{key}_stable_rank": stable_rank(s),
            f"{key}_empirical_rank": empirical_rank(s),
        }
    for norm in ("fro", "spectral"):
        columns[f"dW_{norm}_rel"] = ratio(columns[f"dW_{norm}"], columns[f"W_{norm}"])
    return columns


def rows(pairs, spectra, notes):
    """A row a matrix of `pairs`; fills `spectra` {dW/<name>: singular values} and `notes` {broken,
    rounding: [names]}.
    """
    from brittle.maths.linalg import frobenius
    from brittle.maths.precision import norm_below_ulp
    from brittle.models.architectures import group_of, layer_of

    for name, w_a, w_b in pairs:
        singular = spectra_of(w_a, w_b)
        if singular is None:
            notes["broken"].append(name)
        else:
            spectra |= {f"{key}/{name}": s.cpu() for key, s in singular.items()}
            if norm_below_ulp(
                w_b.dtype, w_b.numel(), frobenius(singular["W_b"]), frobenius(singular["dW"])
            ):
                notes["rounding"].append(name)
        key = {"name": name, "layer": layer_of(name), "group": group_of(name)}
        yield key | {"shape0": w_a.shape[0], "shape1": w_a.shape[1]} | measure(singular)


def layer_rows(matrices):
    """A row a block and group from per_matrix.csv's rows; matrices of neither group stay out."""
    from brittle.base.tables import ratio, root_sum_square

    def key(row):
        return row["layer"], row["group"]

    def known(values, reduce):
        return None if any(v is None for v in values) else reduce(values)

    def mean(values):
        return sum(values) / len(values)

    inside = sorted((r for r in matrices if r["group"] != "other"), key=key)
    for (layer, group), members in groupby(inside, key):
        members = list(members)
        columns = {column: [row[column] for row in members] for column in members[0]}
        d_fro, fro = root_sum_square(columns["dW_fro"]), root_sum_square(columns["W_fro"])
        d_top, top = known(columns["dW_spectral"], max), known(columns["W_spectral"], max)
        yield {
            "layer": layer,
            "group": group,
            "dW_fro_layer": d_fro,
            "W_fro_layer": fro,
            "dW_fro_layer_rel": ratio(d_fro, fro),
            "max_dW_spectral": d_top,
            "max_W_spectral": top,
            "max_dW_spectral_rel": ratio(d_top, top),
            "mean_dW_stable_rank": known(columns["dW_stable_rank"], mean),
            LAYER_RANK: known(columns["dW_empirical_rank"], mean),
            "count_mats": len(columns["name"]),
        }


def without(table, dropped):
    """The rows of `table` without the columns `dropped`."""
    return [{k: v for k, v in row.items() if k not in dropped} for row in table]


def main(
    model_a: options.ModelA,
    model_b: options.ModelB,
    outdir: options.Outdir,
    empirical_rank: Annotated[
        bool, typer.Option("--empirical-rank", help="Add the ranks that hold 99% of the variance.")
    ] = False,
    device: options.Device = "auto",
):
    """Norms and ranks of the weight change, for every matrix and every block."""
    from safetensors.torch import save_file

    from brittle.diagnostics.common import comparison

    notes, spectra = {"broken": [], "rounding": []}, {}
    with comparison(outdir, model_a, model_b) as opened:
        run = opened.run
        matrices = list(rows(opened.matrices(device), spectra, notes))
        if not matrices:
            raise UserError(f"{model_a} holds no weight matrix.")
        layers = list(layer_rows(matrices))
        columns, layer_columns = [*COLUMNS, *RANKS], list(LAYER_COLUMNS)
        layer_columns.insert(-1, LAYER_RANK)  # before count_mats, as in Appendix A
        if not empirical_rank:
            columns, layer_columns = COLUMNS, LAYER_COLUMNS
            matrices, layers = without(matrices, RANKS), without(layers, [LAYER_RANK])
        save_file(spectra, run.path("spectra.safetensors"))
        run.csv("per_matrix.csv", columns, matrices)
        run.csv("per_layer.csv", layer_columns, layers)
        run.settings = notes
    from brittle.report import results

    results.say("1", outdir)
    broken, rounding = notes["broken"], notes["rounding"]
    if rounding:
        print(
            f"warning: the change of {rounding[0]} ({len(rounding)} such matrices) is below one "
            "unit in the last place of its dtype, so its rank measures rounding. "
            "Save model B in float32.",
            file=sys.stderr,
        )
    if broken:
        raise UserError(
            f"{broken[0]} holds NaN or Inf ({len(broken)} such matrices); their values are empty."
        )


if __name__ == "__main__":
    command.run(main)
