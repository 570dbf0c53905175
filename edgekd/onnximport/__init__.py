"""ONNX files from elsewhere: read with care, brought into our form, counted."""
