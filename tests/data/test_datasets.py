"""create_datasets.py: the mini world, WMDP and WikiText from local folders of the hub's schema, and
the user's own files.
"""

import json
import re
from collections import Counter

import pytest

from brittle.data.items import entity_of
from support.places import ROOT

SCRIPT = "create_datasets.py"
CHOICES = ["one", "two", "three", "four"]
LONG = "A WikiText line that is longer than fifty characters, number {}, so it is a text."


def questions(count, word):
    return [
        {
            "question": f" {word} question {i}? ",
            "choices": [f"{c} {i}" for c in CHOICES],
            "answer": i % 4,
        }
        for i in range(count)
    ]


def wikitext(count):
    lines = [
        row for i in range(count) for row in ("", f" = Heading {i} = ", f" {LONG.format(i)} \n")
    ]
    return [{"text": line} for line in lines]


SUBJECTS = ["college_biology", "virology", "astronomy", "professional_law", "anatomy"]


def mmlu(count):
    return [
        {**q, "subject": SUBJECTS[i % len(SUBJECTS)]}
        for i, q in enumerate(questions(count, "MMLU"))
    ]


def write(path, rows):
    """`rows` as parquet, JSON lines or CSV, by the file's name."""
    import pandas as pd

    path.parent.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame(rows)
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_json(path, orient="records", lines=True)
    return path


@pytest.fixture
def hub_like(tmp_path):
    """Folders as `hf download --repo-type dataset` makes them: configurations and splits beside the
    wanted ones.
    """
    shards = questions(10, "bio")
    write(tmp_path / "wmdp" / "wmdp-bio" / "test-00000-of-00002.parquet", shards[:6])
    write(tmp_path / "wmdp" / "wmdp-bio" / "test-00001-of-00002.parquet", shards[6:])
    write(tmp_path / "wmdp" / "wmdp-chem" / "test-00000-of-00001.parquet", questions(3, "chem"))
    write(tmp_path / "wmdp" / "wmdp-cyber" / "test-00000-of-00001.parquet", questions(3, "cyber"))
    for config in ("wikitext-2-raw-v1", "wikitext-2-v1", "wikitext-103-raw-v1"):
        for split, count in (("train", 7), ("validation", 2), ("test", 2)):
            rows = wikitext(count if config == "wikitext-2-raw-v1" else 1)
            write(tmp_path / "wikitext" / config / f"{split}-00000-of-00001.parquet", rows)
    for config in ("all", "anatomy"):
        for split, count in (("test", 20), ("validation", 3), ("dev", 2), ("auxiliary_train", 4)):
            write(
                tmp_path / "mmlu" / config / f"{split}-00000-of-00001.parquet",
                mmlu(count)[: None if config == "all" else 1],
            )
    (tmp_path / "wmdp" / "README.md").write_text("---\nconfigs: []\n---\n")
    (tmp_path / "wmdp" / "dataset_infos.json").write_text("{}")
    return [f"--{name}-path={tmp_path / name}" for name in ("wmdp", "wikitext", "mmlu")]


def lines(path):
    return path.read_text(encoding="utf-8").splitlines()


def check(out, jsonl):
    """What the ten WMDP questions, seven WikiText lines and twenty MMLU questions must become."""
    assert lines(out / "forget.txt") == [f"bio question {i}?" for i in range(10)]
    assert lines(out / "retain.txt") == [LONG.format(i) for i in range(7)]
    items = jsonl(out / "mcq_forget.jsonl")
    asked = {
        f"Question: bio question {i}? Answer:": ([f"{c} {i}" for c in CHOICES], i % 4)
        for i in range(10)
    }
    assert {r["question"]: (r["choices"], r["answer"]) for r in items} == asked
    assert (
        Counter(r["half"] for r in items) == {"A": 5, "B": 5}
        and len({r["fact"] for r in items}) == 10
    )
    near, far = jsonl(out / "mcq_retain.jsonl"), jsonl(out / "mcq_general.jsonl")
    number = [{int(r["question"].split()[3].strip("?")) % 5 for r in rows} for rows in (near, far)]
    assert number == [{0, 1, 4}, {2, 3}] and len(near) == 12 and len(far) == 8
    # no two questions are about one thing, and WikiText's articles begin with their titles
    assert [f"{r['entity']}/answer" for r in items] == [r["fact"] for r in items]
    assert [entity_of({"fact": r["fact"]}) for r in items] == [r["entity"] for r in items]
    forget, retain = (jsonl(out / f"{split}.facts.jsonl") for split in ("forget", "retain"))
    assert {r["entity"] for r in forget} == {r["entity"] for r in items} and len(forget) == 10
    assert [r["entity"] for r in retain] == [f"wikitext/{i + 1:05d}" for i in range(7)]


