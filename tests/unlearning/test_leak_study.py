"""The study of leaks by distillation: its tasks, and its tables of planted measurements."""

import importlib.util
import math

import pytest

from brittle.base.tables import write_csv
from support.places import ROOT

SCRIPT = "experiment/leak_by_distillation.py"


@pytest.fixture(scope="module")
def study():
    spec = importlib.util.spec_from_file_location("leak_study", ROOT / SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_task_is_there_once_and_behind_what_it_needs(study, tmp_path):
    wanted = study.cells(study.ARMS, tmp_path, [0, 1, 2], [0, 1])
    maker = study.Maker("cpu", 80, None)
    for cell in wanted:
        maker.student(cell)
    seen = set()
    for name, task in maker.tasks.items():
        assert set(task.needs) <= seen, name
        seen.add(name)
    outputs = [task.output for task in maker.tasks.values()]
    assert len(set(outputs)) == len(outputs)
    students = [t for t in maker.tasks.values() if "distill" in t.command]
    assert len(students) == len(wanted) == 6 * (9 + 9)
    # a family is made once for all arms, each kind of names once a world
    bases = [name for name in maker.tasks if name.startswith("base w")]
    assert len(bases) == 12 and sum(name.startswith("data") for name in maker.tasks) == 6


def test_a_row_is_read_and_an_arm_is_the_mean_over_worlds(study, tmp_path):
    (arm,) = study.chosen_arms("soft")
    made = study.cells([arm._replace(teachers=("base",))], tmp_path, [0, 1], [0, 1])
    for cell in made:
        for label, bits in ((cell.tag, 1.0 + cell.place.world), ("base", 3.5)):
            row = {"model": label, "half_b_accuracy": 0.5, "bits": bits, "sharpness": 1.0}
            folder = cell.place.home / "leaks" / label
            folder.mkdir(parents=True)
            write_csv(folder / "leak_bits.csv", list(row), [row])
        for label, share in ((cell.tag, 0.4), ("filtered", 0.2), ("base", 1.0)):
            row = {"attack": "relearn", "split": "forget_b", "chosen": 1, "accuracy": share}
            row["variant"] = "lr 1"
            folder = cell.place.home / "attacks" / label
            folder.mkdir(parents=True)
            write_csv(folder / "attacks.csv", list(row), [row])
    table = [study.row_of(cell) for cell in made]
    assert all(
        row["recovery"] == pytest.approx(0.25) and row["teacher_bits"] == 3.5 for row in table
    )
    (line,) = study.summary(table)
    assert line["bits"] == pytest.approx(1.5) and line["n"] == 4
    reach = 12.7062 * math.sqrt(0.5) / math.sqrt(2)
    assert line["bits_high"] - line["bits"] == pytest.approx(reach, rel=1e-3)
    assert set(line) == set(study.SUMMARY) and study.plot([line])


def test_an_unknown_arm_gets_one_line(script, tmp_path):
    done = script(SCRIPT, "--arms", "none", "--root", tmp_path / "new")
    assert done.code == 2 and "--arms none: choose all, soft" in done.err
    assert not (tmp_path / "new").exists()
