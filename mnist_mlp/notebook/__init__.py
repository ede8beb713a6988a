"""A notebook from tensors to the step size and the batch size."""
