"""The torch-free runtime: runs a bundle in process, serves it through Triton, and calls it over gRPC.

Importing this package loads nothing heavy; `clipfacefusion` re-exports its public names lazily.
"""
