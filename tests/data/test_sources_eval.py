"""TOFU and MUSE from folders of the hub's schema, and forget and retain sets that overlap by a
chosen share.
"""

import json
import re

import pytest

from brittle.data import overlap
from brittle.data.items import read_text_rows
from brittle.data.muse import passages
from brittle.data.rows import Pair, plain
from brittle.data.world import build_world
from brittle.data.world_files import write_world

SCRIPT = "create_datasets.py"
AUTHORS = {"forget10": 3, "retain90": 5, "retain_perturbed": 4, "holdout10": 1}


def authored(name, count, perturbed):
    """TOFU rows: `count` authors of 20 questions, in author order."""
    for a in range(count):
        for q in range(20):
            row = {"question": f"What is {name} {a} {q}?", "answer": f"It is {name} {a} {q}."}
            if perturbed:
                row |= {
                    "paraphrased_question": f"Which {name} {a} {q}?",
                    "paraphrased_answer": f"That is {name} {a} {q}.",
                    "perturbed_answer": [f"It is {name} {a} {q} not {k}." for k in range(5)],
                }
            yield row


@pytest.fixture
def tofu(tmp_path, jsonl):
    """A folder like the hub's: one JSON-lines file a configuration; the perturbed ones as parquet
    in their own folders.
    """
    import pandas as pd

    folder = tmp_path / "tofu"
    folder.mkdir()
    (folder / "README.md").write_text("---\nconfigs: []\n---\n")
    for name, count in AUTHORS.items():
        if not name.endswith("perturbed"):
            jsonl(folder / f"{name}.json", list(authored(name, count, False)))
    for name in ("forget10", "retain"):
        rows = list(
            authored(
                "forget10" if name == "forget10" else "retain90",
                3 if name == "forget10" else 4,
                True,
            )
        )
        (folder / f"{name}_perturbed").mkdir()
        pd.DataFrame(rows).to_parquet(folder / f"{name}_perturbed" / "train-00000-of-00001.parquet")
    for name in ("real_authors", "world_facts"):
        rows = [
            {
                "question": f"{name} {i}?",
                "answer": f"yes {i}",
                "perturbed_answer": ["no", "perhaps", "never"],
            }
            for i in range(6)
        ]
        jsonl(folder / f"{name}_perturbed.json", rows)
    return folder


DOCUMENTS = [
    " ".join(f"Document {d} says sentence {s} of it." for s in range(120)) for d in range(8)
]


@pytest.fixture
def muse(tmp_path, jsonl):
    folder = tmp_path / "muse"
    for config, splits in {
        "raw": {"forget": DOCUMENTS[:3], "retain1": DOCUMENTS[3:7], "holdout": DOCUMENTS[7:]},
        "privleak": {"forget": DOCUMENTS[:2], "retain": DOCUMENTS[3:5], "holdout": DOCUMENTS[7:]},
    }.items():
        (folder / config).mkdir(parents=True)
        for split, texts in splits.items():
            jsonl(folder / config / f"{split}-00000-of-00001.jsonl", [{"text": t} for t in texts])
    (folder / "verbmem").mkdir()
    jsonl(
        folder / "verbmem" / "forget-00000-of-00001.jsonl",
        [{"prompt": "Document", "gt": "0 says"}] * 2,
    )
    for split in ("forget_qa", "retain_qa"):
        jsonl(
            folder / f"knowmem_{split}.jsonl",
            [{"question": f"{split} {i}?", "answer": str(i)} for i in range(3)],
        )
    return folder


def lines(path):
    return path.read_text(encoding="utf-8").splitlines()


