"""Training made for T5: data, optimisers, schedules, losses, metrics."""
