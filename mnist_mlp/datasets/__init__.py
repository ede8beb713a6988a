"""Data sets: MNIST, a stand-in for it, random deformations, and your own images."""
