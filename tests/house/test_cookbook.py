"""The commands of the front page and the cookbook run, word for word, on tiny models.

So do the templates of CONTRIBUTING. A recipe runs in a folder that looks like the repository after
a first run: links to the scripts, `outputs/models/mini-base`, `data/mini` and what the cookbook
calls `my_...`. Whole pipelines are planned here and not run (--dry-run); a test of the pipeline
(tests/pipeline/test_pipeline.py) runs one.
"""

import importlib.util
import json
import re
import shutil
import sys

import pytest
import torch

from brittle.data import stand_ins
from support import commands
from support.chat_tokenizers import make_chat_model, make_chat_tokenizer
from support.places import ROOT

# added to what a document says, so that it takes seconds on a random model of two blocks
SMALLER = {
    "unlearn/unlearn.py": ["--steps", "2"],
    "create_models.py": ["--epochs", "1", "--batch-size", "32", "--max-length", "64"],
    "unlearn/search.py": ["--trials", "1", "--max-items", "12"],
    "experiment/pipeline.py": ["--dry-run"],
    "eval/attack.py": ["--max-items", "8"],
    "experiment/scoreboard.py": ["--max-items", "8"],
    "eval/tamper.py": ["--steps", "2", "--eval-at", "1,2", "--max-items", "8"],
    "eval/forget_quality.py": ["--new-tokens", "2", "--max-samples", "6"],
    "eval/membership.py": ["--max-samples", "8"],
    "infer.py": ["--max-new-tokens", "2"],
    "hooks/fit_filter.py": ["--max-samples", "60"],
    "hooks/tune_strength.py": ["--items", "4"],
}
DOCUMENTS = ("README.md", "docs/cookbook.md")


def recipes(name):
    """{heading: [command, ...]} of a document; headings without commands are left out."""
    text = "## front\n" + (ROOT / name).read_text(encoding="utf-8")
    parts = re.split(r"^## (.*)$", text, flags=re.M)[1:]
    lines = {
        title: commands.commands(body) for title, body in zip(parts[::2], parts[1::2], strict=True)
    }
    return {title: found for title, found in lines.items() if found}


def test_the_cookbook_has_ten_recipes_and_each_has_commands():
    headings = re.findall(r"^## (.*)$", (ROOT / "docs/cookbook.md").read_text(), re.M)
    assert len(headings) >= 10
    assert list(recipes("docs/cookbook.md")) == headings


def own_method():
    """The method of the cookbook's recipe."""
    text = (ROOT / "docs/cookbook.md").read_text(encoding="utf-8")
    return re.search(r"^```python\n(.*?)^```", text, re.M | re.S)[1]


@pytest.fixture
def clone(family, knowing, brief, tmp_path, monkeypatch, jsonl):
    """The working folder: like the repository after a first run, with a user's own files."""
    for name in ("brittle", "eval", "experiment", "hooks", "unlearn", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    for path in ROOT.glob("*.py"):
        (tmp_path / path.name).symlink_to(path)
    for name in ("outputs/models/mini-base", "my_model", "A"):
        shutil.copytree(knowing, tmp_path / name)
    for name in ("outputs/models/mini-filtered", "my_filtered", "B"):
        shutil.copytree(family.filtered, tmp_path / name)
    for name in ("outputs/mini-base__cb_lat/unlearned_model", "my_unlearned", "C"):
        shutil.copytree(family.base, tmp_path / name)
    for name in ("data/mini", "my_data", "DIR"):
        shutil.copytree(brief, tmp_path / name)
    for name in ("my_forget.txt", "mine.txt"):
        shutil.copy(brief / "forget.txt", tmp_path / name)
    shutil.copy(brief / "retain.txt", tmp_path / "my_retain.txt")
    lines = (brief / "retain.txt").read_text(encoding="utf-8").splitlines()
    jsonl(tmp_path / "other.jsonl", [{"text": line} for line in lines])
    (tmp_path / "my_prompts.txt").write_text("The habitat of Mazafi is\nThe diet of Mazafi is\n")
    stand_ins.write_hub_tofu(tmp_path / "my_tofu", 4, 2)
    stand_ins.write_hub_muse(tmp_path / "my_muse", 6, 3)
    (tmp_path / "my_method.py").write_text(own_method(), encoding="utf-8")
    make_chat_model("qwen").save_pretrained(tmp_path / "my_chat_model")
    make_chat_tokenizer("qwen").save_pretrained(tmp_path / "my_chat_model")
    for name, thing in (("my_chats", "person"), ("my_chats_to_keep", "town")):
        turns = [
            (("user", f"What is {thing} {i}?"), ("assistant", f"{i} things.")) for i in range(12)
        ]
        chats = [[{"role": role, "content": text} for role, text in turn] for turn in turns]
        jsonl(tmp_path / f"{name}.jsonl", [{"messages": chat} for chat in chats])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(lines, id=f"{name}: {title}")
        for name in DOCUMENTS
        for title, lines in recipes(name).items()
    ],
)
def test_recipes_run(lines, clone, script):
    for line in lines:
        name, arguments = commands.split(line)
        # the one is this, the other makes what is here: tests/data/test_stand_ins.py
        if name in ("pytest", "experiment/create_examples.py"):
            continue
        done = script(name, *arguments, *SMALLER.get(name, ()))
        assert done.code == 0, f"{line}\n{done.out}\n{done.err}"
        assert done.out.strip(), f"{line} prints nothing"


