"""Real Caffe 1.0: found on this machine, run in a process of its own."""
