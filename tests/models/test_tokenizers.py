"""A loaded tokenizer fits its model, and its files stay as they are."""

import json

import pytest
from tokenizers import Tokenizer, processors
from transformers import PreTrainedTokenizerFast

from brittle.base.errors import UserError
from brittle.base.layout import model_files, tokenizer_files
from brittle.data.examples import Reading, encode_rows, prompt_ids
from brittle.data.rows import Pair
from brittle.models.load import load_model, load_tokenizer
from brittle.models.tokenizers import copy_tokenizer
from support.tiny_models import make_model, make_tokenizer, save

ENDS = {
    "the end token behind": ("$A <eos>", []),
    "one before and two behind": ("<unk> $A <eos> <eos>", [2]),
    "one before": ("<unk> $A", [2]),
}


def saved(folder, tokenizer):
    make_model("llama").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("form", ENDS)
def test_nothing_stands_behind_a_text(tmp_path, form):
    single, before = ENDS[form]
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[("<eos>", 0), ("<unk>", 2)]
    )
    loaded = load_tokenizer(saved(tmp_path, tokenizer))
    assert loaded(["w1 w2", ""])["input_ids"] == [[*before, 4, 5], before]
    assert loaded.encode("w1") == [*before, 4]
    assert loaded("w1", add_special_tokens=False)["input_ids"] == [4]


def processed(kind):
    """Post-processors that end a text in another form than a template of their own."""
    if kind == "roberta":
        return processors.RobertaProcessing(("<eos>", 0), ("<unk>", 2))
    template = processors.TemplateProcessing(
        single="<unk> $A <eos>", special_tokens=[("<eos>", 0), ("<unk>", 2)]
    )
    return processors.Sequence([processors.ByteLevel(trim_offsets=False), template])


@pytest.mark.parametrize("kind", ["roberta", "sequence"])
def test_nothing_stands_behind_a_text_in_other_forms(tmp_path, kind):
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processed(kind)
    loaded = load_tokenizer(saved(tmp_path, tokenizer))
    assert loaded(["w1 w2", ""])["input_ids"] == [[2, 4, 5], [2]]


def test_padding_and_cuts_of_the_file_are_not_taken(tmp_path):
    """tokenizer.json may hold a fixed length, to which some other program padded and cut."""
    folder = saved(tmp_path, make_tokenizer())
    file = str(folder / "tokenizer.json")
    tokenizer = Tokenizer.from_file(file)
    tokenizer.enable_padding(length=16, pad_id=1, pad_token="<pad>")
    tokenizer.enable_truncation(2)
    tokenizer.save(file)
    loaded = load_tokenizer(folder)
    assert loaded(["w1 w2 w3", "w1"])["input_ids"] == [[4, 5, 6], [4]]
    assert loaded.encode("w1 w2 w3") == [4, 5, 6]


# --- chat templates

SHORT = (
    "{% for message in messages %}w0 {{ message['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}w9{% endif %}"
)
OTHER = "{% for message in messages %}<{{ message['content'] }}>{% endfor %}"
DATED = "{{ strftime_now('%d %b %Y') }} " + SHORT


def with_templates(folder, *, file=None, config=None, additional=None):
    """A model folder with these templates, where the hub's have theirs."""
    saved(folder, make_tokenizer())
    if file:
        (folder / "chat_template.jinja").write_text(file)
    if additional:
        (folder / "additional_chat_templates").mkdir()
        (folder / "additional_chat_templates" / "tool_use.jinja").write_text(additional)
    path = folder / "tokenizer_config.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told if config is None else told | {"chat_template": config}))
    return folder


def named(*names):
    return [{"name": name, "template": SHORT if name == "default" else OTHER} for name in names]


@pytest.mark.parametrize(
    "templates",
    [
        {"config": SHORT},
        {"file": SHORT},
        {"file": SHORT, "config": OTHER},
        {"config": named("default", "tool_use")},
        {"file": SHORT, "additional": OTHER},
    ],
    ids=["in the configuration", "a file", "the file comes first", "several", "others beside"],
)
def test_the_template_wherever_it_lies(tmp_path, templates):
    tokenizer = load_tokenizer(with_templates(tmp_path, **templates))
    assert tokenizer.decode(prompt_ids(tokenizer, "w1")) == "w0 w1 w9"


