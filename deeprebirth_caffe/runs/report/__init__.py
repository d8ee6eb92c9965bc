"""The report of a run: everything in it comes from the files of the run's folder.

`gather` reads the folder, `figures` compares what it found, `sections` says it in tables and pictures, and `html` and
`markdown` write those down. `write` does all of it.
"""