def test_hub_like_folders(hub_like, tmp_path, script, jsonl):
    done = script(SCRIPT, "--source", "wmdp", "--outdir", tmp_path / "out", *hub_like)
    assert done.code == 0, done.err
    check(tmp_path / "out", jsonl)


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_flat_folders(tmp_path, script, jsonl, suffix):
    paths = []
    for name, rows in (
        ("wmdp", questions(10, "bio")),
        ("wikitext", wikitext(7)),
        ("mmlu", mmlu(20)),
    ):
        paths.append(f"--{name}-path={write(tmp_path / name / f'data.{suffix}', rows).parent}")
        (tmp_path / name / "dataset_info.json").write_text(
            "{}"
        )  # what `save_to_disk` leaves beside its files
    done = script(SCRIPT, "--source", "wmdp", "--outdir", tmp_path / "out", *paths)
    assert done.code == 0, done.err
    check(tmp_path / "out", jsonl)


def test_halves_are_seeded_and_blind_to_the_answer(hub_like, tmp_path, script, jsonl):
    halves = []
    for seed, out in ((0, "a"), (0, "b"), (1, "c")):
        script(SCRIPT, "--source", "wmdp", "--outdir", tmp_path / out, "--seed", seed, *hub_like)
        halves.append({r["fact"]: r["half"] for r in jsonl(tmp_path / out / "mcq_forget.jsonl")})
    assert halves[0] == halves[1] != halves[2]


def test_document_corpus(hub_like, tmp_path, script):
    rows = [
        {
            "title": f"Title {i}",
            "abstract": f"Abstract\nof {i}",
            "text": None if i == 1 else f"Text {i}",
            "doi": "x",
        }
        for i in range(3)
    ]
    folder = write(tmp_path / "remove" / "data" / "train-00000-of-00001.parquet", rows).parents[1]
    done = script(
        SCRIPT,
        "--source",
        "wmdp",
        "--forget-corpus",
        "bio-remove",
        "--outdir",
        tmp_path / "out",
        f"--wmdp-path={folder}",
        *hub_like[1:],
    )
    assert done.code == 0, done.err
    assert lines(tmp_path / "out" / "forget.txt") == [
        "Title 0 Abstract of 0 Text 0",
        "Title 1 Abstract of 1",
        "Title 2 Abstract of 2 Text 2",
    ]


def test_without_mmlu_it_says_what_is_missing(hub_like, tmp_path, script):
    """No hub: the texts are made, and it is said which evaluation items are not."""
    done = script(SCRIPT, "--source", "wmdp", "--outdir", tmp_path / "out", *hub_like[:2])
    assert done.code == 0 and "note: no mcq_retain.jsonl and mcq_general.jsonl" in done.out
    assert not (tmp_path / "out" / "mcq_retain.jsonl").exists()


def test_max_samples(hub_like, tmp_path, script, jsonl):
    """Lines are drawn by the seed, and their sidecar with them."""
    every, drawn = tmp_path / "all", []
    make = [SCRIPT, "--source", "wmdp", *hub_like]
    assert script(*make, "--outdir", every).code == 0
    whole = lines(every / "forget.txt")
    entity = dict(zip(whole, jsonl(every / "forget.facts.jsonl"), strict=True))
    for seed in range(4):
        out = tmp_path / str(seed)
        done = script(*make, "--outdir", out, "--max-samples", 4, "--seed", seed)
        assert done.code == 0 and len(lines(out / "retain.txt")) == 4
        drawn.append(lines(out / "forget.txt"))
        assert drawn[-1] == [line for line in whole if line in drawn[-1]]  # in their own order
        assert [entity[line] for line in drawn[-1]] == jsonl(out / "forget.facts.jsonl")
        assert len(jsonl(out / "mcq_forget.jsonl")) == 10
    assert len({tuple(texts) for texts in drawn}) > 1 and whole[:4] not in drawn


