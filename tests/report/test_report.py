"""The report: its numbers and words from synthetic CSVs, a new step without a code change, gaps
named, nothing fetched.
"""

import base64
import csv
import importlib.util
import itertools
import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest

from brittle.base import figures
from brittle.base.errors import UserError
from brittle.base.record import Run, why_run
from brittle.report import condense, no_twin
from brittle.report import verdict as verdict_module
from brittle.report.page import figures as page_figures
from brittle.report.page import png_axes, png_width, shown, uneven_axes
from brittle.report.page import table as page_table
from brittle.report.verdict import SAYS, headline, verdict

SCRIPT = Path(__file__).parents[2] / "experiment" / "report.py"
spec = importlib.util.spec_from_file_location("report", SCRIPT)
report = importlib.util.module_from_spec(spec)
spec.loader.exec_module(report)

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
TEXT = "step,scope,script,folder,output,extra,title,needs\n"
STEPS = TEXT + "\n".join(
    [
        "quiz,model,eval/harness.py,harness,accuracy.csv,,Quiz,",
        "back,all,eval/recovery.py,recovery,recovery.csv,,Recovery,",
        "1,comparison,experiment/collect_param_stats.py,param_stats,per_layer.csv,,Weights,",
        "last,all,experiment/report.py,,summary.csv,,Report,*",
    ]
)
VOID = {"meta", "img", "br", "wbr"}


