"""What a model says of the questions of a data folder in TOFU's and MUSE's schemas.

`measure` is the only function that runs the model. It returns raw records: the log-probabilities of
every answer's tokens, which of them are the argmax, and the greedy generation. Every definition of
a metric is then arithmetic on records (forget_quality_items). `cached` keeps records by the content
of the model, the data and the settings, never by a metric's name.
"""

import functools
import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

from brittle.base import code
from brittle.base.errors import UserError
from brittle.data.texts import read_jsonl, spread
from brittle.data.tokens import encode_prompts, join_template, marks_of
from brittle.metrics.answers import Scored, encode, score
from brittle.models.architectures import context_length
from brittle.models.generate import Sampling, generate, stop_ids

# set: (file, schema)
SETS = {
    "forget": ("qa_forget.jsonl", "tofu"),
    "retain": ("qa_retain.jsonl", "tofu"),
    "real_authors": ("qa_real_authors.jsonl", "tofu"),
    "world_facts": ("qa_world_facts.jsonl", "tofu"),
    "verbmem": ("verbmem_forget.jsonl", "verbmem"),
    "knowmem_forget": ("knowmem_forget_qa.jsonl", "knowmem"),
    "knowmem_retain": ("knowmem_retain_qa.jsonl", "knowmem"),
}
ASKS = {
    "tofu": ("question", "answer"),
    "verbmem": ("prompt", "gt"),
    "knowmem": ("question", "answer"),
}


@dataclass(frozen=True)
class AskSettings:
    """How questions become prompts, and how much is generated; part of the cache's key.

    answers: `full` asks for `answer`, `short` and `auto` for `short_answer` where a row has one.
    icl: examples before a question of knowmem. runs_on, guard: device and dtype, and what the guard
    says of itself.
    """

    template: str = "Question: {question} Answer:"
    answers: str = "auto"
    boundary: str = "together"
    new_tokens: int = 32
    icl: int = 0
    batch_size: int = 64
    max_samples: int = 512
    runs_on: str = ""
    guard: str = ""


def find(data, max_samples):
    """{set: rows} of the files that folder `data` has.

    At most `max_samples` rows a set, spread over it. Raises UserError where there is no such file.
    """
    sets = {}
    for name, (file, schema) in SETS.items():
        path = Path(data) / file
        if path.is_file():
            sets[name] = spread(read_jsonl(path, ASKS[schema]), max_samples)
    if not sets:
        files = ", ".join(file for file, _ in SETS.values())
        raise UserError(f"{data} has none of {files}. Make them with: uv run create_datasets.py")
    return sets


class Asked(NamedTuple):
    """One question: its prompt, the true answer, its paraphrase or None, and wrong answers."""

    prompt: str
    answer: str
    paraphrase: str | None
    wrong: list[str]


def asked(rows, schema, settings, examples=(), marks=()):
    """[Asked] of the rows of one set; `marks` are those of the tokenizer
    (data.tokens.join_template).

    Raises UserError for a template without {question}.
    """
    if "{question}" not in settings.template:
        raise UserError(
            f"--template {settings.template!r} has no {{question}} to put the question."
        )

    def ask(row):
        return settings.template.replace("{question}", row["question"].strip())

    shots = "".join(
        join_template(ask(e), e["answer"], marks) + "\n\n" for e in examples[: settings.icl]
    )
    questions = []
    for row in rows:
        if schema == "verbmem":
            questions.append(Asked(row["prompt"], row["gt"], None, []))
            continue
        short = settings.answers != "full" and "short_answer" in row
        answer = row["short_answer" if short else "answer"]
        paraphrase = None if short else row.get("paraphrased_answer")
        wrong = row.get("short_perturbed_answer" if short else "perturbed_answer") or []
        questions.append(Asked(shots + ask(row), answer, paraphrase, wrong))
    return questions


