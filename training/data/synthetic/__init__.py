"""A synthetic world of people with known truth: portraits, voices and captions, every sample drawn alone from a seed."""
