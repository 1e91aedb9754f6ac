"""Data files: readers of the original's converted files, converters into them, and checks of what is there."""
