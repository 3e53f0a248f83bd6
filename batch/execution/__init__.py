"""A run from its inputs to its receipt; `batch.execution.runner` tells the story."""