class Checker(HTMLParser):
    """Every tag is closed in order; remembers ids, links and sources."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.sources = [], set(), set(), []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids.add(found.get("id"))
        self.links |= {found["href"]} if "href" in found else set()
        self.sources += [found["src"]] if "src" in found else []
        assert tag != "img" or found["alt"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def quiz(root, model, forget, retain=1.0, general=1.0):
    values = {"forget": forget, "retain": retain, "general": general}
    write(
        root / model / "harness" / "accuracy.csv",
        [
            {"task": f"mini_{s}", "split": s, "metric": m, "value": v if m == "acc" else 0.5}
            for s, v in values.items()
            for m in ("acc_norm", "acc")
        ],
    )
    write(
        root / model / "harness" / "samples.csv",
        [r for s, v in values.items() for r in answers(s, v)],
    )


def answers(split, share, entities=20, questions=25):
    """Answers of which `share` are right, one more about every other entity, one less about the
    next.
    """
    for entity in range(entities):
        right = round(share * questions) + (0 if share in (0, 1) else (-1) ** entity)
        for question in range(questions):
            yield {
                "task": f"mini_{split}",
                "item": entity * questions + question,
                "fact": f"{split}/{entity:03d}/a",
                "correct": int(question < right),
            }


def neutral(root, model, kl, change):
    """kl, change: (value, low, high) on neutral text."""
    ends = ("", "_low", "_high")
    row = {f"kl{end}": value for end, value in zip(ends, kl, strict=True)}
    row |= {f"nll_change{end}": value for end, value in zip(ends, change, strict=True)}
    path = root / f"base__to__{model}" / "neutral_text" / "neutral.csv"
    write(path, [{"texts": "neutral", "nll_a": 0.5, "nll_b": 0.5 + change[0], **row}])


def back(root, **found):
    """found: {model: (recovery, low, high)}."""
    write(
        root / "recovery" / "recovery.csv",
        [
            {
                "model": m,
                "recovery_over_filtered": r,
                "ci_low": low,
                "ci_high": high,
                "split_a_accuracy": 1.0,
                "step": 0 if m == "base" else 20,
            }
            for m, (r, low, high) in found.items()
        ],
    )
    (root / "recovery" / "tamper.png").write_bytes(PNG)


def weights(root, model, *matrices):
    rows = [
        dict(zip(("name", "dW_fro", "W_fro", "dW_stable_rank"), (f"m{i}", *m), strict=True))
        for i, m in enumerate(matrices)
    ]
    write(root / f"base__to__{model}" / "param_stats" / "per_matrix.csv", rows)
    write(
        root / f"base__to__{model}" / "param_stats" / "per_layer.csv",
        [{"layer": 0, "group": "mlp", "dW": matrices[0][0]}],
    )


@pytest.fixture
def root(tmp_path):
    (tmp_path / "steps.csv").write_text(STEPS)
    root = tmp_path / "out"
    for model, forget in (("base", 1.0), ("filtered", 0.26), ("cut", 0.28)):
        quiz(root, model, forget)
    back(root, base=(1, None, None), filtered=(-0.04, -0.1, 0.03), cut=(0.8, 0.7, 0.9))
    weights(root, "filtered", (6.0, 6.0, 4.0), (8.0, 8.0, 4.0))
    weights(root, "cut", (3.0, 30.0, 1.0), (4.0, 40.0, 2.0), (0.0, 10.0, ""))
    neutral(root, "filtered", (0.1, 0.09, 0.11), (0.0, -0.01, 0.01))
    neutral(root, "cut", (0.2, 0.15, 0.25), (0.1, 0.05, 0.15))
    return root


def run(root, *unlearned, **more):
    report.main(
        base="base",
        filtered="filtered",
        unlearned=list(unlearned or ["cut"]),
        root=root,
        **more,
        table=root.parent / "steps.csv",
    )
    text = (root / "report.html").read_text(encoding="utf-8")
    with open(root / "summary.csv", newline="") as file:
        return {row["model"]: row for row in csv.DictReader(file)}, text


def test_numbers_and_words(root):
    found, text = run(root)
    assert list(found) == ["base", "filtered", "cut"] and [r["role"] for r in found.values()] == [
        "base",
        "filtered",
        "unlearned",
    ]
    words = ("model", "role", "neutral_texts")
    cut = {k: float(v) for k, v in found["cut"].items() if v and k not in words}
    apart = [cut.pop(f"forget_difference_{end}") for end in ("low", "high")]
    assert apart == pytest.approx([0.02, 0.02], abs=0.03) and apart[0] <= apart[1]
    for split in ("retain", "general"):
        assert [cut.pop(f"{split}_difference_{end}") for end in ("low", "high")] == [0, 0]
    assert cut == pytest.approx(
        {
            "forget_accuracy": 0.28,
            "retain_accuracy": 1,
            "general_accuracy": 1,
            "neutral_nll": 0.6,
            "neutral_nll_change": 0.1,
            "neutral_nll_change_low": 0.05,
            "neutral_nll_change_high": 0.15,
            "neutral_kl": 0.2,
            "neutral_kl_low": 0.15,
            "neutral_kl_high": 0.25,
            "recovery_over_filtered": 0.8,
            "recovery_over_filtered_low": 0.7,
            "recovery_over_filtered_high": 0.9,
            "update_relative_norm": 5 / math.sqrt(2600),
            "update_stable_rank": (9 * 1 + 16 * 2) / 25,
        }
    )
    assert (
        float(found["filtered"]["update_relative_norm"]) == 1
        and found["base"]["update_relative_norm"] == ""
    )
    base = found["base"]
    assert float(base["recovery_over_filtered"]) == 1 and base["recovery_over_filtered_low"] == ""
    assert base["neutral_nll"] == "0.5" and base["neutral_kl"] == ""
    assert "1.00 <small>by definition</small>" in text and "0.20 <small>[0.15, 0.25]" in text
    assert (
        "<h1>cut only hid the forget facts</h1>" in text
        and "80% of half B (95 % interval 70% to 90%)" in text
    )
    assert "not measured" not in text


def test_what_is_so_by_definition_is_said_to_be():
    row = {"role": "base", "attack_step": 0, "recovery_over_filtered": 1.0}
    no_width = dict.fromkeys(("recovery_over_filtered_low", "recovery_over_filtered_high"))
    assert report.by_definition(row | no_width)
    assert report.by_definition(row | dict.fromkeys(no_width, 1.0))  # as older results have it
    for other in ({"role": "unlearned"}, {"attack_step": 20}, {"recovery_over_filtered": None}):
        assert not report.by_definition(row | no_width | other)
    wide = {"recovery_over_filtered_low": 0.9, "recovery_over_filtered_high": 1.0}
    assert not report.by_definition(row | wide)  # the other attack seeds moved it


def test_the_page_stands_alone(root):
    _, text = run(root)
    page = Checker(text)
    assert {link[1:] for link in page.links} <= page.ids and all(
        link.startswith("#") for link in page.links
    )
    assert page.sources and all(src.startswith("data:image/png;base64,") for src in page.sources)
    assert not re.search(r"https?://|<script|url\(|@import", text)
    assert "prefers-color-scheme:dark" in text and 'name="viewport"' in text


def test_what_is_missing_is_named_not_zero(root):
    (root / "recovery" / "recovery.csv").unlink()
    for name in ("accuracy.csv", "samples.csv"):
        (root / "cut" / "harness" / name).unlink()
    (root / "base__to__cut" / "param_stats" / "per_matrix.csv").unlink()
    (root / "base__to__cut" / "neutral_text" / "neutral.csv").unlink()
    found, text = run(root)
    assert {k for k, v in found["cut"].items() if v} == {"model", "role"}
    for step in ("quiz", "back", "1", "neutral"):
        assert f"not measured: run step {step}<" in text
    assert SAYS["inconclusive"].format("cut") in text
    command = json.loads((root / "summary.run.json").read_text())["command"]
    assert why_run(root / "summary.csv", command) is None
    quiz(root, "cut", 0.3)
    assert "is new" in why_run(root / "summary.csv", command)


def test_nothing_measured_at_all(tmp_path):
    (tmp_path / "steps.csv").write_text(STEPS)
    found, text = run(tmp_path / "out")
    assert len(found) == 3 and "not measured" in text and Checker(text)


def test_a_new_step_shows_up(root):
    (root.parent / "steps.csv").write_text(
        STEPS + "\n77,comparison,nowhere.py,shapes,shapes.csv,,Curious shapes,"
    )
    for model in ("filtered", "cut"):
        folder = root / f"base__to__{model}" / "shapes"
        write(
            folder / "shapes.csv",
            [{"layer": i, "split": "forget", "roundness": 12.25} for i in range(3)],
        )
        (folder / "shape.png").write_bytes(PNG)
    _, text = run(root)
    part = text[text.index('id="step-77"') :]
    assert (
        "Curious shapes" in part
        and part.count("<img") == 2
        and "base → filtered" in part
        and "12.2" in part
    )
    assert (
        text.index('id="step-back"')
        < text.index('id="step-quiz"')
        < text.index('id="step-1"')
        < text.index('id="step-77"')
    )
    assert 'id="step-last"' not in text


def test_other_modules_add_sections(root, monkeypatch):
    written, awaited = root / "sequential" / "x.csv", root / "filter" / "y.csv"
    write(written, [{"x": 1}])
    extra = SimpleNamespace(
        sections=lambda at: [("study", "A study", f"<p>of {at.name}</p>")],
        sources=lambda at: [written, awaited],
    )
    monkeypatch.setattr(report, "EXTRA", [extra])
    _, text = run(root)
    assert (
        'id="study"' in text
        and "<p>of out</p>" in text
        and text.index('id="study"') < text.index('id="how"')
    )
    record = json.loads((root / "summary.run.json").read_text())
    assert str(written) in record["inputs"] and str(awaited) in record["settings"]["absent"]
    write(awaited, [{"y": 1}])
    assert "is new" in why_run(root / "summary.csv", record["command"])


def test_names_are_escaped(root):
    quiz(root, "a<b>&c", 0.9)
    _, text = run(root, "a<b>&c")
    assert "a&lt;b&gt;&amp;c still knows" in text and Checker(text)


def model(
    forget=0.27, retain=1.0, general=1.0, found=(0.0, -0.1, 0.1), half_a=1.0, half=0.02, **more
):
    """A row of the summary; `half` the half width of its differences from Filtered and Base."""
    keys = ("recovery_over_filtered", "recovery_over_filtered_low", "recovery_over_filtered_high")
    row = {
        "forget_accuracy": forget,
        "retain_accuracy": retain,
        "general_accuracy": general,
        "split_a_accuracy": half_a,
    }
    for split, was in (("forget", 0.27), ("retain", 1.0), ("general", 1.0)):
        if half is not None and row[f"{split}_accuracy"] is not None:
            off = row[f"{split}_accuracy"] - was
            row |= {f"{split}_difference_low": off - half, f"{split}_difference_high": off + half}
    row |= more
    return row | dict(zip(keys, found, strict=True))


def moved(kl, change):
    """What the summary says of neutral text; kl, change: (value, low, high)."""
    ends = ("", "_low", "_high")
    row = {f"neutral_kl{end}": value for end, value in zip(ends, kl, strict=True)}
    return row | {f"neutral_nll_change{e}": v for e, v in zip(ends, change, strict=True)}


@pytest.mark.parametrize(
    "row, filtered, word",
    [
        (model(), model(), "removed"),
        (model(found=(0.8, 0.7, 0.9)), model(), "hidden"),
        (model(found=(0.3, 0.26, 0.4)), model(), "hidden"),
        (model(found=(0.3, 0.2, 0.4)), model(), "inconclusive"),
        (model(found=(0.8, None, None)), model(), "inconclusive"),
        (model(found=(None, None, None)), model(), "inconclusive"),
        (
            model(half_a=0.4),
            model(),
            "inconclusive",
        ),  # an attack that failed on A says nothing about B
        # relearning A teaches B
        (model(found=(0.8, 0.7, 0.9)), model(found=(0.2, 0.15, 0.3)), "inconclusive"),
        (model(found=(0.8, 0.7, 0.9)), model(found=(None, None, None)), "inconclusive"),
        (model(forget=0.5), model(), "kept"),
        (model(forget=None), model(), "inconclusive"),
        (model(retain=0.8), model(), "damaged"),
        (model(general=0.5, found=(0.8, 0.7, 0.9)), model(), "damaged"),
        # damage that was not measured at all is not ruled out
        (model(retain=None, general=None), model(), "inconclusive"),
        (
            model(retain=None, general=None, **moved((0.2, 0.1, 0.3), (0.1, 0.0, 0.2))),
            model(),
            "removed",
        ),
        # a word only where the whole interval lies on its side
        (model(forget=0.38), model(), "inconclusive"),
        (model(forget=0.36), model(), "inconclusive"),
        (model(forget=0.36, found=(0.8, 0.7, 0.9)), model(), "hidden"),
        (model(forget=0.5, half=None), model(), "inconclusive"),
        (model(retain=0.89), model(), "inconclusive"),
        (model(retain=0.91), model(), "inconclusive"),
        (model(general=0.89, found=(0.8, 0.7, 0.9)), model(), "hidden"),
        # neutral text: moved by more than a nat, and worse
        (model(**moved((1.3, 1.1, 1.5), (1.0, 0.8, 1.2))), model(), "damaged"),
        (model(**moved((1.3, 1.1, 1.5), (-1.0, -1.2, -0.8))), model(), "removed"),
        (model(**moved((1.05, 0.9, 1.2), (1.0, 0.8, 1.2))), model(), "inconclusive"),
        (model(**moved((0.5, 0.4, 0.6), (0.4, 0.3, 0.5))), model(), "removed"),
        (model(**moved((1.3, 1.1, 1.5), (0.1, -0.1, 0.3))), model(), "inconclusive"),
        (model(**moved((1.3, None, None), (1.0, None, None))), model(), "inconclusive"),
        # an end on the limit is not beyond it
        (model(**moved((1.2, 1.0, 1.4), (1.0, 0.8, 1.2))), model(), "inconclusive"),
        (model(**moved((0.8, 0.6, 1.0), (1.0, 0.8, 1.2))), model(), "removed"),
        (model(found=(0.3, 0.25, 0.4)), model(), "inconclusive"),
        (model(found=(0.2, 0.1, 0.25)), model(), "inconclusive"),
    ],
)
def test_verdict(row, filtered, word):
    found, reason = verdict(row, model(forget=1.0, found=(1, 1, 1)), filtered)
    assert found == word and reason and "None" not in reason


def test_an_undefined_recovery_says_why():
    """First use 11: "has no interval" was all that a recovery of −2.50 was told by."""
    ends = model(forget=1.0, found=(1, 1, 1)), model()
    attacked = verdict(model(found=(None, None, None)), *ends)[1]
    assert attacked.startswith("Base and Filtered do not differ clearly on half B, so its recovery")
    not_attacked = verdict(model(found=(None, None, None), half_a=None), *ends)[1]
    assert not_attacked.startswith("its recovery over Filtered is not known")


def test_an_accuracy_that_was_not_asked_is_no_step_to_run(root):
    """Data of one's own may have no general questions: running the harness does not help."""
    path = root / "cut" / "harness" / "accuracy.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line for line in lines if "general" not in line) + "\n")
    found, text = run(root)
    assert found["cut"]["general_accuracy"] == "" and ">not asked<" in text
    assert "not measured: run step quiz" not in text


