"""lm-eval through eval/harness.py: agrees with brittle.mcq item by item, never reads stale data, stays offline."""

import csv
import importlib.util
import json
import os
import random
import sys
from pathlib import Path

import pytest
import torch
from scipy.stats import binomtest

from brittle import family, mcq
from brittle.errors import UserError

torch.set_num_threads(1)
os.environ["HF_HUB_OFFLINE"] = "1"
SCRIPT = Path(__file__).parents[1] / "eval" / "harness.py"
WORDS = ["amber", "basalt", "cedar", "delta", "ember", "fjord", "granite", "heron", "indigo", "jasper", "kelp", "lagoon"]


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


harness = load(SCRIPT)


def write_items(path, count, seed, name="f"):
    """Items whose choices have one to three words, so that acc and acc_norm can differ."""
    draw = random.Random(seed)
    with open(path, "w", encoding="utf-8") as file:
        for i in range(count):
            choices = []
            while len(choices) < 4:
                words = " ".join(draw.sample(WORDS, draw.randint(1, 3)))
                choices += [words] * (words not in choices)
            item = {"fact": f"{name}{i}", "half": "AB"[i % 2], "choices": choices, "answer": draw.randrange(4),
                    "question": f"Question: Where is {draw.choice(WORDS)} {i}? Answer:"}  # fmt: skip
            file.write(json.dumps(item) + "\n")


@pytest.fixture(scope="module")
def model_and_data(tmp_path_factory):
    root = tmp_path_factory.mktemp("harness")
    tokenizer = family.make_tokenizer([" ".join(WORDS), "Question: Where is Answer:"] * 5, 320)
    model = family.make_model(tokenizer, 32, 2, 2, seed=3)
    model.save_pretrained(root / "tiny")
    tokenizer.save_pretrained(root / "tiny")
    (root / "data").mkdir()
    for number, split in enumerate(mcq.SPLITS):
        write_items(root / "data" / f"mcq_{split}.jsonl", 12, number)
    return root / "tiny", root / "data"


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def run(model, data, outdir, **options):
    harness.main(model=str(model), data=data, outdir=outdir, tasks=options.pop("tasks", harness.OURS), batch_size=8,
                 device="cpu", dtype="float32", seed=0, **options)  # fmt: skip
    return read(outdir / "accuracy.csv"), read(outdir / "samples.csv")


def test_lm_eval_agrees_with_mcq(model_and_data, tmp_path, monkeypatch):
    from brittle import models

    folder, data = model_and_data
    monkeypatch.chdir(tmp_path)
    accuracy, samples = run(folder, data, Path("out"))
    model, tokenizer = models.load_model(folder, "cpu", "float32"), models.load_tokenizer(folder)
    for split in mcq.SPLITS:
        items = mcq.read_items(data / f"mcq_{split}.jsonl")
        ours = [p for p, _ in mcq.score(model, tokenizer, items)]
        theirs = [s for s in samples if s["task"] == f"mini_{split}"]
        assert [int(s["prediction"]) for s in theirs] == ours
        assert [(s["fact"], s["half"], int(s["answer"])) for s in theirs] == [(i["fact"], i["half"], i["answer"]) for i in items]
        assert [int(s["correct"]) for s in theirs] == [int(p == i["answer"]) for p, i in zip(ours, items, strict=True)]
        rows = {r["metric"]: r for r in accuracy if r["split"] == split}
        assert float(rows["acc"]["value"]) == pytest.approx(mcq.accuracy(model, tokenizer, items))
        assert float(rows["acc"]["letter_share"]) == max(map(ours.count, ours)) / len(ours)
        normed = [p for p, _ in mcq.score(model, tokenizer, items, normalise=True)]
        right = sum(p == i["answer"] for p, i in zip(normed, items, strict=True))
        assert float(rows["acc_norm"]["value"]) == pytest.approx(right / len(items))
    assert len(accuracy) == 6 and "wandb" not in sys.modules
    assert [p.name for p in tmp_path.iterdir()] == ["out"], "the datasets cache must not land beside the results"


def test_a_changed_file_is_read_again(model_and_data, tmp_path):
    folder, _ = model_and_data
    facts, path = [], tmp_path / "mcq_forget.jsonl"
    for seed in (5, 6):
        write_items(path, 6, seed, f"s{seed}f")
        os.utime(path, (1, 1))  # the same name, the same time stamp
        _, samples = run(folder, tmp_path, tmp_path / "out", tasks="mini_forget=other", limit=4)
        facts.append([s["fact"] for s in samples])
    assert facts == [[f"s{seed}f{i}" for i in range(4)] for seed in (5, 6)]
    assert {r["split"] for r in read(tmp_path / "out" / "accuracy.csv")} == {"other"}


def test_a_broken_model_has_no_accuracy(model_and_data, tmp_path):
    from brittle import models

    folder, data = model_and_data
    model = models.load_model(folder, "cpu", "float32")
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    model.save_pretrained(tmp_path / "nan")
    models.load_tokenizer(folder).save_pretrained(tmp_path / "nan")
    with pytest.raises(UserError, match="NaN"):
        run(tmp_path / "nan", data, tmp_path / "out", tasks="mini_forget")
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize("right, n", [(0, 20), (7, 20), (20, 20), (200, 800)])
def test_wilson_is_scipys(right, n):
    expected = binomtest(right, n).proportion_ci(method="wilson")
    assert harness.wilson(right, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def result(samples):
    found = {"t": {"alias": "t", "acc,none": 0.5, "acc_stderr,none": 0.1}}
    return {"results": found, "samples": {"t": samples}, "n-samples": {"t": {"effective": len(samples)}}}


def test_one_constant_letter_is_marked():
    def sample(best):
        return {"filtered_resps": [(0.0 if i == best else -1.0, False) for i in range(4)], "doc_id": 0}

    (row,) = harness.rows(result([sample(2)] * 19 + [sample(0)]), {"t": "forget"})
    assert row["letter_share"] == 0.95 and row["constant_letter"] == 1 and row["split"] == "forget"
    (row,) = harness.rows(result([sample(2)] * 18 + [sample(0)] * 2), {})
    assert row["letter_share"] == 0.9 and row["constant_letter"] == 0 and row["split"] is None


def test_tasks_are_named_with_their_split():
    assert harness.parse_tasks("mini_forget, wmdp_bio=forget,mmlu=general") == {
        "mini_forget": None, "wmdp_bio": "forget", "mmlu": "general"}  # fmt: skip
    with pytest.raises(UserError, match="empty"):
        harness.parse_tasks(" , ")


def test_mistakes_take_one_line(model_and_data, tmp_path):
    from lm_eval.tasks import TaskManager

    folder, data = model_and_data
    with pytest.raises(UserError, match=r"mcq_forget\.jsonl not found"):
        run(folder, tmp_path / "nowhere", tmp_path / "out", tasks="mini_forget")
    assert not (tmp_path / "out").exists()

    (tmp_path / "hub.yaml").write_text(
        "task: from_hub\ndataset_path: nobody/nothing\noutput_type: multiple_choice\ntest_split: test\n"
    )
    manager = TaskManager(
        include_path=[str(harness.TASKS), str(tmp_path)], include_defaults=False
    )  # the whole index takes seconds
    with pytest.raises(UserError, match=r"no such task.*mini_forget"):
        harness.load_tasks({"mini_forge": None}, data, tmp_path, manager)
    with pytest.raises(UserError, match=r"from_hub: .* cannot be fetched") as error:
        harness.load_tasks({"from_hub": "forget"}, data, tmp_path, manager)
    assert "\n" not in str(error.value)
