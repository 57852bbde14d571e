"""One unlearning run: its job, its texts, the run, the collapse check, saving and publishing.

Reading order: job, sets, run, collapse, effect, saving, card, publish, tracking, grid (many
sequential runs).
"""
