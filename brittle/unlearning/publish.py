"""Publishing an unlearned model: its folder and card to a Hugging Face repository.

The repository is private unless told otherwise. Records (*.run.json) stay here: they name local
paths and commands. So does a kept adapter, which names its base's folder.
"""

from brittle.base.errors import UserError

LEFT_OUT = ["*.run.json", "adapter/*", ".*"]


def check_repo(repo):
    """Before the training: is `repo` a name, is there a token, and does the hub know it?

    Returns the user's name. Raises UserError.
    """
    from huggingface_hub import HfApi, constants, errors
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except errors.HFValidationError:
        raise UserError(
            f"--push-to-hub {repo}: no repository name. Give owner/name, or a name of your own."
        ) from None
    if constants.HF_HUB_OFFLINE:
        raise UserError(
            "--push-to-hub needs the hub, and HF_HUB_OFFLINE is set. Unset it, or leave "
            "--push-to-hub out."
        )
    try:
        return HfApi().whoami()["name"]
    except errors.LocalTokenNotFoundError:
        raise UserError(
            "--push-to-hub needs a token that may write: HF_TOKEN in .env (see .env.example)."
        ) from None
    except (errors.HfHubHTTPError, OSError) as error:
        raise UserError(f"--push-to-hub: {_reason(error)}. Nothing was trained.") from None


def push(folder, repo, *, public=False):
    """Upload the model folder to `repo`, which is made where it is missing. Returns its address."""
    from huggingface_hub import HfApi, errors

    api = HfApi()
    try:
        repo = api.create_repo(repo, private=not public, exist_ok=True, repo_type="model").repo_id
        done = api.upload_folder(
            repo_id=repo,
            folder_path=str(folder),
            ignore_patterns=LEFT_OUT,
            commit_message="Model, card and training history",
        )
    except (errors.HfHubHTTPError, OSError, ValueError) as error:
        again = f"hf upload {repo} {folder} . --exclude '*.run.json' --exclude 'adapter/*'"
        raise UserError(
            f"the model is in {folder}, but could not be uploaded: {_reason(error)}. Try again: "
            f"{again}"
        ) from None
    address = getattr(done, "repo_url", None) or f"https://huggingface.co/{repo}"
    return str(address)


def _reason(error):
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return f"the hub refuses the token ({status}): it must be valid, and may write"
    what = f"{type(error).__name__} {status}" if status else type(error).__name__
    return f"the hub cannot be reached or refuses ({what})"
