"""The face of the pack: one node a file. Each one checks its inputs, makes one call down into `bld` and returns one result."""
