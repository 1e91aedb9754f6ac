"""Checks and measures the CUDA kernels without Paddle; README.md says how."""
