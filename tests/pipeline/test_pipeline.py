"""The pipeline: what runs, why, in which order; and that nothing half-written ever counts as
done.
"""

import csv
import glob
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from brittle.base.errors import UserError
from brittle.base.record import record_path
from brittle.pipeline import given, runner, steps
from support.places import ROOT
from support.processes import Child

PIPELINE = "experiment/pipeline.py"
pytestmark = pytest.mark.usefixtures("imported")

# --- the runner, on scripts that do next to nothing

SCRIPT = """
import os, sys, time
sys.path.insert(0, {root!r})
from brittle.base.record import Run
name, inputs, behaviour = sys.argv[1], sys.argv[2].split(","), sys.argv[3]
with Run(os.path.join("out", name), [i for i in inputs if i]) as run:
    with open("log", "a") as log:
        log.write(name + "\\n")
    if os.path.exists("fail_" + name):
        print("error: told to fail", file=sys.stderr)
        sys.exit(3)
    if behaviour == "slow":
        time.sleep(30)
    run.csv("x.csv", ["text"], [dict(text="".join(open(i).read() for i in inputs if i))])
"""


@pytest.fixture
def steps_of(tmp_path, monkeypatch):
    """Make tasks {name: (inputs, needs)} out of a script that copies its inputs into
    out/<name>/x.csv.
    """
    monkeypatch.chdir(tmp_path)
    Path("step.py").write_text(SCRIPT.format(root=str(ROOT)))
    for name in ("left", "right"):
        Path(f"{name}.txt").write_text(name)

    def make(table, behaviour="quick"):
        return [
            steps.Task(
                name,
                name,
                name,
                ["step.py", name, ",".join(inputs), behaviour],
                Path("out") / name / "x.csv",
                needs,
            )
            for name, (inputs, needs) in table.items()
        ]

    return make


DIAMOND = {
    "a": (["left.txt"], []),
    "b": (["out/a/x.csv"], ["a"]),
    "c": (["right.txt"], []),
    "d": (["out/b/x.csv", "out/c/x.csv"], ["b", "c"]),
    "e": ([], []),
}


def ran():
    """What has run since the last time this was asked."""
    path = Path("log")
    names = path.read_text().split() if path.exists() else []
    path.unlink(missing_ok=True)
    return names


def go(tasks, **options):
    return runner.run(tasks, Path("out"), **options)


def test_everything_runs_once_in_order(steps_of, capsys):
    assert go(steps_of(DIAMOND)) == 0
    names = ran()
    assert sorted(names) == list("abcde") and names.index("a") < names.index("b") < names.index(
        "d"
    ) > names.index("c")
    assert "5 ran" in capsys.readouterr().out
    assert go(steps_of(DIAMOND)) == 0 and ran() == []
    out = capsys.readouterr().out
    assert "5 skipped" in out and "loading libraries" not in out  # nothing to do costs no imports


@pytest.mark.parametrize(
    ("change", "again", "reason"),
    [
        (lambda: Path("left.txt").write_text("LEFT"), "abd", "left.txt changed"),
        (lambda: Path("right.txt").write_text("RIGHT"), "cd", "right.txt changed"),
        (lambda: os.utime("left.txt", (1, 1)), "", None),
        (
            lambda: shutil.rmtree("out/c"),
            "c",
            "no output yet",
        ),  # made again with the same bytes: d has nothing to do
        (lambda: os.truncate("out/b/x.csv", 3), "b", "x.csv is not what was written"),
        (lambda: os.truncate("out/b/x.run.json", 3), "b", "no record of how it was made"),
        (
            lambda: Path("step.py").write_text(SCRIPT.format(root=str(ROOT)) + "\n# changed\n"),
            "abcde",
            "made by older code: step.py",
        ),
    ],
)
def test_a_change_runs_exactly_what_reads_it(steps_of, capsys, change, again, reason):
    go(steps_of(DIAMOND))
    before = {p: p.read_bytes() for p in Path("out").rglob("x.csv")}
    ran()
    capsys.readouterr()
    change()
    plan = go(steps_of(DIAMOND), dry_run=True)
    planned = capsys.readouterr().out
    assert plan == 0 and ran() == []
    assert reason is None or reason in planned
    assert go(steps_of(DIAMOND)) == 0
    assert "".join(sorted(ran())) == again
    assert go(steps_of(DIAMOND)) == 0 and ran() == []
    if "txt" not in (reason or ""):
        assert {p: p.read_bytes() for p in Path("out").rglob("x.csv")} == before


