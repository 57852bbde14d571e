"""What test files share: tiny models, processes, bad inputs, started methods."""
