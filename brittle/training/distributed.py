"""Several processes: the model sharded by FSDP2, means over processes, whole weights for saving.

A method whose parameters take turns (`replicates`) holds the whole model on each process instead:
only one block has gradients. Activations stay plain tensors on each process, so hooks, losses and
methods are the same code as on one GPU.
"""

import torch


def shard(model, accelerator):
    """Shard `model` in place, block by block.

    Weights and optimizer states are float32, blocks are gathered in bfloat16 on GPU. The residual
    stream stays float32 there, as it does in one process under autocast: embeddings are gathered in
    float32, and what enters a block is not cast.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    from brittle.models.blocks import blocks

    kind = accelerator.device.type
    mesh = init_device_mesh(kind, (accelerator.num_processes,))
    half = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    for block in blocks(model):
        fully_shard(block, mesh=mesh, mp_policy=half if kind == "cuda" else MixedPrecisionPolicy())
    # also the root, which would stay gathered behind a forward pass: what reads parameters between
    # passes must find shards
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    if kind == "cuda":  # also where it is evaluated: float32 states meet bfloat16 weights
        model.forward = torch.autocast(kind, torch.bfloat16)(model.forward)


def is_sharded(model):
    return any(hasattr(p, "full_tensor") for p in model.parameters())


def whole(tensor):
    """A sharded tensor as the whole one; others as they are."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def means(terms, accelerator):
    """{name: float} of loss terms, averaged over the processes."""
    values = torch.stack([term.detach().float() for term in terms.values()])
    if accelerator.num_processes > 1:
        values = accelerator.reduce(values, "mean")
    return dict(zip(terms, values.tolist(), strict=True))


def summed(count, accelerator):
    """The sum of a count over all processes."""
    if accelerator.num_processes == 1:
        return count
    total = torch.tensor(count, dtype=torch.float64, device=accelerator.device)
    return int(accelerator.reduce(total).item())


def averaged(tensors, accelerator):
    """Replace each of `tensors` by its mean over the processes."""
    for tensor in tensors:
        tensor.copy_(accelerator.reduce(tensor, "mean"))


def gathered(model, folder, trust_remote_code, accelerator):
    """A plain model on CPU with the sharded one's weights; None but on the main process."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    from brittle.models.load import load_model

    state = get_model_state_dict(
        model, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )
    if not accelerator.is_main_process:
        return None
    plain = load_model(folder, "cpu", "float32", trust_remote_code)
    plain.load_state_dict(state)
    return plain
