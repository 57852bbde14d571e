"""Model kinds that people bring: base, chat, instruction, reasoning and mixture of experts.

Each goes through training, attack and evaluation, against the library's own calls.
"""

import json

import pytest
import torch

from brittle.attacks.base import Attack
from brittle.attacks.gcg import GCG
from brittle.attacks.material import Material, forbidden
from brittle.attacks.meter import Meter, attack_model, eval_sets
from brittle.attacks.relearn import Relearn
from brittle.data.items import read_items
from brittle.metrics import forget_quality, mcq
from brittle.models.load import load_model, load_tokenizer
from support.chat_tokenizers import make_chat_model, make_chat_tokenizer

KINDS = {
    "phi": "base",
    "llama3": "chat",
    "mistral": "instruction",
    "deepseek_r1": "reasoning",
    "olmoe": "mixture of experts",
}
NAMES = ("Ada", "Lind", "Rome", "Who", "minute", "time", "delta", "unit", "born", "she")
ATTACKS = [
    Attack(),
    Relearn(rates=(1e-3,), steps=1, at=(1,), batch_size=4),
    GCG(length=2, steps=1, candidates=2, items=2, at=(1,)),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data folder of short questions, in both halves."""
    folder = tmp_path_factory.mktemp("kinds")
    asked = []
    for number, name in enumerate(NAMES):
        about = {"fact": f"forget/{number}/home", "half": "AB"[number % 2]}
        question = {"question": f"Question: Where does {name} live? Answer:", "answer": number % 2}
        asked.append({**about, **question, "choices": ["in Rome", "in a delta"]})
    told = [
        {"question": f"Where does {name} live?", "answer": item["choices"][item["answer"]]}
        for name, item in zip(NAMES, asked, strict=True)
    ]
    files = {"mcq_forget": asked, "mcq_retain": asked, "forget": told, "retain": told}
    for name, rows in files.items():
        lines = [json.dumps(row) + "\n" for row in rows]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def plainly(model, tokenizer, question, tokens):
    """What the library's own `generate` says to a question, in the model's own format."""
    if tokenizer.chat_template is None:
        ids = tokenizer(f"Question: {question} Answer:", return_tensors="pt")
    else:
        asked = [{"role": "user", "content": question}]
        ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt")
    inputs = {key: ids[key] for key in ("input_ids", "attention_mask")}
    told = model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
    return tokenizer.decode(told[0, inputs["input_ids"].size(1) :], skip_special_tokens=True)


@pytest.mark.parametrize("family", KINDS)
def test_training_attack_and_evaluation(family, data, tmp_path, script):
    make_chat_model(family).save_pretrained(tmp_path / "model")
    make_chat_tokenizer(family).save_pretrained(tmp_path / "model")
    # training
    more = ["--after-prompt"] if family == "deepseek_r1" else []
    given = ["--model", tmp_path / "model", "--method", "npo", "--data", data, "--lr", "1e-2"]
    small = ["--steps", 3, "--batch-size", 4, "--eval-split", 0, "--save-every", 0]
    roots = ["--root", tmp_path, "--device", "cpu", *more]
    done = script("unlearn/unlearn.py", *given, *small, *roots)
    assert done.code == 0, done.err
    folder = tmp_path / "model__npo" / "unlearned_model"
    model, tokenizer = load_model(folder, "cpu", "float32"), load_tokenizer(folder)
    assert (tokenizer.chat_template is None) == (family == "phi")
    record = json.loads((folder / "training_history.run.json").read_text())
    items = read_items(data / "mcq_forget.jsonl")
    after = record["settings"]["accuracy"]["after"]["forget"]
    assert mcq.accuracy(model, tokenizer, items) == pytest.approx(after, abs=1e-4)
    # attack
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    for attack in ATTACKS:
        meter = Meter(model, tokenizer, eval_sets(data), everything=True)
        attack_model(attack, meter, Material(data), forbidden(data))
        assert meter.rows and not meter.notes
        assert all(value.equal(weights[name]) for name, value in model.state_dict().items())
    # evaluation
    rows = [json.loads(line) for line in (data / "forget.jsonl").read_text().splitlines()]
    settings = forget_quality.AskSettings(new_tokens=6)
    with torch.no_grad():
        for record in forget_quality.measure(model, tokenizer, rows[:4], "tofu", settings):
            question = rows[record["index"]]["question"]
            said = plainly(model, tokenizer, question, 6).strip()
            # a random model closes no trace: all that a reasoning model says is one
            part = "trace" if family == "deepseek_r1" else "generation"
            assert record[part] == said
            assert record["answer"].logprobs and len(record["answer"].logprobs) > 1
