"""infer.py: answers, two models side by side, sessions, and sweeps whose tables hold what was asked
and answered.
"""

import io
import json
import shutil
from pathlib import Path

import pytest
import torch
from rich.console import Console

from brittle.base.errors import UserError
from brittle.inference import chat, show
from brittle.inference.loaded import Loaded, Setup, labels
from brittle.models.generate import Sampling

SHORT = ["--max-new-tokens", "4", "--device", "cpu"]


@pytest.fixture(autouse=True)
def quiet_streams(monkeypatch):
    monkeypatch.setenv("COLUMNS", "240")


@pytest.fixture
def ask(script, family):
    def run(*more, model=family.base):
        return script("infer.py", *(["--model", model] if model else []), *SHORT, *more)

    return run


def words(text):
    return " ".join(text.split())


def test_one_prompt_streams_the_answer(ask, family):
    done = ask("--prompt", "The habitat of", "--greedy")
    loaded = Loaded(family.base, Setup())
    assert done.code == 0 and words(done.out) == words(
        show.visible(loaded.answer(["The habitat of"], Sampling(4))[0])
    ), done.err
    assert (
        ask("--prompt", "The habitat of").out
        == ask("--prompt", "The habitat of", "--seed", "0").out
    )
    assert ask("--prompt", "The habitat of", "--temperature", "3", "--seed", "5").out != done.out


def test_side_by_side_and_probabilities(ask, family):
    same = ask("--prompt", "The habitat of", "--model-b", family.base, "--greedy")
    assert same.code == 0 and "mini-base" in same.out and "[" not in same.out  # no word differs
    done = ask("--prompt", "The habitat of", "--model-b", family.filtered, "--greedy", "--probs")
    assert done.code == 0 and "mini-filtered" in done.out and "most likely: mini-base" in done.out
    steps = [
        line.split()[0]
        for line in done.out.splitlines()
        if line.strip() and line.split()[0].isdigit()
    ]
    assert steps == ["1", "2", "3", "4"]


def test_words_that_differ_are_marked():
    assert show.differing("the cat sat down", "the dog sat") == ({1, 3}, {1})
    assert show.marked("the  cat\nsat", {1}, colour=False).plain == "the  [cat]\nsat"
    piped = show.marked("a b  c d e ", {0, 1, 2, 4}, colour=False).plain
    assert piped == "[a b  c] d [e] "  # one mark a run of words, not one a word
    styled = show.marked("the [red]cat[/red]", {1})
    assert styled.plain == "the [red]cat[/red]" and [
        styled.plain[s.start : s.end] for s in styled.spans
    ] == ["[red]cat[/red]"]
    assert show.visible("a\x1b[2Jb\x07\u202ec\td\n") == "a\u241b[2Jb\u2407<U+202E>c\td\n"


def test_filter_adapter_and_bits_change_the_answers(family, tmp_path):
    import peft

    from brittle.models.filter import Filter, hooked
    from brittle.models.load import load_model

    plain = Loaded(family.base, Setup())
    basis = torch.linalg.qr(torch.randn(32, 8, generator=torch.Generator().manual_seed(0)))[0]
    made = Filter("post_norm", basis, about={})
    (tmp_path / "filter").mkdir()
    made.save(tmp_path / "filter")
    filtered = Loaded(family.base, Setup(filter=str(tmp_path / "filter")))
    prompts, sampling = ["The habitat of", "What is"], Sampling(6)
    assert filtered.name == "mini-base+filter:filter"
    assert filtered.answer(prompts, sampling) != plain.answer(prompts, sampling)
    with hooked(plain.model, made):
        assert filtered.answer(prompts, sampling) == plain.answer(prompts, sampling)

    config = peft.LoraConfig(
        r=2, target_modules=["query_key_value"], init_lora_weights=False, task_type="CAUSAL_LM"
    )
    wrapped = peft.get_peft_model(load_model(family.base), config)
    wrapped.save_pretrained(tmp_path / "adapter")
    adapted = Loaded(family.base, Setup(adapter=str(tmp_path / "adapter")))
    ids = torch.tensor([plain.encode(prompts[0])])
    with torch.no_grad():
        assert torch.allclose(adapted.model(ids).logits, wrapped.eval()(ids).logits, atol=1e-5)
        assert not torch.allclose(adapted.model(ids).logits, plain.model(ids).logits, atol=1e-3)
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    weights.rename(weights.with_name("adapter_model.bin"))
    with pytest.raises(UserError, match=r"holds no adapter_model.safetensors"):
        Loaded(family.base, Setup(adapter=str(tmp_path / "adapter")))


def test_chat_templates(family):
    loaded, raw = (Loaded(family.base, Setup(raw=r)) for r in (False, True))
    template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    before = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    assert not loaded.chats
    for each in (loaded, raw):
        each.tokenizer.chat_template = template
    assert (
        loaded.tokenizer.decode(loaded.encode("three", before))
        == "<user>one<assistant>two<user>three<assistant>"
    )
    assert raw.tokenizer.decode(raw.encode("three", before)) == "three"
    loaded.tokenizer.chat_template = "{{ raise_exception('only once') }}"
    with pytest.raises(UserError, match=r"chat template of mini-base fails .*only once.*--raw"):
        loaded.encode("three")


