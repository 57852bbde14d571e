"""How the diagnostics begin: what a comparison and a look at one model find, load, cut and
record.
"""

import json

import pytest
import torch

from brittle.base.errors import UserError
from brittle.data.items import draw_texts
from brittle.diagnostics.common import Texts, comparison, of_model
from support.tiny_models import make_model, save, write_texts


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("common")
    save(make_model(), root / "a")
    save(make_model(seed=1), root / "b")
    save(make_model(num_hidden_layers=2), root / "shallow")
    write_texts(root / "forget.txt", ["w1 w2 w3 w4", "w1 w2", "w3 w4 w5"])
    write_texts(root / "retain.txt", ["w5 w6 w7"])
    return root


def begin(root, outdir, other="b", texts=None, seeds=None):
    return comparison(outdir, str(root / "a"), str(root / other), texts, seeds)


def record(outdir):
    return json.loads((outdir / "x.run.json").read_text())


def write(run):
    run.csv("x.csv", ["n"], [{"n": 1}])


def test_a_comparison_records_models_texts_and_seeds(root, tmp_path):
    texts = Texts(root / "forget.txt", root / "retain.txt", 2, 3)
    with begin(root, tmp_path, texts=texts, seeds=[3, 4]) as opened:
        ids, drawn = opened.encode(make_model().config), opened.drawn
        models = [opened.load(name, "cpu", "float32") for name in opened.folders]
        write(opened.run)
    assert len(drawn["forget"].texts) == 2 and opened.units() == {"forget": 2, "retain": 1}
    for split, texts_of_split in drawn.items():  # drawn by the first seed, cut to three tokens
        assert texts_of_split == draw_texts(root / f"{split}.txt", 2, 3)
        longest = [min(3, len(text.split())) for text in texts_of_split.texts]
        assert list(map(len, ids[split])) == longest
    for model, seed in zip(models, (0, 1), strict=True):
        wanted = dict(make_model(seed=seed).named_parameters())
        assert all(torch.equal(p, wanted[name]) for name, p in model.named_parameters())
    made = record(tmp_path)
    assert made["models"] == {"model_a": str(root / "a"), "model_b": str(root / "b")}
    assert made["seed"] == 3 and made["settings"] == {
        "seeds": [3, 4],
        "samples": {split: of.about() for split, of in drawn.items()} | {"seed": 3},
    }
    read = set(made["inputs"])
    assert {str(root / "forget.txt"), str(root / "a/model.safetensors")} <= read
    assert opened.title == "a → b"


def test_a_comparison_without_texts_reads_matrices_alone(root, tmp_path):
    with begin(root, tmp_path) as opened:
        found = {name: (w_a, w_b) for name, w_a, w_b in opened.matrices("cpu")}
        some = list(opened.matrices("cpu", lambda name: "dense_h_to_4h" in name))
        write(opened.run)
    assert len(some) == 3 and set(found) > {name for name, _, _ in some}
    assert opened.tokenizer is None
    made = record(tmp_path)
    assert made["seed"] is None and made["settings"] == {}


def test_models_that_do_not_fit_leave_nothing(root, tmp_path):
    texts = Texts(root / "forget.txt", root / "retain.txt", 2)
    with (
        pytest.raises(UserError, match="A and B differ in num_hidden_layers"),
        begin(root, tmp_path / "o", "shallow", texts),
    ):
        pass
    assert not (tmp_path / "o").exists()


def test_one_model(root, tmp_path):
    inputs = [root / "retain.txt"]
    with of_model(tmp_path, str(root / "b"), inputs, [5], "cpu", "auto") as opened:
        assert opened.tokenizer("w1")["input_ids"] and opened.title == "b"
        write(opened.run)
    made = record(tmp_path)
    assert made["models"] == {"model": str(root / "b")} and made["seed"] == 5
    assert str(root / "retain.txt") in made["inputs"]
