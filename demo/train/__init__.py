"""The recipe of the demo model: one command a stage, see ``python -m demo.train --help``."""
