"""The data of training, from files to batches.

`records` reads files and data sets; `tasks` makes texts of records; `token_cache` and `tokenizing` keep their tokens in
files; `examples` and `denoising` make training examples of tokens; `stream` mixes and orders them; `batching` groups
them, by length (`buckets`) or into full rows (`packing`); `collators` make tensors. Before the collators all is NumPy.
"""
