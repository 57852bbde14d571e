"""One unlearning run: its job, its texts, the run, the collapse check, saving and publishing.
And the models that runs start from, where truth is injected.

Reading order: job, sets, run, collapse, effect, saving, spent (cost), card, publish, tracking, grid
(many sequential runs). Injected families: family (options), syllabus, injected. A search over
settings: goal, search, plan, bench, rates (a scan of three).
"""
