"""Files in and out: prototxt (lossless), caffemodel, solver, records; the only room that parses bytes."""
