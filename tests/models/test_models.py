"""Finding, loading and checking models."""

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import load_file, save_file

from brittle.base.errors import UserError
from brittle.base.layout import model_files
from brittle.models.blocks import blocks, check_blocks, down_projections, train_only
from brittle.models.find import check_pair, model_folder, read_config
from brittle.models.load import load_model, load_pair, load_tokenizer
from support.hub import response
from support.tiny_models import FAMILIES, SIZES, make_model, make_tokenizer, save


@pytest.fixture(params=FAMILIES)
def any_model(request):
    return make_model(request.param)


@pytest.fixture
def folder(tmp_path):
    return Path(save(make_model("llama"), tmp_path / "model"))


def one_line(error):
    return "\n" not in str(error.value) and len(str(error.value)) < 500


# --- finding


def test_a_folder_is_itself(folder):
    assert model_folder(str(folder)) == folder
    (folder / "model.safetensors").unlink()
    assert model_folder(str(folder), weights=False) == folder


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("./nowhere", "not found"),
        ("outputs/models/nobody", "not found"),
        ("/nowhere/at/all", "not found"),
        ("nobody/nothing-70m", "not in the Hugging Face cache"),
        ("nothing", "not in the Hugging Face cache"),
        ("a b", "neither a folder nor"),
        ("x--y..z", "neither a folder nor"),
        ("pyproject.toml", "is a file"),
        ("brittle", "no config.json"),
        ("", "is no model"),
        ("a\0b", "is no model"),
    ],
)
def test_what_is_no_model(model, says):
    with pytest.raises(UserError, match=says) as error:
        model_folder(model)
    assert one_line(error)


def test_the_folder_around_an_unlearned_model_will_do(folder, tmp_path):
    home = tmp_path / "base__npo"
    shutil.copytree(folder, home / "unlearned_model")
    assert model_folder(str(home)) == home / "unlearned_model"
    shutil.copy(folder / "config.json", home / "config.json")  # a model of its own, if a broken one
    with pytest.raises(UserError, match="has no weights"):
        model_folder(str(home))


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("outputs/models/mini-bas", r"Make the mini models with: uv run create_models.py$"),
        (
            "{p}/base__npo/unlearned_model",
            r"uv run unlearn/unlearn.py --model {p}/models/base --method npo$",
        ),
        ("{p}/base__npo-low-lr/unlearned_model", r"--method npo --name low-lr$"),
        ("{p}/base__npo", r"--method npo$"),
        ("{p}/other__npo/unlearned_model", r"uv run unlearn/unlearn.py --method npo$"),
        (
            "{p}/base__filter/unlearned_model",
            r"uv run hooks/bake_filter.py --model {p}/models/base$",
        ),
        ("{p}/mine/unlearned_model", r"with unlearn/unlearn.py, or check the path"),
        ("{p}/base__to__other", r"Check the path.$"),
        (
            "{p}/mini-base__nopo",
            r"unlearn.py --method nopo$",
        ),  # which says that there is no such method
        ("{p}/mine", r"Check the path.$"),
    ],
)
def test_the_hint_says_what_makes_the_folder(model, says, tmp_path):
    (tmp_path / "models" / "base").mkdir(parents=True)
    with pytest.raises(UserError, match=says.format(p=tmp_path)) as error:
        model_folder(model.format(p=tmp_path))
    assert one_line(error) and ("create_models" in str(error.value)) == model.endswith("mini-bas")


HUB = [
    (
        errors.GatedRepoError("gated", response=response(403)),
        "is gated. Accept its terms.*HF_TOKEN",
    ),
    (
        errors.RepositoryNotFoundError("none", response=response(404)),
        "no Hugging Face model is called",
    ),
    (errors.RevisionNotFoundError("none", response=response(404)), "has no revision v9"),
    (errors.LocalEntryNotFoundError("none"), "hub cannot be reached"),
    (errors.OfflineModeIsEnabled("offline"), "hub cannot be reached"),
    (errors.HfHubHTTPError("500", response=response(500)), "hub cannot be reached"),
    (ConnectionError("no route"), "hub cannot be reached"),
    (TimeoutError("slow"), "hub cannot be reached"),
]


@pytest.mark.parametrize(("raised", "says"), HUB, ids=lambda x: type(x).__name__)
def test_what_the_hub_says_takes_one_line(monkeypatch, raised, says):
    def download(*_, **__):
        raise raised

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(UserError, match=says) as error:
        model_folder("owner/name", "v9")
    assert "owner/name" in str(error.value) and one_line(error)


