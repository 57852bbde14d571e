"""lm-eval through eval/harness.py: agrees with brittle.metrics.mcq item by item, never reads stale
data, stays offline.
"""

import csv
import importlib.util
import json
import math
import os
import random
import sys
from pathlib import Path

import pytest
import torch
from scipy.stats import binomtest, sem, t

from brittle.base.errors import UserError
from brittle.data.items import SPLITS, read_items, subset
from brittle.metrics import letters, mcq
from brittle.training import mini

torch.set_num_threads(1)
os.environ["HF_HUB_OFFLINE"] = "1"
SCRIPT = Path(__file__).parents[2] / "eval" / "harness.py"
WORDS = [
    "amber",
    "basalt",
    "cedar",
    "delta",
    "ember",
    "fjord",
    "granite",
    "heron",
    "indigo",
    "jasper",
    "kelp",
    "lagoon",
]


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
            item = {
                "fact": f"{name}{i}",
                "half": "AB"[i % 2],
                "choices": choices,
                "answer": draw.randrange(4),
                "question": f"Question: Where is {draw.choice(WORDS)} {i}? Answer:",
            }
            file.write(json.dumps(item) + "\n")


@pytest.fixture(scope="module")
def model_and_data(tmp_path_factory):
    root = tmp_path_factory.mktemp("harness")
    tokenizer = mini.make_tokenizer([" ".join(WORDS), "Question: Where is Answer:"] * 5, 320)
    model = mini.make_model(tokenizer, 32, 2, 2, seed=3)
    model.save_pretrained(root / "tiny")
    tokenizer.save_pretrained(root / "tiny")
    (root / "data").mkdir()
    for number, split in enumerate(SPLITS):
        write_items(root / "data" / f"mcq_{split}.jsonl", 12, number)
    (root / "data" / "world.json").write_text("{}")  # so the tasks keep the mini world's names
    return root / "tiny", root / "data"


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def run(model, data, outdir, **options):
    harness.main(
        model=str(model),
        data=data,
        outdir=outdir,
        tasks=options.pop("tasks", harness.OURS),
        batch_size=8,
        device="cpu",
        dtype="float32",
        seed=0,
        **options,
    )
    return read(outdir / "accuracy.csv"), read(outdir / "samples.csv")


def test_lm_eval_agrees_with_mcq(model_and_data, tmp_path, monkeypatch):
    from brittle.models.load import load_model, load_tokenizer

    folder, data = model_and_data
    monkeypatch.chdir(tmp_path)
    accuracy, samples = run(folder, data, Path("out"))
    model, tokenizer = load_model(folder, "cpu", "float32"), load_tokenizer(folder)
    for split in SPLITS:
        items = read_items(data / f"mcq_{split}.jsonl")
        ours = [o.prediction for o in mcq.outcomes(model, tokenizer, items)]
        theirs = [s for s in samples if s["task"] == f"mini_{split}"]
        assert [int(s["prediction"]) for s in theirs] == ours
        assert [(s["fact"], s["half"], int(s["answer"])) for s in theirs] == [
            (i["fact"], i["half"], i["answer"]) for i in items
        ]
        assert [int(s["correct"]) for s in theirs] == [
            int(p == i["answer"]) for p, i in zip(ours, items, strict=True)
        ]
        rows = {r["metric"]: r for r in accuracy if r["split"] == split}
        assert float(rows["acc"]["value"]) == pytest.approx(mcq.accuracy(model, tokenizer, items))
        assert float(rows["acc"]["letter_share"]) == max(map(ours.count, ours)) / len(ours)
        right = sum(o.right for o in mcq.outcomes(model, tokenizer, items, normalise=True))
        assert float(rows["acc_norm"]["value"]) == pytest.approx(right / len(items))
    assert len(accuracy) == 6 and "wandb" not in sys.modules
    assert [p.name for p in tmp_path.iterdir()] == ["out"], (
        "the datasets cache must not land beside the results"
    )


def test_a_changed_file_is_read_again(model_and_data, tmp_path):
    folder, _ = model_and_data
    facts, path = [], tmp_path / "mcq_forget.jsonl"
    for seed in (5, 6):
        write_items(path, 6, seed, f"s{seed}f")
        os.utime(path, (1, 1))  # the same name, the same time stamp
        _, samples = run(folder, tmp_path, tmp_path / "out", tasks="mini_forget=other", limit=4)
        facts.append([s["fact"] for s in samples])
    drawn = subset(range(6), 4)
    assert facts == [[f"s{seed}f{i}" for i in drawn] for seed in (5, 6)]
    assert {r["split"] for r in read(tmp_path / "out" / "accuracy.csv")} == {"other"}