def test_sides_of_a_limit():
    ends = {(0.2, 0.3): (True, False), (0.1, 0.3): (False, False), (0.0, 0.1): (False, True)}
    for (low, high), expected in ends.items():
        assert verdict_module.side_of(low, high, 0.1, "")[:2] == expected
    unknown = verdict_module.side_of(None, 0.3, 0.1, "moved")
    assert unknown == (False, False, "moved, without an interval")


def test_the_reason_says_everything_that_counts_against_a_model():
    base, filtered = model(forget=1.0, found=(1, 1, 1)), model()
    row = model(forget=0.6, retain=0.5, **moved((1.3, 1.1, 1.5), (1.0, 0.8, 1.2)))
    word, reason = verdict(row | {"neutral_nll": 1.5, "neutral_texts": "neutral"}, base, filtered)
    assert word == "kept"
    assert (
        "60% of the forget questions, where Filtered answers 27% (difference 31 to 35 p" in reason
    )
    assert "50% of the retain questions, where Base answers 100% (difference −52 to −48 p" in reason
    assert "neutral text moved by 1.30 nats a token from Base's (1.10 to 1.50)" in reason
    assert "its NLL there went from 0.50 to 1.50" in reason
    row |= {"neutral_texts": "retain"}
    assert "on retain text (there is no neutral one)" in verdict(row, base, filtered)[1]


