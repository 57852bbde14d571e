"""One unlearning run: its job, its texts, the run, the collapse check, saving, the model card, publishing and tracking.

Reading order: job, sets, run, collapse, saving, card, publish, tracking, grid (many sequential runs).
"""