def test_force_runs_everything_and_dry_run_touches_nothing(steps_of, snapshot, capsys):
    tasks = steps_of(DIAMOND)
    assert go(tasks, dry_run=True) == 0 and not Path("out").exists() and ran() == []
    assert capsys.readouterr().out.count("no output yet") == 5
    go(tasks)
    ran()
    before = snapshot(".")
    assert go(tasks, dry_run=True, force=True) == 0 and snapshot(".") == before
    assert capsys.readouterr().out.count("--force") == 5
    assert go(tasks, force=True) == 0 and sorted(ran()) == list("abcde")


def test_a_failure_is_named_and_independent_steps_go_on(steps_of, capsys):
    Path("fail_a").touch()
    tasks = steps_of(DIAMOND)
    report = steps.Task(
        "report",
        "report",
        "",
        ["step.py", "report", "", "quick"],
        Path("out/report/x.csv"),
        list("abcde"),
    )
    report.takes_what_there_is = True
    assert go([*tasks, report]) == 1
    assert sorted(ran()) == ["a", "c", "e", "report"]
    out = capsys.readouterr().out
    assert re.search(r"✗ a .*exit 3: error: told to fail \(log: out/logs/a\.log\)", out)
    assert "a failed" in out and "3 ran, 1 failed, 2 blocked" in out
    Path("fail_a").unlink()
    assert go([*tasks, report]) == 0 and sorted(ran()) == ["a", "b", "d"]


def test_a_script_that_writes_nothing_has_failed(steps_of, capsys):
    task = steps_of({"a": ([], [])})[0]
    task.output = Path("out/a/other.csv")
    assert go([task]) == 1 and "it ended without out/a/other.csv" in capsys.readouterr().out


def test_a_script_that_is_not_there_has_failed(steps_of, capsys):
    task = steps_of({"a": ([], [])})[0]
    task.command[0] = "nowhere.py"
    assert go([task]) == 1 and "nowhere.py" in capsys.readouterr().out


def test_one_at_a_time_and_side_by_side(steps_of):
    for jobs in (1, 5):
        assert go(steps_of(DIAMOND), force=True, jobs=jobs) == 0 and sorted(ran()) == list("abcde")


def test_two_pipelines_in_one_root(steps_of):
    with (
        runner.only_one(Path("out")),
        pytest.raises(UserError, match="another pipeline is running in out"),
    ):
        go(steps_of(DIAMOND))
    assert go(steps_of(DIAMOND)) == 0


def test_root_under_a_file(steps_of, snapshot):
    Path("file").touch()
    before = snapshot(".")
    for root in ("file", "file/below"):
        with pytest.raises(UserError, match="not a folder"):
            runner.run(steps_of(DIAMOND), Path(root))
    assert snapshot(".") == before


# --- presets


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "choose deep-ignorance, injected, mini"),
        (b"base = ", "is no preset"),
        (b"\xff\xfe", "is no preset"),
        (b'base = "a"\n', "is no preset: .*missing"),
        (
            b'base="a"\nfiltered="b"\nunlearned=[]\nmethod="m"\ndata="d"\nroot="r"\nsteps=3\n',
            "is no preset: .*steps",
        ),
        (b'base=1\nfiltered="b"\nunlearned=[]\nmethod="m"\ndata="d"\nroot="r"\n', "are texts"),
        (b'base="a"\nfiltered="b"\nunlearned=[1]\nmethod="m"\ndata="d"\nroot="r"\n', "are texts"),
        (
            b'base="a"\nfiltered="b"\nunlearned=[]\nmethod="m"\ndata="d"\nroot="r"\n'
            b'[arguments]\n"x.py" = ["--y"]\n',
            "are texts",
        ),
    ],
)
def test_presets_that_are_none(tmp_path, content, says):
    path = tmp_path / "p.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=says) as error:
        steps.read_study(str(path))
    assert "\n" not in str(error.value)