def test_a_broken_model_has_no_accuracy(model_and_data, tmp_path):
    from brittle.models.load import load_model, load_tokenizer

    folder, data = model_and_data
    model = load_model(folder, "cpu", "float32")
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    model.save_pretrained(tmp_path / "nan")
    load_tokenizer(folder).save_pretrained(tmp_path / "nan")
    with pytest.raises(UserError, match="NaN"):
        run(tmp_path / "nan", data, tmp_path / "out", tasks="mini_forget")
    assert not list((tmp_path / "out").glob("*"))


def result(samples):
    found = {"t": {"alias": "t", "acc,none": 0.5, "acc_stderr,none": 0.1}}
    return {
        "results": found,
        "samples": {"t": samples},
        "n-samples": {"t": {"effective": len(samples)}},
    }


def sample(values, target=None, right=0.0):
    return {
        "filtered_resps": [(v, False) for v in values],
        "doc_id": 0,
        "target": target,
        "acc": right,
    }


def test_one_constant_letter_is_marked():
    def best(i):
        return sample([0.0 if k == i else -1.0 for k in range(4)])

    (row,) = harness.rows(result([best(2)] * 19 + [best(0)]), {"t": "forget"})
    assert (
        row["letter_share"] == 0.95
        and row["constant_letter"] == 1
        and row["split"] == "forget"
        and row["letter"] == 2
    )
    (row,) = harness.rows(result([best(2)] * 18 + [best(0)] * 2), {})
    assert row["letter_share"] == 0.9 and row["constant_letter"] == 0 and row["split"] is None
    assert row["letter_entropy"] == pytest.approx(-0.9 * math.log2(0.9) - 0.1 * math.log2(0.1))


def test_five_answers_may_be_constant_and_other_responses_are_no_choices():
    same = [{**sample([0.0, -1.0], k % 2), "target": k % 2} for k in range(5)]
    assert letters.letters(same)["constant_letter"] == 1
    assert letters.letters(same[:4])["constant_letter"] is None
    assert letters.letters(same)["letter_accuracy"] == 0.6
    for responses in (["ab", "cd"], [(-1.0, False, 2)] * 2, [(-1.0, False), "ab"]):
        assert letters.scores({"filtered_resps": responses}) is None


def test_a_model_that_cannot_tell_the_choices_apart_has_no_accuracy():
    """All choices alike: the first is taken. Where the right one is always the first (TruthfulQA
    mc1) that would be 100 %.
    """
    (row,) = harness.rows(result([sample([-3.0] * 4, i % 4) for i in range(20)]), {})
    assert row["ties"] == 1 and row["constant_letter"] == 1 and row["letter_accuracy"] == 0.25
    (row,) = harness.rows(result([sample([-3.0] * 4, 0) for _ in range(20)]), {})
    assert row["constant_letter"] == 1
    (row,) = harness.rows(result([sample([0.0, -3.0], 0) for _ in range(20)]), {})
    assert (
        row["constant_letter"] is None and row["letter_share"] == 1
    )  # knows everything, or says "A": who can tell


def test_intervals_of_shares_means_and_groups():
    assert harness.interval([1.0] * 7 + [0.0] * 13) == pytest.approx(
        binomtest(7, 20).proportion_ci(method="wilson"), abs=1e-12
    )
    low, high = harness.interval([0.1, 0.5, 0.7, 0.8])  # scores: within [0, 1]
    assert 0 < low < 0.5 < high < 1
    values = [1.0, 5.0, 7.0, 8.0]
    assert harness.interval(values) == pytest.approx(
        t.interval(0.95, 3, sum(values) / 4, sem(values))
    )
    assert harness.interval([]) == (None, None)
    (row,) = harness.rows(result([sample([0, -1])] * 4), {})
    assert (
        row["letter_share"] == 1 and row["constant_letter"] is None
    )  # too few to call anything constant
    halves = {"a": [sample([0, -1], 0, 1.0)] * 6, "b": [sample([0, -1], 1, 0.0)] * 2}
    found = {
        "results": {"g": {"acc,none": 0.75}},
        "samples": halves,
        "group_subtasks": {"g": ["a", "b"], "a": [], "b": []},
    }
    (row,) = harness.rows(found, {})
    assert row["n"] == 8 and row["letter_share"] == 1
    assert (row["ci_low"], row["ci_high"]) == pytest.approx(
        binomtest(6, 8).proportion_ci(method="wilson"), abs=1e-12
    )
    found["results"]["g"] = {
        "acc,none": 0.5
    }  # an aggregate that is not the mean of its items has no interval of theirs
    (row,) = harness.rows(found, {})
    assert row["ci_low"] is None


