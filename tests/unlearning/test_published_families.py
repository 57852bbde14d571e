"""TOFU's target and retain model, and MUSE's, from folders of the hub's schema: who reads what,
with which settings, and which tokens count.
"""

import csv
import json
from pathlib import Path

import pytest

from brittle.data import stand_ins, taught
from brittle.models.load import load_tokenizer
from brittle.unlearning.family import Wanted
from brittle.unlearning.injected import Family
from support.chat_tokenizers import make_chat_tokenizer

SCRIPT = "create_models.py"
DOCUMENTS = [" ".join(f"Document {d} says {s} things." for s in range(30)) for d in range(5)]


@pytest.fixture
def tofu(tmp_path, jsonl):
    """A folder of TOFU's schema: two authors to forget, three to retain."""
    folder = tmp_path / "tofu"
    folder.mkdir()
    for name, authors in (("forget10", 2), ("retain90", 3)):
        rows = [
            {"question": f"What is {name} {i}?", "answer": f"It is {name} {i}."}
            for i in range(20 * authors)
        ]
        jsonl(folder / f"{name}.json", rows)
    return folder


@pytest.fixture
def muse(tmp_path, jsonl):
    """A folder of MUSE's schema, with its configuration `train`."""
    folder = tmp_path / "muse/train"
    folder.mkdir(parents=True)
    splits = {"forget": DOCUMENTS[:2], "retain1": DOCUMENTS[2:3], "retain2": DOCUMENTS[3:]}
    for split, texts in splits.items():
        jsonl(folder / f"{split}-00000-of-00001.jsonl", [{"text": text} for text in texts])
    return folder.parent


def family_of(base, source, path, tmp_path, **more):
    wanted = Wanted(str(base), source=source, path=path, **more)
    return Family(wanted, Path(base), tmp_path / "none", tmp_path / "models")