def session(lines, family, **more):
    """What a session with these lines says. A line that is an exception is raised: Ctrl-C at the
    prompt.
    """
    out = io.StringIO()
    entries = iter(lines)

    def read(prompt):
        line = next(entries, EOFError())
        if isinstance(line, BaseException):
            raise line
        return line

    console = Console(file=out, width=100)
    made = chat.Session([(family.base, Setup())], Sampling(3), console, read)
    made.run()
    return made, out.getvalue()


def test_a_session(family, tmp_path, jsonl):
    _, out = session(
        [
            "one",
            KeyboardInterrupt(),
            "two \\",
            "lines",
            '"""',
            "three",
            "",
            'more"""',
            "/temp 0.5",
            "/temp cold",
            "/nonsense",
            "/model nobody/nothing",
            "/model",
            f"/model {family.base} {family.filtered}",
            "four",
            "/history",
            f"/save {tmp_path / 'new' / 's.jsonl'}",
            f"/save {tmp_path / 'new' / 's.jsonl'}",
            "/save",
            "/help",
            "/quit",
            "never",
        ],
        family,
    )
    rows = jsonl(tmp_path / "new" / "s.jsonl")
    assert [r["prompt"] for r in rows] == ["one", "two \nlines", "three\n\nmore", "four"]
    assert [list(r["answers"]) for r in rows] == [["mini-base"]] * 3 + [
        ["mini-base", "mini-filtered"]
    ]
    assert [r["sampling"]["temperature"] for r in rows] == [0, 0, 0, 0.5]
    mistakes = [
        "temperature cold",
        "/nonsense: no such command",
        "nobody/nothing is no local folder",
        "/model takes one model",
        "is there already",
        "/save FILE: say where to",
    ]
    said = words(out)
    assert [m for m in mistakes if m not in said] == [] and said.count("error: ") == len(mistakes)
    assert "4. four" in said and "/temp T" in said


def test_ctrl_c_stops_the_answer_and_not_the_session(family, monkeypatch):
    real = Loaded.stream

    def interrupted(self, *arguments):
        for number, step in enumerate(real(self, *arguments)):
            if number == 2:
                raise KeyboardInterrupt
            yield step

    monkeypatch.setattr(Loaded, "stream", interrupted)
    made, out = session(["one", f"/model {family.base} {family.filtered}", "two", "/quit"], family)
    assert [e["prompt"] for e in made.asked] == ["one", "two"] and out.count("(stopped)") == 2
    assert (
        all(made.asked[0]["answers"].values()) and list(made.asked[1]["answers"].values())[1] == ""
    )


def test_conversations_of_chat_models(family):
    made, _ = session(["one", "two", "/clear", "three"], family)
    loaded = made.loaded[made.models[0]]
    assert made.before(loaded) == []  # not a chat model: each prompt alone
    loaded.tokenizer.chat_template = "{{ messages }}"
    assert [m["content"] for m in made.before(loaded) if m["role"] == "user"] == ["three"]


def test_two_models_of_one_name_are_told_apart(ask, family, tmp_path, jsonl):
    """Both answers are saved, each model remembers its own, and the columns say which is which."""
    one, other = (
        tmp_path / "outputs" / "m__npo" / "unlearned_model",
        tmp_path / "outputs" / "b" / "m__npo" / "unlearned_model",
    )
    shutil.copytree(family.base, one)
    shutil.copytree(family.filtered, other)
    made, out = session(
        [f"/model {one} {other}", "The habitat of", f"/save {tmp_path / 's.jsonl'}", "/quit"],
        family,
    )
    (row,) = jsonl(tmp_path / "s.jsonl")
    assert (
        list(row["answers"]) == ["outputs/m__npo", "b/m__npo"]
        and len(made.asked[0]["answers"]) == 2
    )
    assert (
        row["answers"]["b/m__npo"]
        == made.get(made.models)[1].answer(["The habitat of"], Sampling(3))[0].strip()
    )
    assert "outputs/m__npo and b/m__npo" in out
    for loaded in made.get(made.models):
        loaded.tokenizer.chat_template = "{{ messages }}"
        said = [m["content"] for m in made.before(loaded) if m["role"] == "assistant"]
        assert said == [made.asked[0]["answers"][loaded.key]]
    done = ask(
        "--prompt", "a", "--model-b", str(other), model=str(one.parent)
    )  # the folder around the model will do
    assert done.code == 0 and "outputs/m__npo" in done.out and "b/m__npo" in done.out, done.err


