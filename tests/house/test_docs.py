"""README and docs say what is true: commands parse, tables are current, links lead somewhere.

Every command in a fenced block is parsed by its script's own parser; none is run here.
tests/house/test_cookbook.py runs those of the front page and of the cookbook.
"""

import csv
import re
import runpy
import tomllib

import pytest

from brittle import LAYERS
from brittle.base.errors import UserError
from brittle.report import docs_tables, verdict
from support import commands
from support.places import ROOT

README = ROOT / "README.md"
PAGES = docs_tables.documents(ROOT)
COMMANDS = [
    pytest.param(line, id=f"{path.name}: {line}")
    for path in PAGES
    for line in commands.commands(path.read_text(encoding="utf-8"))
]


def name(path):
    return str(path.relative_to(ROOT))


def text_of(path):
    return path.read_text(encoding="utf-8")


def test_the_first_block_holds_the_two_commands_and_ci_runs_the_second():
    first, second = commands.blocks(text_of(README))[0].strip().splitlines()
    assert first == "./experiment/pipeline.sh"
    assert second == "uv run pytest"
    assert second in text_of(ROOT / ".ci/run").splitlines()


def test_the_front_page_is_short():
    assert len(text_of(README).splitlines()) <= 200


@pytest.mark.parametrize("page", [README, ROOT / "docs/glossary.md"], ids=name)
def test_every_verdict_is_explained(page):
    listed = re.findall(r"^- \*\*([\w ]+)\*\*:", text_of(page), re.M)
    assert set(verdict.WORDS.values()) <= set(listed)


def test_the_front_page_leads_to_every_page():
    for page in (ROOT / "docs").glob("*.md"):
        assert f"(docs/{page.name}" in text_of(README), page.name


# --- tables


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_tables_are_those_of_the_code(path):
    text = text_of(path)
    assert docs_tables.render(text) == text, "run: uv run python -m brittle.report.docs_tables"


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_no_table_stands_outside_marks(path):
    assert not stray_tables(text_of(path)), "every table is made by brittle/report/docs_tables.py"


def stray_tables(text):
    """The lines of Markdown tables outside the marks of docs_tables and outside fenced blocks."""
    text = docs_tables.MARKS.sub("", text)
    text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    return re.findall(r"^\s*\|.*|^.*\|\s*:?-{3,}.*", text, re.M)


def test_a_stray_table_is_seen():
    table = "| a | b |\n| --- | --- |\n| 1 | 2 |\n"
    assert len(stray_tables(f"text\n\n{table}")) == 3
    assert not stray_tables(f"<!-- begin methods -->\n{table}<!-- end methods -->\n")
    assert not stray_tables("`--wrapper regex|icl` is an option\n")


def test_every_table_is_used_and_every_mark_has_its_end():
    used = []
    for path in PAGES:
        text = text_of(path)
        begins = re.findall(r"<!-- begin ([\w -]+) -->", text)
        assert begins == [mark[0] for mark in docs_tables.MARKS.findall(text)], path
        used += begins
    assert sorted(set(used)) == sorted([*docs_tables.TABLES, *docs_tables.CSV_TABLES])


def test_a_csv_is_rendered_cell_by_cell(tmp_path, monkeypatch):
    (tmp_path / "planted.csv").write_text("model,x,x_low,x_high\nA,0.50,-0.25,1.00\nB|C,,,\n")
    monkeypatch.setattr(docs_tables, "DOCS", tmp_path)
    columns = {"model": "{model}", "x": "{x} [{x_low}, {x_high}]"}
    monkeypatch.setitem(docs_tables.CSV_TABLES, "planted", ("planted.csv", columns))
    assert docs_tables.table("planted").splitlines() == [
        "| model | x |",
        "| --- | --- |",
        "| A | .50 [-.25, 1.00] |",
        "| B\\|C | – |",
    ]
    old = "a\n<!-- begin planted -->\nold\n<!-- end planted -->\nz\n"
    new = docs_tables.render(old)
    assert new.startswith("a\n<!-- begin planted -->\n| model | x |\n") and new.endswith("-->\nz\n")


def test_every_measured_file_says_how_it_was_measured():
    listed = [row["file"] for row in docs_tables.read("measured/sources.csv")]
    lying = [p.name for p in (ROOT / "docs/measured").iterdir() if p.suffix in (".csv", ".png")]
    assert sorted(listed) == sorted(set(lying) - {"sources.csv"})
    assert all(row["command"] for row in docs_tables.read("measured/sources.csv"))


def test_the_map_of_folders_is_that_of_the_layers():
    names = [folder for _, folder, _, _ in docs_tables.folders()]
    assert names == " ".join(LAYERS).split()
    assert sorted(names) == sorted(p.parent.name for p in (ROOT / "brittle").glob("*/__init__.py"))


