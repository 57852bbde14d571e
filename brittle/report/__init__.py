"""From CSVs to one page.

Reading order: condense (tables to numbers), verdict, no_twin (the verdict without Filtered), levels
and clauses (sentences), change (what was done to the weights), scoreboard, claims, attacks, filter,
sequential, page (HTML), docs_tables (the tables of README and docs).
"""