def test_tofu_as_published(tofu, tmp_path, script, jsonl):
    out = tmp_path / "out"
    done = script(SCRIPT, "--source", "tofu", "--path", tofu, "--outdir", out)
    assert done.code == 0, done.err
    forget, retain = lines(out / "forget.txt"), lines(out / "retain.txt")
    assert (
        len(forget) == 60
        and len(retain) == 100
        and forget[0] == "Question: What is forget10 0 0? Answer: It is forget10 0 0."
    )
    rows = read_text_rows(out / "forget.txt")  # a chat model is asked the bare question
    assert (rows[0].asked, rows[0].answer) == ("What is forget10 0 0?", "It is forget10 0 0.")
    for name in ("forget", "retain", "holdout"):
        rows = read_text_rows(out / f"{name}.txt")
        assert all(isinstance(row, Pair) for row in rows)
        assert [plain(row) for row in rows] == lines(out / f"{name}.txt")
    base, filtered = lines(out / "pretrain_base.txt"), lines(out / "pretrain_filtered.txt")
    assert (
        set(base) >= {*forget, *retain}
        and set(filtered) == set(base) - set(forget)
        and len(base) == 60 + 100 + 12
    )
    rows = jsonl(out / "qa_forget.jsonl")
    assert len(rows) == 60 and all(
        len(r["perturbed_answer"]) == 5 and r["paraphrased_answer"] for r in rows
    )
    halves = {}
    for row in rows:
        halves.setdefault(row["entity"], set()).add(row["half"])
    assert sorted(map(len, halves.values())) == [1, 1, 1] and {
        h for half in halves.values() for h in half
    } == {"A", "B"}
    for split, count in (("forget", 60), ("retain", 80), ("general", 12)):
        items = jsonl(out / f"mcq_{split}.jsonl")
        assert len(items) == count and all(len(set(i["choices"])) == 4 for i in items)
    answers = {r["fact"]: r["answer"] for r in rows}
    assert all(
        i["choices"][i["answer"]] == answers[i["fact"]] for i in jsonl(out / "mcq_forget.jsonl")
    )
    assert len(jsonl(out / "qa_holdout.jsonl")) == 20 == len(lines(out / "holdout.txt"))
    assert not (out / "mcq_holdout.jsonl").exists()  # the hub has no wrong answers to these
    jsonl(tofu / "holdout10_perturbed.json", list(authored("holdout10", 1, True)))
    done = script(SCRIPT, "--source", "tofu", "--path", tofu, "--outdir", out)
    items = jsonl(out / "mcq_holdout.jsonl")
    assert done.code == 0 and len(items) == 20
    assert [i["choices"][i["answer"]] for i in items] == [
        row["answer"] for row in jsonl(out / "qa_holdout.jsonl")
    ]


def test_max_samples_draws_lines_and_their_sidecar(tofu, muse, tmp_path, script, jsonl):
    for source, path in (("tofu", tofu), ("muse", muse)):
        every, some = tmp_path / source / "all", tmp_path / source / "some"
        make = [SCRIPT, "--source", source, "--path", path]
        assert script(*make, "--outdir", every).code == 0
        done = script(*make, "--outdir", some, "--max-samples", 3, "--seed", 1)
        assert done.code == 0, done.err
        whole, drawn = lines(every / "retain.txt"), lines(some / "retain.txt")
        places = [whole.index(line) for line in drawn]
        assert len(places) == 3 and places == sorted(places) != [0, 1, 2]
        about = jsonl(every / "retain.facts.jsonl")
        assert jsonl(some / "retain.facts.jsonl") == [about[place] for place in places]


def test_tofu_overlap(tofu, tmp_path, script, jsonl):
    shared = []
    for share in (0, 100):
        out = tmp_path / str(share)
        done = script(
            SCRIPT, "--source", "tofu", "--path", tofu, "--outdir", out, "--overlap", share
        )
        assert done.code == 0, done.err
        forget, retain = jsonl(out / "qa_forget.jsonl"), jsonl(out / "qa_retain.jsonl")
        assert len(forget) == len(retain) == 30 and len(lines(out / "retain.txt")) == 30
        assert not {r["fact"] for r in forget} & {r["fact"] for r in retain}
        assert not set(lines(out / "pretrain_filtered.txt")) & set(lines(out / "forget.txt"))
        shared.append(len({r["entity"] for r in forget} & {r["entity"] for r in retain}))
        assert f'"shared": {shared[-1]}' in done.out and '"measured": {"texts": 0.0' in done.out
    assert shared == [0, 3]


