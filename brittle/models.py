"""Finding, loading and checking models: folders or hub ids, safetensors only, remote code off."""

import json
import sys
from pathlib import Path

from brittle.errors import UserError
from brittle.folders import how_to_make, inner, looks_like_folder

WEIGHTS = "*.safetensors"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
DTYPES = ("float32", "bfloat16", "float16")
SIZES = ("hidden_size", "n_embd", "num_hidden_layers", "n_layer", "vocab_size", "intermediate_size", "n_inner",
         "num_attention_heads", "n_head", "num_key_value_heads", "num_experts")  # fmt: skip


def model_folder(model, revision=None, weights=True, adapters=False, code=False):
    """The local folder of `model`: itself, the unlearned_model/ in it, or the hub snapshot in the cache (downloaded where
    the hub can be reached).

    With `adapters`, a LoRA adapter's folder will do: model B of a comparison. With `code`, a hub model's Python is fetched too.

    Raises UserError for an unknown id or folder, no hub access, a gated model without token, or no safetensors weights.
    """
    model = str(model)
    folder = Path(model).expanduser()
    if not model or "\0" in model:
        raise UserError(f"{model!r} is no model. Give a folder or a Hugging Face id such as EleutherAI/pythia-70m.")
    if not folder.is_dir():
        if folder.is_file():
            raise UserError(f"{model} is a file. Give the model's folder.")
        if looks_like_folder(model):
            raise UserError(f"model folder {model} not found. {how_to_make(folder)}")
        folder = _hub_snapshot(model, revision, weights, code)
    folder = inner(folder)
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        if adapters:
            return folder
        raise UserError(f"{model} is a LoRA adapter. Merge it into its model first; only comparisons of two models read it.")
    if not (folder / "config.json").is_file():
        raise UserError(f"{model} has no config.json, so it is no model folder. Point to the folder that holds one.")
    if weights and not any(folder.glob(WEIGHTS)):
        other = [f.name for f in folder.iterdir() if f.suffix in (".bin", ".pt", ".pth", ".ckpt")]
        has = f"only {other[0]} (pickle, which can run code)" if other else "no weights"
        raise UserError(f"{model} has {has}. Weights are read from safetensors: save it with save_pretrained first.")
    return folder


def _hub_snapshot(model, revision, weights, code):
    import huggingface_hub as hub
    from huggingface_hub import errors

    hub.logging.set_verbosity_error()  # without a network it would log each of its retries
    patterns = ["*.json", "*.model", "*.txt", "*.jinja"] + [WEIGHTS] * weights + ["*.py"] * code
    try:
        return Path(hub.snapshot_download(model, revision=revision, allow_patterns=patterns))
    except errors.GatedRepoError:
        raise UserError(
            f"{model} is gated. Accept its terms on its page, then put a token into HF_TOKEN (.env.example)."
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{model} has no revision {revision}. Leave --revision out for the default branch.") from None
    except errors.HFValidationError:
        raise UserError(f"{model!r} is neither a folder nor a Hugging Face id (owner/name).") from None
    except errors.RepositoryNotFoundError:
        raise UserError(f"no folder and no Hugging Face model is called {model}. Check the name (private: HF_TOKEN).") from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, errors.HfHubHTTPError, OSError):
        raise UserError(
            f"{model} is no local folder, is not in the Hugging Face cache, and the hub cannot be reached. "
            "Give a folder, or try again with network access (HF_HUB_OFFLINE unset)."
        ) from None


def model_files(model):
    """The files that determine a model's behaviour: weights, configuration, tokenizer."""
    folder = Path(model)
    names = {"config.json", "adapter_config.json", "generation_config.json", "special_tokens_map.json", "tokenizer_config.json"}
    names |= set(TOKENIZERS)
    return sorted(f for f in folder.iterdir() if f.suffix == ".safetensors" or f.name in names or f.suffix == ".txt")


def read_config(folder):
    try:
        return json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{folder}/config.json is not JSON ({error}). Make or download that model again.") from None


def pick_device(device="auto"):
    """`auto` is the first GPU where there is one; otherwise the named device, checked."""
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        picked = torch.device(device)
        torch.empty(0, device=picked)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {device} is not usable here ({str(error).splitlines()[0]}). Try auto or cpu.") from None
    return picked


def pick_dtype(dtype, device):
    import torch

    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16  # bfloat16 is emulated, so slow, on most CPUs
    if dtype not in DTYPES:
        raise UserError(f"--dtype {dtype}: choose auto, {', '.join(DTYPES)}.")
    return getattr(torch, dtype)