def test_the_record_names_what_was_read(hub_like, tmp_path, script):
    """So that the pipeline makes the data again when a local file changes."""
    from brittle.base.record import why_run

    argv = [SCRIPT, "--source", "wmdp", "--outdir", str(tmp_path / "out"), *hub_like]
    script(*argv)
    assert why_run(tmp_path / "out" / "retain.txt", argv) is None
    write(tmp_path / "wikitext" / "wikitext-2-raw-v1" / "train-00000-of-00001.parquet", wikitext(9))
    assert "wikitext-2-raw-v1" in why_run(tmp_path / "out" / "retain.txt", argv)


def test_own_files(tmp_path, script, jsonl):
    (tmp_path / "f.txt").write_text("first\n\nsecond\n", encoding="utf-8")
    jsonl(tmp_path / "r.jsonl", [{"text": "over\ntwo lines"}, {"question": "Q?", "answer": "A"}])
    done = script(
        SCRIPT,
        "--forget-file",
        tmp_path / "f.txt",
        "--retain-file",
        tmp_path / "r.jsonl",
        "--outdir",
        tmp_path / "out",
    )
    assert done.code == 0, done.err
    assert lines(tmp_path / "out" / "forget.txt") == ["first", "second"]
    assert lines(tmp_path / "out" / "retain.txt") == [
        json.dumps("over\ntwo lines"),
        "Q? A",
    ]
    assert jsonl(tmp_path / "out" / "retain.facts.jsonl") == [
        {},
        {"question": "Q?", "prompt": "Q?", "answer": "A"},
    ]


def test_own_files_may_name_entity_and_fact(tmp_path, script, jsonl):
    rows = [{"text": "first", "entity": "x"}, {"text": "second", "fact": "y/z/colour"}]
    jsonl(tmp_path / "f.jsonl", rows)
    (tmp_path / "r.txt").write_text("plain\n", encoding="utf-8")
    files = ("--forget-file", tmp_path / "f.jsonl", "--retain-file", tmp_path / "r.txt")
    assert script(SCRIPT, *files, "--outdir", tmp_path / "out").code == 0
    named = [{"entity": "x"}, {"entity": "y/z", "fact": "y/z/colour"}]
    assert jsonl(tmp_path / "out" / "forget.facts.jsonl") == named
    assert jsonl(tmp_path / "out" / "retain.facts.jsonl") == [{}]
    again = ("--forget-file", tmp_path / "out/forget.txt", "--retain-file", tmp_path / "r.txt")
    assert script(SCRIPT, *again, "--outdir", tmp_path / "again").code == 0
    assert jsonl(tmp_path / "again" / "forget.facts.jsonl") == named  # a sidecar is read, too


def test_questions_of_other_data_are_pointed_out(hub_like, tmp_path, script):
    """Own texts beside the multiple-choice files of an earlier run: evaluation would ask about
    something else.
    """
    (tmp_path / "f.txt").write_text("text\n")
    script(SCRIPT, "--source", "wmdp", "--outdir", tmp_path / "out", *hub_like)
    done = script(
        SCRIPT,
        "--forget-file",
        tmp_path / "f.txt",
        "--retain-file",
        tmp_path / "f.txt",
        "--outdir",
        tmp_path / "out",
    )
    assert done.code == 0 and "mcq_forget.jsonl" in done.out and "note:" in done.out


def test_mini_is_the_default_and_says_what_it_made(tmp_path, script, data, snapshot):
    done = script(SCRIPT, "--entities", 6, "--private-entities", 2, "--outdir", tmp_path / "out")
    assert done.code == 0 and f"{tmp_path / 'out'}/forget.txt: " in done.out
    made, known = snapshot(tmp_path / "out"), snapshot(data)
    assert set(made) == set(known) and all(
        made[n] == known[n] for n in made if not n.endswith(".run.json")
    )


# --- mistakes

