from quintet.checkpoint.staging import staged  # noqa: F401
