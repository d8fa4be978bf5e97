"""Odd inputs for every node: `values` what they may be, `cases` which nodes get them, `rules` what must hold of what comes out.

A case is made of plain descriptions, so that a failed one can be read, written down as an example, and made again.
"""