F = "--forget-file={tmp}/f.txt"
MISTAKES = {
    "unknown source": (["--source=tofo"], "--source tofo: choose mini"),
    "unknown corpus": (
        ["--source=wmdp", "--forget-corpus=all", "{hub}"],
        "--forget-corpus all: choose",
    ),
    "one of two files": ([F], "belong together"),
    "files without files": (["--source=files"], "needs --forget-file"),
    "missing file": ([F, "--retain-file={tmp}/nowhere.txt"], "nowhere.txt not found"),
    "empty file": ([F, "--retain-file={tmp}/empty.txt"], "holds no text"),
    "binary file": ([F, "--retain-file={tmp}/binary.txt"], "not UTF-8"),
    "UTF-16 file": ([F, "--retain-file={tmp}/utf16.txt"], "not UTF-8"),
    "damaged JSONL": ([F, "--retain-file={tmp}/damaged.jsonl"], "line 2 is not JSON"),
    "too few entities": (["--entities=3"], "--entities.*greater than or equal to 4"),
    "too many entities": (["--entities=90000"], "--entities 90000"),
    "no such option": (["--entitees=3"], "No such option"),
    "no number": (["--entities=many"], "--entities.*integer"),
    "missing folder": (["--source=wmdp", "--wmdp-path={tmp}/nowhere"], "nowhere not found"),
    "empty folder": (["--source=wmdp", "--wmdp-path={tmp}/nothing"], "holds no .parquet"),
    "other columns": (
        ["--source=wmdp", "--wmdp-path={tmp}/headings"],
        "question, choices, answer wanted",
    ),
    "no rows": (["--source=wmdp", "--wmdp-path={tmp}/norows"], "has no rows|cannot be read"),
    "another configuration": (["--source=wmdp", "--wmdp-path={tmp}/chem"], "wmdp-bio"),
    "another split": (
        ["--source=wmdp", "--wmdp-path={tmp}/wmdp", "--wikitext-path={tmp}/splits"],
        "train",
    ),
    "choices as text": (
        ["--source=wmdp", "--wmdp-path={tmp}/csv", "--wikitext-path={tmp}/wikitext"],
        "choices",
    ),
    "damaged parquet": (["--source=wmdp", "--wmdp-path={tmp}/damaged"], "cannot be read"),
    "only headings": (
        ["--source=wmdp", "--wmdp-path={tmp}/wmdp", "--wikitext-path={tmp}/headings"],
        "longer than 50",
    ),
    "no hub": (["--source=wmdp"], "cannot be loaded from the hub|not found on the hub"),
    "output under a file": (["--outdir={tmp}/f.txt/out"], "not a folder"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_take_one_line_and_leave_nothing(
    mistake, hub_like, tmp_path, script, snapshot, caplog
):
    arguments, says = MISTAKES[mistake]
    (tmp_path / "f.txt").write_text("text\n")
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "binary.txt").write_bytes(bytes(range(256)))
    (tmp_path / "utf16.txt").write_text("text", encoding="utf-16")
    (tmp_path / "damaged.jsonl").write_text('{"text": "a"}\n{"text": \n')
    (tmp_path / "nothing").mkdir()
    write(tmp_path / "norows" / "test.parquet", {"question": [], "choices": [], "answer": []})
    for name in ("chem", "cyber"):
        write(
            tmp_path / "chem" / f"wmdp-{name}" / "test-00000-of-00001.parquet", questions(3, name)
        )
    for name in ("validation", "test"):
        write(
            tmp_path / "splits" / "wikitext-2-raw-v1" / f"{name}-00000-of-00001.parquet",
            wikitext(3),
        )
    write(tmp_path / "csv" / "test.csv", questions(3, "bio"))
    write(tmp_path / "headings" / "train.parquet", [{"text": " = Heading = "}])
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "test.parquet").write_bytes(b"PAR1 no more")
    before = snapshot(tmp_path)
    filled = [a.format(tmp=tmp_path, hub="") for a in arguments if a != "{hub}"] + (
        hub_like if "{hub}" in arguments else []
    )
    if not any("--outdir" in a for a in filled):
        filled.append(f"--outdir={tmp_path / 'out'}")
    done = script(SCRIPT, *filled)
    assert done.code == 2, done.out
    assert done.err.startswith("error: ") and done.err.count("\n") == 1 and len(done.err) < 500
    assert re.search(says, done.err) and not caplog.records
    assert snapshot(tmp_path) == before
    assert not (ROOT / "data" / "out").exists()
