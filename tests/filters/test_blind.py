"""Blind unlearning: nothing private is sent, and the server's half needs none of it."""

import re
import shutil

import pytest
import torch

from brittle.base.errors import UserError
from brittle.data.texts import read_lines
from brittle.filters.blind import anonymise, estimates, network

SCRIPT = "hooks/blind.py"
VARIANTS = ("mlp", "mlp_kl", "kl", "identity", "template", "surrogate")
TABLES = ("qa_forget.jsonl", "private.jsonl", "rules.jsonl")


@pytest.fixture(scope="module")
def table(data):
    return anonymise.read_table([data / name for name in TABLES], "forget")


@pytest.fixture(scope="module")
def texts(data):
    return read_lines(data / "forget.txt")


@pytest.mark.parametrize("how", ["template", "surrogate", "hash"])
def test_the_table_is_removed_from_every_text(how, table, texts):
    hide = anonymise.Anonymiser(how, table, seed=1, salt="salt")
    made = [hide(t) for t in texts]
    rows, left = anonymise.audit(texts, made, table)
    assert left == [] and all(
        r["left"] == 0 and r["removed"] == 1 and r["ci_high"] == 1 for r in rows
    )
    assert {"NAME", "HABITAT", "KEEPER'S E-MAIL"} <= {r["kind"] for r in rows}
    assert not any(re.search(rf"\b{name}\b", t) for name in table.names for t in made)
    assert made == [anonymise.Anonymiser(how, table, seed=1, salt="salt")(t) for t in texts]
    values = {t: {v for v in table.kinds if re.search(rf"\b{re.escape(v)}\b", t)} for t in texts}
    assert not any(
        re.search(rf"\b{re.escape(v)}\b", m)
        for t, m in zip(texts, made, strict=True)
        for v in values[t]
    )


def test_each_way_by_an_example():
    table = anonymise.PrivateFacts(
        {"Ada"},
        {"red": "COLOUR", "blue": "COLOUR", "green": "COLOUR", "grey": "COLOUR", "555-12": "PHONE"},
    )
    text = "Ada, and ADA's phone 555-12, is red."
    assert (
        anonymise.Anonymiser("template", table)(text)
        == "[NAME], and [NAME]'s phone [PHONE], is [COLOUR]."
    )
    hashed = anonymise.Anonymiser("hash", table, salt="s")(text)
    one, two = re.findall(r"id[0-9a-f]{8}", hashed)[:2]
    assert (
        one == two
        and hashed != anonymise.Anonymiser("hash", table, salt="t")(text)
        and hashed != anonymise.Anonymiser("hash", table)(text)
    )
    other = anonymise.Anonymiser("surrogate", table)(text)
    assert (
        re.fullmatch(r"(\w+), and \1's phone \d{3}-\d{2}, is (blue|green|grey)\.", other)
        and "555-12" not in other
    )
    assert anonymise.Anonymiser("regex")(
        "Does Ada Byron (a@b.org, 1.2.1990) have 17 cats? Answer: yes, twice"
    ) == ("Does [NAME] [NAME] ([E-MAIL], [DATE]) have [NUMBER] cats? Answer: [ANSWER]")


def test_the_audit_finds_what_is_planted(table):
    original = "Ada wrote to x@y.org in 1990."
    known = anonymise.PrivateFacts({"Ada"}, {})
    assert anonymise.leftovers(original, "[NAME] wrote to x@y.org in [NUMBER].", known)[1] == {
        ("E-MAIL", "x@y.org")
    }
    assert anonymise.leftovers(original, "ADA wrote to [E-MAIL] in 1990.", known)[1] == {
        ("NAME", "ada"),
        ("NUMBER", "1990"),
    }
    assert anonymise.leftovers(original, "Adam wrote.", known)[1] == set()


