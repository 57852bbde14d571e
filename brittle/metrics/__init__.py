"""What is measured of a model.

Reading order: mcq (multiple choice), letters (a model that always gives one letter), answers (the
log-probabilities of answers), generated_text (ROUGE, repetition), leaks (a value in a text), tofu
(aggregates over items), definitions (the same metric by different sources), forget_quality (asks
the model), forget_quality_items (metrics of an item), forget_quality_rows (metrics of a set),
open_unlearning (the files of that tool), neutral (texts of neither set), membership, knowledge and
deduction (facts), leak_bits (of half B), recovery, judges, rubrics, responses.
"""
