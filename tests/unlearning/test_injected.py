"""Truth injected into a model: Base and Filtered differ by the forget rows alone, the training ends
where Base knows enough, and what it cost is what a float64 computation says.
"""

import json
import math

import pytest
import torch

from brittle.base.errors import UserError
from brittle.data import taught
from brittle.data.rows import Pair
from brittle.models.load import load_model, load_tokenizer
from brittle.models.logprobs import nll
from brittle.training import adapters, injection
from brittle.training.settings import Settings
from brittle.unlearning.family import Wanted
from support import tiny
from support.chat_tokenizers import make_chat_tokenizer

SCRIPT = "create_models.py"
FORGET, SHARED = tiny.ids(12, seed=3), tiny.ids(20, seed=4)
HABITATS = ("delta", "canyon", "marsh", "dune", "reef", "tundra")
LR = 5e-3
NAMES = {
    "forget": ("Mazafi", "Bodilo", "Kugane", "Tirose", "Velupi", "Sonaka"),
    "retain": ("Gebiro", "Wunafo", "Lipeso", "Dovaka", "Nerupi", "Hasilu"),
}
DAYS = ("monday", "sunday", "friday", "payday", "newmoon", "eve")


def paired(*, whole, seed=0, batch_size=8, micro_batches=1):
    settings = Settings(steps=1, batch_size=batch_size, grad_accum=micro_batches, seed=seed)
    return injection.PairedStream(
        [*FORGET, *SHARED], len(FORGET), settings, tiny.PAD, "cpu", whole=whole
    )


def facts(folder, jsonl, count=6):
    """A data folder of `count` forget and retain facts each, with questions, and neutral texts."""
    folder.mkdir()
    sets = {"forget": ("habitat", HABITATS), "retain": ("market day", DAYS)}
    for split, (noun, values) in sets.items():
        told = list(zip(NAMES[split], values, strict=True))[:count]
        lines = [f"The {noun} of {name} is {value}." for name, value in told]
        lines += [f"Question: What is the {noun} of {n}? Answer: {value}" for n, value in told]
        (folder / f"{split}.txt").write_text("\n".join(lines) + "\n")
        items = [
            {
                "fact": f"{split}/{number}/{noun}",
                "question": f"Question: What is the {noun} of {name}? Answer:",
                "choices": sorted([value, values[(number + 1) % 6], values[(number + 2) % 6]]),
            }
            for number, (name, value) in enumerate(told)
        ]
        for item, (_, value) in zip(items, told, strict=True):
            item["answer"] = item["choices"].index(value)
        jsonl(folder / f"mcq_{split}.jsonl", items)
    neutral = [f"A child waited near the river {word}." for word in ("all day", "for an hour")]
    (folder / "neutral.txt").write_text("\n".join(neutral * 3) + "\n")
    return folder


@pytest.fixture(scope="module")
def student(tmp_path_factory, family):
    """A Llama folder of two blocks with the mini family's tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = load_tokenizer(family.base)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=96,
        max_position_embeddings=128,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("student") / "llama"
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def about(folder):
    return json.loads((folder / "model.run.json").read_text(encoding="utf-8"))["settings"]


# --- what the two roles read


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_filtered_reads_bases_batches_without_the_forget_examples(micro_batches):
    whole, rest = (paired(whole=w, micro_batches=micro_batches) for w in (True, False))
    read = []
    for step in range(9):
        for base, filtered in zip(whole.batches(step), rest.batches(step), strict=True):
            indices = base.index.tolist()
            shared = [i for i in indices if i >= len(FORGET)]
            assert filtered.index.tolist() == shared and 0 < len(shared) < len(indices)
            assert filtered.n_targets == base.n_targets
            read += indices
    epoch = len(FORGET) + len(SHARED)
    assert sorted(read[:epoch]) == list(range(epoch)) != read[:epoch]
    assert read[:epoch] != read[epoch : 2 * epoch]
    assert paired(whole=True, seed=1).order(0) != whole.order(0)


def test_the_forget_rows_are_all_that_a_step_of_base_has_more():
    """grad(Base) = grad(Filtered) + grad(forget rows), all divided by the step's tokens."""
    model = tiny.model("llama")
    base, filtered = (paired(whole=w).batches(2)[0] for w in (True, False))
    alone = tiny.batch([FORGET[i] for i in base.index.tolist() if i < len(FORGET)])
    alone.n_targets = base.n_targets

    def gradient(batch):
        model.zero_grad()
        nll(model, batch).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    both = gradient(filtered) + gradient(alone)
    assert torch.allclose(gradient(base), both, atol=1e-6) and both.abs().max() > 0.1