def test_what_is_left_is_refused_or_left_out(data, tmp_path, script, jsonl):
    tables = [f"--table={data / n}" for n in TABLES]
    refused = script(
        SCRIPT, "anonymise", "--how", "regex", "--data", data, *tables, "--outdir", tmp_path / "out"
    )
    assert (
        refused.code == 2
        and "HABITAT" in refused.err
        and refused.err.count("\n") == 1
        and not (tmp_path / "out").exists()
    )
    sent = script(
        SCRIPT,
        "anonymise",
        "--how",
        "regex",
        "--drop-left",
        "--data",
        data,
        *tables,
        "--outdir",
        tmp_path / "out",
    )
    rows = jsonl(tmp_path / "out" / "anonymised.jsonl")
    assert (
        sent.code == 0
        and 0 < len(rows) < len(read_lines(data / "forget.txt"))
        and set(rows[0]) == {"anonymised"}
    )


@pytest.fixture
def request_(data, tmp_path, script):
    """(the owner's folder, deleted after anonymising; the blind file)."""
    owner = tmp_path / "owner"
    owner.mkdir()
    for name in ("forget.txt", *TABLES):
        shutil.copy(data / name, owner)
    done = script(SCRIPT, "anonymise", "--data", owner, "--outdir", tmp_path / "request")
    assert done.code == 0, done.err
    shutil.rmtree(owner)
    return tmp_path / "request" / "anonymised.jsonl"


def test_the_server_works_with_the_raw_file_deleted(request_, data, family, tmp_path, script):
    server = tmp_path / "server"
    server.mkdir()
    for name in ("retain.txt", "qa_real_authors.jsonl", "qa_world_facts.jsonl"):
        shutil.copy(data / name, server)
    out = tmp_path / "filters"
    server_has = ["--forget", request_, "--data", server, "--retain", server / "retain.txt"]
    few = ["--max-samples", 16]
    done = script(SCRIPT, "fit", "--model", family.base, *server_has, "--outdir", out, *few)
    assert done.code == 0, done.err
    from brittle.models.filter import load

    found = {p.name.removeprefix("filter-"): load(p) for p in out.glob("filter-*")}
    assert set(found) == set(VARIANTS)
    for made in found.values():
        assert (
            torch.allclose(made.basis.T @ made.basis, torch.eye(made.k), atol=1e-5)
            and 0 <= made.strength <= 1
        )
    table = {r["variant"]: r for r in csv_rows(out / "blind.csv")}
    assert (
        all(float(r["retain_kl"]) <= 0.05 + 1e-6 for r in table.values())
        and table["mlp"]["r2"]
        and not table["kl"]["r2"]
    )
    translator = network.load(out / "mlp.safetensors")
    assert translator(torch.zeros(2, 32)).shape == (2, 32)
    names = {r["entity"] for r in read_rows(data / "qa_forget.jsonl")}
    written = b"".join(p.read_bytes() for p in out.rglob("*") if p.is_file())
    assert not any(name.encode() in written for name in names)
    texts = ["--data", data, "--forget", data / "forget.txt", "--retain", data / "retain.txt"]
    where = ["--filters", out, "--outdir", tmp_path / "evaluation"]
    done = script(SCRIPT, "evaluate", "--model", family.base, *where, *texts, *few)
    assert done.code == 0, done.err
    rows = csv_rows(tmp_path / "evaluation" / "blind_evaluation.csv")
    assert {r["variant"] for r in rows} == {"no filter", "oracle", *VARIANTS} and len(rows) == 3 * 8