def test_only_safetensors_are_asked_for(monkeypatch, folder):
    """No pickle is downloaded, and without need no weights."""
    asked = []
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda *_, **k: (asked.append(k["allow_patterns"]), folder)[1],
    )
    model_folder("owner/name")
    model_folder("owner/name", weights=False)
    assert "*.safetensors" in asked[0] and "*.safetensors" not in asked[1]
    assert not any(p.endswith((".bin", ".pt", ".py", "*")) for patterns in asked for p in patterns)


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("pytorch_model.bin", "only pytorch_model.bin .pickle"),
        ("llama-q4.gguf", "only llama-q4.gguf. Weights"),
        (None, "no weights"),
    ],
)
def test_folders_without_safetensors(folder, file, says):
    (folder / "model.safetensors").unlink()
    if file:
        torch.save({"x": torch.zeros(1)}, folder / file)
    with pytest.raises(UserError, match=says) as error:
        model_folder(str(folder))
    assert one_line(error)


def test_model_files_are_what_determines_a_model(folder):
    (folder / "README.md").write_text("a card")
    (folder / "optimizer.pt").write_text("x")
    names = {p.name for p in model_files(folder)}
    assert names >= {"config.json", "model.safetensors", "tokenizer.json"} and not names & {
        "README.md",
        "optimizer.pt",
    }


# --- loading


def test_loading_gives_the_same_model(any_model, tmp_path):
    loaded = load_model(save(any_model, tmp_path))
    ids = torch.arange(3, 13)[None]
    with torch.no_grad():
        assert torch.allclose(loaded(ids).logits, any_model(ids).logits, atol=1e-6)
    assert not loaded.training and not loaded.config.use_cache and loaded.dtype == torch.float32


def test_shards_and_dtypes(tmp_path):
    model = make_model("llama")
    folder = save(model, tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    loaded = load_model(folder, dtype="bfloat16")
    assert loaded.dtype == torch.bfloat16
    assert torch.equal(
        loaded.get_input_embeddings().weight, model.get_input_embeddings().weight.bfloat16()
    )


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_missing_weight_is_never_drawn_at_random(folder):
    rewrite(folder, lambda t: t.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(
        UserError, match=r"missing weights, model.layers.1.mlp.up_proj.weight \(1 in all\)"
    ):
        load_model(folder)


def test_weights_of_other_shapes(folder):
    rewrite(folder, lambda t: t.update({"model.norm.weight": torch.ones(31)}))
    with pytest.raises(UserError, match=r"mismatched weights, model.norm.weight \(1 in all\)"):
        load_model(folder)


def test_weights_of_another_architecture(folder, tmp_path):
    save(make_model("gpt2"), tmp_path / "gpt2")
    (tmp_path / "gpt2" / "model.safetensors").replace(folder / "model.safetensors")
    with pytest.raises(UserError, match="missing weights"):
        load_model(folder)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "nothing"}, "cannot be loaded"),
        ({"model_type": "t5"}, "no causal language model"),
        ({"model_type": None}, "cannot be loaded"),
        ({"num_attention_heads": 5}, "cannot be loaded"),
        ({"hidden_size": 64}, "mismatched weights|cannot be loaded"),
        ({"num_hidden_layers": 4}, "missing weights"),
        (
            {"model_type": "own", "auto_map": {"AutoConfig": "c.C", "AutoModelForCausalLM": "m.M"}},
            "--trust-remote-code",
        ),
    ],
)
def test_configurations_that_do_not_fit(folder, change, says):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=says) as error:
        load_model(folder)
    assert one_line(error)


def test_remote_code_is_not_run(folder):
    """A repository's Python never runs unasked: not for the model, not for the tokenizer."""
    for name in ("config.json", "tokenizer_config.json"):
        path = folder / name
        own = {
            "auto_map": {
                "AutoConfig": "m.M",
                "AutoModelForCausalLM": "m.M",
                "AutoTokenizer": ["m.M", None],
            }
        }
        path.write_text(
            json.dumps(
                {**json.loads(path.read_text()), **own, "model_type": "own", "tokenizer_class": "M"}
            )
        )
    (folder / "m.py").write_text(f"open({str(folder / 'ran')!r}, 'w').close()\nclass M: pass\n")
    for load in (load_model, load_tokenizer):
        with pytest.raises(UserError, match="pass --trust-remote-code") as error:
            load(folder)
        assert one_line(error)
    assert not (folder / "ran").exists()


