"""Find a model: its folder or hub id, its configuration, and whether two models fit together."""

import json
from pathlib import Path

from brittle.base.disk import WEIGHTS, has_removed_weights
from brittle.base.errors import UserError
from brittle.base.layout import (
    PICKLES,
    how_to_make,
    inner,
    looks_like_folder,
    recorded_command,
    weight_files,
)
from brittle.models.architectures import SIZES, model_type, model_types, size

ADAPTER = "adapter_config.json"


def model_folder(model, revision=None, *, weights=True, adapters=False, code=False):
    """The local folder of `model`: itself, the unlearned_model/ in it, or the hub's snapshot.

    A snapshot is taken from the cache, or downloaded where the hub can be reached. With `adapters`,
    the folder of a LoRA adapter will do: model B of a comparison. With `code`, a hub model's Python
    is fetched too.

    Raises UserError for an unknown id or folder, no hub access, a gated model without token, or no
    safetensors weights.
    """
    model = str(model)
    folder = Path(model).expanduser()
    if not model or "\0" in model:
        raise UserError(
            f"{model!r} is no model. Give a folder or a Hugging Face id such as "
            "EleutherAI/pythia-70m."
        )
    if not folder.is_dir():
        if folder.is_file():
            raise UserError(f"{model} is a file. Give the model's folder.")
        if looks_like_folder(model):
            raise UserError(f"model folder {model} not found. {how_to_make(folder)}")
        folder = _hub_snapshot(model, revision, weights, code)
    folder = inner(folder)
    if is_adapter(folder):
        if adapters:
            return folder
        raise UserError(
            f"{model} is a LoRA adapter. Merge it into its model first; only comparisons of two "
            "models read it."
        )
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{model} has no config.json, so it is no model folder. Point to the folder that holds "
            "one."
        )
    if weights and has_removed_weights(folder):
        command = recorded_command(folder)
        raise UserError(
            f"the weights of {model} were removed to save space. "
            + (
                f"Make them again with: {command}"
                if command
                else "No record says how to make them."
            )
        )
    if weights and not any(folder.glob(WEIGHTS)):
        has = "no weights"
        for file in weight_files(folder)[:1]:
            why = " (pickle, which can run code)" if file.suffix in PICKLES else ""
            has = f"only {file.name}{why}"
        raise UserError(
            f"{model} has {has}. Weights are read from safetensors: save it with save_pretrained "
            "first."
        )
    check_one_model(folder)
    return folder


def _model_weights(folder):
    """The files of a folder that hold a model's weights, not an adapter's."""
    return [file for file in weight_files(folder) if not file.name.startswith("adapter_model")]


def is_adapter(folder):
    """Does the folder hold a LoRA adapter, without a model?

    Some trainers put the base's config.json beside the adapter.
    """
    folder = Path(folder)
    is_model = (folder / "config.json").is_file() and _model_weights(folder)
    return (folder / ADAPTER).is_file() and not is_model


def check_one_model(folder):
    """Raise UserError for a folder with a model and an adapter.

    transformers puts the adapter on top of the weights, also where they are merged already.
    """
    folder = Path(folder)
    if (folder / ADAPTER).is_file() and _model_weights(folder):
        raise UserError(
            f"{folder} holds a model and {ADAPTER}: transformers would put the adapter on top. "
            "Remove the adapter's files where it is merged already, else move them to a folder of "
            "their own."
        )


def _hub_snapshot(model, revision, weights, code):
    import huggingface_hub as hub
    from huggingface_hub import errors

    hub.logging.set_verbosity_error()  # without a network it would log each of its retries
    patterns = ["*.json", "*.model", "*.txt", "*.jinja"]
    if weights:
        patterns.append(WEIGHTS)
    if code:
        patterns.append("*.py")
    try:
        return Path(hub.snapshot_download(model, revision=revision, allow_patterns=patterns))
    except errors.GatedRepoError:
        raise UserError(
            f"{model} is gated. Accept its terms on its page, then put a token into HF_TOKEN "
            "(.env.example)."
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(
            f"{model} has no revision {revision}. Leave --revision out for the default branch."
        ) from None
    except errors.HFValidationError:
        raise UserError(
            f"{model!r} is neither a folder nor a Hugging Face id (owner/name)."
        ) from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"no folder and no Hugging Face model is called {model}. Check the name (private: "
            "HF_TOKEN)."
        ) from None
    except (
        errors.LocalEntryNotFoundError,
        errors.OfflineModeIsEnabled,
        errors.HfHubHTTPError,
        OSError,
    ):
        raise UserError(
            f"{model} is no local folder, is not in the Hugging Face cache, and the hub cannot be "
            "reached. "
            "Give a folder, or try again with network access (HF_HUB_OFFLINE unset)."
        ) from None


def read_config(folder):
    try:
        return json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f"{folder}/config.json is not JSON ({error}). Make or download that model again."
        ) from None


def check_pair(folder_a, folder_b):
    """Two models can be compared when they have one architecture, and one value of every size that
    both configurations name. Raises UserError otherwise.

    A LoRA adapter has no configuration of a model; whether it fits is seen when it is read.
    """
    if is_adapter(folder_b):
        return
    a, b = read_config(folder_a), read_config(folder_b)
    if not model_types(a) & model_types(b):
        raise UserError(
            f"A and B differ in model_type: {model_type(a)} and {model_type(b)}. Compare models of "
            "one architecture."
        )
    for name in SIZES:
        of_a, of_b = size(a, name), size(b, name)
        if of_a != of_b and None not in (of_a, of_b):
            raise UserError(
                f"A and B differ in {name}: {of_a} and {of_b}. Compare models of one architecture."
            )
