"""DeepRebirth for Caffe: merge a trained net's non-tensor layers and parallel branches into its convolutions."""

__version__ = "0.1.0"
