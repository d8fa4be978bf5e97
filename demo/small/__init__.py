"""A model of 128x128, several times faster than the demo's: the one of most benchmarks, and of most tests without a server. See README.md."""