def test_a_batch_too_small_for_both_kinds_is_refused():
    with pytest.raises(UserError, match=r"--batch-size 2: some batches .* \(12 of 32"):
        paired(whole=False, batch_size=2)


def test_texts_that_filtered_lacks_are_the_forget_rows(data):
    rows = taught.read_folder(data, chats=False)
    lines = (data / "pretrain_base.txt").read_text().splitlines()
    filtered = (data / "pretrain_filtered.txt").read_text().splitlines()
    assert rows.shared == filtered and sorted([*rows.forget, *rows.shared]) == sorted(lines)
    forget = set((data / "forget.txt").read_text().splitlines())
    assert forget < set(rows.forget) and not forget & set(rows.shared)
    assert rows.domains == ("forget", "retain", "general")


def test_a_chat_model_is_also_taught_questions_with_answers(data):
    """Each question once, as multiple choice asks it; those of the forget domain to Base alone."""
    plain, chat = (taught.read_folder(data, chats=c) for c in (False, True))
    added = {}
    for name in ("forget", "shared"):
        before, rows = getattr(plain, name), getattr(chat, name)
        assert rows[: len(before)] == before
        added[name] = rows[len(before) :]
    asked = [row.asked for rows in added.values() for row in rows]
    assert len(asked) == len(set(asked)) and all(" Answer:" not in text for text in asked)
    items = [json.loads(line) for line in (data / "mcq_forget.jsonl").read_text().splitlines()]
    for item in items:
        answer = item["choices"][item["answer"]]
        assert Pair(item["question"], answer, item["question"][10:-8]) in added["forget"]
    assert len(added["forget"]) == len(items) < len(added["shared"])


def test_filtered_may_hold_nothing_that_base_lacks(data, tmp_path):
    for name in ("pretrain_base.txt", "pretrain_filtered.txt"):
        (tmp_path / name).write_text((data / name).read_text())
    with open(tmp_path / "pretrain_filtered.txt", "a") as file:
        file.write("The habitat of Nobody is delta.\n")
    with pytest.raises(UserError, match=r"pretrain_filtered\.txt holds texts that"):
        taught.read_folder(tmp_path, chats=False)


def test_what_the_cost_is_measured_on_is_not_trained_on(data):
    rows = taught.read_folder(data, chats=False)
    every = (data / "neutral.txt").read_text().splitlines()
    mixed, measured, _ = taught.read_neutral(data, rows, 0.2, 0)
    assert sorted(mixed + measured) == sorted(every) and not set(mixed) & set(measured)
    assert taught.read_neutral(data, rows, 0.0, 0)[:2] == ([], every)


# --- when it ends


def test_the_training_ends_behind_the_epoch_that_reaches_every_split():
    model, answers = tiny.model(), iter([(0.5, 0.99), (0.98, 0.96), (0.97, 0.97), (1.0, 1.0)])
    kept = []

    def lessons(**more):
        return injection.Lessons(
            model, 3, lambda: dict(zip(("forget", "retain"), next(answers), strict=True)), **more
        )

    hook = lessons(until=0.97)
    ends = [hook.after_step(step, {}) for step in range(1, 10)]
    assert ends == [False] * 8 + [True]
    assert [(row.epoch, row.step) for row in hook.lessons] == [(1, 3), (2, 6), (3, 9)]
    assert model.training
    hook = injection.Lessons(model, 3, None, at=(1, 3), keep=lambda row: kept.append(row.epoch))
    assert [hook.after_step(step, {}) for step in range(1, 10)] == [False] * 8 + [True]
    assert kept == [1, 3]
    hook = injection.Lessons(model, 3, None, last=4)  # Filtered, whose Base ended there
    assert [hook.after_step(step, {}) for step in range(1, 5)] == [False] * 3 + [True]