def measure(model, tokenizer, rows, schema, settings, examples=()):
    """Raw records of one set, a dict for each row."""
    questions = asked(rows, schema, settings, examples, marks_of(tokenizer))
    room, pairs = context_length(model.config), []
    for question in questions:
        paraphrases = [question.paraphrase] if question.paraphrase else []
        for answer in (question.answer, *paraphrases, *question.wrong):
            pairs.append((question.prompt, answer))
    encoded = encode(tokenizer, pairs, room, settings.boundary)
    scored = iter(score(model, encoded, tokenizer.pad_token_id, settings.batch_size))
    prompts = [question.prompt for question in questions]
    if settings.boundary == "length":
        encoded_prompts = tokenizer(prompts)["input_ids"]
    else:
        encoded_prompts = encode_prompts(tokenizer, prompts)
    generated = generate(
        model,
        [ids[-(room - 1) :] for ids in encoded_prompts],
        Sampling(settings.new_tokens),
        stop_ids(model, tokenizer),
        tokenizer.pad_token_id,
        prompts,
        settings.batch_size,
    )
    records = []
    for index, (row, question) in enumerate(zip(rows, questions, strict=True)):
        text = tokenizer.decode(generated[index], skip_special_tokens=True).strip()
        records.append(
            {
                "index": index,
                "entity": row.get("entity", index),
                "fact": row.get("fact"),
                "prompt": question.prompt,
                "gold": question.answer,
                "generation": text,
                "answer": next(scored),
                "paraphrase": next(scored) if question.paraphrase else None,
                "wrong": [next(scored) for _ in question.wrong],
            }
        )
    return records


def key_of(model_files, data_file, settings):
    """Digest of the contents of the model's files, of the data file and of the settings."""
    from brittle.base.files import sha256

    parts = {
        "model": [[Path(f).name, sha256(f)] for f in model_files],
        "data": [sha256(f) for f in data_file],
        "settings": asdict(settings),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def cached(folder, key, make):
    """What `make()` returns, kept as folder/key.json with its code; without a folder it is not.

    A file that is damaged, or was made by older code, is made anew.
    """
    from brittle.base.files import replace_text

    if folder is None:
        return make()
    path = Path(folder) / f"{key}.json"
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        records = kept["records"]
        if not code.still_true(kept["code"]):
            raise ValueError
        for r in records:
            r["answer"], r["wrong"] = Scored(*r["answer"]), [Scored(*w) for w in r["wrong"]]
            r["paraphrase"] = r["paraphrase"] and Scored(*r["paraphrase"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        with code.watch(__name__) as seen:
            records = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, json.dumps({"code": seen.code(), "records": records}))
        return records
    code.use(kept["code"])
    return records


class Asker:
    """One model and one data folder: loaded when needed, asked once for every set and settings."""

    def __init__(self, folder, data, cache=None, device="cpu", dtype="auto", guard=None):
        self.folder, self.data, self.cache = folder, Path(data), cache
        self.device, self.dtype, self.guard = device, dtype, guard
        self.known = {}

    @functools.cached_property
    def loaded(self):
        """(model, tokenizer), inside the guard where there is one."""
        from brittle.models.guarded import load

        with code.watch(type(self.guard).__module__) as self.loading:
            return load(self.folder, self.device, self.dtype, guard=self.guard)

    def records(self, sets, settings):
        """Yield (set, raw records) of {set: rows}."""
        from brittle.base.layout import model_files
        from brittle.models.load import pick_device

        settings = replace(
            settings,
            runs_on=f"{pick_device(self.device).type} {self.dtype}",
            guard=json.dumps(self.guard.about, sort_keys=True, default=str) if self.guard else "",
        )
        for name, rows in sets.items():
            file, schema = SETS[name]
            examples = self.data / file.replace("_qa", "_qa_icl")
            use = settings.icl and schema == "knowmem" and examples.is_file()
            shots = read_jsonl(examples, ASKS[schema]) if use else ()
            files = [self.data / file, *([examples] if use else [])]
            key = key_of(model_files(self.folder), files, settings)
            if (name, key) not in self.known:

                def make(rows=rows, schema=schema, shots=shots):
                    model, tokenizer = self.loaded
                    code.again(self.loading)
                    return measure(model, tokenizer, rows, schema, settings, shots)

                self.known[name, key] = cached(self.cache, key, make)
            yield name, self.known[name, key]
