"""Every script refuses every bad input of tests/support/bad_inputs.py with one clear line, and
leaves everything as it was.
"""

import runpy
import shutil

import pytest
import typer

from brittle.base.command import ClickException, with_knobs
from support import bad_inputs
from support.places import ROOT

pytestmark = pytest.mark.usefixtures("imported")


@pytest.fixture(scope="module")
def place(tmp_path_factory, data):
    """A working folder like the repository's root, without results, and the bad files of
    bad_inputs.FILES.
    """
    made = tmp_path_factory.mktemp("matrix")
    for folder in bad_inputs.FOLDERS:
        (made / folder).symlink_to(ROOT / folder)
    for script in ROOT.glob("*.py"):
        (made / script.name).symlink_to(script)
    shutil.copytree(data, made / "good")
    (made / "empty").write_text("\n \n")
    (made / "binary").write_bytes(bytes(range(256)))
    (made / "utf16").write_text("some text\n", encoding="utf-16")
    (made / "folder").mkdir()
    return made


def state(place):
    return {p: (p.lstat().st_size, p.lstat().st_mtime_ns) for p in place.rglob("*")}


def arguments(script, bad, place, family):
    """A call of `script` that is right but for the values of `bad`."""
    good = {
        "model": family.base,
        "model_a": family.base,
        "model_b": family.filtered,
        "base": family.base,
        "device": "cpu",
        "filtered": family.filtered,
        "unlearned": family.base,
        "outdir": place / "out",
        "root": place / "out",
        "method": "ga",
        "forget": place / "good/forget.txt",
        "retain": place / "good/retain.txt",
        "data": place / "good",
    }
    found = bad_inputs.options(script)
    given = {
        o.flag: good[o.name]
        for o in found
        if o.name in good and (o.required or o.name not in bad_inputs.MODELS)
    }
    given |= {o.flag: place / "missing" for o in found if o.required and o.name not in good}
    given |= {flag: str(value).format(p=place) for flag, value in bad.items()}
    if (
        script == "create_models.py"
    ):  # with both, processes of their own complain; see test_bad_input.py
        given["--only"] = "base"
    return [f"{flag}={value}" for flag, value in given.items()]


@pytest.mark.parametrize("path", bad_inputs.SCRIPTS)
def test_calls(path, place, family, monkeypatch, script):
    monkeypatch.chdir(place)
    wrong, before = [], state(place)
    for what, bad in bad_inputs.calls(path).items():
        done = script(path, *([] if bad is None else arguments(path, bad, place, family)))
        lines = done.err.splitlines()
        if (
            done.code in (0, 1)
            or not lines
            or not lines[-1].startswith("error: ")
            or "Traceback" in done.err
        ):
            wrong.append((what, done.code, done.err[-600:]))
        elif sum(line.startswith("error:") for line in lines) != 1 or len(lines[-1]) > 1200:
            wrong.append((what, "not one line", done.err[-600:]))
        if state(place) != before:
            wrong.append((what, "left", sorted(set(state(place)) ^ set(before))))
            shutil.rmtree(place / "out", ignore_errors=True)
    assert not wrong, "\n".join(map(str, wrong))


@pytest.mark.parametrize("path", bad_inputs.SCRIPTS)
def test_numbers(path):
    """The parser names the option; what cli.run makes of it is tested in test_cli.py."""
    names = runpy.run_path(str(ROOT / path), run_name="numbers")
    app = typer.Typer()
    app.command()(names["main"])
    if any(
        p.kind is p.VAR_KEYWORD
        for p in bad_inputs.inspect.signature(names["main"]).parameters.values()
    ):
        app = typer.Typer()
        app.command()(with_knobs(names["main"], {}))
    command, accepted = typer.main.get_command(app), []
    for flag, value in bad_inputs.numbers(path):
        try:
            command.make_context(path, [f"{flag}={value}"])
            accepted.append((flag, value))
        except ClickException as error:
            if flag not in error.format_message():
                accepted.append((flag, value, error.format_message()))
    assert accepted == []