def test_labels_are_as_long_as_they_must_be(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("x/a/m", "y/a/m", "z/m"):
        Path(name).mkdir(parents=True)
    plain, bits = Setup(), Setup(quantize=4)
    assert labels([("x/a/m", plain), ("z/m", plain)]) == ["a/m", "z/m"]
    three = [("x/a/m", plain), ("y/a/m", plain), ("z/m", plain)]
    assert labels(three) == ["x/a/m", "y/a/m", f"{tmp_path.name}/z/m"]
    assert labels([("x/a/m", plain), ("x/a/m", bits), ("o/m", plain)]) == ["m", "m+4bit", "o_m"]
    assert labels([("x/a/m", bits), ("y/a/m", bits)]) == ["x/a/m+4bit", "y/a/m+4bit"]
    assert labels([("x/a/m", plain), (str(tmp_path / "x/a/m"), plain)]) == ["m", "m"]  # one model


def test_without_arguments_the_mini_family_is_offered(script, family, tmp_path, monkeypatch):
    import runpy

    names = runpy.run_path("infer.py", run_name="infer")
    root = Path.cwd()
    (tmp_path / "experiment").symlink_to(root / "experiment")
    monkeypatch.chdir(tmp_path)
    nothing = script(root / "infer.py")
    assert (
        nothing.code == 2
        and "./experiment/pipeline.sh" in nothing.err
        and nothing.err.count("\n") == 1
    )
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "models").symlink_to(Path(family.base).parent)
    offered = script(root / "infer.py")
    assert offered.code == 0 and "1  mini-base" in offered.out and "2  mini-filtered" in offered.out
    assert offered.out.startswith("The mini family:\n")
    monkeypatch.setattr("sys.stdin", type("Terminal", (), {"isatty": lambda self: True})())
    assert names["offer"](lambda _: "") == [
        "outputs/models/mini-base",
        "outputs/models/mini-filtered",
    ]
    assert names["offer"](lambda _: "2") == ["outputs/models/mini-filtered"]
    for wrong in ("3", "x", "1 2 1"):
        with pytest.raises(UserError, match="one or two numbers"):
            names["offer"](lambda _, wrong=wrong: wrong)


def test_models_that_are_not_mini_are_listed_as_what_they_are(
    script, family, tmp_path, monkeypatch
):
    """First use 37: own unlearned models stood under "The mini family:", their base nowhere."""
    root = Path.cwd()
    (tmp_path / "experiment").symlink_to(root / "experiment")
    own = tmp_path / "mine" / "chat-base"
    other = tmp_path / "outputs" / "models" / "other"
    made = tmp_path / "outputs" / "chat-base__npo" / "unlearned_model"
    for folder in (own, other, made):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text('{"model_type": "qwen2"}')
    (made / "card.run.json").write_text(json.dumps({"models": {"model": str(own)}}))
    (other / "notes.run.json").write_text("[]")
    snapshot = tmp_path / "hub" / "models--owner--base" / "snapshots" / "93d1"
    of_hub = tmp_path / "outputs" / "base__npo" / "unlearned_model"
    for folder in (snapshot, of_hub):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text('{"model_type": "qwen2"}')
    in_cache = "$HF_HUB_CACHE/models--owner--base/snapshots/93d1"
    (of_hub / "card.run.json").write_text(json.dumps({"models": {"model": in_cache}}))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "outputs" / "models" / "mini-base").symlink_to(family.base)
    monkeypatch.chdir(tmp_path)
    done = script(root / "infer.py")
    assert done.code == 0, done.err
    assert "The mini family" not in done.out
    listed = [line.split()[1:] for line in done.out.splitlines() if line.startswith("  ")]
    assert listed == [
        ["mini-base", "outputs/models/mini-base"],
        ["other", "outputs/models/other"],
        ["base__npo", "outputs/base__npo/unlearned_model"],
        ["chat-base__npo", "outputs/chat-base__npo/unlearned_model"],
        ["owner_base", "hub/models--owner--base/snapshots/93d1"],
        ["chat-base", "mine/chat-base"],
    ]


MISTAKES = {
    "no prompt": ([], "--prompt is missing"),
    "an empty prompt": (["--prompt", " "], "prompt is empty"),
    "no UTF-8": (["--prompt", "\udcff"], "not valid UTF-8"),
    "too long": (["--prompt", "The habitat of " * 100], "tokens; mini-base reads 256"),
    "bits": (["--prompt", "a", "--quantize", "5"], "--quantize 5: 8 or 4 bits"),
    "two modes": (["--sweep", "--interactive"], "two things"),
    "a file without a sweep": (["--prompts-file", "x"], "goes with --sweep"),
    "a sweep of --model": (["--sweep", "--prompt", "a"], "not --model"),
    "models without a sweep": (["--models", "x", "--prompt", "a"], "go with --sweep"),
    "no adapter": (["--prompt", "a", "--adapter", "nowhere"], "holds no adapter_config.json"),
    "no filter": (["--prompt", "a", "--filter", "nowhere"], "holds no filter"),
    "probability": (["--prompt", "a", "--top-p", "2"], "--top-p"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake, ask):
    arguments, says = MISTAKES[mistake]
    done = ask(*arguments)
    assert done.code == 2 and says in done.err and done.err.count("\n") == 1, done.err
