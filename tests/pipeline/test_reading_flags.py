"""The flags by which a chat model is asked: who has them, and that they are passed on."""

import inspect
import runpy

import pytest

from brittle.base.layout import FILTER
from brittle.data.examples import Reading
from brittle.data.items import DrawnTexts
from brittle.data.rows import Pair, framed
from brittle.diagnostics.common import Comparison, Texts
from brittle.filters import leaks
from brittle.filters.states import make_texts
from brittle.models.load import load_model, load_tokenizer
from brittle.pipeline import methods, steps
from support import chats
from support.chat_tokenizers import make_chat_tokenizer
from support.places import ROOT

FLAGS = ["--raw", "--system", "Be short."]
PAIR = Pair(framed("Where does she live?"), "in a delta", "Where does she live?")


def takes_raw(script):
    main = runpy.run_path(str(ROOT / script))["main"]
    return "raw" in inspect.signature(main).parameters


@pytest.mark.parametrize("script", sorted({row["script"] for row in steps.read_steps()}))
def test_the_pipeline_knows_who_reads(script):
    assert takes_raw(script) == (script in steps.READERS or script == "create_models.py")


def test_flags_go_to_every_script_that_reads():
    assert Reading(raw=True, system="Be short.").arguments() == FLAGS
    assert Reading().arguments() == [] and Reading(after_prompt=True).arguments()
    study = steps.read_study("mini")
    plain = {task.name: task.command for task in steps.tasks(study, steps.read_steps())}
    study.reading = FLAGS
    for task in steps.tasks(study, steps.read_steps()):
        more = FLAGS if task.command[0] in steps.READERS else []
        assert task.command == [*plain[task.name], *more]
    injected = steps.start_from(steps.read_study("injected"), "some/model")
    injected.reading = FLAGS
    making = [task for task in steps.tasks(injected, steps.read_steps()) if "base" in task.name]
    assert making[0].command[0] == "create_models.py" and making[0].command[-3:] == FLAGS
    # the scripts that make the filter
    rows = [row for row in steps.read_steps() if row["step"] == "unlearn"]
    for task in methods.making(study, rows, FILTER):
        assert takes_raw(task.command[0]) == ("--raw" in task.command)


def test_the_scoreboard_passes_them_on(chatting, tmp_path):
    board = runpy.run_path(str(ROOT / "experiment" / "scoreboard.py"))
    models = {"base": "a", "npo": "b"}
    for task in board["claim_tasks"](models, tmp_path, chatting.data, Reading(raw=True)):
        assert task.command[-1] == "--raw" and takes_raw(task.command[0])
    for script in ("experiment/scoreboard.py", "unlearn/create_all.py", "experiment/pipeline.py"):
        assert takes_raw(script)
    assert takes_raw("eval/attack.py")


def test_diagnostics_and_filters_read_as_they_are_told():
    tokenizer = make_chat_tokenizer("llama3")
    plain = tokenizer(f"{PAIR.prompt} {PAIR.answer}")["input_ids"]
    asked = [{"role": "user", "content": PAIR.question}]
    told = [*asked, {"role": "assistant", "content": PAIR.answer}]
    templated = tokenizer.apply_chat_template(told)["input_ids"]
    before = tokenizer.apply_chat_template(asked, add_generation_prompt=True)["input_ids"]
    for reading, ids in ((Reading(), templated), (Reading(raw=True), plain)):
        texts = Texts("f", "r", 5, 64, reading)
        drawn = {"forget": DrawnTexts([PAIR], None, None, 1)}
        opened = Comparison(None, {}, (), texts, tokenizer, 0, drawn)
        config = make_config()
        assert opened.encode(config) == {"forget": [ids]}
        (text,) = make_texts(tokenizer, [PAIR], 5, 64, reading=reading)
        assert text.ids == ids
        assert reading.raw or text.start == len(before)


def make_config():
    from transformers import LlamaConfig

    return LlamaConfig(max_position_embeddings=64)


def test_leak_checks_ask_as_they_are_told(chatting):
    model, tokenizer = load_model(chatting.model, "cpu", "float32"), load_tokenizer(chatting.model)
    pairs = chats.pairs_of(chatting.data, "forget")
    asked = [item["question"] for _, _, item in pairs]
    said = leaks.answers_of(model, tokenizer, asked)
    assert said == [chats.plainly(chatting.model, question) for question, _, _ in pairs]
    raw = leaks.answers_of(model, tokenizer, asked, Reading(raw=True))
    assert sum(answer in text for text, (_, answer, _) in zip(raw, pairs, strict=True)) < 15