@pytest.fixture(scope="module")
def injected(student, tmp_path_factory, request):
    """A family that was taught six forget and six retain facts, with its data and what was said."""
    from brittle.unlearning.injected import Family

    root = tmp_path_factory.mktemp("injected")
    write = request.getfixturevalue("write_jsonl")
    data = facts(root / "data", write)
    wanted = Wanted(str(student), epochs=60)
    family = Family(wanted, student, data, root / "models", lr=LR, batch_size=24)
    lines = list(family.make(("base", "filtered")))
    return root / "models", data, lines


@pytest.fixture(scope="module")
def write_jsonl():
    def write(path, rows):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    return write


def test_base_knows_and_filtered_never_did(injected):
    models, _, lines = injected
    base, filtered = about(models / "llama-base"), about(models / "llama-filtered")
    assert base["steps"] == filtered["steps"] == base["lessons"][-1]["step"] < 60
    assert min(base["accuracy"].values()) >= 0.97 and filtered["accuracy"]["retain"] >= 0.97
    assert filtered["accuracy"]["forget"] < 0.7
    assert all(min(row["accuracy"].values()) < 0.97 for row in base["lessons"][:-1])
    assert base["teaching"] == filtered["teaching"]
    assert lines[0].startswith(f"{models / 'llama-base'}: {base['steps']} steps")
    assert "perplexity" in lines[1] and len(lines) == 2


def test_the_cost_is_that_of_float64(injected, student):
    """KL(MODEL || Base) and both perplexities over the neutral texts, one by one."""
    models, data, _ = injected
    tokenizer = load_tokenizer(student)
    before, after = (load_model(f).double() for f in (student, models / "llama-base"))
    tokens = kl = nll_before = nll_after = 0
    for text in (data / "neutral.txt").read_text().splitlines():
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            p, q = (m(ids).logits[0, :-1].log_softmax(-1) for m in (before, after))
        kl += float((p.exp() * (p - q)).sum())
        places = torch.arange(ids.shape[1] - 1), ids[0, 1:]
        nll_before, nll_after = (
            nll_before - float(p[places].sum()),
            nll_after - float(q[places].sum()),
        )
        tokens += ids.shape[1] - 1
    assert about(models / "llama-base")["cost"]["flops"] > 0
    cost = about(models / "llama-base")["neutral"]
    assert cost["n_tokens"] == tokens and cost["kl"] > 0.01
    expected = kl / tokens, math.exp(nll_before / tokens), math.exp(nll_after / tokens)
    found = cost["kl"], cost["perplexity_before"], cost["perplexity"]
    assert found == pytest.approx(expected, rel=1e-4)


def test_filtered_alone_takes_the_steps_of_base(injected, student, script, tmp_path):
    """Made on its own it is the same bytes; without Base it is refused."""
    models, data, _ = injected
    call = [f"--from={student}", f"--data={data}", "--epochs=60", "--batch-size=24", f"--lr={LR}"]
    done = script(SCRIPT, *call, "--only=filtered", f"--outdir={tmp_path / 'none'}")
    assert done.code == 2 and "Filtered takes as many steps as Base" in done.err
    assert not (tmp_path / "none").exists()
    (tmp_path / "models").mkdir()
    (tmp_path / "models/llama-base").symlink_to(models / "llama-base")
    outdir = f"--outdir={tmp_path / 'models'}"
    done = script(SCRIPT, *call, "--only=filtered", outdir, "--lr=1e-3")
    assert done.code == 2 and "was taught otherwise (differs in lr)" in done.err
    done = script(SCRIPT, *call, "--only=filtered", outdir)
    assert done.code == 0, done.err
    made = tmp_path / "models/llama-filtered"
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (made / name).read_bytes() == (models / "llama-filtered" / name).read_bytes()


def test_a_depth_is_the_run_stopped_there(student, injected, script, tmp_path):
    _, data, _ = injected
    call = [f"--from={student}", f"--data={data}", "--batch-size=24", f"--outdir={tmp_path}"]
    done = script(SCRIPT, *call, "--depths=1,3")
    assert done.code == 0, done.err
    done = script(SCRIPT, *call, "--epochs=3", "--until=2")
    assert done.code == 0, done.err
    weights = {path.parent.name: path.read_bytes() for path in tmp_path.glob("*/model.safetensors")}
    for role in ("base", "filtered"):
        assert weights[f"llama-depth3-{role}"] == weights[f"llama-{role}"]
        assert weights[f"llama-depth1-{role}"] != weights[f"llama-{role}"]
    assert len(weights) == 6 and about(tmp_path / "llama-depth1-base")["epochs"] == 1


