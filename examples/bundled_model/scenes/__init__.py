"""Drawn scenes: the seeded generator of the bundled model's images, its questions and answers, their evaluation.

``lexicon`` has the objects, colors and printed words; ``glyphs`` has their drawings; ``scene`` draws an image
on one of the ``backgrounds``; ``tasks`` asks about it in the words of ``phrases``, ``pairs`` about two of them;
``vocabulary`` builds a tokenizer's rank file for all of it; ``evaluate`` measures a model.
"""
