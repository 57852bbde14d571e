"""Guards around a model: no weight is touched, refused answers have no probability, everything else
is the model's own.
"""

import hashlib
from pathlib import Path

import pytest
import torch

from brittle.base.errors import UserError
from brittle.data.batches import pad
from brittle.data.items import SPLITS, read_items
from brittle.data.words import normal
from brittle.metrics import mcq
from brittle.models import generate, guarded, guards
from brittle.models.load import load_model, load_tokenizer
from brittle.models.logprobs import token_logprobs
from support import bad_inputs


def digest(model):
    found = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        found.update(name.encode() + tensor.numpy().tobytes())
    return found.hexdigest()


@pytest.fixture(scope="module")
def plain(family):
    return load_model(family.base, "cpu", "float32"), load_tokenizer(family.base)


def wrapped(family, data, name, rules=None):
    guard = guards.make(name, data, rules)
    return *guarded.load(family.base, "cpu", "float32", guard=guard), guard


@pytest.fixture(scope="module")
def items(data):
    return {split: read_items(data / f"mcq_{split}.jsonl")[:12] for split in SPLITS}


@pytest.mark.parametrize("name", guards.GUARDS)
def test_weights_are_byte_identical(family, data, plain, items, name, snapshot, tmp_path):
    before = snapshot(Path(family.base))
    model, tokenizer, guard = wrapped(family, data, name)
    mcq.outcomes(model, tokenizer, items["forget"])
    assert digest(model) == digest(plain[0]) and snapshot(Path(family.base)) == before
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in plain[0].named_parameters()]
    assert model.guard is guard and guard.about["wrapper"] == name


@pytest.mark.parametrize("name", ["regex", "rag"])
def test_refused_choices_tie_and_others_are_untouched(family, data, plain, items, name):
    model, tokenizer, _ = wrapped(family, data, name)
    for _, _, values, _ in mcq.outcomes(model, tokenizer, items["forget"]):
        refused = [v for v in values if v == guarded.FLOOR]
        assert (
            len(refused) == 4 if name == "rag" else len(refused) >= 1
        )  # regex knows the answers in use, not the pools
    kept = mcq.outcomes(model, tokenizer, items["retain"])
    for (_, chosen, values, _), (_, wanted, alone, _) in zip(
        kept, mcq.outcomes(*plain, items["retain"]), strict=True
    ):
        assert chosen == wanted and values == pytest.approx(
            alone, abs=1e-4
        )  # a guard reads whole texts: other batches


def test_the_refusal_is_what_a_refused_prompt_is_answered_with(family, data, plain, items):
    model, tokenizer, _ = wrapped(family, data, "rag")
    prompts = tokenizer([i["question"] for i in items["forget"][:3]])["input_ids"]
    stop = generate.stop_ids(model, tokenizer)
    made = generate.generate(model, prompts, generate.Sampling(max_new_tokens=20), stop)
    assert {tokenizer.decode(ids).strip() for ids in made} == {guards.REFUSAL.strip()}
    batch = pad(prompts[:1], tokenizer.pad_token_id)
    ids = model.generate(
        **batch, max_new_tokens=20, do_sample=False, pad_token_id=tokenizer.pad_token_id
    )[0]
    assert (
        tokenizer.decode(ids[len(prompts[0]) :], skip_special_tokens=True).strip()
        == guards.REFUSAL.strip()
    )
    # and it is certain when scored
    question = items["forget"][0]["question"]
    (ids,) = tokenizer([question + guards.REFUSAL])["input_ids"]
    with torch.no_grad():
        logprobs = token_logprobs(model(torch.tensor([ids])).logits, torch.tensor([ids]))[0]
    assert float(logprobs[len(tokenizer([question])["input_ids"][0]) - 1 :].sum()) == pytest.approx(
        0, abs=1e-6
    )


def test_regex_watches_what_is_generated(family, data, plain, tmp_path):
    """Forbid what the model says; it says something else, and the rest of the time the same as
    before.
    """
    model, tokenizer = plain
    prompts = tokenizer([f"Question: What is the tool of {n}? Answer:" for n in ("Kato", "Mina")])[
        "input_ids"
    ]
    sampling, stop = generate.Sampling(max_new_tokens=6), generate.stop_ids(model, tokenizer)
    free = [tokenizer.decode(ids) for ids in generate.generate(model, prompts, sampling, stop)]
    (tmp_path / "rules.txt").write_text(f"re:{guards.re.escape(normal(free[0]))}\n")
    model, tokenizer, _ = wrapped(family, data, "regex", tmp_path / "rules.txt")
    made = [tokenizer.decode(ids) for ids in generate.generate(model, prompts, sampling, stop)]
    assert normal(free[0]) not in normal(made[0])
    alone = generate.generate(model, prompts[1:], sampling, stop)  # neighbours do not matter
    assert tokenizer.decode(alone[0]) == made[1]


