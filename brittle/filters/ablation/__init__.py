"""Studies of the filter: its parts, overlapping data, anonymised text, a published filter."""
