"""Files: saved predictors and learners, ONNX export, and the names that a file may contain."""