def test_hub_preset_makes_no_models(tmp_path):
    """deep-ignorance differs from mini in models and data: the same diagnostics of the same two
    comparisons.
    """
    rows = steps.read_steps()
    made = {name: steps.tasks(steps.read_study(name), rows) for name in ("mini", "deep-ignorance")}
    scopes = {row["step"]: row["scope"] for row in rows}
    assert {t.step for t in made["deep-ignorance"]} == {t.step for t in made["mini"]} - {
        "base",
        "filtered",
        "unlearn",
    }
    count = {
        name: sum(scopes[t.step] in ("comparison", "model", "all") for t in tasks)
        for name, tasks in made.items()
    }
    assert count["mini"] == count["deep-ignorance"]
    assert all(".." not in str(t.output) for t in made["deep-ignorance"])


def test_given_models_are_not_made():
    rows = steps.read_steps()
    chosen = steps.override(
        steps.read_study("mini"), base="my/base", unlearned=["my/one", "my/two"], root="elsewhere"
    )
    tasks = steps.tasks(chosen, rows)
    assert not {"base", "unlearn"} & {t.step for t in tasks} and "filtered" in {
        t.step for t in tasks
    }
    compared = {(t.command[2], t.command[4]) for t in tasks if t.step == "1"}
    assert compared == {
        ("my/base", "elsewhere/models/mini-filtered"),
        ("my/base", "my/one"),
        ("my/base", "my/two"),
    }
    assert all(str(t.output).startswith(("elsewhere/", "data/")) for t in tasks)


def test_another_method_is_another_model():
    rows = steps.read_steps()
    tasks = steps.tasks(steps.override(steps.read_study("mini"), method="npo"), rows)
    (made,) = [t for t in tasks if t.step == "unlearn"]
    assert str(made.output.parent) == "outputs/mini-base__npo/unlearned_model"
    assert made.name in next(t.needs for t in tasks if t.step == "4" and "npo" in t.name)


def test_controls_are_compared_with_base_and_not_attacked():
    study = steps.read_study("mini")
    assert not [t for t in steps.tasks(study, steps.read_steps()) if t.step == "finetuned"]
    study.makes = (*study.makes, "control")
    tasks = {t.name: t for t in steps.tasks(study, steps.read_steps())}
    for control in ("finetuned", "added"):
        made, name = tasks[control], f"mini-base__{control}"
        assert "unlearn" in made.needs and f"outputs/{name}/" in str(made.output)
        assert made.command[made.command.index("--like") + 1] == study.unlearned[0]
        assert control in tasks[f"7 {name}"].needs and f"tamper {name}" not in tasks
        assert f"outputs/{name}/unlearned_model" in tasks["report"].command
    assert tasks["report"].command.count("--control") == 2
    assert not [part for part in tasks["recovery"].command if "finetuned" in part]


def test_a_control_without_texts_is_left_out(tmp_path):
    rows = steps.read_steps()
    assert given.with_controls(rows, None) == (rows, [])
    kept, (note,) = given.with_controls(rows, str(tmp_path))
    assert note == f"note: {tmp_path} has no holdout.txt: the control added is left out."
    assert {row["step"] for row in rows} - {row["step"] for row in kept} == {"added"}
    with pytest.raises(UserError, match="--controls: a control is trained on texts"):
        given.with_controls(rows, "")


def test_two_models_of_one_name_would_mix_their_results():
    chosen = steps.override(steps.read_study("mini"), base="/one/model", filtered="/two/model")
    with pytest.raises(UserError, match="two of the models are called model"):
        steps.tasks(chosen, steps.read_steps())


def test_another_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="repository's root"):
        steps.read_steps()


# --- the whole study, tiny

ARGUMENTS = {
    "create_datasets.py": "--entities 5 --private-entities 1",
    "create_models.py": "--steps 6 --hidden-size 32 --layers 2 --batch-size 16",
    "unlearn/unlearn.py": "--steps 4 --batch-size 4 --layer-id 1 --lat-layer 0",
    "eval/tamper.py": "--steps 4 --eval-at 2 --lr 1e-3 --max-items 10",
}
LESS = {  # {parameter of a script: arguments where it is read}
    "max_samples": "--max-samples 16",
    "max_questions": "--max-questions 24",
    "folds": "--folds 2",
    "train_steps": "--train-steps 4",
    "perturbations": "--num-perturbations 2",
    "iterations": "--iterations 1",
    "limit": "--limit 20",
    "points": "--points 3",
}


