"""Studies of the filter: its parts, overlapping data, anonymised text, and what a published filter tells."""
