"""Sequential unlearning: method, phases, losses, passes, gradients."""
