"""Two processes with the model sharded between them do what one process does with twice the
micro-batches.
"""

import csv
import socket

import pytest
import torch
from safetensors.torch import load_file

from support.processes import DRIVER


def history(folder):
    with open(folder / "training_history.csv", newline="") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


@pytest.mark.parametrize(
    "method, more",
    [
        ("npo", ["--retain-loss", "kl"]),
        ("cb_lat", ["--layer-id", "1", "--lat-layer", "0", "--lat-eps", "0.1"]),
    ],
)
def test_two_processes_are_one_with_twice_the_micro_batches(
    method, more, family, brief, tmp_path, script, fork
):
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER)

    def arguments(root, *last):
        return [
            "unlearn/unlearn.py",
            "--model",
            family.base,
            "--method",
            method,
            "--forget",
            brief / "forget.txt",
            "--root",
            root,
            "--steps",
            "4",
            "--batch-size",
            "4",
            "--device",
            "cpu",
            "--lr",
            "1e-3",
            *more,
            *last,
        ]

    one = script(*arguments(tmp_path / "one", "--grad-accum-steps", "2"))
    assert one.code == 0, one.err
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    two = [
        fork(
            driver,
            *arguments(tmp_path / "two"),
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE="2",
            LOCAL_WORLD_SIZE="2",
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
            ACCELERATE_USE_CPU="true",
        )
        for rank in range(2)
    ]
    ended = [child.wait() for child in two]
    assert [e.code for e in ended] == [0, 0], ended[0].err[-3000:] + ended[1].err[-3000:]
    folders = [tmp_path / n / f"mini-base__{method}" / "unlearned_model" for n in ("one", "two")]
    for a, b in zip(*map(history, folders), strict=True):
        # passes that end at a block run whole where a model is sharded
        assert b.pop("flops") == pytest.approx(a.pop("flops"), rel=0.2)
        assert b == pytest.approx(a, rel=1e-3, abs=1e-5)
    weights = [load_file(f / "model.safetensors") for f in folders]
    for name in weights[0]:
        assert torch.allclose(weights[0][name], weights[1][name], atol=2e-4), name
    assert not list((tmp_path / "two").rglob(".*part*"))