def test_tofu_is_asked_of_the_hub_by_its_names(tofu, tmp_path, script, monkeypatch):
    import datasets

    asked, load = [], datasets.load_dataset

    def from_hub(name, config=None, split=None, **options):
        if name != "locuslab/TOFU":
            return load(name, config, split=split, **options)
        asked.append((config, split))
        if config == "holdout05":
            raise datasets.exceptions.DatasetNotFoundError("no such configuration")
        return datasets.Dataset.from_list(list(authored(config, 2, True)))

    monkeypatch.setattr(datasets, "load_dataset", from_hub)
    done = script(
        SCRIPT, "--source", "tofu", "--forget-split", "forget05", "--outdir", tmp_path / "out"
    )
    assert done.code == 0, done.err
    assert {s for _, s in asked} == {"train"} and {c for c, _ in asked} == {
        "forget05",
        "retain95",
        "forget05_perturbed",
        "retain_perturbed",
        "real_authors_perturbed",
        "world_facts_perturbed",
        "holdout05",
    }
    assert (
        "note: without holdout05" in done.out
        and not (tmp_path / "out" / "qa_holdout.jsonl").exists()
    )


def test_muse(muse, tmp_path, script, jsonl):
    out = tmp_path / "out"
    done = script(SCRIPT, "--source", "muse", "--path", muse, "--outdir", out)
    assert done.code == 0, done.err
    assert " ".join(lines(out / "forget.txt")) == " ".join(DOCUMENTS[:3])
    assert " ".join(lines(out / "retain.txt")) == " ".join(DOCUMENTS[3:7]) and lines(
        out / "holdout.txt"
    )
    assert jsonl(out / "verbmem_forget.jsonl")[0] == {"prompt": "Document", "gt": "0 says"}
    named = [row["entity"] for row in jsonl(out / "forget.facts.jsonl")]  # a passage's document
    for number, document in enumerate(DOCUMENTS[:3]):
        own = [n == f"forget/{number:05d}" for n in named]
        told = [t for t, is_own in zip(lines(out / "forget.txt"), own, strict=True) if is_own]
        assert " ".join(told) == document
    assert (
        len(jsonl(out / "knowmem_retain_qa.jsonl")) == 3
        and len(jsonl(out / "privleak_holdout.jsonl")) == 1
    )
    assert "note: without knowmem_forget_qa_icl.jsonl" in done.out
    done = script(
        SCRIPT, "--source", "muse", "--path", muse, "--outdir", tmp_path / "half", "--overlap", 100
    )
    forget, retain = (lines(tmp_path / "half" / f"{s}.txt") for s in ("forget", "retain"))
    assert done.code == 0 and not set(forget) & set(retain)
    both = (
        {d for s in forget for d in re.findall(r"Document (\d)", s)},
        {d for s in retain for d in re.findall(r"Document (\d)", s)},
    )
    assert both[0] == both[1] and len(both[0]) == 3
    assert len(jsonl(tmp_path / "half" / "retain.facts.jsonl")) == len(retain)


def test_passages_lose_nothing_and_end_with_sentences():
    made = passages(DOCUMENTS[0] + "x" * 3100)
    assert max(map(len, made)) <= 1500 and "".join(made).replace(" ", "") == (
        DOCUMENTS[0] + "x" * 3100
    ).replace(" ", "")
    assert (
        all(p.endswith(".") for p in made[:2])
        and passages("  ") == []
        and passages("a  b") == ["a b"]
    )


@pytest.mark.parametrize("seed", range(3))
def test_overlap_holds_size_and_shares_what_was_asked(seed):
    forget, retain = (
        [[(name, e, i) for i in range(6)] for e in range(n)] for name, n in (("f", 8), ("r", 20))
    )
    before, kept = set(), None
    for share in (0, 25, 50, 75, 100):
        f, r, about = overlap.mix(forget, retain, share, seed)
        assert len(f) == len(r) == 24 and not set(f) & set(r) and kept in (None, f)
        shared = {e[:2] for e in f} & {e[:2] for e in r}
        assert len(shared) == about["shared"] == 8 * share // 100 and before <= shared
        before, kept = shared, f


