"""One module an engine: how it reads a net, runs it and times it. Their libraries are imported when they are needed."""
