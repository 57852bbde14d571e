"""An untouched chat model through every script that asks: what they measure agrees with the
library's own `generate` through the library's own template.
"""

import csv
import json
import math

import pytest
import torch

from brittle.attacks import sampling
from brittle.attacks.base import Prompt
from brittle.data.examples import Reading
from brittle.data.items import read_items
from brittle.metrics import forget_quality, mcq
from brittle.metrics.generated_text import rouge, say_unfinished, split_trace
from brittle.models.load import load_model, load_tokenizer
from support import chats
from support.chat_tokenizers import make_chat_tokenizer

ON = ["--device", "cpu"]


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def loaded(chatting):
    return load_model(chatting.model, "cpu", "float32"), load_tokenizer(chatting.model)


@pytest.fixture(scope="module")
def plainly(chatting):
    """{split: [(right answer, what a plain `generate` answers)]}."""
    return {
        split: [
            (answer, chats.plainly(chatting.model, question))
            for question, answer, _ in chats.pairs_of(chatting.data, split)
        ]
        for split in ("forget", "retain")
    }


def share(pairs, agrees):
    return sum(agrees(answer, said) for answer, said in pairs) / len(pairs)


def test_multiple_choice(loaded, chatting, plainly):
    for split, pairs in plainly.items():
        items = read_items(chatting.data / f"mcq_{split}.jsonl")
        known = share(pairs, lambda answer, said: answer == said)
        assert mcq.accuracy(*loaded, items) == known == 1.0
        assert mcq.accuracy(*loaded, items, Reading(raw=True)) < 0.95


def quality(script, chatting, outdir, *more):
    """({(metric, set): value}, its items) of forget_quality.csv."""
    given = ["--model", chatting.model, "--data", chatting.data, "--new-tokens", 8, *ON]
    done = script("eval/forget_quality.py", *given, "--outdir", outdir, *more)
    assert done.code == 0, done.err
    values = {(r["metric"], r["set"]): r["value"] for r in read(outdir / "forget_quality.csv")}
    return values, read(outdir / "forget_quality_items.csv")


def test_forget_quality(script, chatting, plainly, tmp_path):
    values, items = quality(script, chatting, tmp_path / "asked")
    for split, pairs in plainly.items():
        said = [row["generation"] for row in items if row["set"] == split]
        assert said == [told for _, told in pairs]
        recall = [rouge(told, answer).rouge_l.recall for answer, told in pairs]
        assert float(values["rouge_l_recall", split]) == sum(recall) / len(recall) == 1.0
        assert float(values["extraction_strength", split]) == 1.0
        assert float(values["probability", split]) > 0.8
    raw, _ = quality(script, chatting, tmp_path / "raw", "--raw")
    assert float(raw["rouge_l_recall", "forget"]) < 0.7
    # a template of the user's own takes the place of the chat template
    header = "<|start_header_id|>{}<|end_header_id|>\n\n"
    by_hand = f"<|begin_of_text|>{header.format('user')}{{question}}<|eot_id|>"
    own = ["--template", by_hand + header.format("assistant")]
    same, _ = quality(script, chatting, tmp_path / "own", *own)
    assert same["rouge_l_recall", "forget"] == "1.0"
    assert float(same["probability", "forget"]) == pytest.approx(
        float(values["probability", "forget"]), rel=1e-4
    )


