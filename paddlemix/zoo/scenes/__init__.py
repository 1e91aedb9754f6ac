"""Drawn scenes: the seeded generator of the bundled model's pictures, its questions and answers, and their evaluation.

``lexicon`` says which objects, colours and printed words exist, ``glyphs`` has their drawings, ``scene`` draws a picture,
``tasks`` asks about it, ``vocabulary`` builds a tokenizer's rank file for all of it, ``evaluate`` measures a model.
"""