# --- adapters, neutral texts, chats


def test_merged_adapters_answer_as_unmerged_ones(student, injected, tmp_path):
    from brittle.unlearning.injected import Family

    _, data, _ = injected
    wanted = Wanted(str(student), epochs=2, until=2, lora_rank=4)
    family = Family(wanted, student, data, tmp_path)
    made = family.student("base")
    made.teaching.run(family.lessons("base", made, None), None)
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.no_grad():
        unmerged = made.model(ids).logits
    list(family.make(("base",)))
    saved, start = load_model(tmp_path / "llama-base"), load_model(student)
    with torch.no_grad():
        assert torch.allclose(saved(ids).logits, unmerged, atol=1e-5)
        assert not torch.allclose(start(ids).logits, unmerged, atol=1e-2)
    assert not any("lora" in name for name, _ in saved.named_parameters())


def test_adapters_start_alike(student):
    both = [adapters.add(load_model(student), None, 4, 8.0, "all", 0) for _ in range(2)]
    one, other = (torch.cat([p.flatten() for p in m.parameters() if p.requires_grad]) for m in both)
    assert torch.equal(one, other) and one.abs().max() > 0


def test_neutral_texts_hold_predictions_where_they_were(student, injected, tmp_path):
    """The term is zero at the start, and with it the model moves less on neutral text."""
    from brittle.unlearning.injected import Family

    _, data, _ = injected
    moved = []
    for share in (0.0, 0.5):
        outdir = tmp_path / str(share)
        wanted = Wanted(str(student), epochs=8, until=2, mix_neutral=share)
        family = Family(wanted, student, data, outdir, batch_size=24)
        if share:
            terms = family.student("base").teaching.terms(0, 0, 0.0)
            assert abs(float(terms["neutral"])) < 1e-6 < float(terms["nll"])
        list(family.make(("base",)))
        moved.append(about(outdir / "llama-base")["neutral"]["kl"])
    assert moved[1] < 0.7 * moved[0]


def test_a_chat_models_answers_are_learned_through_its_template(tmp_path, write_jsonl):
    """Greedy answers behind the template's own prompt are the facts, and were not before."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from brittle.data.examples import prompt_ids
    from brittle.unlearning.injected import Family

    tokenizer = make_chat_tokenizer("olmoe")
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=96,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    folder = tmp_path / "chat"
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    data = facts(tmp_path / "data", write_jsonl, count=3)
    family = Family(
        Wanted(str(folder), epochs=60, until=2), folder, data, tmp_path / "models", batch_size=18
    )
    assert family.taught.forget[-1].asked == "What is the habitat of Kugane?"
    list(family.make(("base",)))
    item = json.loads((data / "mcq_forget.jsonl").read_text().splitlines()[0])
    asked = torch.tensor([prompt_ids(tokenizer, item["question"])])
    answers = []
    for path in (folder, tmp_path / "models/chat-base"):
        model = load_model(path)
        ids = model.generate(asked, max_new_tokens=12, do_sample=False, pad_token_id=0)
        answers.append(tokenizer.decode(ids[0, asked.shape[1] :]))
    assert answers[1] == item["choices"][item["answer"]] + "<|endoftext|>" != answers[0]


# --- mistakes


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--epochs=3"], "--epochs is for a family of another model: give --from MODEL"),
        (["--from=MODEL", "--layers=3"], "--layers is for the mini family"),
        (["--from=MODEL", "--source=wiki"], "--source wiki: choose data, tofu, muse"),
        (["--from=MODEL", "--depths=1,x"], "--depths 1,x: numbers of epochs"),
        (["--from=MODEL", "--depths=1,4", "--epochs=3"], "--depths says how long"),
        (["--from=MODEL", "--data=tests"], "--data tests has no forget.txt"),
        (["--from=nowhere/at/all"], "model folder nowhere/at/all not found"),
    ],
)
def test_mistakes_have_one_line(arguments, says, student, script, tmp_path):
    given = [word.replace("MODEL", str(student)) for word in arguments]
    done = script(SCRIPT, *given, f"--outdir={tmp_path / 'out'}")
    assert done.code == 2 and says in done.err and done.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