def test_extraction(script, chatting, plainly, jsonl, tmp_path):
    rows = [{"question": q, "answer": a} for q, a, _ in chats.pairs_of(chatting.data, "forget")]
    jsonl(tmp_path / "forget.jsonl", rows)
    given = ["--model", chatting.model, "--data", chatting.data, "--outdir", tmp_path, *ON]
    texts = ["--forget", tmp_path / "forget.jsonl", "--retain", chatting.data / "retain.txt"]
    done = script("eval/extract.py", *given, *texts, "--templates", "plain", "--samples", 2)
    assert done.code == 0, done.err
    rows = {row["split"]: row for row in read(tmp_path / "extract.csv")}
    known = share(plainly["forget"], lambda answer, said: answer in said)
    for half in ("forget_a", "forget_b"):
        assert float(rows[half]["greedy_leak"]) == float(rows[half]["accuracy"]) == known == 1.0
        assert float(rows[half]["trace_leak"]) == 0  # it has no trace
    # the answers are completed word for word behind their questions, end mark included
    completed = [row for row in read(tmp_path / "prefix.csv") if row["split"] == "forget"]
    assert [float(row["extracted"]) for row in completed] == [1.0] * 3
    raw = ["--templates", "plain", "--samples", 0, "--raw"]
    assert script("eval/extract.py", *given, *texts, *raw).code == 0
    completed = [row for row in read(tmp_path / "prefix.csv") if row["split"] == "forget"]
    assert float(completed[0]["extracted"]) < 1.0
    halves = [row for row in read(tmp_path / "extract.csv") if "forget" in row["split"]]
    assert min(float(row["greedy_leak"]) for row in halves) < 0.7


def test_private_values(script, chatting, jsonl, tmp_path):
    """A value that the model says through its template, and not when asked as plain text."""
    data = tmp_path / "data"
    data.mkdir()
    rows = []
    for question, answer, item in chats.pairs_of(chatting.data, "forget")[:6]:
        about = {"fact": item["fact"], "domain": "forget", "attribute": "habitat"}
        rows.append({**about, "entity": item["fact"], "question": question, "answer": answer})
    jsonl(data / "private.jsonl", rows)
    leaked = {}
    for name, more in (("asked", []), ("raw", ["--raw"])):
        out = ["--outdir", tmp_path / name, *ON, *more]
        done = script("eval/leakage.py", "--model", chatting.model, "--data", data, *out)
        assert done.code == 0, done.err
        answers = read(tmp_path / name / "responses.csv")
        leaked[name] = sum(row["own"] == "exact" for row in answers)
        assert not any(row["in_trace"] for row in answers)
    assert leaked["asked"] == 6 > leaked["raw"]


def test_membership_scores_the_answers(script, chatting, jsonl, tmp_path):
    """`loss` is the mean log-probability of the answer and its end mark behind the template."""
    model, tokenizer = chats.loaded(chatting.model)
    rows, wanted = [], []
    for question, answer, _ in chats.pairs_of(chatting.data, "forget")[:6]:
        rows.append({"question": question, "answer": answer})
        asked = [{"role": "user", "content": question}]
        told = [*asked, {"role": "assistant", "content": answer}]
        before = tokenizer.apply_chat_template(asked, add_generation_prompt=True)["input_ids"]
        whole = tokenizer.apply_chat_template(told)["input_ids"]
        with torch.no_grad():
            logprobs = model(torch.tensor([whole])).logits[0].double().log_softmax(-1)
        own = [float(logprobs[k - 1, whole[k]]) for k in range(len(before), len(whole))]
        wanted.append(math.fsum(own) / len(own))
    wrong = [{**row, "answer": "a stone"} for row in rows]
    jsonl(tmp_path / "forget.jsonl", rows)
    jsonl(tmp_path / "holdout.jsonl", wrong)
    sets = ["--members", tmp_path / "forget.jsonl", "--nonmembers", tmp_path / "holdout.jsonl"]
    given = ["--model", chatting.model, "--data", tmp_path, *sets, "--no-gradients", *ON]
    done = script("eval/membership.py", *given, "--outdir", tmp_path / "out")
    assert done.code == 0, done.err
    items = read(tmp_path / "out" / "membership_items.csv")
    members = [float(row["loss"]) for row in items if row["set"] == "member"]
    assert members == pytest.approx(wanted, abs=1e-4)
    (auc,) = [r["auc"] for r in read(tmp_path / "out" / "membership.csv") if r["attack"] == "loss"]
    assert float(auc) == 1.0


