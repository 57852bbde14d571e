"""Bad inputs for every script, found from its own options, so that new scripts are included as they
come.

Nothing heavy is imported here: the README counts the cases.
"""

import inspect
import runpy
import typing
from pathlib import Path

import typer

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("experiment", "eval", "unlearn", "hooks")
SCRIPTS = sorted(
    str(p.relative_to(ROOT))
    for p in [*ROOT.glob("*.py"), *(p for f in FOLDERS for p in (ROOT / f).rglob("*.py"))]
)
MODELS = {"model", "model_a", "model_b", "base", "filtered", "unlearned", "models"}
OUTPUTS = {"outdir", "root", "out"}
TEXTS = {"forget", "retain", "forget_file", "retain_file", "prompts_file"}
NAMES = {
    "unknown id": "nobody/nothing-70m",
    "a way out": "../../../../nowhere",
    "absolute": "/nowhere/at/all",
    "long": "x" * 300,
    "empty": "",
    "NUL": "a\0b",
    "a device": "/dev/null",
}
# they work on what has been measured, and say what has not
TAKE_WHAT_THERE_IS = {
    "experiment/report.py",
    "experiment/linear_probe_analysis.py",
    "unlearn/methods_table.py",
}
FILES = ("missing", "empty", "binary", "utf16", "folder")


class Option(typing.NamedTuple):
    """One option of a script: its flag, what it takes (a type), its bounds, and whether it must be
    given.
    """

    name: str
    flag: str
    kind: type
    low: float | None
    high: float | None
    required: bool


def options(script):
    """The options of a script's `main`, knobs of methods left out (they are texts, checked by
    `brittle.base.knobs`).
    """
    main = runpy.run_path(str(ROOT / script), run_name="options")["main"]
    found = []
    for parameter in inspect.signature(main).parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            continue
        hint, info = parameter.annotation, None
        if typing.get_origin(hint) is typing.Annotated:
            hint, *meta = typing.get_args(hint)
            info = next((m for m in meta if isinstance(m, typer.models.OptionInfo)), None)
        inner = [a for a in typing.get_args(hint) if a is not type(None)]
        kind = inner[0] if inner else hint
        kind = typing.get_args(kind)[0] if typing.get_args(kind) else kind  # list[str] | None
        declared = [d for d in (info.param_decls if info else None) or () if d.startswith("--")]
        flag = declared[0].split("/")[0] if declared else "--" + parameter.name.replace("_", "-")
        low, high = (info.min, info.max) if info else (None, None)
        found.append(
            Option(
                parameter.name, flag, kind, low, high, parameter.default is inspect.Parameter.empty
            )
        )
    return found


def numbers(script):
    """[(flag, value)]: what the parser must refuse: no numbers, other types, numbers out of bounds,
    huge ones.
    """
    bad = []
    for option in options(script):
        if option.kind not in (int, float):
            continue
        bad += [(option.flag, value) for value in ("many", "", "1e", "0x10", "NULL")]
        bad += [(option.flag, "1.5")] * (option.kind is int)
        bad += [(option.flag, str(bound)) for bound in _beyond(option)]
    return bad


def _beyond(option):
    """The nearest numbers outside the bounds of an option."""
    return ([option.low - 1] if option.low is not None else []) + (
        [option.high + 1] if option.high is not None else []
    )


def calls(script):
    """{what is wrong: {flag: value}} for calls of a script, each with one bad value; `{p}` is the
    folder of `places`.
    """
    bad = {"unknown option": {"--no-such-option": "1"}}
    runs_others = "runner.run" in (ROOT / script).read_text(
        encoding="utf-8"
    )  # its models are its steps' concern
    found = options(script)
    # the first model and the first text get every bad value, the others one: they are read by the
    # same code
    seen = set()
    for option in found:
        if option.name in MODELS and not runs_others and script not in TAKE_WHAT_THERE_IS:
            names = NAMES if not seen & MODELS else {"unknown id": NAMES["unknown id"]}
            bad.update(
                {f"{option.flag}: {what}": {option.flag: name} for what, name in names.items()}
            )
        if option.name in OUTPUTS:
            bad[f"{option.flag}: under a file"] = {option.flag: "{p}/empty/below"}
            bad[f"{option.flag}: long"] = {option.flag: "{p}/" + "x" * 300}
        if option.name in TEXTS:
            bad.update(
                {
                    f"{option.flag}: {what}": {option.flag: "{p}/" + what}
                    for what in FILES[: 1 if seen & TEXTS else None]
                }
            )
        if option.name == "data" and script not in TAKE_WHAT_THERE_IS:
            bad.update(
                {
                    f"{option.flag}: {what}": {option.flag: "{p}/" + what}
                    for what in ("missing", "empty", "folder")
                }
            )
        seen.add(option.name)
        if option.kind is float:
            bad[f"{option.flag}: NaN"] = {option.flag: "nan"}
    if any(option.required for option in found):
        bad["nothing given"] = None
    return bad


def count():
    """(scripts, cases)"""
    return len(SCRIPTS), sum(len(numbers(script)) + len(calls(script)) for script in SCRIPTS)


if __name__ == "__main__":
    print(*count())
