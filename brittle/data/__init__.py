"""Texts, evaluation items, facts, the mini world and data sets from outside. No model is loaded here.

Reading order: texts, batches, items, tokens, words, facts; the mini world: world_words, world, world_schemas, world_files;
data sets: sources (own files), wmdp, tofu, muse, overlap.
"""