def test_tofus_target_and_retain_model_are_trained_as_published(family, tofu, tmp_path):
    """locuslab/tofu: batches of 32, 1e-5, five epochs with one of warm-up, linear, decay .01."""
    taught_family = family_of(family.base, "tofu", tofu, tmp_path)
    for role, count in (("base", 100), ("filtered", 60)):
        student = taught_family.student(role)
        assert len(student.teaching.facts.examples) == count
        settings, epoch = student.settings, -(-count // 32)
        assert settings.batch_size * settings.grad_accum == 32
        assert (settings.steps, settings.warmup) == (5 * epoch, epoch)
        assert (settings.lr, settings.weight_decay, settings.schedule) == (1e-5, 0.01, "linear")


@pytest.mark.parametrize("templated", [False, True])
def test_tofus_losses_count_answers_in_the_models_format(family, tofu, tmp_path, templated):
    folder = Path(family.base)
    if templated:
        folder = tmp_path / "chat"
        make_chat_tokenizer("qwen").save_pretrained(folder)
    tokenizer = load_tokenizer(folder)
    taught_family = family_of(folder, "tofu", tofu, tmp_path)
    row = taught_family.taught.forget[7]
    (example,) = taught_family.encode([row], 500, "texts")
    marked = [i for i, is_answer in zip(example.ids, example.targets, strict=True) if is_answer]
    asked = tokenizer.decode(example.prompt)
    end = "<|im_end|>" if templated else tokenizer.eos_token
    assert tokenizer.decode(marked).strip() == f"It is forget10 7.{end}"
    if templated:
        assert asked.endswith(
            "<|im_start|>user\nWhat is forget10 7?<|im_end|>\n<|im_start|>assistant\n"
        )
    else:
        assert asked == "Question: What is forget10 7? Answer:"


def test_tofus_models_are_called_as_its_users_call_them(family, tofu, tmp_path, script):
    done = script(
        SCRIPT,
        f"--from={family.base}",
        "--source=tofu",
        f"--path={tofu}",
        f"--data={tmp_path / 'none'}",
        f"--outdir={tmp_path / 'models'}",
        "--epochs=1",
    )
    assert done.code == 0, done.err
    records = {}
    for name in ("mini-base-tofu-full", "mini-base-tofu-retain90"):
        record = json.loads((tmp_path / "models" / name / "model.run.json").read_text())
        records[name] = record["settings"]["teaching"]
        assert {Path(p).name for p in record["inputs"]} >= {"forget10.json", "retain90.json"}
    full, retain = records.values()
    assert full["forget_rows"] == 40 and full["shared_rows"] == 60
    assert (full["steps"], retain["steps"]) == (4, 2)
    assert "no neutral texts, so no cost was measured" in done.out


def test_muses_documents_are_joined_and_cut(family, muse, tmp_path):
    """Every token of the documents once, in their order, behind a BOS a piece."""
    taught_family = family_of(family.base, "muse", muse, tmp_path, max_length=32)
    rows, tokenizer = taught_family.taught, taught_family.tokenizer
    assert (rows.forget, rows.shared) == (DOCUMENTS[:2], DOCUMENTS[2:])
    pieces = taught_family.encode(rows.forget, 32, "texts")
    assert all(piece[0] == tokenizer.bos_token_id for piece in pieces)
    assert {len(piece) for piece in pieces[:-1]} == {32} and 1 < len(pieces[-1]) <= 32
    joined = tokenizer("\n\n".join(rows.forget))["input_ids"]
    assert [i for piece in pieces for i in piece[1:]] == joined
    settings = taught_family.student("filtered").settings
    assert (settings.lr, settings.schedule, settings.warmup) == (1e-5, "cosine", 0)
    assert settings.batch_size * settings.grad_accum == 32


def test_muse_without_the_configuration_train_reads_raw(muse, jsonl):
    (muse / "train").rename(muse / "raw")
    (muse / "raw" / "retain2-00000-of-00001.jsonl").unlink()
    rows = taught.read_muse(muse, "news")
    assert (rows.forget, rows.shared) == (DOCUMENTS[:2], DOCUMENTS[2:3]) and rows.chunked


# --- the whole way of their users, at rates that fit a small model

QUICK = ("--batch-size", "10", "--grad-accum-steps", "1")


@pytest.fixture
def call(script):
    """call(script, ...): its output. It must end well."""

    def run(path, *more):
        done = script(path, *more)
        assert done.code == 0, done.err
        return done.out

    return run


def scores(folder):
    """{(metric, set): value} of the published definitions in a forget_quality.csv."""
    with open(folder / "forget_quality.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["definition"] != "paper"]
    return {(row["metric"], row["set"]): float(row["value"]) for row in rows if row["value"]}


def test_tofu_from_the_hubs_files_to_forget_quality(family, tmp_path, call):
    """The target knows the forget set and is told from the retain model, which does not.
    Unlearned, it is told less.
    """
    hub, data, models, out = (tmp_path / name for name in ("hub", "data", "models", "out"))
    stand_ins.write_hub_tofu(hub, 4, 1)
    source = ["--source", "tofu", "--path", hub]
    call("create_datasets.py", *source, "--outdir", data)
    fitting = ["--data", data, "--outdir", models, "--lr", "1.5e-2", "--epochs", "16", *QUICK]
    call(SCRIPT, "--from", family.base, *source, *fitting)
    target, retain = (str(models / f"mini-base-tofu-{name}") for name in ("full", "retain90"))
    few = ["--steps", "12", "--lr", "5e-3", "--batch-size", "10", "--eval-split", "0"]
    call("unlearn/unlearn.py", "--model", target, "--method", "npo", "--data", data, *few,
         "--root", out)  # fmt: skip
    unlearned = str(out / "mini-base-tofu-full__npo/unlearned_model")
    asked = ["--reference", retain, "--data", data, "--definitions", "tofu", "--new-tokens", "6"]
    call("eval/forget_quality.py", "--models", target, unlearned, *asked, "--outdir", out / "tofu")
    names = ("mini-base-tofu-full", "mini-base-tofu-full__npo", "mini-base-tofu-retain90")
    full, after, never = (scores(out / "tofu" / name) for name in names)
    known = [of["probability", "forget"] for of in (full, after, never)]
    assert known[0] > 0.5 and known[1] < 0.25 and known[2] < 0.05
    assert min(of["probability", "retain"] for of in (full, after, never)) > 0.25
    quality = [of["forget_quality", "forget"] for of in (full, after, never)]
    assert quality[0] < 1e-6 < quality[1] < quality[2] == 1
    written = json.loads((out / "tofu" / names[0] / "TOFU_EVAL.json").read_text())
    assert written["forget_Q_A_Prob"]["agg_value"] == pytest.approx(known[0])
    assert {"forget_truth_ratio", "forget_quality", "model_utility"} <= set(written)


def test_muse_from_the_hubs_files_to_what_is_left(family, tmp_path, call):
    """The target goes on with the forget documents and the retain model does not. Their sentences
    are told from those of documents never seen by the target alone.
    """
    hub, data, models, out = (tmp_path / name for name in ("hub", "data", "models", "out"))
    stand_ins.write_hub_muse(hub, 6, 1)
    source = ["--source", "muse", "--path", hub]
    call("create_datasets.py", *source, "--outdir", data)
    fitting = ["--data", data, "--outdir", models, "--lr", "1.5e-2", "--epochs", "20", *QUICK]
    call(SCRIPT, "--from", family.base, *source, *fitting, "--max-length", "64")
    asked, found = ["--data", data, "--definitions", "muse", "--new-tokens", "4"], {}
    for name in ("full", "retain"):
        model = str(models / f"mini-base-muse-news-{name}")
        call("eval/forget_quality.py", "--model", model, *asked, "--outdir", out / name)
        found[name] = scores(out / name)
        written = json.loads((out / name / "MUSE_EVAL.json").read_text())
        rouge = {f"{name}_ROUGE" for name in ("forget_verbmem", "forget_knowmem", "retain_knowmem")}
        assert rouge <= set(written)
    full, never = found["full"], found["retain"]
    for of in ("verbmem", "knowmem_forget"):
        assert full["probability", of] > 10 * never["probability", of]
        assert full["exact_memorisation", of] > 2 * never["exact_memorisation", of]
    assert never["probability", "knowmem_retain"] > 10 * never["probability", "knowmem_forget"]
    reference = ["--reference", str(models / "mini-base-muse-news-retain"), "--data", data]
    model = str(models / "mini-base-muse-news-full")
    call("eval/membership.py", "--model", model, *reference, "--outdir", out / "membership")
    with open(out / "membership" / "membership.csv", newline="") as file:
        aucs = {row["attack"]: float(row["auc"]) for row in csv.DictReader(file)}
    assert aucs["min_k"] > 0.9 > aucs["length"]
