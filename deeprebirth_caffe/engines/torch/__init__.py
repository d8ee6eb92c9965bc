"""The embedded engine: nets as PyTorch runs them, with Caffe's shapes, numbers and rules."""
