"""A small chat model that knows the answers of a small data folder, and is asked in plain ways."""

import functools
import json
import shutil

LENGTH, STEPS, LINES = 160, 50, 40


def pairs_of(data, split):
    """[(question without its frame, right answer, item)] of a split's multiple choice."""
    from brittle.data.items import read_items
    from brittle.data.rows import unframed

    return [
        (unframed(item["question"]), item["choices"][item["answer"]], item)
        for item in read_items(data / f"mcq_{split}.jsonl")
    ]


def write_qa(data, split):
    """qa_<split>.jsonl: the questions of the split's multiple choice, in TOFU's schema."""
    rows = []
    for question, answer, item in pairs_of(data, split):
        wrong = [choice for choice in item["choices"] if choice != answer]
        about = {key: item[key] for key in ("fact", "half") if key in item}
        rows.append({"question": question, "answer": answer, "perturbed_answer": wrong, **about})
    lines = [json.dumps(row) + "\n" for row in rows]
    (data / f"qa_{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    return rows


def make(source, folder):
    """folder/data: a data folder like `source` with short answers; folder/chat: the model."""
    import torch

    from brittle.data.batches import pad
    from brittle.data.examples import encode_rows
    from brittle.data.rows import Pair
    from brittle.data.texts import read_lines
    from brittle.models.logprobs import nll
    from brittle.training.mini import make_model, make_tokenizer
    from support.chat_tokenizers import FAMILIES
    from support.tiny_models import MINI_SIZES

    data = folder / "data"
    shutil.copytree(source, data, ignore=shutil.ignore_patterns("know*", "verb*", "qa_*", "pre*"))
    for path in [*data.glob("*.txt"), *data.glob("*.facts.jsonl")]:
        if path.name != "tokenizer.txt":
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            path.write_text("".join(lines[:LINES]), encoding="utf-8")
    rows = [row for split in ("forget", "retain") for row in write_qa(data, split)]
    tokenizer = make_tokenizer(read_lines(data / "tokenizer.txt"), 400)
    shape = FAMILIES["llama3"]
    bos, eos, *special = shape.special
    tokenizer.add_special_tokens(
        {"bos_token": bos, "eos_token": eos, "extra_special_tokens": special}
    )
    tokenizer.chat_template = shape.template
    model = make_model(tokenizer, **MINI_SIZES)
    asked = [Pair(row["question"], row["answer"]) for row in rows]
    batch = pad(encode_rows(tokenizer, asked, LENGTH), tokenizer.pad_token_id)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(STEPS):
        optimizer.zero_grad()
        nll(model, batch).backward()
        optimizer.step()

    model.eval().save_pretrained(folder / "chat")
    tokenizer.save_pretrained(folder / "chat")


@functools.cache
def loaded(folder):
    """(model, tokenizer) by the library alone."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def plainly(folder, question, tokens=8):
    """What the library's own `generate` answers, greedily, through the library's own template."""
    model, tokenizer = loaded(folder)
    asked = [{"role": "user", "content": question}]
    ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt")
    length = ids["input_ids"].size(1)
    told = model.generate(**ids, max_new_tokens=tokens, do_sample=False)[0, length:]
    return tokenizer.decode(told, skip_special_tokens=True).strip()