def test_hidden_is_said_with_what_stays_open():
    row = model(found=(0.8, 0.7, 0.9), **moved((0.95, 0.86, 1.05), (1.0, 0.9, 1.1)))
    word, reason = verdict(row, model(forget=1.0, found=(1, 1, 1)), model())
    assert word == "hidden" and reason.startswith("relearning half A brought back 80%")
    assert "it is open whether it was damaged: its predictions on neutral text moved by" in reason


def test_headline_counts():
    verdicts = {"a": ("hidden", ""), "b": ("removed", ""), "c": ("hidden", "")}
    assert (
        headline(verdicts)
        == "The forget facts in 3 unlearned models: only hidden in 2, removed in 1"
    )


def measured(names, **places):
    """Rows: a name and every combination of the places; x is the sum of their numbers."""
    for name in range(names):
        for values in itertools.product(*places.values()):
            at = dict(zip(places, values, strict=True))
            x = name + sum(v for v in values if not isinstance(v, str))
            yield {"name": f"m{name}", **at, "x": x, "x_low": x - 1, "x_high": x + 1}


def test_condense_averages_over_names_and_repeats_alone(tmp_path):
    write(tmp_path / "t.csv", list(measured(8, split=("forget", "retain"), k=(1, 20), seed=(0, 2))))
    table = condense.condense({"": tmp_path}, "t.csv")
    # 3.5, the mean over names, with that over seeds, and k; ends of intervals are not averaged
    assert table == (
        ["split", "k", "x"],
        [
            ["forget", 1, 3.5 + 1 + 1],
            ["forget", 20, 3.5 + 1 + 20],
            ["retain", 1, 3.5 + 1 + 1],
            ["retain", 20, 3.5 + 1 + 20],
        ],
        64,
        "means over name, seed",
    )