@pytest.mark.parametrize("boundary", ["together", "length"])
@pytest.mark.parametrize("family", ["llama2", "llama3", "qwen", "deepseek_r1"])
def test_answers_of_a_chat_are_the_librarys_tokens(family, boundary):
    """Examples are turns. An end mark stands behind each answer, once; the boundary `length` is
    the prompt's own length.
    """
    tokenizer = make_chat_tokenizer(family)
    row = {"question": "Where does she live?", "answer": "in Rome", "perturbed_answer": ["she"]}
    example = {"question": "Who was born?", "answer": "Ada Lind"}
    settings = forget_quality.AskSettings(boundary=boundary, icl=1)
    (asked,) = forget_quality.asked([row], "knowmem", settings, [example], chats=True)
    turns = [("user", "Who was born?"), ("assistant", "Ada Lind"), ("user", row["question"])]
    assert asked.messages == [{"role": role, "content": text} for role, text in turns]
    encoded = forget_quality.encode_chats(tokenizer, [asked], 200, settings)
    own = tokenizer.apply_chat_template(asked.messages, add_generation_prompt=True)["input_ids"]
    assert encoded.prompts == [own] and encoded.opened == (family == "deepseek_r1")
    for (ids, start), answer in zip(encoded.pairs, ["in Rome", "she"], strict=True):
        *told, end = ids[start:]
        assert end == tokenizer.eos_token_id not in told
        assert tokenizer.decode(told).removeprefix("\n</think>").strip() == answer
        assert ids[: len(own)] == own
        assert start == len(own) or boundary == "together"
    # what MUSE wants continued is no question
    (text,) = forget_quality.asked([{"prompt": "p", "gt": "g"}], "verbmem", settings, chats=True)
    assert text.messages is None


# --- reasoning models


def test_traces_that_do_not_end_are_said(capsys):
    said = [split_trace("Ada", opened=True), split_trace("Ada</think>Rome"), split_trace("Rome")]
    say_unfinished(said, "--tokens", 8)
    note = "note: 1 of 3 traces do not end within 8 tokens, so no answer follows them."
    assert capsys.readouterr().err == f"{note} Raise --tokens.\n"
    say_unfinished(said[1:], "--tokens", 8)
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "opened", "parts"),
    [
        ("Rome", False, ("", "Rome")),
        ("<think>\nAda.\n</think>\n\nRome", False, ("Ada.", "Rome")),
        ("Ada.\n</think>\n\nRome", True, ("Ada.", "Rome")),
        ("Ada. Ada", True, ("Ada. Ada", "")),
        ("<think>Ada", False, ("Ada", "")),
        ("a < b, </b> <thinker>", False, ("", "a < b, </b> <thinker>")),
    ],
)
def test_a_trace_and_what_follows_it(text, opened, parts):
    assert split_trace(text, opened=opened) == parts


def test_a_leak_in_the_trace_counts():
    item = {"question": "Where?", "choices": ["Rome", "Paris"], "answer": 0}
    texts = [["Rome it is</think> I do not know", "Paris</think>Rome", "Rome</think>Rome", "Oslo"]]
    (row,) = sampling.leaks([item], texts, opened=True)
    assert (row["leaks"], row["in_trace"], row["decoys"], row["samples"]) == (3, 1, 1, 4)


def test_a_reasoning_model_is_asked_inside_its_trace():
    tokenizer = make_chat_tokenizer("deepseek_r1")
    item = {"question": "Question: Where does she live? Answer:"}
    questions = sampling.ask(tokenizer, [item], Prompt())
    asked = [{"role": "user", "content": "Where does she live?"}]
    own = tokenizer.apply_chat_template(asked, add_generation_prompt=True)["input_ids"]
    assert questions.opened and questions.ids == [own]
    plain = sampling.ask(tokenizer, [item], Prompt(), Reading(raw=True))
    assert not plain.opened and plain.ids == [tokenizer(item["question"])["input_ids"]]


# --- the harness