def test_mini_overlap_of_names_and_values(tmp_path, capsys):
    plain = build_world(0, 8, 8)
    for share, names, values in ((25, 2, 3), (50, 4, 6), (100, 8, 12)):
        world = build_world(0, 8, 8, shared_names=names, shared_values=share)
        assert len(set(world.names["forget"]) & set(world.names["retain"])) == names
        assert world.names["forget"] == plain.names["forget"]
        pairs = zip(world.attributes["forget"][:5], world.attributes["retain"][:5], strict=True)
        assert [len(set(f.pool) & set(r.pool)) for f, r in pairs] == [values] * 5
        everything = [
            f
            for kind in (world.attributes, world.relations, world.private)
            for d in kind
            for f in kind[d]
        ]
        about = {(f.entity, f.noun): f.value for f in everything}
        assert len(about) == len(everything), "a fact with two values"
    write_world(tmp_path / "plain", 0, 6, 2)
    write_world(tmp_path / "zero", 0, 6, 2, 0)
    write_world(tmp_path / "half", 0, 6, 2, 50, "both")
    same = [
        f.name
        for f in (tmp_path / "plain").glob("*")
        if f.name not in ("world.json", "retain.run.json")
    ]
    assert all(
        (tmp_path / "plain" / n).read_bytes() == (tmp_path / "zero" / n).read_bytes() for n in same
    )
    found = json.loads((tmp_path / "half" / "world.json").read_text())["overlap"]
    assert (
        found["shared"] == 3
        and 0 < found["measured"]["answers"] < 1
        and found["measured"]["texts"] == 0
    )
    write_world(tmp_path / "odd", 0, 6, 2, 25)
    assert "25 of 6 entities is 2 of them, 33.3 %" in capsys.readouterr().out


def test_mini_has_the_schemas_of_tofu_and_muse(data, jsonl):
    for name in ("real_authors", "world_facts", "holdout"):
        assert all(
            r["perturbed_answer"] and len(r["short_perturbed_answer"]) == 5
            for r in jsonl(data / f"qa_{name}.jsonl")
        )
    seen = set(lines(data / "pretrain_base.txt"))
    for row in jsonl(data / "verbmem_forget.jsonl"):
        assert f"{row['prompt']} {row['gt']}" in seen
    for split in ("forget", "retain"):
        rows, examples = (jsonl(data / f"knowmem_{split}_qa{icl}.jsonl") for icl in ("", "_icl"))
        assert all(
            f"Question: {r['question']} Answer: {r['answer']}" in seen for r in [*rows, *examples]
        )
        assert not {r["fact"] for r in rows} & {r["fact"] for r in examples}
        assert all(r["text"] in seen for r in jsonl(data / f"privleak_{split}.jsonl"))
    assert not any(r["text"] in seen for r in jsonl(data / "privleak_holdout.jsonl"))


MISTAKES = {
    "unknown split": (["--source=tofu", "--forget-split=forget20"], "forget20: choose forget01"),
    "unknown corpus": (["--source=muse", "--corpus=poems"], "poems: choose news"),
    "values of TOFU": (
        ["--source=tofu", "--overlap=25", "--overlap-of=values"],
        "Only the mini world",
    ),
    "overlap of WMDP": (["--source=wmdp", "--overlap=25"], "works for mini, tofu and muse"),
    "more than all": (["--overlap=101"], "--overlap"),
    "no such configuration": (
        ["--source=tofu", "--forget-split=forget01", "--path={tofu}"],
        "holds no forget01_perturbed",
    ),
    "no folder": (["--source=muse", "--path={tofu}/nowhere"], "nowhere not found"),
    "no hub": (["--source=muse"], "--path|not found on the hub"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_take_one_line(mistake, tofu, tmp_path, script):
    arguments, says = MISTAKES[mistake]
    done = script(SCRIPT, *[a.format(tofu=tofu) for a in arguments], "--outdir", tmp_path / "out")
    assert done.code == 2 and re.search(says, done.err) and done.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