def test_condense_never_averages_over_places(tmp_path):
    rows = list(measured(1, split=("a", "b"), layer=range(40)))
    for row in rows:
        row["dimension"] = 7 * row["layer"]
    write(tmp_path / "t.csv", rows)
    table = condense.condense({"": tmp_path}, "t.csv")
    # the last of forty layers, a row of the CSV with its interval
    assert table.columns == ["split", "layer", "x", "x_low", "x_high", "dimension"]
    assert table.rows == [["a", 39, 39, 38, 40, 273], ["b", 39, 39, 38, 40, 273]]
    assert table.note == "at the largest layer alone"
    # few values, too many lines: the place with the most gives way
    write(tmp_path / "t.csv", list(measured(9, layer=range(6), k=range(5), eps=(0, 1, 2))))
    table = condense.condense({"": tmp_path}, "t.csv")
    assert table.columns == ["k", "eps", "layer", "x"] and len(table.rows) == 15
    assert table.rows[0] == [0, 0, 5, 4.0 + 5]
    assert table.note == "means over name; at the largest layer alone"


def test_condense_shows_what_describes_rows_where_they_agree(tmp_path):
    rows = [{"name": f"m{i}", "n_texts": 500, "rank": i, "x": i} for i in range(70)]
    write(tmp_path / "t.csv", rows)
    table = condense.condense({"": tmp_path}, "t.csv")
    assert (table.columns, table.rows) == (["n_texts", "rank", "x"], [[500, None, 34.5]])