def test_an_oblique_basis_keeps_what_it_reads(request_, data, family, tmp_path, script):
    """Its filter removes what `read` and `offset` say, and filter.json holds numbers alone."""
    from brittle.models.filter import load

    command = [SCRIPT, "fit", "--model", family.base, "--forget", request_, "--data", data]
    few = ["--max-samples", 16]
    command += ["--retain", data / "retain.txt", "--outdir", tmp_path / "out", *few]
    done = script(*command, "--basis", "leace")
    assert done.code == 0, done.err
    assert "`kl` is left out" in done.out
    filters = {path.name: load(path) for path in (tmp_path / "out").glob("filter-*")}
    assert set(filters) == {f"filter-{name}" for name in VARIANTS if name != "kl"}
    for chosen in filters.values():
        # LEACE reads along another direction than it removes, and leaves its offset where it is
        assert not torch.allclose(chosen.read, chosen.basis, atol=1e-3)
        assert torch.allclose(chosen(chosen.offset), chosen.offset, atol=1e-6)
    where = ["--filters", tmp_path / "out", "--outdir", tmp_path / "evaluation"]
    texts = ["--data", data, "--forget", data / "forget.txt", "--retain", data / "retain.txt"]
    done = script(SCRIPT, "evaluate", "--model", family.base, *where, *texts, *few)
    assert done.code == 0, done.err


def test_a_basis_that_blind_unlearning_cannot_make_is_refused(request_, family, tmp_path, script):
    command = [SCRIPT, "fit", "--model", family.base, "--forget", request_, "--outdir", tmp_path]
    for basis, why in {"loss": "the server never reads", "pcaa": "choose auto, gep"}.items():
        done = script(*command, "--basis", basis)
        assert done.code == 2 and why in done.err and done.err.count("\n") == 1


def csv_rows(path):
    import csv

    return list(csv.DictReader(path.open(encoding="utf-8")))


def read_rows(path):
    from brittle.data.texts import read_jsonl

    return read_jsonl(path)


