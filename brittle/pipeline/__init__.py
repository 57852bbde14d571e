"""Steps, their order and their processes.

Reading order: steps (the list, a study, tasks), methods (what makes each method's model), given
(checks of what the user gave), runner (processes).
"""
