"""Measures a bundle: ratios between contenders in one run, parity checked first. Imported by nothing; runs from a clone."""