def preset(place, **changes):
    """A preset file for the whole pipeline below `place`, at a size that takes seconds."""
    given = {
        "base": f"{place}/out/models/mini-base",
        "filtered": f"{place}/out/models/mini-filtered",
        "unlearned": [],
        "method": "cb_lat",
        "data": f"{place}/data",
        "root": f"{place}/out",
        "makes": ["data", "family", "unlearn"],
        **changes,
    }
    arguments = {**ARGUMENTS, **less_work()}
    lines = [f"{key} = {value!r}" for key, value in given.items()]
    lines += ["[arguments]", *(f'"{script}" = "{text}"' for script, text in arguments.items())]
    path = Path(f"{place}.toml")
    path.write_text("\n".join(lines).replace("'", '"'))
    return path


def less_work():
    """{script: arguments} for every other script, of those of LESS that its `main` has."""
    chosen, unread = {}, set(LESS)
    for script in {row["script"] for row in steps.read_steps()} - set(ARGUMENTS):
        main = (ROOT / script).read_text().partition("\ndef main(")[2]
        read = {name for name in LESS if f"\n    {name}: " in main}
        chosen[script] = " ".join(LESS[name] for name in LESS if name in read)
        unread -= read
    assert not unread  # a parameter that was renamed would be at its default
    return dict(sorted(chosen.items()))


def pipeline(place, log, *more, **environment):
    return Child([PIPELINE, "--preset", str(preset(place)), *more], log, environment)


def results_of(place):
    """All that is read as a result: tables, texts, weights. Not records (times) and logs."""
    found = [
        p for p in Path(place).rglob("*") if p.suffix in (".csv", ".txt", ".jsonl", ".safetensors")
    ]
    return {str(p.relative_to(place)): p.read_bytes() for p in sorted(found)}


@pytest.fixture(scope="module")
def quick():
    """Half of the time of so small a study is drawing and the start of lm-eval: no figure is drawn,
    lm-eval is there.
    """
    import lm_eval
    from lm_eval.models.huggingface import HFLM  # noqa: F401
    from matplotlib.figure import Figure

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda _, path, **__: Path(path).write_bytes(b"a figure"))
        yield lm_eval


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, quick):
    """(folder, seconds) of the whole pipeline run once, with tokens in the environment."""
    place = tmp_path_factory.mktemp("study") / "undisturbed"
    started = time.time()
    done = pipeline(
        place,
        place.parent / "log",
        HF_TOKEN="hf_sentinel_token",
        WANDB_API_KEY="wandb_sentinel_key",
    ).wait(600)
    assert done.code == 0, done.out + done.err
    return place, time.time() - started


def test_every_step_has_its_output(undisturbed):
    place, _ = undisturbed
    tasks = steps.tasks(steps.read_study(str(preset(place))), steps.read_steps())
    for task in tasks:
        assert task.why() is None, (task.name, task.why())
    for path in (place / "out").rglob("*.csv"):
        with open(path, newline="", encoding="utf-8") as file:
            assert list(csv.DictReader(file)), f"{path} has no row"


def test_every_step_says_its_result_or_where_it_is(undisturbed):
    """First use 17: some commands ended with nothing but a progress bar."""
    place, _ = undisturbed
    for task in steps.tasks(steps.read_study(str(preset(place))), steps.read_steps()):
        said = [
            line
            for line in log_of(place / "out", task).splitlines()
            if str(task.output.parent) in line
        ]
        assert said, f"{task.name} does not say where its result is"
        assert all(len(line.split(":", 1)[-1]) > 4 for line in said), said


def log_of(root, task):
    """What a step printed."""
    (path,) = (root / "logs").glob(f"{task.name.replace(' ', '_')}.log")
    return path.read_text(encoding="utf-8")


def test_no_token_is_written(undisturbed):
    for path in undisturbed[0].rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert b"hf_sentinel" not in content and b"wandb_sentinel" not in content, path


def test_second_run_skips_everything(undisturbed, tmp_path):
    place, _ = undisturbed
    before = {
        p: p.stat().st_mtime_ns
        for p in place.rglob("*")
        if p.is_file() and p.name != ".pipeline.lock"
    }
    done = pipeline(place, tmp_path / "log").wait()
    count = len(steps.tasks(steps.read_study(str(preset(place))), steps.read_steps()))
    assert done.code == 0 and f"{count} skipped" in done.out and " ran" not in done.out, done.out
    assert {
        p: p.stat().st_mtime_ns
        for p in place.rglob("*")
        if p.is_file() and p.name != ".pipeline.lock"
    } == before


