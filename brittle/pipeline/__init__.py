"""Steps, their order and their processes: steps (the list), given (checks of what was given), runner (processes)."""
