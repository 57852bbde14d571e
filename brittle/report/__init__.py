"""From CSVs to one page.

Reading order: condense (tables to numbers), verdict, levels and clauses (sentences), scoreboard,
claims, attacks, filter, sequential, page (HTML), docs_tables (the tables of README and docs).
"""
