"""Training: data, optimisers, the loop."""
