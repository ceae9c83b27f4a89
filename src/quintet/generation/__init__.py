"""Decoding: the loops that turn a model's scores into tokens. Knows no model, only the protocol in `protocol.py`."""