def test_the_reading_order_of_a_folder_is_read_in_both_forms():
    listed = "Things, in reading order.\n\n    a       one\n    b, c\n            two\n\nMore.\n"
    assert docs_tables.reading_order(listed) == "a, b, c"
    assert docs_tables.reading_order("Things.\n\nReading order: a, b\n(the big one), c.\n") == (
        "a, b (the big one), c."
    )
    assert docs_tables.reading_order("Things.\n") == ""


# --- the files beside them


def test_the_hooks_are_local_and_check_the_tables():
    text = text_of(ROOT / ".pre-commit-config.yaml")
    assert re.findall(r"- repo: (.*)", text) == ["local"]
    entries = re.findall(r"entry: (.*)", text)
    assert all(entry.startswith("uv ") for entry in entries)
    for part in ("ruff check", "ruff format", "brittle.report.docs_tables --check"):
        assert any(part in entry for entry in entries), part


def test_the_citation_names_the_version_that_is_built():
    project = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]
    citation = dict(re.findall(r"^([\w-]+): (.+)$", text_of(ROOT / "CITATION.cff"), re.M))
    same = {key: citation[key] for key in ("version", "license", "title")}
    assert same == {
        "version": project["version"],
        "license": project["license"],
        "title": project["name"],
    }


def test_the_check_of_tables_writes_nothing(tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text("<!-- begin first result -->\n<!-- end first result -->\n")
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    pages = [tmp_path / "README.md"]
    monkeypatch.setattr(docs_tables, "documents", lambda: pages)
    assert docs_tables.main(check=True) == 1
    assert len(text_of(pages[0]).splitlines()) == 2
    assert docs_tables.main(check=False) == 0
    assert docs_tables.main(check=True) == 0
    assert "cb_lat" in text_of(pages[0])


# --- commands


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_are_understood_by_their_scripts(line):
    check_command(line)


def check_command(line):
    """Raises where a script of ours would refuse the line, or where a file of it is missing."""
    script, arguments = commands.split(line)
    if script in commands.FOREIGN or "--isolated" in line:
        for word in arguments:
            assert not word.endswith((".py", ".yaml")) or (ROOT / word).is_file(), word
        return
    assert (ROOT / script).is_file(), script
    commands.parse(script, arguments)


@pytest.mark.parametrize(
    "line",
    [
        "uv run eval/nothing.py --model M",
        "uv run eval/harness.py --model M --outdir D --no-such-flag",
        "uv run eval/harness.py --model M --outdir",
        "uv run eval/harness.py --outdir D",
        "uv run eval/harness.py --model M --outdir D --batch-size many",
        "uv run eval/harness.py --model M --outdir D --batch-size 0",
        "uv run eval/harness.py --model M --outdir D stray",
        "uv run unlearn/unlearn.py --model M --method npo --beta many",
        "uv run unlearn/unlearn.py --model M --method npo --layer-id 3",
        "uv run unlearn/unlearn.py --model M --method nothing",
        "./experiment/pipeline.sh --bse A",
        "sbatch unlearn/slurm.sbatch --model M --method npo --steps x",
        "uv run accelerate launch --num_processes 4 unlearn/unlearn.py --model M",
    ],
)
def test_wrong_commands_are_not_understood(line):
    # typer may carry its own copy of click: all its errors derive from one class of that copy
    from brittle.base.command import ClickException

    with pytest.raises((ClickException, UserError, AssertionError)):
        check_command(line)


def test_commands_are_found_in_blocks():
    block = "uv run a.py \\\n  --x 1   # why\n# only a comment\nA=1 uv run b.py\n"
    text = f"```bash\n{block}```\n`uv run c.py`\n"
    found = [commands.split(line) for line in commands.commands(text)]
    assert found == [("a.py", ["--x", "1"]), ("b.py", [])]


# --- links and paths


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_links_lead_somewhere(path):
    text = re.sub(r"^```.*?^```", "", text_of(path), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("https://", "http://", "mailto:")):
            continue
        file, _, anchor = target.partition("#")
        page = (path.parent / file).resolve() if file else path
        assert page.exists(), target
        assert not anchor or anchor in anchors(page), target


def anchors(page):
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#{1,6} (.*)$", text_of(page), re.M)
    plain = [re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_paths_in_the_text_exist(path):
    pattern = r"`((?:brittle|experiment|eval|unlearn|tests|hooks|docs)/[\w./-]+)`"
    for place in set(re.findall(pattern, text_of(path))):
        if place.endswith("/mine.py"):  # what CONTRIBUTING's reader will write
            continue
        assert (ROOT / place).exists(), place


def test_scripts_start_with_the_question_they_answer():
    with open(ROOT / "experiment/steps.csv", newline="", encoding="utf-8") as file:
        scripts = {row["script"] for row in csv.DictReader(file)}
    for script in scripts:
        text = runpy.run_path(str(ROOT / script), run_name="docs")["__doc__"] or ""
        assert len(text.strip().splitlines()[0]) > 15, script
