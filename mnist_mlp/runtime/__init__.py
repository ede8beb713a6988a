"""The same updates, faster and safe to interrupt: blocks, the CUDA graph, oneDNN, checkpoints, signals."""
