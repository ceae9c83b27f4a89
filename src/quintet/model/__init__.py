"""The network of the T5 family, its task heads, and how they are loaded and saved."""
