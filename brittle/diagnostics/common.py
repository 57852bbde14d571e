"""What diagnostics share: a neighbouring step's CSV, the two text splits as batches, ratios that may not exist."""

import json
from pathlib import Path

from brittle.base.errors import UserError

# Tokens a batch, padding included: at 6.9B (33 layers of width 4096, in bfloat16) the streams of this many take 0.5 GB a model
TOKENS = 2048


def neighbour(outdir, folder, name, step, script):
    """Path of `name` in the folder beside `outdir`, which step `step` makes. Raises UserError where it is missing."""
    path = Path(outdir).parent / folder / name
    if not path.is_file():
        raise UserError(
            f"{path} not found. Step {step} makes it: uv run experiment/{script} --model-a A --model-b B --outdir {path.parent}"
        )
    return path


def kept_spectra(outdir, read):
    """{dW/<name>, W_a/<name>, W_b/<name>: singular values} that step 1 keeps beside `outdir`; {} where it read other files.

    `read` {path: its description} is what this run reads (`results.Run.read`), scripts apart.
    """
    from safetensors.torch import load_file

    from brittle.base.files import changed

    path = Path(outdir).parent / "param_stats" / "spectra.safetensors"
    try:
        record = json.loads(path.with_name("per_layer.run.json").read_text(encoding="utf-8"))
        theirs, ours = (
            {p: d["sha256"] for p, d in of.items() if not p.endswith(".py")}
            for of in (record["inputs"], read)
        )
        if theirs == ours and not changed(path, record["outputs"][path.name]):
            return load_file(path)
    except (OSError, ValueError, KeyError, TypeError):  # none, or damaged
        pass
    return {}
