"""One distillation method per file; `base.py` is what they share."""
