"""Progress on a terminal; curves and pictures in TensorBoard."""
