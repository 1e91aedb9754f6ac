"""Several processes at work on one model or one training.

``processes``   joining the others, work of the main process alone, waiting for each other
``launch``      starting the processes of a model on this machine, and ending with them
``channel``     what the first process tells the others to do
``degrees``     how the processes of a training are arranged
``group``       the processes that a model is split between, and what they tell each other in a pass
"""
