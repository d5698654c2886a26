"""What each part of the model and of its training is worth: the paper's Table 7, row by row. `python -m training ablate` runs it."""
