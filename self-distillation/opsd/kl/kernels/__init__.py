"""Triton kernels of the exact KL. Nothing here is imported without Triton."""
