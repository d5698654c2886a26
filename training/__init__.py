"""Trains a ClipFaceFusion checkpoint: the model in torch, the synthetic world, the stages. See `python -m training --help`."""
