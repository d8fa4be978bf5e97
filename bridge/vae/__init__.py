"""Reconstruction: which decoders can be tuned, the copy that is tuned, its memory plan, the fits, and the table of methods."""