def load_model(folder, device="cpu", dtype="auto", trust_remote_code=False, greedy=False):
    """The causal language model of a local `folder`, in evaluation mode, without a generation cache.

    Every weight must be in the files: transformers would draw a missing one at random, and say so in passing. A model whose
    argmax alone is exact (a greedy-only filter) is loaded where `greedy` says that no probability will be read.
    """
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    from brittle import filter_model
    from brittle.cli import threads

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    torch.set_num_threads(threads())
    device = pick_device(str(device))
    filter_model.prepare(folder, greedy)
    if trust_remote_code and "auto_map" in read_config(folder):
        files = ", ".join(sorted(path.name for path in Path(folder).glob("*.py")))
        print(f"note: --trust-remote-code runs {files} of {folder} on this machine, with your rights.", file=sys.stderr)
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, dtype=pick_dtype(dtype, device), use_safetensors=True, trust_remote_code=trust_remote_code,
            ignore_mismatched_sizes=True, output_loading_info=True,
        )  # fmt: skip
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, StrictDataclassError) as error:
        raise _unloadable(error, f"{folder} cannot be loaded as a causal language model") from None
    for what in ("missing_keys", "mismatched_keys"):
        if found := sorted(key if isinstance(key, str) else key[0] for key in info[what]):
            raise UserError(
                f"{folder}: {what.split('_')[0]} weights, {found[0]} ({len(found)} in all). Its safetensors do not fit its "
                "config.json: make or download that model again."
            )
    model.config.use_cache = False
    return model.to(device).eval()


def _unloadable(error, what):
    if "trust_remote_code" in str(error):
        return UserError(f"{what}: it needs code from its repository. Read that code, then pass --trust-remote-code.")
    return UserError(f"{what}: {' '.join(str(error).split())[:200]}")


def load_tokenizer(folder, trust_remote_code=False):
    """The tokenizer of a local `folder`, padding on the right; the end-of-text token pads where there is no other."""
    from transformers import AutoTokenizer

    from brittle import filter_model

    if not any((Path(folder) / name).is_file() for name in TOKENIZERS):
        raise UserError(f"{folder} has no tokenizer ({', '.join(TOKENIZERS[:2])} ...). Copy the base model's files there.")
    filter_model.prepare(folder, True)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:  # tokenizers raises bare Exception for a damaged file
        raise _unloadable(error, f"the tokenizer of {folder} cannot be read") from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    return tokenizer


def load_pair(folder_a, folder_b, device="cpu", dtype="auto", trust_remote_code=False):
    """Models A and B and A's tokenizer. Raises UserError where the two do not fit together."""
    from brittle.adapters import load_changed

    check_pair(folder_a, folder_b)
    both = [load_changed(folder, folder_a, device, dtype, trust_remote_code) for folder in (folder_a, folder_b)]
    return (*both, load_tokenizer(folder_a, trust_remote_code))


def check_pair(folder_a, folder_b):
    """Two models can be compared when their architecture and the sizes that both configurations name agree.

    A LoRA adapter has no configuration of a model; whether it fits is seen when it is read.
    """
    if not (Path(folder_b) / "config.json").is_file():
        return
    a, b = read_config(folder_a), read_config(folder_b)
    for config in (a, b):  # a baked activation filter leaves the architecture as it was
        config["model_type"] = str(config.get("model_type")).removeprefix("filtered_")
    for key in ("model_type", *SIZES):
        if a.get(key) != b.get(key) and (key == "model_type" or None not in (a.get(key), b.get(key))):
            raise UserError(f"A and B differ in {key}: {a.get(key)} and {b.get(key)}. Compare models of one architecture.")


def blocks(model):
    """The transformer blocks: the first ModuleList of length num_hidden_layers (GPT-NeoX, GPT-2, Llama, Phi, OLMoE ...)."""
    import torch

    count = model.config.num_hidden_layers
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return module
    raise UserError(f"{type(model).__name__} has no list of {count} blocks. Only decoder models of that shape are supported.")


def check_blocks(model, layer_ids, flag="--layer-id"):
    """Block indices must exist in `model`."""
    count = model.config.num_hidden_layers
    for layer in layer_ids:
        if not 0 <= layer < count:
            raise UserError(f"{flag} {layer}, but this model has blocks 0 to {count - 1}.")


def context_length(config):
    """The longest input of a model, from its configuration (GPT-2 calls it n_positions)."""
    return getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 2048


def train_only(model, names):
    """Leave gradients to the parameters called `names` alone."""
    names = set(names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)


def down_projections(model, layers):
    """Names of the weights that bring the MLP back to the residual stream in the given blocks: in each block's MLP, the
    matrices with `hidden_size` outputs and another number of inputs (stacked experts included)."""
    from brittle.weights import CONV1D, TRANSPOSED, group_of, layer_of

    width, found = model.config.hidden_size, []
    turned = model.config.model_type in TRANSPOSED
    for name, p in model.named_parameters():
        if layer_of(name) in layers and group_of(name) == "mlp" and p.ndim >= 2:
            rows, columns = p.shape[-2:]
            rows, columns = (columns, rows) if turned and CONV1D.search(name) else (rows, columns)
            if rows == width and columns != width:
                found.append(name)
    if not found:
        raise UserError(f"no MLP down-projection found in blocks {list(layers)} of {type(model).__name__}.")
    return found