def test_condense_shows_a_small_csv_as_it_is(tmp_path):
    write(tmp_path / "t.csv", list(measured(1, layer=(0,), split=("forget", "retain"))))
    table = condense.condense({"A": tmp_path}, "t.csv")
    assert table.rows == [
        ["A", "m0", 0, "forget", 0, -1, 1],
        ["A", "m0", 0, "retain", 0, -1, 1],
    ]
    assert table.note == "" and condense.condense({"A": tmp_path}, "none.csv").rows == []


def drawn(folder, name, tops, reach=0.0):
    """A figure of panels that reach up to `tops`, as a step writes it."""
    fig, axes = figures.figure("A title", name, columns=len(tops))
    for number, (ax, top) in enumerate(zip(axes, tops, strict=True)):
        figures.line(ax, [0, 1], [0.0, top], "mlp")
        figures.finish(ax, "layer", f"c{number}", reach=reach)
    with Run(folder) as run:
        run.figure(fig, f"{name}.png")
        run.csv("t.csv", ["x"], [{"x": 1}])
    return folder / f"{name}.png", name, name


def test_figures_side_by_side_share_their_axes_or_say_that_they_differ(tmp_path, each_figure):
    pair = [drawn(tmp_path, "a", [1.2, 5.0], 1.41), drawn(tmp_path, "b", [0.08, 0.5], 1.41)]
    (label, low, high), _ = png_axes(pair[0][0].read_bytes())
    assert (label, low, high) == ("c0", 0, pytest.approx(1.06 * 1.41))
    assert png_axes(pair[1][0].read_bytes())[0][2] == high  # they share what both can reach
    assert uneven_axes(pair) == "These axes differ: c1 up to 5.3, 1.49."
    assert "These axes differ: c1" in page_figures(pair)
    assert uneven_axes(pair[:1]) == "" and uneven_axes([pair[0], pair[0]]) == ""
    assert uneven_axes([pair[0], drawn(tmp_path, "c", [1.0])]) == ""  # not the same figure
    assert png_axes(PNG) == png_axes(b"") == []


