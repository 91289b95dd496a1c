"""Training data: readers of datasets, the prepared store, and the samples drawn from it."""
