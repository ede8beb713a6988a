"""The data: MNIST, its stand-in, deformations, and images of your own."""
