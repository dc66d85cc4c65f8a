"""A trained run for others: package, model card, ONNX."""