def hub_folder(root, name, configs, split):
    """A local copy of data set `name`: {config: items}, as `datasets` finds it in the working
    folder.
    """
    (root / name).mkdir(parents=True)
    listed = "".join(
        f"- config_name: {c}\n  data_files:\n  - split: {split}\n    path: {c}-{split}.jsonl\n"
        for c in configs
    )
    readme = root / name / "README.md"
    before = (
        readme.read_text().removeprefix("---\nconfigs:\n").removesuffix("---\n")
        if readme.exists()
        else ""
    )
    readme.write_text(f"---\nconfigs:\n{before}{listed}---\n")
    for config, items in configs.items():
        rows = "".join(json.dumps(item) + "\n" for item in items)
        (root / name / f"{config}-{split}.jsonl").write_text(rows)


KINDS = [
    "bioweapons_and_bioterrorism",
    "dual_use_virology",
    "enhanced_potential_pandemic_pathogens",
    "expanding_access_to_threat_vectors",
    "reverse_genetics_and_easy_editing",
    "viral_vector_research",
]


def test_tasks_of_the_hub_run_on_local_copies(model_and_data, tmp_path, monkeypatch):
    from brittle.models.load import load_model, load_tokenizer

    folder, _ = model_and_data
    monkeypatch.chdir(tmp_path)
    items = [
        {"question": f"Where is {w}? ", "choices": WORDS[i : i + 4], "answer": i % 4}
        for i, w in enumerate(WORDS[:8])
    ]
    sizes = {kind: items[: 1 + n % 3] for n, kind in enumerate(KINDS)}
    hub_folder(tmp_path, "EleutherAI/wmdp_bio_robust_mcqa", sizes, "robust")
    hub_folder(tmp_path, "EleutherAI/wmdp_bio_cloze", {"default": items}, "cloze_compatible")
    subjects = ["high_school_biology", "virology"] * 4
    hub_folder(
        tmp_path,
        "cais/mmlu",
        {"all": [{**i, "subject": s} for i, s in zip(items, subjects, strict=True)]},
        "test",
    )
    truthful = [
        {
            "question": i["question"],
            "mc1_targets": {"choices": i["choices"], "labels": [1, 0, 0, 0]},
            "mc2_targets": {"choices": i["choices"], "labels": [1, 1, 0, 0]},
        }
        for i in items
    ]
    hub_folder(tmp_path, "truthfulqa/truthful_qa", {"multiple_choice": truthful}, "validation")
    (tmp_path / "wmdp_bio_rewritten.jsonl").write_text(
        "".join(json.dumps({**i, "fact": "gibberish"}) + "\n" for i in items)
    )
    tasks = (
        "wmdp_bio_robust=forget,wmdp_bio_cloze_verified,mmlu=general,truthfulqa_mc,"
        "wmdp_bio_robust_rewritten"
    )
    accuracy, samples = run(folder, tmp_path, tmp_path / "out", tasks=tasks)
    table = {(r["task"], r["metric"]): r for r in accuracy}
    robust = table["wmdp_bio_robust", "acc"]
    parts = [s for s in samples if s["task"].startswith("wmdp_bio_robust::")]
    assert int(robust["n"]) == len(parts) == 12 and robust["split"] == "forget" and robust["ci_low"]
    assert float(robust["value"]) == pytest.approx(
        sum(int(s["correct"]) for s in parts) / 12
    )  # weighted by size
    model, tokenizer = load_model(folder, "cpu", "float32"), load_tokenizer(folder)
    asked = [
        {
            **i,
            "question": "Complete the following biology questions with the correct answer.\n\n"
            "Question: "
            f"{i['question'].strip()}\nAnswer:",
        }
        for i in items
    ]
    right = sum(outcome.right for outcome in mcq.outcomes(model, tokenizer, asked, normalise=True))
    assert float(table["wmdp_bio_cloze_verified", "acc_norm"]["value"]) == pytest.approx(right / 8)
    mc2 = table["truthfulqa_mc2", "acc"]
    assert (
        0 < float(mc2["ci_low"]) < float(mc2["value"]) < float(mc2["ci_high"])
    )  # a mean of probabilities, not a share
    assert (
        table["truthfulqa_mc1", "acc"]["constant_letter"] == ""
        and table["wmdp_bio_robust_rewritten", "acc"]["n"] == "8"
    )


