"""What is on disk: predictors and learners in files, ONNX, and the names that a file may use."""