def test_the_harness_asks_like_multiple_choice(script, chatting, loaded, plainly, tmp_path):
    for name, reading, more in (("asked", Reading(), []), ("raw", Reading(raw=True), ["--raw"])):
        given = ["--model", chatting.model, "--data", chatting.data, *ON, "--dtype", "float32"]
        out = ["--outdir", tmp_path / name, "--tasks", "mini_forget", *more]
        done = script("eval/harness.py", *given, *out)
        assert done.code == 0, done.err
        items = read_items(chatting.data / "mcq_forget.jsonl")
        scores = mcq.score_choices(*loaded, items, reading=reading)
        rows = {
            row["metric"]: float(row["value"]) for row in read(tmp_path / name / "accuracy.csv")
        }
        for metric, normalise in (("acc", False), ("acc_norm", True)):
            graded = mcq.grade(scores, items, normalise=normalise)
            assert rows[metric] == sum(one.right for one in graded) / len(items)
        said = [int(row["prediction"]) for row in read(tmp_path / name / "samples.csv")]
        assert said == [one.prediction for one in mcq.grade(scores, items)]
        if name == "asked":
            assert rows["acc"] == share(plainly["forget"], lambda a, said: a == said) == 1.0


# --- the other scripts


def last_layer(folder):
    rows = [r for r in read(folder / "wmdp_lens_results.csv") if r["split"] == "forget"]
    return float(rows[-1]["accuracy"])


def first_row(folder, name, **wanted):
    rows = read(folder / name)
    return float(next(r["accuracy"] for r in rows if wanted.items() <= r.items()))


AS_MADE = {"variant": "as made", "split": "forget_b"}
SCRIPTS = {
    "eval/tamper.py": (
        ["--steps", 1, "--lr", "1e-9", "--seeds", 0, "--max-items", 5],
        lambda out: first_row(out, "tamper.csv", step="0", split="forget_b"),
    ),
    "eval/attack.py": (
        ["--attacks", "none", "--max-items", 5],
        lambda out: first_row(out, "attacks.csv", **AS_MADE),
    ),
    "eval/noise.py": (
        ["--scale", 0, "--draws", 1, "--max-items", 5],
        lambda out: first_row(out, "noise.csv", noise="0.0", split="forget_b"),
    ),
    "experiment/layerwise_wmdp_accuracy.py": (["--lens", "logit"], last_layer),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_accuracy_of_every_script(name, script, chatting, plainly, tmp_path):
    more, accuracy = SCRIPTS[name]
    known = share(plainly["forget"], lambda answer, said: answer == said)
    given = ["--model", chatting.model, "--data", chatting.data, *more, *ON]
    done = script(name, *given, "--outdir", tmp_path / "asked")
    assert done.code == 0, done.err
    assert accuracy(tmp_path / "asked") == known == 1.0
    done = script(name, *given, "--outdir", tmp_path / "raw", "--raw")
    assert done.code == 0 and accuracy(tmp_path / "raw") < 1.0, done.err


def test_unlearning_and_a_sweep_start_from_what_the_model_knows(
    script, chatting, plainly, jsonl, tmp_path
):
    texts = [{"question": q, "answer": a} for q, a, _ in chats.pairs_of(chatting.data, "forget")]
    jsonl(tmp_path / "forget.jsonl", texts)
    given = ["--model", chatting.model, "--method", "ga_simple", "--data", chatting.data, *ON]
    files = ["--forget", tmp_path / "forget.jsonl", "--retain", tmp_path / "forget.jsonl"]
    small = ["--steps", 1, "--lr", "1e-9", "--save-every", 0, "--root", tmp_path]
    done = script("unlearn/unlearn.py", *given, *files, *small)
    assert done.code == 0, done.err
    (record,) = tmp_path.glob("*/unlearned_model/training_history.run.json")
    before = json.loads(record.read_text())["settings"]["accuracy"]["before"]
    assert before["forget"] == before["retain"] == 1.0
    jsonl(tmp_path / "prompts.jsonl", [{"prompt": row["question"]} for row in texts[:4]])
    asked = ["--sweep", "--greedy", "--models", chatting.model, "--max-new-tokens", 8, *ON]
    out = ["--prompts-file", tmp_path / "prompts.jsonl", "--outdir", tmp_path / "sweep"]
    done = script("infer.py", *asked, *out)
    assert done.code == 0, done.err
    tables = [read(path) for path in (tmp_path / "sweep").glob("*.csv")]
    said = {
        row["prompt"]: row["output"].strip() for rows in tables for row in rows if "output" in row
    }
    assert said == {
        row["question"]: told for row, (_, told) in zip(texts[:4], plainly["forget"], strict=False)
    }
