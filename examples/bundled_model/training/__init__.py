"""How the bundled model is trained: data, heads that exist in training only, and the recipe."""
