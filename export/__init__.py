"""Freezes a checkpoint: every engine as an ONNX file, checked against torch, in a bundle that the runtime opens without torch."""
