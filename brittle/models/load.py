"""Finding, loading and checking models: folders or hub ids, safetensors only, remote code off."""

import sys
from contextlib import ExitStack
from pathlib import Path

from brittle.base.errors import UserError
from brittle.base.layout import TOKENIZERS
from brittle.models.architectures import check_readable, size, text_config
from brittle.models.find import check_one_model, check_pair, is_adapter, read_config

DTYPES = ("float32", "bfloat16", "float16")
# What transformers raises for files that it cannot make a model of, libraries that lack included.
LOADING_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    ImportError,
    RuntimeError,
    AssertionError,  # torch's, as for a padding id of the configuration without an embedding
)


def pick_device(device="auto"):
    """`auto` is the first GPU where there is one; otherwise the named device, checked."""
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        picked = torch.device(device)
        torch.empty(0, device=picked)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"--device {device} is not usable here ({str(error).splitlines()[0]}). Try auto or cpu."
        ) from None
    return picked


def pick_dtype(dtype, device):
    import torch

    if dtype == "auto":
        return (
            torch.float32 if device.type == "cpu" else torch.bfloat16
        )  # bfloat16 is emulated, so slow, on most CPUs
    if dtype not in DTYPES:
        raise UserError(f"--dtype {dtype}: choose auto, {', '.join(DTYPES)}.")
    return getattr(torch, dtype)


def load_model(folder, device="cpu", dtype="auto", trust_remote_code=False):
    """The causal language model of a local `folder`, in evaluation mode.

    It has no generation cache. Every weight must be in the files: transformers would draw a missing
    one at random, and say so in passing.
    """
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    from brittle.base.command import threads
    from brittle.models import filtered

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    torch.set_num_threads(threads())
    device = pick_device(str(device))
    filtered.prepare(folder)
    check_readable(read_config(folder), folder)
    check_kind(read_config(folder), folder)
    check_one_model(folder)
    if trust_remote_code and "auto_map" in read_config(folder):
        files = ", ".join(sorted(path.name for path in Path(folder).glob("*.py")))
        print(
            f"note: --trust-remote-code runs {files} of {folder} on this machine, with your "
            "rights.",
            file=sys.stderr,
        )
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=pick_dtype(dtype, device),
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except UserError:
        raise
    except (*LOADING_ERRORS, StrictDataclassError) as error:
        raise _unloadable(error, f"{folder} cannot be loaded as a causal language model") from None
    for what in ("missing_keys", "mismatched_keys"):
        names = sorted(key if isinstance(key, str) else key[0] for key in info[what])
        if names:
            raise UserError(
                f"{folder}: {what.split('_')[0]} weights, {names[0]} ({len(names)} in all). Its "
                "safetensors do not fit its config.json: make or download that model again."
            )
    model.config.use_cache = False
    return model.to(device).eval()


def check_kind(config, folder):
    """Raise UserError for a model type that transformers knows, as something else than a causal
    language model.

    config: the dict of the config.json of `folder`.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    family = config.get("model_type")
    other = family in CONFIG_MAPPING_NAMES and family not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if not other or "auto_map" in config:
        return
    text = text_config(config)
    if text is not config:
        way = f"Save its language model ({text.get('model_type')}) as a model of its own."
    else:
        way = "Only decoders are read: Llama, Qwen, Mistral, Gemma, GPT-NeoX and others."
    raise UserError(
        f"{folder} is no language model alone ({family}): transformers loads no causal language "
        f"model from it. {way}"
    )


def _unloadable(error, what):
    if "trust_remote_code" in str(error):
        return UserError(
            f"{what}: it needs code from its repository. Read that code, then pass "
            "--trust-remote-code."
        )
    return UserError(f"{what}: {' '.join(str(error).split())[:200]}")


def load_tokenizer(folder, trust_remote_code=False):
    """The tokenizer of a local `folder`, made to fit the model there (see models.tokenizers).

    It pads on the right with an id that the model has, and puts nothing behind a text.
    """
    from transformers import AutoTokenizer

    from brittle.models import filtered, tokenizers

    if not any((Path(folder) / name).is_file() for name in TOKENIZERS):
        raise UserError(
            f"{folder} has no tokenizer ({', '.join(TOKENIZERS[:2])} ...). Copy the base model's "
            "files there."
        )
    filtered.prepare(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:  # tokenizers raises bare Exception for a damaged file
        raise _unloadable(error, f"the tokenizer of {folder} cannot be read") from None
    tokenizer.padding_side = "right"
    tokenizers.append_nothing(tokenizer)
    tokenizers.fix_date(tokenizer)
    config = read_config(folder) if (Path(folder) / "config.json").is_file() else {}
    tokenizers.fit(tokenizer, size(config, "vocab_size"), folder)
    return tokenizer


def load_pair(folder_a, folder_b, device="cpu", dtype="auto", trust_remote_code=False):
    """Models A and B and A's tokenizer. Raises UserError where the two do not fit together."""

    check_pair(folder_a, folder_b)
    both = [
        load_changed(folder, folder_a, device, dtype, trust_remote_code)
        for folder in (folder_a, folder_b)
    ]
    return (*both, load_tokenizer(folder_a, trust_remote_code))


def load_changed(folder, base, device="cpu", dtype="auto", trust_remote_code=False):
    """The model of `folder`, or where that is a LoRA adapter, of `base` with it merged in."""
    from brittle.models.weights import Adapter, Checkpoint

    if not is_adapter(folder):
        return load_model(folder, device, dtype, trust_remote_code)
    import peft

    model = load_model(base, device, dtype, trust_remote_code)
    with ExitStack() as stack:
        adapter = Adapter(folder, stack)
        adapter.check_mergeable(getattr(model, "all_tied_weights_keys", None) or {})
        if not adapter.config.get("target_parameters"):
            adapter.parameters(Checkpoint(base, stack))  # PEFT would only warn
    try:
        wrapped = peft.PeftModel.from_pretrained(model, folder)
        # PEFT passes over tensors that it has no place for
        lost = sorted(wrapped.load_adapter(folder, "default").unexpected_keys)
        merged = wrapped.merge_and_unload().eval()
    except (*LOADING_ERRORS, NotImplementedError) as error:
        raise _unloadable(error, f"{folder} cannot be merged into {base}") from None
    if lost:
        raise UserError(
            f"{folder} holds {lost[0]} ({len(lost)} such tensors), which has no place in {base}. "
            "Give the adapter's own base model."
        )
    return merged