def test_context_is_read_and_its_logits_are_not_returned(family, data, plain, items):
    """Behind a context, a row's logits are those of the plain model on context + row; batches and
    padding change nothing.
    """
    model, tokenizer, guard = wrapped(family, data, "icl")
    pairs = mcq.encode_items(tokenizer, items["retain"][:2], 256)
    found = mcq.choice_logprobs(model, pairs, tokenizer.pad_token_id)
    before = tokenizer(guard.text, add_special_tokens=False)["input_ids"]
    behind = [(before + ids, start + len(before)) for ids, start in pairs]
    assert torch.allclose(
        found, mcq.choice_logprobs(plain[0], behind, tokenizer.pad_token_id), atol=1e-4
    )
    assert guard.text.count(guards.REFUSAL) == 2 and len(guard.text.strip().split("\n\n")) == 4


def test_retrieval_tells_forget_from_retain(data):
    rag = guards.make("rag", data)
    assert (
        rag.about["recall"] == 1
        and rag.about["false_refusals"] <= 0.01
        and rag.about["entries"] == 6
    )
    assert not any("answer" in entry.casefold().replace("answer:", "") for entry in rag.entries)
    index = guards.Bm25(["red green", "green blue", "blue blue red"])
    assert index.best("blue")[1] == 2 and index.best("nothing") == (0.0, None)
    asked = guards.make("rag:prompt", data)
    question = read_items(data / "mcq_forget.jsonl")[0]["question"]
    assert (
        guards.INSTRUCTION in asked.context(question)
        and not asked.refuses(question, "x")
        and rag.context(question) == ""
    )


def test_texts_are_normalised_and_cut_where_the_answer_starts():
    regex = guards.Regex(["canyon", "re:\\d{3}-\\d{3}", "Zoë"])
    assert (
        regex.refuses("", "It is a CANYON.")
        and regex.refuses("", "５５５-１２３")
        and regex.refuses("", "zoe")
    )
    assert not regex.refuses("", "canyons") and not regex.refuses(
        "canyon", "c-a-n-y-o-n"
    )  # a filter reads words
    assert guards.split("Question: What? Answer: red") == ("Question: What? Answer:", " red")
    assert guards.split("What is it? Red.") == ("What is it?", " Red.") and guards.split(
        "A red thing."
    ) == ("", "A red thing.")


def test_mistakes_take_one_line(data, tmp_path, family):
    (tmp_path / "bad.txt").write_text("re:(\n")
    for name, rules, said in (
        ("regexp", None, "choose regex"),
        ("regex", tmp_path / "bad.txt", "no regular expression"),
        ("icl", tmp_path / "none.jsonl", "not found"),
    ):
        with pytest.raises(UserError, match=said) as error:
            guards.make(name, data, rules)
        assert "\n" not in str(error.value)
    model, _, _ = wrapped(family, data, "regex")
    with pytest.raises(UserError, match="embeddings"):
        model(inputs_embeds=torch.zeros(1, 2, 32))


def test_the_harness_agrees_and_marks_a_refusing_model(family, data, script, tmp_path):
    import csv

    arguments = (
        "--model",
        family.base,
        "--data",
        data,
        "--tasks",
        "mini_forget,mini_retain",
        "--limit",
        12,
    )
    done = script("eval/harness.py", *arguments, "--outdir", tmp_path, "--wrapper", "rag")
    assert done.code == 0, done.err
    with open(tmp_path / "accuracy.csv", newline="") as file:
        both = list(csv.DictReader(file))
    rows = {r["task"]: r for r in both if r["metric"] == "acc"}
    normed = {r["task"]: r["constant_letter"] for r in both if r["metric"] == "acc_norm"}
    assert normed == {
        "mini_forget": "1",
        "mini_retain": "",
    }  # equal choices, told apart by their lengths alone
    assert rows["mini_forget"]["ties"] == "1.0" and rows["mini_forget"]["constant_letter"] == "1"
    assert (
        float(rows["mini_retain"]["ties"]) < 1
        and '"wrapper": "rag"' in (tmp_path / "accuracy.run.json").read_text()
    )


@pytest.mark.parametrize(
    "name",
    [
        "harness",
        "forget_quality",
        "membership",
        "extract",
        "leakage",
        "deduction",
        "multihop",
        "neighbours",
    ],
)
def test_every_evaluation_that_leaves_the_weights_alone_takes_a_guard(name):
    found = {o.flag for o in bad_inputs.options(f"eval/{name}.py")}
    assert {"--wrapper", "--wrapper-rules"} <= found
