"""Several processes at work on one model or one training.

``processes``   joining the others, work of the main process alone, waiting for each other
``group``       the processes that a model is split between, and what they tell each other in a pass
"""