def test_controls_stand_beside_the_others_where_two_models_are_compared(root):
    weights(root, "tuned", (3.0, 30.0, 1.5), (4.0, 40.0, 2.5))
    rows, text = run(root, control=["tuned"])
    assert list(rows) == ["base", "filtered", "cut"]  # asked nothing, so no row of the first screen
    assert text.count("<strong>base → tuned</strong>") == 1 and "Controls: tuned." in text
    assert "Controls: " not in run(root)[1]


def test_a_column_that_is_empty_in_every_row_is_not_shown():
    columns = ["model", "chance", "gained", "said", "zero"]
    rows = [["a", None, None, "–", 0], ["b", "", 0.5, "–", 0]]
    heads = re.findall(r"<th[^>]*>([^<]*)</th>", page_table(columns, rows))
    assert heads == ["model", "gained", "said", "zero"]
    assert page_table(columns, rows).count("<td") == 8
    assert (
        page_table(columns, []).count("<th ") == 5
    )  # nothing is measured: the columns say of what


def test_png_width_and_numbers():
    assert png_width(PNG) == 1
    assert [shown(x) for x in ("3.0", 0.123456, "forget", "", 12, None, True)] == [
        "3",
        "0.123",
        "forget",
        "",
        "12",
        "",
        "True",
    ]