@pytest.mark.parametrize(
    ("templates", "says"),
    [
        ({"config": named("rag", "tool_use")}, "no default"),
        ({"additional": OTHER}, "no default"),
        ({"file": "{% for m in messages %}{{ m }"}, "unexpected"),
    ],
)
def test_templates_that_do_not_work_are_refused_in_one_line(tmp_path, templates, says):
    tokenizer = load_tokenizer(with_templates(tmp_path, **templates))
    with pytest.raises(UserError, match=says) as error:
        encode_rows(tokenizer, [Pair("w1", "w2")], 64)
    assert "\n" not in str(error.value)
    assert prompt_ids(tokenizer, "w1", Reading(raw=True)) == [4]


@pytest.mark.parametrize("templates", [{"file": DATED}, {"file": DATED, "additional": DATED}])
def test_a_template_that_prints_the_date_prints_one_day(tmp_path, templates):
    tokenizer = load_tokenizer(with_templates(tmp_path, **templates))
    messages = [{"role": "user", "content": "w1"}]
    told = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert told == "26 Jul 2024 w0 w1 w9"


@pytest.mark.parametrize(
    ("tokens", "pad"),
    [({"unk_token": "<unk>"}, 2), ({}, 0), ({"eos_token": "<eos>", "unk_token": "<unk>"}, 0)],
)
def test_padding_without_a_padding_token(tmp_path, tokens, pad):
    plain = PreTrainedTokenizerFast(tokenizer_object=make_tokenizer().backend_tokenizer, **tokens)
    loaded = load_tokenizer(saved(tmp_path, plain))
    assert loaded.pad_token_id == pad and loaded.padding_side == "right"


def test_padding_where_the_first_ids_have_no_token(tmp_path):
    from tokenizers import Tokenizer, models

    holes = Tokenizer(models.WordLevel({"w0": 5, "w1": 6}, unk_token="w0"))
    loaded = load_tokenizer(saved(tmp_path, PreTrainedTokenizerFast(tokenizer_object=holes)))
    assert loaded.pad_token_id == 5
    assert loaded(["w1", ""], padding=True)["input_ids"] == [[6], [5]]


def test_a_padding_id_of_the_configuration_beyond_the_embeddings(tmp_path):
    """transformers makes the embeddings with it, and torch asserts: one line says so."""

    folder = save(make_model("llama"), tmp_path / "m")
    config = tmp_path / "m" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "pad_token_id": 10**6}))
    with pytest.raises(UserError, match=r"cannot be loaded .* Padding_idx must be within"):
        load_model(folder, "cpu")


def test_tokens_beyond_the_embeddings(tmp_path):
    """A padding token without an embedding is another one; a text with such a token is refused."""
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([f"z{i}" for i in range(6)])
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    loaded = load_tokenizer(saved(tmp_path, tokenizer))
    assert len(loaded) == 50 and loaded.pad_token_id == 0
    assert loaded(["z4", "w1"])["input_ids"] == [[47], [4]]
    for text in ("w1 z5", ["w1", "z5 w1"]):
        with pytest.raises(UserError, match=r"'z5', id 48, but .* has 48 embeddings"):
            loaded(text)


def test_files_of_the_tokenizer_are_copied_as_they_are(tmp_path):
    tokenizer = make_tokenizer()
    tokenizer.padding_side = "left"
    folder = saved(tmp_path / "from", tokenizer)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool.jinja").write_text("{{ tools }}")
    (folder / "added_tokens.json").write_text("{}")
    (tmp_path / "to").mkdir()
    load_tokenizer(folder)
    copy_tokenizer(folder, tmp_path / "to")
    files = {file.relative_to(folder) for file in tokenizer_files(folder)}
    assert {str(file) for file in files} == {
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "additional_chat_templates/tool.jinja",
        "added_tokens.json",
    }
    for file in files:
        assert (tmp_path / "to" / file).read_bytes() == (folder / file).read_bytes()


@pytest.mark.parametrize(
    "name",
    [
        "chat_template.jinja",
        "chat_template.json",
        "additional_chat_templates/tool.jinja",
        "added_tokens.json",
        "model.safetensors.index.json",
        "merges.txt",
        "tokenizer.model",
        "modeling_own.py",
    ],
)
def test_what_changes_a_model_is_among_its_files(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("x")
    (tmp_path / "README.md").write_text("x")
    assert model_files(tmp_path) == [path]
