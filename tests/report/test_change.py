"""What was done to a model, from its weights: planted changes are told apart, and said in words."""

import csv
import importlib.util
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from brittle.base import layout
from brittle.report import change
from support.places import ROOT
from support.tiny_models import script as load_script

spec = importlib.util.spec_from_file_location("report", ROOT / "experiment" / "report.py")
report = importlib.util.module_from_spec(spec)
spec.loader.exec_module(report)


def matrices(rank=2.0, noise=30.0, directions=0.5, length=0.1, blocks=4, outside=True, side=64):
    """(rows of spectrum_summary.csv, rows of per_matrix.csv) of a matrix a block, and embeddings.

    rank and the others: a number, or a function of the block (-1: embeddings).
    """
    spectra, sizes = [], []
    for block in range(-1, blocks):
        values = {"stable_rank": rank, "empirical_rank": directions, "fro": length}
        row = {k: v(block) if callable(v) else v for k, v in values.items()}
        row["empirical_rank"] *= side
        row["fro"] = 0.0 if block == -1 and not outside else row["fro"]
        shape = {"layer": block, "shape0": side, "shape1": 2 * side, "null_stable_rank": noise}
        spectra += [row | shape | {"matrix": "dW"}, row | shape | {"matrix": "W_a", "fro": 1.0}]
        sizes.append({"layer": block, "dW_fro": row["fro"], "W_fro": 1.0, "dW_stable_rank": 1.0})
    return spectra, sizes


@pytest.mark.parametrize(
    ("planted", "kind"),
    [
        (matrices(length=0.0), "nothing"),
        (matrices(length=1.2, rank=25.0), "anew"),
        (matrices(rank=27.0), "noise"),
        (matrices(directions=0.125), "adapter"),
        (matrices(directions=lambda block: 0.05 if block else 0.2), "tuned"),
        (matrices(length=lambda block: 0.1 * (block in (1, 2)), outside=False), "blocks"),
        (matrices(length=lambda block: 0.1 * (block in (1, 2, 3)), outside=False), "tuned"),
        (matrices(length=lambda block: 0.1 * (block in (-1, 2))), "tuned"),
        (matrices(), "tuned"),
        (matrices(rank=20.0), ""),
    ],
)
def test_kinds_by_their_numbers(planted, kind):
    assert change.kind(*planted) == kind


@pytest.fixture(scope="module")
def compared(family, knowing, tmp_path_factory):
    """{name: kind} of real folders: steps 1 and spectrum ran on each against the tiny base."""
    root, base = tmp_path_factory.mktemp("changes"), family.base
    tensors = load_file(f"{base}/model.safetensors")
    generator = torch.Generator().manual_seed(0)

    def saved(name, edit):
        edited = {n: edit(n, w.clone()) for n, w in tensors.items()}
        folder = root / "models" / name
        folder.mkdir(parents=True)
        save_file(edited, folder / "model.safetensors", {"format": "pt"})
        config = json.loads((ROOT / base / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    def adapter(name, w):
        if w.ndim < 2 or "mlp" not in name:
            return w
        up, down = (torch.randn(n, 2, generator=generator) for n in w.shape)
        return w + 0.003 * up @ down.T

    def noise(name, w):
        return w + 0.002 * torch.randn(w.shape, generator=generator)

    models = {
        "adapter": saved("adapter", adapter),
        "noise": saved("noise", noise),
        "nothing": saved("nothing", lambda name, w: w),
    }
    for name, folder in models.items():
        home = root / f"base__to__{name}"
        load_script("collect_param_stats").main(base, str(folder), home / "param_stats")
        load_script("singular_value_spectrum").main(base, str(folder), home / "singular_values")
    return root


def test_kinds_of_real_folders(compared):
    for name in ("adapter", "noise", "nothing"):
        assert change.typical(compared, "base", name) == change.KINDS[name][0], name


def test_the_first_screen_of_two_folders_and_no_data(compared, tmp_path):
    steps = tmp_path / "steps.csv"
    with open(steps, "w", newline="") as file, open(layout.STEPS, newline="") as whole:
        shown = ("step", "1", "4", "5", "spectrum", "report")
        rows = [r for r in csv.reader(whole) if r[0] in shown]
        csv.writer(file).writerows(rows)
    report.main(base="base", unlearned=["adapter"], root=compared, table=steps)
    text = (compared / "report.html").read_text(encoding="utf-8")
    title = text[text.index("<h1>") : text.index("</h1>")]
    assert "adapter: the weights moved by" in title and "typical of low-rank adapters" in title
    first = text[: text.index("<main>")]
    for asked in (*change.ASKED, "Typical of"):
        assert f"<strong>{asked}:</strong>" in first
    assert "Nothing was asked of these models" in first and change.NO_TEXTS in first
    assert "not measured: run step 6" in first and 'class="summary"' not in first
    # what reads texts is not spoken of where there are none
    assert 'id="step-1"' in text and 'id="step-4"' not in text and 'id="step-5"' not in text
    for word in ("removed the forget facts", "only hid", "cannot be told"):
        assert word not in first
    report.main(base="base", unlearned=["adapter", "noise"], root=compared, table=steps)
    text = (compared / "report.html").read_text(encoding="utf-8")
    assert "<h1>What was done to base in 2 models, by their weights alone</h1>" in text
    assert "base → noise" in text and change.KINDS["noise"][0] in text
