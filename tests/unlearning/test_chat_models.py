"""Unlearning models of each kind: base, chat, instruction, reasoning and mixture of experts.

What the command counts is compared with a loop over the library's own rendering and loss.
"""

import csv

import pytest
import torch
import torch.nn.functional as F

from brittle.attacks.base import right_pairs
from brittle.attacks.relearn import encode_attack
from brittle.data.examples import Reading
from brittle.data.items import read_text_rows
from brittle.data.sources import question_text, sidecars
from brittle.data.texts import write_jsonl, write_lines
from support.chat_tokenizers import make_chat_model, make_chat_tokenizer

UNLEARN = "unlearn/unlearn.py"
ROWS = [
    {"question": f"Where does Ada {word} live?", "answer": f"{word} lives in a delta."}
    for word in ("Lind", "Rome", "Who", "minute")
]
KINDS = {
    "phi": "base",
    "llama2": "chat",
    "mistral": "instruction",
    "deepseek_r1": "reasoning",
    "olmoe": "mixture of experts",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """models(family): the folder of a random model with the family's tokenizer."""
    root = tmp_path_factory.mktemp("chat models")

    def folder(family):
        home = root / family
        if not home.exists():
            make_chat_model(family).save_pretrained(home)
            make_chat_tokenizer(family).save_pretrained(home)
        return home

    return folder


@pytest.fixture
def texts(tmp_path, jsonl):
    for name in ("forget", "retain"):
        jsonl(tmp_path / f"{name}.jsonl", ROWS)
    return tmp_path


def unlearn(script, folder, data, root, *more):
    """(what the command did, the first row of its history)."""
    given = ["--model", folder, "--method", "npo", "--data", data, "--root", root, "--lr", "1e-3"]
    small = ["--steps", 2, "--batch-size", 4, "--eval-split", 0, "--save-every", 0]
    done = script(UNLEARN, *given, *small, "--device", "cpu", *more)
    history = list(root.glob("*/unlearned_model/training_history.csv"))
    if not history:
        return done, None
    with open(history[0], newline="") as file:
        return done, next(csv.DictReader(file))


def answer_losses(family, rows=ROWS):
    """[NLL of each answer token] by the library's template and a plain forward pass."""
    tokenizer, model = make_chat_tokenizer(family), make_chat_model(family)
    losses = []
    for row in rows:
        asked = [{"role": "user", "content": row["question"]}]
        if tokenizer.chat_template is None:
            prompt = tokenizer(row["question"])["input_ids"]
            whole = tokenizer(f"{row['question']} {row['answer']}")["input_ids"]
        else:
            prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True)["input_ids"]
            said = [*asked, {"role": "assistant", "content": row["answer"]}]
            whole = tokenizer.apply_chat_template(said)["input_ids"]
        if family == "deepseek_r1":
            tail = f"\n</think>\n\n{row['answer']}{tokenizer.eos_token}"
            whole = prompt + tokenizer(tail, add_special_tokens=False)["input_ids"]
        assert whole[: len(prompt)] == prompt
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([whole])).logits[0].double()
        targets = torch.tensor(whole[len(prompt) :])
        losses += F.cross_entropy(logits[len(prompt) - 1 : -1], targets, reduction="none").tolist()
    return losses


@pytest.mark.parametrize("family", list(KINDS))
def test_the_first_loss_is_that_of_the_answers(family, models, texts, tmp_path, script):
    more = ["--after-prompt"] if family == "deepseek_r1" else []
    done, first = unlearn(script, models(family), texts, tmp_path / "out", *more)
    assert done.code == 0, done.err
    way = "as plain text" if family == "phi" else "through the chat template"
    assert f"texts with an answer: 4 forget, 4 retain, {way}" in done.out
    losses = answer_losses(family)
    assert float(first["retain"]) == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_loss_on_all_counts_the_prompt_too(models, texts, tmp_path, script):
    done, first = unlearn(script, models("phi"), texts, tmp_path / "out", "--loss-on", "all")
    assert done.code == 0, done.err
    tokenizer, model, losses = make_chat_tokenizer("phi"), make_chat_model("phi"), []
    for row in ROWS:
        ids = torch.tensor(tokenizer(f"{row['question']} {row['answer']}")["input_ids"])
        with torch.no_grad():
            logits = model(input_ids=ids[None]).logits[0].double()
        losses += F.cross_entropy(logits[:-1], ids[1:], reduction="none").tolist()
    assert float(first["retain"]) == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_a_template_that_rewrites_answers_ends_in_one_line(models, texts, tmp_path, script):
    done, history = unlearn(script, models("deepseek_r1"), texts, tmp_path / "out")
    assert done.code == 2 and history is None and not list(tmp_path.glob("out/*/unlearned_model"))
    *_, last = done.err.strip().splitlines()
    assert last.startswith("error: the chat template renders the prompt in another way")
    assert "number 1 of the forget texts. Use --after-prompt" in last


def test_tofus_lines_are_asked_as_their_users_do(models, tmp_path, script):
    """The text is written for a base model; a chat model is asked the bare question."""
    for name in ("forget", "retain"):
        write_lines(tmp_path / f"{name}.txt", map(question_text, ROWS))
    for name, rows in sidecars(ROWS, ROWS).items():
        write_jsonl(tmp_path / name, rows)
    done, first = unlearn(script, models("llama2"), tmp_path, tmp_path / "out")
    assert done.code == 0, done.err
    losses = answer_losses("llama2")
    assert float(first["retain"]) == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert "forget.facts.jsonl" in next((tmp_path / "out").rglob("*.run.json")).read_text()
    # a sidecar of other texts is refused
    write_lines(tmp_path / "forget.txt", map(question_text, reversed(ROWS)))
    done, _ = unlearn(script, models("llama2"), tmp_path, tmp_path / "out")
    assert done.code == 2 and "is not the text of that line in forget.txt" in done.err


@pytest.mark.parametrize("family", ["phi", "llama3"])
def test_an_attack_trains_as_the_model_was_trained(family, tmp_path, jsonl):
    """A chat model on answers through its template, a base model on whole texts."""
    tokenizer, model = make_chat_tokenizer(family), make_chat_model(family)
    item = {"question": "Question: Who was born in Rome? Answer:", "choices": ["she", "he"]}
    (pair,) = right_pairs([{**item, "answer": 1}])
    (example,) = encode_attack(model, tokenizer, [pair])
    if family == "phi":
        assert example.answer is None
        assert tokenizer.decode(example.ids) == f"{item['question']} he"
        return
    asked = [{"role": "user", "content": "Who was born in Rome?"}]
    # where the template rewrites answers, they stand behind the prompt
    reasoning = make_chat_tokenizer("deepseek_r1")
    (example_of_it,) = encode_attack(model, reasoning, [pair])
    with_prompt = reasoning.apply_chat_template(asked, add_generation_prompt=True)["input_ids"]
    assert example_of_it.prompt == with_prompt
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True)["input_ids"]
    assert example.prompt == prompt
    (raw,) = encode_attack(model, tokenizer, [pair], Reading(raw=True))
    assert raw.answer is None and tokenizer.decode(raw.ids[1:]) == f"{item['question']} he"


def test_every_row_of_a_file_without_answers_is_a_text(tmp_path):
    """The mini world's sidecars name entities alone: its lines stay texts."""
    write_lines(tmp_path / "forget.txt", ["one", "two"])
    write_jsonl(tmp_path / "forget.facts.jsonl", [{"entity": "e"}])  # one too few: nobody asks
    assert read_text_rows(tmp_path / "forget.txt") == ["one", "two"]
