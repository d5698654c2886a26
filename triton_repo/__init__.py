"""Sources of the Triton models that `runtime/serving/repository.py` puts into a model repository; they run in Triton's processes only."""