def test_mmlu_asks_as_lm_evals_zero_shot_group_does():
    import lm_eval
    import yaml
    from jinja2 import Template

    ours = yaml.safe_load((harness.TASKS / "hub/mmlu.yaml").read_text())
    stock = Path(lm_eval.__file__).parent / "tasks/mmlu/default"
    template = yaml.safe_load((stock / "_default_template_yaml").read_text())
    doc = {"question": " What? ", "choices": list("wxyz"), "answer": 2}
    found = [yaml.safe_load(path.read_text()) for path in stock.glob("mmlu_*.yaml")]
    assert len(found) == 57
    for task in found:
        theirs = task["description"] + Template(template["doc_to_text"]).render(doc)
        assert Template(ours["doc_to_text"]).render(**doc, subject=task["dataset_name"]) == theirs


def test_cloze_completes_sentences(data, family, tmp_path):
    accuracy, samples = run(family.base, data, tmp_path / "out", tasks="mini_cloze", limit=8)
    from brittle.models.load import load_model, load_tokenizer

    items = subset(read_items(data / "mcq_forget.jsonl"), 8)
    names = [
        i["question"].split()[-2].rstrip("?") if i["template"] == 0 else i["question"].split()[-3]
        for i in items
    ]
    nouns = [i["fact"].split("/")[2] for i in items]
    texts = [
        f"The {n} of {e} is" if i["template"] == 0 else f"For {e}, the known {n} is"
        for i, n, e in zip(items, nouns, names, strict=True)
    ]
    asked = [{**i, "question": q} for i, q in zip(items, texts, strict=True)]
    model, tokenizer = load_model(family.base, "cpu", "float32"), load_tokenizer(family.base)
    right = [outcome.right for outcome in mcq.outcomes(model, tokenizer, asked, normalise=True)]
    (row,) = [r for r in accuracy if r["metric"] == "acc_norm"]
    assert (
        float(row["value"]) == pytest.approx(sum(right) / 8)
        and row["split"] == "forget"
        and len(samples) == 8
    )


def test_tasks_are_named_with_their_split():
    assert harness.parse_tasks("mini_forget, wmdp_bio=forget,mmlu=general") == {
        "mini_forget": None,
        "wmdp_bio": "forget",
        "mmlu": "general",
    }
    with pytest.raises(UserError, match="empty"):
        harness.parse_tasks(" , ")


def test_mistakes_take_one_line(model_and_data, tmp_path):
    from lm_eval.tasks import TaskManager

    folder, data = model_and_data
    with pytest.raises(UserError, match=r"mcq_forget\.jsonl not found"):
        run(folder, tmp_path / "nowhere", tmp_path / "out", tasks="mini_forget")
    assert not (tmp_path / "out").exists()

    (tmp_path / "hub.yaml").write_text(
        "task: from_hub\ndataset_path: nobody/nothing\noutput_type: multiple_choice\n"
        "test_split: test\n"
    )
    manager = TaskManager(
        include_path=[str(harness.TASKS), str(tmp_path)], include_defaults=False
    )  # the whole index takes seconds
    with pytest.raises(UserError, match=r"no such task.*mini_forget"):
        harness.load_tasks({"mini_forge": None}, data, tmp_path, manager)
    with pytest.raises(UserError, match=r"from_hub: .* cannot be fetched") as error:
        harness.load_tasks({"from_hub": "forget"}, data, tmp_path, manager)
    assert "\n" not in str(error.value)


def test_other_peoples_questions_are_not_called_mini(tmp_path):
    """First use 13: `mini_forget` stood over a stranger's questions in tables and figures."""
    harness = load(SCRIPT)
    assert harness.shown_name("mini_forget", tmp_path) == "forget"
    assert harness.shown_name("wmdp_bio_robust_rewritten", tmp_path) == "wmdp_bio_robust_rewritten"
    (tmp_path / "world.json").write_text("{}")
    assert harness.shown_name("mini_forget", tmp_path) == "mini_forget"
