"""Does the synthetic world leak? Probes that try to read what must not be readable; `python -m training probe` runs them."""