def test_damaged_results_are_made_again(undisturbed, tmp_path):
    """A table cut short, a text edited, a figure lost: each is made again as it was, and what reads
    it need not run.
    """
    place, _ = undisturbed
    before = results_of(place)
    table = next(place.rglob("per_layer.csv"))
    os.truncate(table, table.stat().st_size // 2)
    with open(place / "data" / "forget.txt", "a") as file:
        file.write("an edited line\n")
    next(place.rglob("layer_locality_mlp.png")).unlink()
    done = pipeline(place, tmp_path / "log").wait()
    assert done.code == 0 and "4 ran" in done.out, (
        done.out
    )  # the fourth is the report, which reads the records
    for reason in (
        "per_layer.csv is not what was written",
        "forget.txt is not what was written",
        "no output yet",
    ):
        assert reason in done.out
    assert results_of(place) == before


def test_changed_data_reruns_what_reads_it_and_says_why(undisturbed, tmp_path):
    """With the user's own data and models: activation norms read the forget texts, parameter
    statistics do not.
    """
    made, _ = undisturbed
    place = tmp_path / "own"
    shutil.copytree(made / "data", place / "data")
    models = {
        "base": f"{made}/out/models/mini-base",
        "filtered": f"{made}/out/models/mini-filtered",
    }
    path = str(
        preset(
            place,
            **models,
            unlearned=[next(str(p) for p in made.rglob("unlearned_model"))],
            makes=[],
        )
    )
    only = [part for step in ("1", "4", "5", "6") for part in ("--only", step)]

    def run(log):
        done = Child([PIPELINE, "--preset", path, *only], tmp_path / log, {}).wait()
        assert done.code == 0, done.out + done.err
        return done.out

    assert "8 ran" in run("first")
    assert "8 skipped" in run("second")
    forget = place / "data" / "forget.txt"
    forget.write_text(forget.read_text().replace(" is ", " was "))  # in whatever texts are drawn
    out = run("third")
    assert "4 ran, 4 skipped" in out
    for step, reason in (("4", "forget.txt changed"), ("5", "activation_stats.csv changed")):
        assert len(re.findall(rf"✓ {step} \S+ .*ran: .*{reason}", out)) == 2, out


LINALG = "brittle/maths/linalg.py"


def code_of(task):
    return json.loads(record_path(task.output).read_text())["code"]


def test_a_step_lists_the_same_code_alone_and_in_the_pipeline(undisturbed, tmp_path):
    """Its own process imports what it needs; the pipeline's child finds everything imported."""
    place, _ = undisturbed
    tasks = steps.tasks(steps.read_study(str(preset(place))), steps.read_steps())
    for step, uses in (("1", True), ("2", False)):
        task = next(task for task in tasks if task.step == step)
        outdir = place / "alone" / ("param_stats" if step == "1" else "param_plots")
        at = task.command.index("--outdir") + 1
        command = [*task.command[:at], str(outdir), *task.command[at + 1 :]]
        subprocess.run(
            [sys.executable, *command], check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
        )
        alone = json.loads(record_path(outdir / task.output.name).read_text())["code"]
        assert alone == code_of(task) and (LINALG in alone) == uses, step
        assert task.command[0] in alone
    shutil.rmtree(place / "alone")


def test_mended_code_reruns_what_used_it_or_is_accepted_and_marked(undisturbed, tmp_path):
    place, _ = undisturbed
    tasks = steps.tasks(steps.read_study(str(preset(place))), steps.read_steps())
    users = [task for task in tasks if LINALG in code_of(task)]
    assert {"1", "7"} <= {task.step for task in users}
    assert not {"2", "harness", "tamper", "report"} & {task.step for task in users}
    before = {record: record.read_bytes() for record in place.rglob("*.run.json")}
    for record, content in before.items():  # as if linalg.py had been mended since
        made = json.loads(content)
        if LINALG in made["code"]:
            made["code"][LINALG] = "0" * 64
            record.write_text(json.dumps(made))
    plan = pipeline(place, tmp_path / "plan", "--dry-run").wait()
    named = re.findall(rf"→ (\S.*?) +made by older code: {LINALG}\n", plan.out)
    assert sorted(named) == sorted(task.name for task in users)
    kept = pipeline(place, tmp_path / "kept", "--accept-older-code").wait()
    assert kept.code == 0 and "1 ran" in kept.out, kept.out  # the report, which marks them
    assert kept.out.count(f"skipped: made by older code: {LINALG}") == len(users)
    page = (place / "out" / "report.html").read_text()
    assert page.count(f"made by older code: {LINALG}</p>") == len(users)
    assert re.search(r"\d+ of them were made by older code", page)
    for record, content in before.items():
        record.write_bytes(content)
    again = pipeline(place, tmp_path / "again").wait()
    assert again.code == 0 and "1 ran" in again.out, again.out
    assert "made by older code" not in (place / "out" / "report.html").read_text()


def test_pipeline_refuses_to_run_twice_at_once(undisturbed, tmp_path):
    place, _ = undisturbed
    with runner.only_one(place / "out"):
        done = pipeline(place, tmp_path / "log").wait()
    assert done.code == 2 and re.fullmatch(r"error: another pipeline is running in .*\n", done.err)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--only", "99"], "--only 99: no such step. Steps: data, "),
        (["--preset", "deep-ignorance", "--only", "base"], "--only base: preset deep-ignorance"),
        (["--preset", "maxi"], "--preset maxi: choose deep-ignorance, injected, mini"),
        (["--jobs", "0"], "--jobs"),
        (["--root", "pyproject.toml"], "pyproject.toml is or lies under a file"),
    ],
)
def test_mistakes(arguments, says, tmp_path):
    done = Child([PIPELINE, *arguments], tmp_path / "log", {}).wait()
    assert (
        done.code == 2
        and done.err.startswith("error: ")
        and done.err.count("\n") == 1
        and says in done.err
    )


