"""One quantization engine per file: ONNX in, ONNX out."""
