"""Model pairs and texts for the benchmarks: random weights of Pythia's sizes, with a planted
update.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SIZES = {  # hidden size, blocks, heads, vocabulary: small, and Pythia's
    "small": (256, 6, 4, 1000),
    "1.4b": (2048, 24, 16, 50304),
    "2.8b": (2560, 32, 32, 50304),
    "6.9b": (4096, 32, 32, 50432),
}


def random_pair(folder, size, dtype, device):
    """Two GPT-NeoX folders: random weights, and the same plus a rank-8 update of every block matrix
    (2 % of its norm).
    """
    import shutil

    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, GPTNeoXConfig

    width, layers, heads, vocabulary = SIZES[size]
    config = GPTNeoXConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=2048,
        bos_token_id=0,
        eos_token_id=0,
        dtype=dtype,
    )
    with torch.device("meta"):
        shapes = {
            n: p.shape for n, p in AutoModelForCausalLM.from_config(config).named_parameters()
        }
    draw = torch.Generator(device).manual_seed(0)
    for side in "ab":
        (folder / side).mkdir(parents=True)
        config.save_pretrained(folder / side)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(ROOT / "outputs/models/mini-base" / name, folder / side / name)
    groups = {}
    for name in shapes:
        groups.setdefault(
            name.split(".layers.")[-1].split(".")[0] if ".layers." in name else "other", []
        ).append(name)
    for number, names in enumerate(groups.values()):
        a, b = {}, {}
        for name in names:
            shape = shapes[name]
            if len(shape) == 1:  # norms and biases
                a[name] = (
                    torch.ones if "norm" in name and name.endswith("weight") else torch.zeros
                )(shape, device=device)
                b[name] = a[name].clone()
            else:
                a[name] = 0.02 * torch.randn(shape, generator=draw, device=device)
                u, v = (torch.randn(n, 8, generator=draw, device=device) for n in shape)
                update = u @ v.T if ".layers." in name else torch.zeros(shape, device=device)
                b[name] = a[name] + 0.02 * a[name].norm() * update / update.norm().clamp_min(1e-9)
        for side, weights in (("a", a), ("b", b)):
            path = folder / side / f"model-{number:05d}.safetensors"
            save_file(
                {n: w.to(getattr(torch, dtype)).cpu().contiguous() for n, w in weights.items()},
                path,
            )
    for side in "ab":
        index(folder / side)
    return folder / "a", folder / "b"


def index(folder):
    """model.safetensors.index.json of the shards in `folder`."""
    import json

    from safetensors import safe_open

    where = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            where |= dict.fromkeys(file.keys(), path.name)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": where})
    )


def joined(source, target, words):
    """A file whose texts are consecutive lines of `source`, at least `words` words each."""
    texts, part = [], []
    for line in source.read_text(encoding="utf-8").split("\n"):
        part += line.split()
        if len(part) >= words:
            texts.append(" ".join(part))
            part = []
    repeats = -(-500 // max(1, len(texts)))
    target.write_text("\n".join((texts * repeats)[:500]) + "\n", encoding="utf-8")
    return target
