"""Texts, evaluation items, facts, the mini world and data sets from outside.

No model is loaded here.

Reading order: rows, texts, items, templates, examples, batches, tokens, words, facts.
The mini world: world_words, world, world_schemas, world_files.
Data sets from outside: sources (also the user's own files), wmdp, tofu, muse, overlap.
For injected families: taught.
"""
