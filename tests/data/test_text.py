"""Texts, batches and streams."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from brittle.base.errors import UserError
from brittle.data.batches import Stream, batches, by_length, encode, pad
from brittle.data.rows import answer_of
from brittle.data.texts import (
    read_jsonl,
    read_lines,
    read_texts,
    spread,
    write_jsonl,
    write_lines,
)
from brittle.training.mini import LengthStream
from support.tiny_models import make_tokenizer

IDS = [[1, 2, 3], [4], [5, 6], [7, 8, 9, 10], [11, 12], [13, 14, 15]]


def one_line(error):
    return "\n" not in str(error.value)


# --- files


def test_lines(tmp_path):
    path = tmp_path / "t.txt"
    path.write_bytes("\ufeff  one  \r\n\r\n\t\nzwei ä\u2028drei\n".encode())
    assert read_lines(path) == [
        "one",
        "zwei ä\u2028drei",
    ]  # only a line feed ends a line: other separators are text


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "not found"),
        (b"", "holds no text"),
        (b"\n \n\t\r\n", "holds no text"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "not UTF-8"),
        ("text in UTF-16".encode("utf-16"), "not UTF-8"),
        ("text in UTF-16".encode("utf-16-le"), "NUL"),
        ("caf\xe9".encode("latin-1"), "byte 3"),
        (b"a\0b", "NUL"),
    ],
)
def test_bad_files_are_named_in_one_line(tmp_path, content, says):
    path = tmp_path / "t.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=says) as error:
        read_lines(path)
    assert str(path) in str(error.value) and one_line(error)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        (
            "data/mini/nowhere.txt",
            r"nowhere.txt not found\. Make the mini data with: \S+ run create_datasets.py",
        ),
        (
            "data/mini/../mine/mcq_forget.jsonl",
            r"mcq_forget.jsonl not found\. It holds .*question, choices, answer \(index\) and, "
            r"for attacks, fact and half \(A or B\); see docs/data.md\.",
        ),
        ("mine/qa_forget.jsonl", "question and answer"),
        ("mine/forget.txt", r"Check the path; .* JSONL\.$"),
    ],
)
def test_a_missing_file_of_ones_own_is_not_the_mini_worlds(path, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data/mini").mkdir(parents=True)
    with pytest.raises(UserError, match=says) as error:
        read_lines(path)
    assert "mcq" not in path or "mini data" not in str(error.value)


def test_a_folder_is_no_text(tmp_path):
    with pytest.raises(UserError, match="is a folder"):
        read_lines(tmp_path)
    with pytest.raises(UserError, match="not found"):
        read_lines(tmp_path / "file.txt" / "below")


@pytest.mark.parametrize(
    ("row", "made"),
    [
        ({"text": "plain"}, "plain"),
        ("a string", "a string"),
        ({"question": "Q?", "answer": "yes"}, "Q? yes"),
        ({"question": "Q?", "choices": ["no", "yes"], "answer": 1}, "Q? yes"),
        ({"text": "wins", "question": "Q?", "answer": "yes"}, "wins"),
    ],
)
def test_jsonl_rows_that_are_texts(tmp_path, jsonl, row, made):
    jsonl(tmp_path / "t.jsonl", [row, {"text": "second"}, {"text": "third"}])
    assert read_texts(tmp_path / "t.jsonl")[:2] == [made, "second"]


@pytest.mark.parametrize(
    "row",
    [
        7,
        None,
        True,
        [],
        ["text"],
        {},
        {"text": 7},
        {"text": None},
        {"question": "Q?"},
        {"question": "Q?", "answer": None},
        {"question": "Q?", "choices": ["a", "b"], "answer": 2},
        {"question": "Q?", "choices": ["a", "b"], "answer": -1},
        {"question": "Q?", "choices": ["a", "b"], "answer": "a"},
        {"question": "Q?", "choices": ["a", "b"]},
        {"question": "Q?", "choices": None, "answer": 0},
    ],
)
def test_jsonl_rows_that_are_none(tmp_path, jsonl, row):
    jsonl(tmp_path / "t.jsonl", [{"text": "first"}, row])
    with pytest.raises(UserError, match="line 2"):
        read_texts(tmp_path / "t.jsonl")


def test_line_numbers_count_empty_lines(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"text": "a"}\n\n\nnot json\n')
    with pytest.raises(UserError, match="line 4 is not JSON"):
        read_texts(tmp_path / "t.jsonl")
    (tmp_path / "t.jsonl").write_text('{"a": 1, "b": 2}\n\n\n{"a": 1}\n')
    with pytest.raises(UserError, match="line 4 lacks b"):
        read_jsonl(tmp_path / "t.jsonl", ("a", "b"))
    with pytest.raises(UserError, match="line 4 has neither"):
        (tmp_path / "t.jsonl").write_text('{"text": "a"}\n\n\n{"a": 1}\n')
        read_texts(tmp_path / "t.jsonl")


def test_json_that_is_not_jsonl(tmp_path):
    for content in (json.dumps([{"text": "a"}]), json.dumps([{"text": "a"}], indent=1)):
        (tmp_path / "t.json").write_text(content)
        with pytest.raises(UserError, match="line 1"):
            read_texts(tmp_path / "t.json")


def test_written_lines_are_read_back(tmp_path):
    """One text a line whatever it holds; JSONL keeps every character."""
    odd = ["plain", "two\nlines", "  spaces \t tabs ", "ä 漢字 🙂", "carriage\rreturn"]
    write_lines(tmp_path / "t.txt", odd)
    assert read_lines(tmp_path / "t.txt") == [" ".join(line.split()) for line in odd]
    write_jsonl(tmp_path / "t.jsonl", [{"text": line} for line in odd])
    assert read_texts(tmp_path / "t.jsonl") == odd


# --- tokens


def test_encode_says_what_it_cuts(capsys):
    tokenizer = make_tokenizer()
    ids = encode(tokenizer, ["w1 w2 w3 w4", "w1 w2"], 3, "forget texts")
    assert [len(i) for i in ids] == [3, 2]
    assert "1 of 2 forget texts" in capsys.readouterr().err
    assert encode(tokenizer, ["w1 w2"], 3) == [ids[0][:2]] and capsys.readouterr().err == ""
    with pytest.raises(UserError, match="no tokens to predict"):
        encode(tokenizer, ["w1", ""], 8)


def test_pad():
    batch = pad([[1, 2, 3], [4]], 0, index=[7, 9])
    assert batch["input_ids"].tolist() == [[1, 2, 3], [4, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert (batch.n_tokens, batch.n_targets, batch.index.tolist()) == (4, 2, [7, 9])


@pytest.mark.parametrize("size", [1, 2, 4, 100])
def test_batches_hold_every_text_once_sorted_by_length(size):
    seen = []
    for indices, batch in batches(IDS, 0, size):
        assert len(indices) <= size
        rows = [
            [t for t, m in zip(r, k, strict=True) if m]
            for r, k in zip(*(v.tolist() for v in batch.values()), strict=True)
        ]
        assert rows == [IDS[i] for i in indices] and batch.index.tolist() == indices
        seen += indices
    assert sorted(seen) == list(range(len(IDS)))
    assert [len(IDS[i]) for i in seen] == sorted(map(len, IDS))


# --- streams

STREAMS = [Stream, LengthStream]


def test_a_list_holds_as_many_tokens_as_it_may_padding_included():
    ids = [[1] * length for length in (3, 6, 13, 3, 5)]
    assert by_length(ids, 9, 12) == [[0, 3], [4, 1], [2]]  # three of 5 are 15, two of 6 are 12
    assert by_length(ids, 9, 15) == [[0, 3, 4], [1], [2]] and by_length(ids, 9, 1) == [
        [0],
        [3],
        [4],
        [1],
        [2],
    ]


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("size", [1, 4, 6, 7])
def test_every_epoch_is_a_permutation(kind, size):
    """`size` steps of `size` examples over n texts: after n steps each text was drawn `size`
    times.
    """
    stream = kind(IDS, 0, size, seed=5)
    drawn = [i for step in range(len(IDS)) for b in stream.batches(step) for i in b.index.tolist()]
    for epoch in range(size):
        assert sorted(drawn[epoch * len(IDS) : (epoch + 1) * len(IDS)]) == list(range(len(IDS)))
    assert len({tuple(stream.order(epoch)) for epoch in range(20)}) > 1


@pytest.mark.parametrize("kind", STREAMS)
def test_a_step_depends_on_seed_and_number_alone(kind):
    """So a resumed run goes on exactly where it stopped, whatever was drawn before."""
    ids = [[i, i + 1] * (1 + i % 5) for i in range(50)]
    first, second = (kind(ids, 0, 8, seed=3) for _ in range(2))
    forwards = [first.batches(s)[0]["input_ids"] for s in range(10)]
    backwards = [second.batches(s)[0]["input_ids"] for s in reversed(range(10))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(forwards, backwards, strict=True))
    other = kind(ids, 0, 8, seed=4)
    assert any(
        first.batches(s)[0].index.tolist() != other.batches(s)[0].index.tolist() for s in range(3)
    )


def test_global_random_state_is_neither_read_nor_moved():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    drawn = Stream(IDS, 0, 4, seed=1).batches(3)[0].index
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert torch.equal(Stream(IDS, 0, 4, seed=1).batches(3)[0].index, drawn)


@pytest.mark.parametrize("micro", [1, 2, 4])
def test_micro_batches_are_the_large_batch_in_parts(micro):
    """The same examples, and counts that make the mean of the parts' losses the loss of the
    whole.
    """
    (whole,) = Stream(IDS, 0, 4, seed=2).batches(5)
    parts = Stream(IDS, 0, 4 // micro, micro, seed=2).batches(5)
    assert [i for b in parts for i in b.index.tolist()] == whole.index.tolist()
    assert sum(b["attention_mask"].sum() / b.n_tokens for b in parts) / micro == pytest.approx(1)
    assert {b.n_tokens for b in parts} == {whole.n_tokens / micro}
    assert {b.n_targets for b in parts} == {whole.n_targets / micro}
    lengths = [len(IDS[i]) for i in whole.index.tolist()]
    assert whole.n_tokens == sum(lengths)
    assert whole.n_targets == sum(length - 1 for length in lengths)


def test_length_stream_pads_little():
    """Windows sorted by length: much less padding than a plain permutation, and no batch straddles
    two lengths for long.
    """
    generator = torch.Generator().manual_seed(0)
    ids = [[1] * n for n in torch.randint(2, 40, (500,), generator=generator).tolist()]

    def padding(stream):
        masks = [stream.batches(step)[0]["attention_mask"] for step in range(len(ids) // 16)]
        return sum(int((1 - m).sum()) for m in masks) / sum(m.numel() for m in masks)

    assert padding(LengthStream(ids, 0, 16)) < padding(Stream(ids, 0, 16)) / 3


def test_length_stream_shuffles_its_batches():
    """Sorted within windows, but not short texts first: the mean length of the first half of an
    epoch is the second's.
    """
    ids = [[1] * (2 + i % 37) for i in range(2000)]
    order = LengthStream(ids, 0, 16).order(0)
    lengths = Counter()
    for place, i in enumerate(order):
        lengths[place < 1000] += len(ids[i])
    assert abs(lengths[True] / lengths[False] - 1) < 0.1


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ({"answer": "delta"}, "delta"),
        ({"answer": 1, "choices": ["reef", "delta"]}, "delta"),
        ({"answer": "delta", "choices": ["reef", "delta"]}, "delta"),
        ({"answer": 2, "choices": ["reef", "delta"]}, None),
        ({"answer": -1, "choices": ["reef", "delta"]}, None),
        ({"answer": 1}, None),
        ({}, None),
    ],
)
def test_the_answer_of_a_row(row, answer):
    assert answer_of(row) == answer


def test_rows_are_spread_evenly():
    rows = list(range(10))
    for most in range(1, 10):
        # one of each stretch of equal length, and so each once, in order
        stretches = [(i * 10 // most, (i + 1) * 10 // most) for i in range(most)]
        for number, (start, end) in zip(spread(rows, most), stretches, strict=True):
            assert start <= number < end
    assert spread("abc", 3) == "abc" and spread([1, 2], None) == [1, 2]
    assert spread(rows, 4) == spread(rows, 4)


def test_a_sample_does_not_fall_together_with_a_period_of_the_file():
    """Every sixth of six lines a fact was the same template of every fact."""
    templates = [line % 6 for line in spread(range(6 * 100), 100)]
    assert min(templates.count(template) for template in range(6)) >= 5


CHAT = '<|im_start|>user\n  Who?<|im_end|>\n<|im_start|>assistant\nä "7"\n'


def test_line_feeds_inside_a_text_survive(tmp_path):
    texts = [CHAT, "plain", '"a quoted line"', "tex \\nabla", '"\\nabla"']
    write_lines(tmp_path / "t.txt", texts, line_feeds=True)
    assert len((tmp_path / "t.txt").read_text(encoding="utf-8").splitlines()) == len(texts)
    # what is no JSON string with a line feed in it is the line itself
    assert read_texts(tmp_path / "t.txt")[:4] == texts[:4]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"perturbed_answer": "Paris"}, "perturbed_answer must be a list of texts"),
        ({"perturbed_answer": ["Paris", 3]}, "perturbed_answer must be a list of texts"),
        ({"pool": "red"}, "pool must be a list of texts"),
        ({"choices": "ab"}, "choices must be a list of texts"),
        ({"answer": ["Paris"]}, "answer must be text"),
        ({"answer": 7}, "answer must be text"),
        ({"answer": None}, "answer must be text"),
        ({"paraphrased_question": ["Q?"]}, "paraphrased_question must be text"),
    ],
)
def test_text_is_no_list_and_a_list_is_no_text(tmp_path, jsonl, row, says):
    good = {"question": "Q?", "answer": "a", "perturbed_answer": ["b"], "paraphrased_answer": None}
    jsonl(tmp_path / "t.jsonl", [good, {**good, **row}])
    with pytest.raises(UserError, match=f"line 2: {says}") as error:
        read_jsonl(tmp_path / "t.jsonl", ("question", "answer"))
    assert one_line(error)