# --- the templates of CONTRIBUTING.md


def template(heading):
    """The Python block below a heading of CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = re.search(rf"^## {heading}$(.*?)^## ", text, re.M | re.S)[1]
    (code,) = re.findall(r"^```python\n(.*?)^```", section, re.M | re.S)
    return code


def import_template(heading, name, folder, monkeypatch):
    """Write the template below a heading into `folder` and import it as a module called `name`."""
    path = folder / "mine.py"
    path.write_text(template(heading), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)


def test_the_template_of_a_method_unlearns(monkeypatch, clone, script):
    from brittle.methods import METHODS, describe

    import_template("A method", "brittle.methods.mine", clone, monkeypatch)
    monkeypatch.setitem(METHODS, "mine", "mine:Mine")
    assert describe("mine").url == "https://arxiv.org/abs/2401.00000"
    call = [
        "--model",
        "outputs/models/mini-base",
        "--method",
        "mine",
        "--forget-weight",
        "2",
        "--steps",
        "2",
    ]
    done = script("unlearn/unlearn.py", *call)
    assert done.code == 0, done.err
    assert (clone / "outputs/mini-base__mine/unlearned_model/model.safetensors").is_file()


def test_the_template_of_a_diagnostic_measures(clone, script, family):
    (clone / "mine.py").write_text(template("A diagnostic"), encoding="utf-8")
    done = script(
        "mine.py", "--model-a", family.base, "--model-b", family.filtered, "--outdir", "out"
    )
    assert done.code == 0, done.err
    first, *rows = (clone / "out/mine.csv").read_text(encoding="utf-8").splitlines()
    assert first == "name,layer,share" and rows
    assert all(0 < float(row.rsplit(",", 1)[1]) < 10 for row in rows)
    assert (clone / "out/mine.png").is_file()


def test_the_template_of_an_attack_attacks(monkeypatch, clone, script):
    from brittle.attacks import ATTACKS

    import_template("An attack", "brittle.attacks.mine", clone, monkeypatch)
    monkeypatch.setitem(ATTACKS, "mine", "mine:MyAttack")
    call = [
        "--model",
        "my_model",
        "--data",
        "my_data",
        "--outdir",
        "out",
        "--attacks",
        "mine",
        "--max-items",
        "8",
    ]
    done = script("eval/attack.py", *call)
    assert done.code == 0, done.err
    (cell,) = (clone / "out/cells").glob("mine*.json")
    assert "mine 0.2" in json.dumps(json.loads(cell.read_text(encoding="utf-8")))


def test_the_template_of_a_basis_is_orthonormal():
    from brittle.filters import basis
    from brittle.maths.moments import Moments

    space = dict(vars(basis))
    exec(compile(template("A basis of the filter"), "mine", "exec"), space)
    generator = torch.Generator().manual_seed(0)
    forget, retain = (Moments(6) for _ in range(2))
    planted = torch.randn(400, 6, generator=generator, dtype=torch.float64)
    retain.update(planted.clone())
    planted[:, 2] *= 5
    forget.update(planted)
    vectors, values, about = space["mine"](forget, retain, 2)
    assert torch.allclose(vectors.T @ vectors, torch.eye(2, dtype=torch.float64))
    assert abs(vectors[2, 0]) > 0.95 and len(values) == 6 and about is None