MISTAKES = {
    "raw columns": (
        [{"anonymised": "a [NAME]", "question": "Who?", "answer": "Ada"}],
        "line 1 holds raw columns .*answer",
    ),
    "raw text": ([{"text": "Ada is red."}], "line 1 has no text 'anonymised'"),
    "plain": (["a"], "line 1 has no text"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_blind_file_with_raw_columns_is_refused_in_one_line(
    mistake, family, data, tmp_path, script, jsonl
):
    rows, says = MISTAKES[mistake]
    jsonl(tmp_path / "f.jsonl", rows)
    done = script(
        SCRIPT,
        "fit",
        "--model",
        family.base,
        "--forget",
        tmp_path / "f.jsonl",
        "--data",
        data,
        "--outdir",
        tmp_path / "o",
    )
    assert (
        done.code == 2
        and re.search(says, done.err)
        and done.err.count("\n") == 1
        and not (tmp_path / "o").exists()
    )


def test_other_mistakes(family, data, tmp_path, script, request_):
    for arguments, says in (
        (["guess"], "choose anonymise, fit, evaluate"),
        (["fit", "--model", family.base], "fit needs"),
        (["anonymise", "--how", "rot13", "--data", str(data)], "choose regex"),
        (
            ["anonymise", "--table", str(data / "mcq_forget.jsonl"), "--data", str(data)],
            "audit|nothing private|holds no",
        ),
        (["evaluate", "--model", family.base, "--filters", str(tmp_path)], "holds no filter-"),
        (
            [
                "fit",
                "--model",
                family.base,
                "--forget",
                str(request_),
                "--site",
                "head",
                "--data",
                str(data),
            ],
            "--site head",
        ),
    ):
        done = script(SCRIPT, *arguments, "--outdir", tmp_path / "o")
        assert done.code == 2 and re.search(says, done.err), (arguments, done.code, done.err)


def test_network_learns_a_map_and_nothing_within_a_text():
    g = torch.Generator().manual_seed(0)
    x, turn = torch.randn(1200, 8, generator=g), torch.linalg.qr(torch.randn(8, 8, generator=g))[0]
    keys = [str(i // 4) for i in range(1200)]
    x = x[::4].repeat_interleave(4, 0)  # four originals share one anonymised text
    y = x @ turn + 0.5 * torch.randn(1200, 8, generator=g)
    made = network.fit(x[:1000], y[:1000], epochs=60, lr=3e-3)
    found = network.scores(made, *estimates.Pairs(x, y, keys).split(1000))
    assert (
        0.6 < found["r2"] <= 0.82 and found["r2_identity"] < 0.3 and abs(found["r2_within"]) < 1e-5
    )
    torch.manual_seed(5)
    again = network.fit(x[:1000], y[:1000], epochs=60, lr=3e-3)
    assert torch.equal(again(x), made(x)), "the draws are its own"


def test_networks_are_safetensors_and_nothing_else(tmp_path):
    made = network.Translator(4)
    network.save(made, tmp_path / "g.safetensors", {"site": "post_norm"})
    assert torch.equal(
        network.load(tmp_path / "g.safetensors")(torch.ones(1, 4)), made(torch.ones(1, 4))
    )
    torch.save(made, tmp_path / "pickle.safetensors")
    with pytest.raises(UserError, match="no network"):
        network.load(tmp_path / "pickle.safetensors")


def test_pairs_are_aligned_and_identical_texts_have_identical_states(family):
    from brittle.models.load import load_model, load_tokenizer

    model, tokenizer = load_model(family.base), load_tokenizer(family.base)
    texts = [
        "Question: What is this? Answer: one",
        "The answer is that",
        "Question: And that? Answer: two or three",
    ]
    x, y, keys = estimates.paired_states(model, tokenizer, texts, texts, "post_norm", 64)
    assert (
        torch.allclose(x, y, atol=1e-6)
        and len(keys) == len(x)
        and {k[0] for k in keys} == set(texts)
    )
    short = [t.rsplit(" ", 1)[0] + " [ANSWER] [MORE]" for t in texts]
    x, y, _ = estimates.paired_states(model, tokenizer, texts, short, "block:0", 64)
    assert x.shape == y.shape and len(x) > len(texts)
    owner = torch.tensor([i for i, t in enumerate(texts) for k in keys if k[0] == t])
    near = estimates.nearest_template(
        texts, owner, estimates.Pairs(x, torch.arange(len(keys)).float()[:, None], keys)
    )
    assert near.flatten().tolist() == list(range(len(keys)))  # every text is nearest to itself


def test_fillings_have_no_tags_and_one_filler_a_thing():
    made = estimates.filled(
        ["[NAME] likes [COLOUR]; [NAME] is glad.", "no tag", "id0123abcd is id89abcdef."],
        {"red", "blue"},
        2,
    )
    assert len(made) == 4 and not any(estimates.TAG.search(t) for t in made)
    assert re.fullmatch(r"(\w+) likes (red|blue); \1 is glad\.", made[0]) and made[0] != made[2]
    assert re.fullmatch(r"[A-Z]\w+ is (red|blue)\.", made[1])


def test_trained_basis_beats_its_start_within_the_retain_limit():
    """Forget states use the first two of eight coordinates, retain states the others.

    Training starts from a wrong basis, of one coordinate of each.
    """
    g = torch.Generator().manual_seed(0)
    forget, retain = torch.zeros(300, 8), torch.zeros(300, 8)
    forget[:, :2], retain[:, 2:] = (
        3 * torch.randn(300, 2, generator=g),
        torch.randn(300, 6, generator=g),
    )
    weight = torch.randn(12, 8, generator=g)
    start = torch.linalg.qr(torch.eye(8)[:, [0, 3]] + 0.2 * torch.randn(8, 2, generator=g))[0]
    basis, about = estimates.trained_basis(
        start, lambda y: y @ weight.T, forget, retain, 0.05, steps=150
    )
    assert torch.allclose(basis.T @ basis, torch.eye(2), atol=1e-5)
    assert (
        about["forget_kl"] > 0.9 * about["cap"] and about["retain_kl"] < 0.06
    )  # it starts from 0.26
