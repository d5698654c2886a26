"""Serving through Triton: the model repository, the server process, and the supervisor that keeps the truth about its health."""
