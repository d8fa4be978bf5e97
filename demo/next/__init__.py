"""The demo model that is to come: 256 x 256, flat and crisp. Its scenes are here; its stages are ``demo.train``'s. See MODEL_CARD.md."""
