"""Data for training: the synthetic world, and real data sets beside it."""
