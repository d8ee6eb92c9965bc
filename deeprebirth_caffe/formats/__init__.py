"""Reads and writes files: prototxt (lossless), caffemodel, solver, records. The only room that parses bytes."""
