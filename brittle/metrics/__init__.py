"""What is measured of a model.

Reading order: mcq (multiple choice), answers (log-probabilities), generated_text, tofu, definitions, forget_quality and its rows,
open_unlearning (files of that tool), membership, knowledge, deduction, leaks, letters, recovery, judges, rubrics, responses.
"""
