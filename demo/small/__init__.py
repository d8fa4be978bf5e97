"""A model of 128x128, several times as quick as the demo's: the one of the benchmarks and of the tests that need no server. See README.md."""
