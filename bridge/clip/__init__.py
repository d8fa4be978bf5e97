"""CLIP: open_clip's models, the similarity of pictures and prompts, and the ranking of candidates."""
