"""The training loop and what trains.

Reading order: settings, reference (the frozen start), loop, steps (what acts around its steps),
optim, cost (FLOPs), checkpoint, keep (the best step), adapters (LoRA), distributed (several
processes), fitting (one method through the loop), mini (the mini family), injection (any model's
family).
"""
