"""The training loop and its parts. No method is named in it."""
