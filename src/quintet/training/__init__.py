"""Training made for T5.

`running.run_training` makes a whole run of settings (`config`); the loop itself is `loop`. Of use without
them are `data`, `optimizers`, `schedules`, `loss`, `metrics` and `vocabulary`.
"""