def test_dry_run_of_the_presets_touches_nothing(tmp_path, snapshot):
    for name in ("mini", "deep-ignorance"):
        done = Child(
            [PIPELINE, "--preset", name, "--root", str(tmp_path / "out"), "--dry-run"],
            tmp_path / "log",
            {},
        ).wait()
        assert done.code == 0 and "no output yet" in done.out
        assert not (tmp_path / "out").exists()


def test_interrupted_pipeline_leaves_nothing_half_written(undisturbed, tmp_path):
    """Ctrl-C: one line, all children gone, no staged folder; what was finished stays."""
    place = tmp_path / "interrupted"
    child = pipeline(place, tmp_path / "log")
    deadline = time.time() + 60
    # not Path.rglob: it breaks where a folder goes away under it
    while not glob.glob(f"{place}/**/.mini-*.part-*", recursive=True):
        assert time.time() < deadline
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGINT)
    done = child.wait(30)
    assert (
        done.code == 130 and done.err.startswith("error: interrupted") and done.err.count("\n") == 1
    ), done.err
    assert not list(place.rglob(".*.part*")) and (place / "data" / "retain.run.json").is_file()


# a step of every kind: data, training, attack, a table of all models, of one, and of two
EVERY_KIND = ("data", "base", "filtered", "unlearn", "tamper", "recovery", "1", "4", "14")


def test_killed_at_random_moments_the_results_are_the_same(undisturbed, tmp_path):
    """SIGKILL three times, wherever it falls; then the run that is left alone gives the same bytes
    in another folder.
    """
    expected, seconds = undisturbed
    only = ["--only", *EVERY_KIND]
    place, draw, codes = tmp_path / "killed", random.Random(0), []
    for attempt in range(3):
        child = pipeline(place, tmp_path / f"log{attempt}", *only)
        time.sleep(seconds * draw.uniform(0.05, 0.2))
        os.kill(child.pid, signal.SIGKILL)
        codes.append(child.wait().code)
    # where the machine has become idle since `seconds` was taken, a later attempt may end before it
    # is killed
    assert codes[0] == -signal.SIGKILL and set(codes) <= {-signal.SIGKILL, 0}
    done = pipeline(place, tmp_path / "log", *only).wait(600)
    assert done.code == 0, done.out + done.err
    made, whole = results_of(place), results_of(expected)
    folders = {str(Path(name).parent) for name in made}
    wanted = {name: whole[name] for name in whole if str(Path(name).parent) in folders}
    assert set(made) == set(wanted) and len(made) > 20
    assert [name for name in wanted if made[name] != wanted[name]] == []
    assert not [p for p in place.rglob(".*/**/*") if p.is_file()]  # nothing staged is left
