"""Artifacts -> facts -> terminal table, JSON, one HTML file. Never imports torch or onnxruntime."""
