"""The methodology of the notebook: searches and comparisons."""
