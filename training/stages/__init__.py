"""The stages of a training, one file each; `training/loop.py` runs them."""
