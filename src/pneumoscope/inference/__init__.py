"""Bundle, gate, prediction, explanation and the pipeline; ONNX Runtime, no torch."""