def test_the_real_list_of_steps_works(tmp_path):
    report.main(base="base", filtered="filtered", unlearned=["cut"], root=tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert Checker(text)
    # size and rank beside a training anew are no evidence: said where they stand
    caution = "beside it any fine-tune looks small and of low rank"
    assert caution in text and text.count(caution.capitalize()) == 2


def test_mistakes(root):
    with pytest.raises(UserError, match="once"):
        run(root, "base")
    (root / "recovery" / "recovery.run.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        run(root)


def test_no_heavy_import():
    heavy = "{'torch', 'pandas', 'matplotlib'} & set(sys.modules)"
    code = f"import sys, runpy; runpy.run_path({str(SCRIPT)!r}); print(sorted({heavy}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- without Filtered


def alone(forget=0.27, gained=(0.8, 0.7, 0.9), found=(0.85, 0.75, 0.95), **more):
    """A row of the summary where there is no Filtered; its differences are from Base, at 1.0."""
    row = model(forget=forget, found=(None, None, None))
    row |= {f"forget_difference_{e}": forget - 1 + d for e, d in (("low", -0.02), ("high", 0.02))}
    row |= {"chance": 0.25, "chance_of": "guessing", "never_seen_gained": None}
    for name, values in (("gained", gained), ("recovery_from_chance", found)):
        row |= {f"{name}{end}": v for end, v in zip(("", "_low", "_high"), values, strict=True)}
    return row | more


SEEN = {"chance_of": "Base on never-seen questions"}


@pytest.mark.parametrize(
    ("row", "word", "says"),
    [
        (alone(), "back", "raised half B by 80% of the way from chance to Base"),
        (alone(forget=0.93), "kept", "where Base answers 100%"),
        (alone(forget=0.89), "back", ""),
        (alone(retain_accuracy=0.5, retain_difference_low=-0.6, retain_difference_high=-0.4),
         "damaged", "retain questions"),
        # what was there before the attack did not come back by it
        (alone(gained=(0.0, 0.0, 0.0), found=(0.5, 0.4, 0.6)), "inconclusive", "no proof of"),
        (alone(gained=(0.3, 0.2, 0.4)), "inconclusive", "open whether it rose by more than 25%"),
        # from below chance up to it
        (alone(gained=(0.35, 0.3, 0.4), found=(0.1, 0.0, 0.2)), "inconclusive", ""),
        (alone(gained=(0, 0, 0), found=(0, 0, 0), split_a_accuracy=0.4), "inconclusive",
         "did not get beyond 40% on half A"),
        (alone(gained=(None,) * 3, found=(None,) * 3), "inconclusive", "its recovery is undefined"),
        (alone(gained=(None,) * 3, found=(None,) * 3, split_a_accuracy=None), "inconclusive",
         "its recovery from chance is not known"),
        (alone(**SEEN, never_seen_gained=0.3), "inconclusive", "rose by 30% as well"),
        (alone(**SEEN, never_seen_gained=0.02), "back", "never-seen questions rose by 2%"),
        (alone(**SEEN, never_seen_gained=-0.18), "back", "never-seen questions fell by 18%"),
        # without knowing what chance gives, nothing says that Base knew
        (alone(forget=1, chance=None, gained=(None,) * 3, found=(None,) * 3), "inconclusive", ""),
    ],
)  # fmt: skip
def test_the_verdict_without_filtered_has_fewer_words(row, word, says):
    base = model(forget=1.0, found=(None, None, None))
    found, reason = no_twin.verdict(row, base)
    assert (found, says in reason) == (word, True), reason
    assert "None" not in reason and found not in ("removed", "hidden")
    assert no_twin.SETTLES in reason
    assert (no_twin.CHEAPER in reason) == (row["chance_of"] == "guessing")


def test_base_that_never_knew_is_not_still_known():
    row = alone(forget=0.3, gained=(None,) * 3, found=(None,) * 3)
    row |= {"forget_difference_low": -0.02, "forget_difference_high": 0.02}
    assert no_twin.verdict(row, model(forget=0.3))[0] == "inconclusive"


def test_halves_that_were_drawn_are_said_to_be_assumed(root):
    record = {"settings": {"halves_drawn_over": "40 entities"}}
    by_path = {Path("base/tamper/tamper.run.json"): record, Path("x/harness/a.run.json"): {}}
    said = no_twin.assumed(by_path)
    assert "drawn by a fixed seed over 40 entities. That half A says nothing of half B is" in said
    record["settings"]["halves_drawn_over"] = None
    assert no_twin.assumed(by_path) == ""
    # with Filtered as without, on the first screen
    (root / "steps.csv").write_text(
        STEPS + "\ntamper,model,eval/tamper.py,tamper,tamper.csv,,Attack,"
    )
    record["settings"]["halves_drawn_over"] = "9 questions"
    rest = {"command": ["x"], "seconds": 1.0, "started": "2026", "git_commit": "", "code": {}}
    path = root / "cut" / "tamper" / "tamper.run.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(record | rest | {"inputs": {}, "versions": {}}))
    table = root / "steps.csv"
    report.main(base="base", filtered="filtered", unlearned=["cut"], root=root, table=table)
    first = (root / "report.html").read_text(encoding="utf-8").partition("<main>")[0]
    assert "over 9 questions. That half A says nothing of half B is assumed" in first


def test_the_page_without_filtered(root):
    row = {"recovery_from_chance": 0.9, "ci_low": 0.8, "ci_high": 1.0, "split_a_accuracy": 1.0}
    row |= {"gained": 0.8, "gained_low": 0.7, "gained_high": 0.9, "never_seen_gained": ""}
    row |= {"chance": 0.25, "chance_of": "guessing", "step": 20, "model": "cut"}
    of_base = {"model": "base", "recovery_from_chance": 1, "ci_low": "", "ci_high": "", "step": 0}
    write(root / "recovery" / "recovery.csv", [row | of_base, row])
    report.main(base="base", unlearned=["cut"], root=root, table=root.parent / "steps.csv")
    text = (root / "report.html").read_text(encoding="utf-8")
    with open(root / "summary.csv", newline="") as file:
        found = {line["model"]: line for line in csv.DictReader(file)}
    assert list(found) == ["base", "cut"] and found["cut"]["recovery_over_filtered"] == ""
    assert float(found["cut"]["recovery_from_chance"]) == 0.9
    low, high = (float(found["cut"][f"forget_difference_{end}"]) for end in ("low", "high"))
    assert low <= -0.72 <= high  # from Base
    assert "<h1>cut: relearning brings the forget facts back</h1>" in text and Checker(text)
    assert '<p class="chance">There is no model that never saw' in text
    assert '<th scope="col" class=number>recovery from chance</th>' in text
    assert "recovery over Filtered</th>" not in text and "base → filtered" not in text
    assert "chance (0.25: guessing)" in text and "Filtered is another training run" not in text
