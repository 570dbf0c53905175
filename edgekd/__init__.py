"""edgekd: distil an image classifier for an edge board, and prove what it costs and what it is worth there."""

__version__ = "0.1.0"
