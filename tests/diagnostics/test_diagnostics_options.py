"""What the diagnostics share: --seeds, LoRA adapters as model B, batches by tokens, one text, no
tokens.
"""

import json

import pytest
import torch

from brittle.base.errors import UserError
from brittle.base.options import read_seeds, seed_list
from brittle.base.record import Run
from brittle.base.tables import read_table
from brittle.data.batches import batches, by_length
from brittle.models.load import load_changed
from support.tiny_models import make_model, save, script, texts, write_texts

null_space, covariance = script("null_space_analysis"), script("activation_covariance_analysis")
separation, row_space = (
    script("activation_separation_analysis"),
    script("row_space_projection_analysis"),
)
lipschitz, basin = script("local_lipschitzness_analysis"), script("basin_analysis")
probe, lens, norms = (
    script("linear_probe_analysis"),
    script("layerwise_wmdp_accuracy"),
    script("collect_activation_norms"),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """a, b (unrelated), a LoRA adapter of a, and the model that it merges to; texts and
    questions.
    """
    import peft

    root = tmp_path_factory.mktemp("options")
    save(make_model(), root / "a")
    save(make_model(seed=1), root / "b")
    wrapped = peft.get_peft_model(
        make_model(), peft.LoraConfig(r=2, lora_alpha=8, target_modules="all-linear")
    )
    for name, p in wrapped.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(p, std=0.1, generator=torch.Generator().manual_seed(len(name)))
    wrapped.save_pretrained(root / "adapter")
    save(wrapped.merge_and_unload(), root / "merged")
    write_texts(root / "forget.txt", texts(24, 1, words=[f"w{i}" for i in range(15)]))
    write_texts(root / "retain.txt", texts(24, 2, words=[f"w{i}" for i in range(20, 35)]))
    words = texts(96, 3, 1, 1)
    items = [
        {
            "question": f"w1 w{i}",
            "choices": words[4 * i : 4 * i + 4],
            "answer": i % 4,
            "fact": f"f{i // 2}",
        }
        for i in range(24)
    ]
    write_texts(root / "mcq_forget.jsonl", map(json.dumps, items))
    return root


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Figures have tests of their own, and drawing them takes half the time."""
    import matplotlib.pyplot as plt

    monkeypatch.setattr(
        Run,
        "figure",
        lambda self, figure, name: (self.path(name).write_bytes(b""), plt.close(figure)),
    )


def pair(module, root, outdir, b="b", **options):
    options = {
        "forget": root / "forget.txt",
        "retain": root / "retain.txt",
        "device": "cpu",
        "max_samples": 12,
    } | options
    module.main(str(root / "a"), str(root / b), outdir, **options)
    return read_table(next(outdir.glob("*.csv")))


SAMPLED = {  # what may differ between seeds; every other column must not
    covariance: ("_low", "_high"),
    separation: ("_low", "_high"),
    row_space: ("_low", "_high", "null_selectivity_ratio"),
    basin: ("_low", "_high", "null_nll"),
    lipschitz: ("_mean", "_std", "_low", "_high"),
}


@pytest.mark.parametrize("module", SAMPLED, ids=lambda m: m.__name__)
def test_seeds_repeat_what_is_random_and_nothing_else(module, root, tmp_path, capsys):
    options = {"folds": 3} if module is separation else {"points": 3} if module is basin else {}
    options |= {"epsilon": "0.1", "iterations": 1, "max_samples": 2} if module is lipschitz else {}
    table = pair(module, root, tmp_path / "x", seeds="3,4", **options)
    said = capsys.readouterr().out
    one, other = (
        table[table.seed == s].drop(columns="seed").reset_index(drop=True) for s in (3, 4)
    )
    sampled = [c for c in one if c.endswith(SAMPLED[module])]
    assert len(one) == len(other) and "seeds 3, 4:" in said and "not random" in said
    assert one.drop(columns=sampled).equals(other.drop(columns=sampled)) and not one[
        sampled
    ].equals(other[sampled])
    # the texts are drawn by the first seed
    alone = pair(module, root, tmp_path / "y", seed=3, **options).drop(columns="seed")
    assert alone.equals(one)


def test_seeds_of_the_other_scripts(root, tmp_path):
    null_space.main(
        str(root / "a"), str(root / "b"), tmp_path / "n", device="cpu", seeds="0,1", null_draws=2
    )
    table = read_table(tmp_path / "n/null_space_results.csv")
    one, other = (
        table[table.seed == s].drop(columns="seed").reset_index(drop=True) for s in (0, 1)
    )
    drawn = [c for c in one if c.startswith("null_")]
    assert one.drop(columns=drawn).equals(other.drop(columns=drawn)) and not one[drawn].equals(
        other[drawn]
    )
    options = {
        "forget": root / "forget.txt",
        "retain": root / "retain.txt",
        "data": root,
        "device": "cpu",
        "folds": 3,
    }
    probe.main(str(root / "a"), tmp_path / "p", seeds="0,1", **options)
    table = read_table(tmp_path / "p/probe_results.csv").set_index(["layer"])
    part = {key: rows.drop(columns="seed") for key, rows in table.groupby(["task", "seed"])}
    assert part["domain", 0].equals(part["domain", 1]) and not part["truth_forget", 0].equals(
        part["truth_forget", 1]
    )
    lens.main(
        str(root / "a"), tmp_path / "l", "logit", root, seeds="0,1", max_samples=10, device="cpu"
    )
    assert read_table(tmp_path / "l/wmdp_lens_results.csv").groupby("seed").size().tolist() == [
        4,
        4,
    ]


def test_every_script_reads_seeds_by_one_rule():
    """A comma at the end, as a shell loop leaves it, ended two of three readers in an error."""
    for text in ("0,1", "0, 1", "0,1,", " 0 ,1 , "):
        assert read_seeds(text) == seed_list(text, 7, "x") == [0, 1]
    assert seed_list(None, 7, "x") == [7]
    for bad in ("0,0", "0,00", "x", "", ",", "1,-2", "1.5", "²", str(2**32)):
        with pytest.raises(UserError, match="different whole numbers"):
            read_seeds(bad)


def test_adapter_as_model_b(root, tmp_path):
    """Every activation step gives for a LoRA folder what it gives for the model that it merges
    to.
    """
    wanted = dict(make_like(root / "merged").named_parameters())
    for name, p in load_changed(root / "adapter", root / "a").named_parameters():
        assert torch.allclose(p, wanted[name], atol=1e-6)
    for module, options in ((norms, {}), (row_space, {}), (basin, {"points": 3})):
        one, other = (
            pair(module, root, tmp_path / module.__name__ / b, b=b, **options)
            for b in ("adapter", "merged")
        )
        numbers = [c for c in one if one[c].dtype == float and c not in ("rank", "k")]
        assert len(one) and (
            (one[numbers] - other[numbers]).abs().fillna(0) < 1e-3 * (1 + other[numbers].abs())
        ).all(axis=None)
    assert set(pair(row_space, root, tmp_path / "r", b="adapter")["rank"]) == {2}
    with pytest.raises(UserError, match="which A lacks"):
        load_changed(root / "adapter", save(make_model(num_hidden_layers=2), tmp_path / "shallow"))


def make_like(folder):
    from brittle.models.load import load_model

    return load_model(folder)


def test_batches_by_tokens():
    ids = [[1] * n for n in (9, 1, 3, 3, 30, 2, 8)]
    lists = by_length(ids, 4, 16)
    assert sorted(i for part in lists for i in part) == list(range(7)) and all(
        len(part) <= 4 for part in lists
    )
    assert all(len(part) == 1 or max(len(ids[i]) for i in part) * len(part) <= 16 for part in lists)
    assert by_length(ids, 3) == [[1, 5, 2], [3, 6, 0], [4]] == by_length(ids, 3, 10**9)
    assert [batch["input_ids"].numel() for _, batch in batches(ids, 0, 4, tokens=16)] == [
        12,
        8,
        9,
        30,
    ]


@pytest.mark.parametrize("module", [norms, row_space, basin, lipschitz], ids=lambda m: m.__name__)
def test_one_text_only(module, root, tmp_path):
    """One text has no interval over texts; nothing else is missing."""
    options = {"points": 2} if module is basin else {}
    table = pair(module, root, tmp_path / "o", max_samples=1, **options)
    single = [
        c
        for c in table
        if not c.startswith(("null_selectivity", "selectivity"))
        and not c.endswith(("_low", "_high", "_std"))
    ]
    assert len(table) and table[single].notna().all(axis=None)


def test_split_without_tokens(root, tmp_path, monkeypatch):
    """A tokenizer that makes nothing of the texts: said in one line, nothing written."""
    write_texts(tmp_path / "one.txt", ["w1", "w2"])
    for module in (norms, covariance, separation, row_space, basin, lipschitz):
        with pytest.raises(UserError, match="the retain texts hold no tokens to predict"):
            pair(module, root, tmp_path / "o", retain=tmp_path / "one.txt")
    assert not (tmp_path / "o").exists()


def test_k_beyond_the_rank(root, tmp_path):
    null_space.main(
        str(root / "a"), str(root / "b"), tmp_path / "n", k=500, device="cpu", null_draws=1
    )
    assert set(read_table(tmp_path / "n/null_space_results.csv").k) == {32}
    table = pair(row_space, root, tmp_path / "r", k="500", b="adapter")
    assert (table.k == table["rank"]).all() and (table["rank"] == 2).all()
