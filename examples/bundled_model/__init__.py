"""How the bundled model is made: drawn scenes, questions about them, training, evaluation."""
