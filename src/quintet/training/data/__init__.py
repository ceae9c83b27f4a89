"""The data of training, from files to batches.

`records` reads files and data sets; `tasks` makes texts of records; `token_cache` and `tokenizing` keep their tokens in
files; `examples` and `denoising` make training examples of tokens; `stream` mixes and orders them; `batching` and
`packing` group them; `collators` make tensors. Everything before the collators is NumPy.
"""
