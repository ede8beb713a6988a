"""The same training in other libraries, each a script of its own that imports neither torch nor Lightning."""