def test_remote_code_that_is_asked_for_says_what_it_runs(tmp_path, capsys):
    folder, plain = tmp_path / "own", save(make_model("llama"), tmp_path / "plain")
    shutil.copytree(plain, folder)
    config = json.loads((folder / "config.json").read_text())
    own = {
        "model_type": "own",
        "auto_map": {"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M"},
    }
    (folder / "config.json").write_text(json.dumps({**config, **own}))
    (folder / "mine.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class C(LlamaConfig):\n    model_type = 'own'\n"
        "class M(LlamaForCausalLM):\n    config_class = C\n"
    )
    assert type(load_model(folder, trust_remote_code=True)).__name__ == "M"
    assert (
        f"--trust-remote-code runs mine.py of {folder} on this machine" in capsys.readouterr().err
    )
    load_model(plain, trust_remote_code=True)
    assert "runs" not in capsys.readouterr().err  # there is nothing to run


def test_python_is_fetched_only_where_it_is_to_run(monkeypatch, folder):
    asked = []
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda *_, **k: (asked.append(k["allow_patterns"]), folder)[1],
    )
    model_folder("owner/name", code=True)
    assert "*.py" in asked[0]


def test_damaged_config(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        read_config(folder)


@pytest.mark.parametrize(
    ("device", "dtype"),
    [("tpu9", "auto"), ("cuda:99", "auto"), ("", "auto"), ("cpu", "int8"), ("cpu", "float8")],
)
def test_devices_and_dtypes_that_are_none(folder, device, dtype):
    with pytest.raises(UserError, match=r"--device|--dtype") as error:
        load_model(folder, device, dtype)
    assert one_line(error)


def test_tokenizer(folder):
    tokenizer = load_tokenizer(folder)
    assert (
        tokenizer.padding_side == "right"
        and tokenizer("w1 w2")["input_ids"] == make_tokenizer()("w1 w2")["input_ids"]
    )


def test_tokenizer_without_padding_pads_with_the_end(folder):
    tokenizer = make_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    assert load_tokenizer(folder).pad_token == "<eos>"


def test_missing_and_damaged_tokenizer(folder):
    (folder / "tokenizer.json").write_text('{"version": 1')
    with pytest.raises(UserError, match="cannot be read") as error:
        load_tokenizer(folder)
    assert one_line(error)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="has no tokenizer"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": 2},
        {"hidden_size": 16},
        {"vocab_size": 50},
        {"intermediate_size": 32},
        {"num_key_value_heads": 4},
    ],
    ids=lambda c: next(iter(c)),
)
def test_pairs_that_do_not_fit(folder, tmp_path, changes):
    other = save(make_model("llama", **changes), tmp_path / "other")
    with pytest.raises(UserError, match=f"differ in {next(iter(changes))}"):
        load_pair(folder, other)


def test_pairs_of_two_architectures(folder, tmp_path):
    with pytest.raises(UserError, match="differ in model_type: llama and mistral"):
        check_pair(folder, save(make_model("mistral"), tmp_path / "other"))
    a, b, _ = load_pair(folder, save(make_model("llama", 1), tmp_path / "other"))
    assert not torch.equal(a.get_input_embeddings().weight, b.get_input_embeddings().weight)


# --- parts of a model


def test_blocks(any_model):
    """One rule for every family: a pass through the blocks, one by one, is the model's own pass."""
    found = blocks(any_model)
    assert len(found) == SIZES["num_hidden_layers"]
    order = []
    handles = [
        b.register_forward_hook(lambda *_, k=k: order.append(k)) for k, b in enumerate(found)
    ]
    any_model(torch.arange(5)[None])
    assert order == [0, 1, 2] and len(handles) == 3


def test_layer_ids_out_of_range():
    model = make_model()
    check_blocks(model, [0, 2])
    for layer in (3, -1, 99):
        with pytest.raises(
            UserError, match=f"--lat-layer {layer}, but this model has blocks 0 to 2"
        ):
            check_blocks(model, [0, layer], "--lat-layer")


def test_down_projections_write_the_mlp_to_the_stream(any_model):
    """With them at zero the MLP gives its bias, whatever it reads."""
    names = down_projections(any_model, [1])
    assert names and all(".1." in n for n in names)
    parameters = dict(any_model.named_parameters())
    mlp = blocks(any_model)[1].mlp
    with torch.no_grad():
        for n in names:
            parameters[n].zero_()
    seen = []
    handle = mlp.register_forward_hook(
        lambda _m, _i, out: seen.append(out[0] if isinstance(out, tuple) else out)
    )
    any_model(torch.tensor([[3, 9], [11, 4]]))
    handle.remove()
    assert torch.allclose(seen[0], seen[0].flatten(0, -2)[0].expand_as(seen[0]))


def test_train_only():
    model = make_model()
    names = down_projections(model, [0, 2])
    train_only(model, names)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == set(names)
    with pytest.raises(UserError, match="no MLP down-projection"):
        down_projections(model, [])
