"""Generated protobuf code for `proto/caffe.proto`; only `formats` and the type annotations of others import it."""
